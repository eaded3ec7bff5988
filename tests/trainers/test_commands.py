"""Commands of README and docs run as they stand, on small data. Training stops where its first step would be.

`make demo` renders, packs and trains by README's own lines, in CI; tests/test_datasets.py runs docs/datasets.md's.
"""

import importlib
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from shards.door import run_door
from tests.test_docs import PAGES, ROOMS, blocks, commands, read
from trainers.run import Run

ELSEWHERE = {  # what else a command may hold -> where it is run
    r"shards (render|pack|index)": "make demo, tests/test_datasets.py, tests/shards",
    r"trainers sweep": "tests/trainers/test_sweep.py",
    r"s3://|https?://|--address|/shared/": "tests/cluster",
    r"--preset seed": "benchmarks/seed.py, from random weights: no hub can be reached from a test",
    r"--label tags": "tests/test_datasets.py, of many classes",
    r" DST$": "README's picture of the rooms",
}
PLACES = {"DATA": "data/demo/pack", "OTHER": "data/demo/pack", "RUNS": "runs", "SOUNDS": "sounds", "/tmp/": ""}
MORE = {
    "train": ["--dry-run", "--local", "--device", "cpu"],
    "evaluate": ["--device", "cpu"],
    "predict": ["--device", "cpu"],
    "embed": ["--device", "cpu"],
    "peek": ["--model.name", "test_resnet"],
    "measure": ["--seconds", "0.2"],
}


def lines() -> Iterator[str]:
    """Give each whole command of ours on the pages that tests can run, once."""
    found = {}
    for page in PAGES:
        if page.name in ("datasets.md", "CHANGELOG.md"):
            continue
        for line in commands(page.read_text()):
            told = re.search(rf"^ *(python -m ({'|'.join(ROOMS)}) [a-z]+ .*)$", re.split(r"\s#\s", line)[0])
            if told and not any(re.search(what, told[1]) for what in ELSEWHERE):
                found[told[1].strip()] = None
    yield from found


@pytest.fixture(scope="module")
def home(data: Path, whole: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader of the pages has it after a while."""
    home = tmp_path_factory.mktemp("home")
    for name in ("demo", "nsynth"):
        shutil.copytree(data, home / "data" / name / "pack")
    for name in ("demo", "NAME", "first", "mels/trial-0003"):
        shutil.copytree(whole.folder, home / "runs" / name)
    (home / "sounds").mkdir()
    wave = np.sin(np.arange(16000) / 20).astype(np.float32) / 2
    soundfile.write(home / "sounds" / "a.wav", wave, 16000)
    soundfile.write(home / "take.mp3", wave, 16000)
    (own,) = (block for block in blocks(read("docs/augmentation.md"), "python") if "def tremolo" in block)
    (home / "my_sounds.py").write_text(own)
    return home


@pytest.mark.slow
@pytest.mark.parametrize("line", list(lines()))
def test_a_pages_command_runs_as_it_stands(line: str, home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(str(home))
    for name, place in PLACES.items():
        line = re.sub(rf"(?<![A-Z]){name}(?![A-Z])", place, line)
    _, _, room, verb, *words = shlex.split(line)
    module = importlib.import_module(f"{room}.__main__")
    door = getattr(module, "main", lambda args: run_door(room, module.VERBS, args))
    assert door([verb, *words, *MORE.get(verb, [])]) == 0


def test_every_exception_is_on_a_page():
    told = [line for page in PAGES for line in commands(page.read_text())]
    assert all(any(re.search(what, line) for line in told) for what in ELSEWHERE)
    assert len(list(lines())) > 25
