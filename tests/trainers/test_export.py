"""Exporting: what is loaded elsewhere answers as the run does, or nothing is left."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from shards.errors import DataError
from tests.trainers.runs import ROOT
from trainers import program
from trainers.__main__ import main as door
from trainers.mel import LogMel
from trainers.options import MelConfig
from trainers.run import Run
from trainers.trained import Trained, open_trained

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of torch's exporter


@pytest.fixture(scope="module")
def exported(whole: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "deep" / "model"
    assert door(["export", str(whole.folder), "--out", str(out), "--onnx"]) == 0
    return out


@pytest.fixture(scope="module")
def own(whole: Run) -> Trained:
    return open_trained(str(whole.folder), device="cpu")


def waves() -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    long = torch.arange(50_001)
    return [
        0.3 * torch.randn(4, 16_000, generator=draw),
        torch.zeros(1, 20_000),
        (torch.sin(0.2 * long) * torch.exp(-long / 9000))[None].float(),
    ]


@torch.no_grad()
def logits(own: Trained, waveform: torch.Tensor) -> torch.Tensor:
    return own.model(own.mel(waveform))


def test_the_folder_holds_what_it_says(exported: Path, own: Trained):
    names = {"README.md", "config.json", "mel.json", "model.onnx", "model.pt2", "model.safetensors"}
    assert {path.name for path in exported.iterdir()} == names
    assert [path.name for path in exported.parent.iterdir()] == [exported.name], "nothing is left beside it"
    about = json.loads((exported / "mel.json").read_text())
    assert about["classes"] == list(own.classes)
    assert about["sample_rate"] == 16_000
    assert MelConfig(**about["mel"]) == own.config.mel
    card = (exported / "README.md").read_text()
    assert "| test | 11 |" in card
    assert "license: yours to choose" in card
    for name in ("train", "valid", "test"):
        assert json.loads(own.run.environment.read_text())["fingerprints"][name] in card


def test_timm_loads_the_network_to_the_bit(exported: Path, own: Trained):
    model = timm.create_model(f"local-dir:{exported}", pretrained=True).eval()
    about = json.loads((exported / "mel.json").read_text())
    mel = LogMel(MelConfig(**about["mel"]), sample_rate=about["sample_rate"])
    assert model.pretrained_cfg["label_names"] == list(own.classes)
    with torch.no_grad():
        assert all(torch.equal(model(mel(waveform)), logits(own, waveform)) for waveform in waves())


def test_the_program_on_waveforms_answers_as_the_run_for_any_batch_and_time(exported: Path, own: Trained):
    loaded = torch.export.load(str(exported / "model.pt2")).module()
    with torch.no_grad():
        for waveform in waves():
            torch.testing.assert_close(loaded(waveform), logits(own, waveform), atol=1e-5, rtol=0)


def test_onnx_answers_as_the_run(exported: Path, own: Trained):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(exported / "model.onnx"), providers=["CPUExecutionProvider"])
    for waveform in waves():
        found = session.run(None, {session.get_inputs()[0].name: waveform.numpy()})[0]
        np.testing.assert_allclose(found, logits(own, waveform).numpy(), atol=1e-4)


@pytest.mark.slow
def test_the_cards_own_code_runs(exported: Path):
    blocks = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    code = "\n".join(blocks) + "\nassert torch.allclose(logits, torch.export.load('model.pt2').module()("
    code += "torch.zeros(1, 4 * about['sample_rate'])), atol=1e-5)"
    done = subprocess.run([sys.executable, "-c", code], cwd=exported, env=os.environ | {"PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_program_that_disagrees_is_not_left(exported: Path, own: Trained, tmp_path: Path):
    other = open_trained(str(own.run.folder), device="cpu")
    with torch.no_grad():
        other.model.fc.bias[0] += 1e-3
    made = program.Program(
        network=program.Heard(other.mel, other.model),
        exported=torch.export.load(str(exported / "model.pt2")), example=waves()[1], time=None, least=8192,
    )  # fmt: skip
    path = tmp_path / "model.pt2"
    with pytest.raises(DataError, match=r"model.pt2 gives other answers than the network, 1\.0e-03 apart: report this"):
        program.write_pt2(made, path)
    assert not path.exists()


class Flat(torch.nn.Module):
    """A network that knows one length only."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(40 * 32, 3)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return self.head(picture.flatten(1))


def test_where_time_can_not_be_free_it_is_the_crops_and_said(own: Trained, tmp_path: Path):
    flat = Trained(**{**vars(own), "model": Flat()})
    made = program.export_program(flat, seconds=0.5)
    assert made.time == 8000
    assert "time 8000, no other: samples" in program.write_pt2(made, tmp_path / "model.pt2")


def test_wrong_use_of_export_is_told(whole: Run, exported: Path, tmp_path: Path, monkeypatch, capsys):
    assert door(["export", str(whole.folder), "--out", str(exported)]) == 2
    assert f"out {exported} exists: give a folder that doesn't" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert door(["export", str(whole.folder), "--out", str(tmp_path / "x"), "--onnx"]) == 2
    assert "onnxruntime is not installed: pip install 'notestream[onnx]', or leave --onnx" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
