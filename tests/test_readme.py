"""README: its Python runs as it stands, and its tree names every file."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_the_training_loop_runs(data: Path):
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert '"data/demo/pack"' in block
    code = block.replace('"data/demo/pack"', repr(str(data)))
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    losses = [float(line.split()[1]) for line in done.stdout.splitlines()]
    assert len(losses) == 3
    assert all(0 < loss < 3 for loss in losses)


@pytest.mark.slow
def test_the_loader_of_the_loader_page_runs(data: Path):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "loader.md").read_text(), re.DOTALL)
    code = block.replace('"data/demo/pack"', repr(str(data))).replace("batch_size=32", "batch_size=8")
    code += "\nassert again.cursor == loader.cursor >= seen - 8 > 0, (again.cursor, loader.cursor, seen)\n"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_measure_of_the_loader_page_runs(data: Path):
    (block,) = re.findall(r"```sh\n(python -m streaming measure .*)\n```", (ROOT / "docs" / "loader.md").read_text())
    command = [sys.executable, *block.replace("data/demo/pack", str(data)).split()[1:], "--batch-size=8", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["consumer_samples_per_second"] == 300
    assert {"ceiling_samples_per_second", "wait_share", "cores_needed", "us_a_sample"} <= set(told)


def test_the_tree_names_every_file():
    tree = README[README.index("## The tree") :]
    for room in ("shards", "streaming", "trainers"):
        section = re.search(rf"^{room}/\n((?:  .*\n)+)", tree, re.MULTILINE)
        assert section
        named = re.findall(r"^  (\S+)", section[1], re.MULTILINE)
        assert named == sorted(path.name for path in (ROOT / room).iterdir() if path.suffix in (".py", ".j2"))


def test_the_make_targets_it_names_are_there():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)", README, re.MULTILINE))
    assert {"demo", "test"} <= {name for pair in named for name in pair if name} <= targets
