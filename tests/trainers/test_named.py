"""Transforms of one's own in a run's config: names that survive JSON, imported where they're needed, told if not."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from shards.errors import UsageError
from streaming.world import World
from tests.trainers.runs import config
from trainers.config import TrainConfig, from_json, to_json
from trainers.data import open_data
from trainers.named import load_transforms
from trainers.prepare import prepare
from trainers.training import make_loader

CODE = """
import numpy as np

def halve(waveform, draw):
    return waveform * np.float32(0.5)

class Turn:
    def __call__(self, waveform, draw):
        return -waveform

turn, number = Turn(), 7
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "my_sounds.py").write_text(CODE)
    (folder / "my_broken.py").write_text("raise OSError('no disk,\\nno sound')")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "my_sounds", raising=False)
    return "my_sounds"


def test_a_run_uses_them_in_order(data: Path, tmp_path: Path, module: str):
    given = config(data, tmp_path, transforms=(f"{module}:halve", f"{module}:turn"))
    plain = dataclasses.replace(given, transforms=())
    batches = [
        next(iter(make_loader(one, open_data(one), world=World(), readers=0, device="cpu"))) for one in (given, plain)
    ]
    assert torch.equal(batches[0].waveform, batches[1].waveform * -0.5)


def test_names_survive_json(data: Path, tmp_path: Path):
    given = config(data, tmp_path, transforms=("a.b:c", "d:e.f"))
    assert from_json(json.loads(json.dumps(to_json(given))), name="c") == given
    assert TrainConfig().transforms == ()


def test_attributes_of_attributes_are_found(module: str):
    (found,) = load_transforms([f"{module}:turn.__call__"])
    assert found(np.ones(1, np.float32), None) == -1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.at_all:x", r"transform 'nowhere.at_all:x' can't be imported \(ModuleNotFoundError: .*\): name it"),
        ("my_sounds:treble", r"'my_sounds:treble' can't be imported \(AttributeError: .*\): name it package\.module"),
        ("my_broken:x", r"'my_broken:x' can't be imported \(OSError: no disk, no sound\)"),
        ("my_sounds:number", r"'my_sounds:number' must be a callable \(waveform, draw\) -> waveform, got int"),
        ("my_sounds:Turn", r"'my_sounds:Turn' must be a callable .*, got a class: make one of it"),
    ],
)
def test_errors_speak_before_a_run_begins(data: Path, tmp_path: Path, module: str, name: str, message: str):
    with pytest.raises(UsageError, match=message) as caught:
        prepare(config(data, tmp_path / "runs", transforms=(name,)))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["my_sounds", ":x", "my_sounds:", ""])
def test_what_is_no_name_is_refused(name: str):
    with pytest.raises(UsageError, match=r"transforms must be named package\.module:attribute, got "):
        TrainConfig(transforms=(name,))
