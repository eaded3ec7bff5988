"""A run's folder is all that its verbs need: they work from a copy elsewhere, in another process, without the pack."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.trainers.runs import ROOT, config, launch_until, rows_of, told
from trainers.finish import evaluate_run
from trainers.run import Run

DOORS = """
import json, sys
from trainers.__main__ import main
for args in json.loads(sys.argv[1]):
    if code := main(args):
        sys.exit(f"{args} ended with {code}")
"""


def other_process(*doors: list[str]) -> list[str]:
    command = [sys.executable, "-c", DOORS, json.dumps(doors)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_every_verb_works_from_a_copy_of_the_run_folder_in_another_process(whole: Run, data: Path, notes, tmp_path):
    """Evaluate, predict, embed and export of an unfinished run whose pack has moved; then it goes on there."""
    pack, moved = tmp_path / "pack", tmp_path / "moved"
    shutil.copytree(data, pack)
    run = launch_until(config(pack, tmp_path / "runs"), records=11)
    before = evaluate_run(str(run.folder), data=None, split="test", device="cpu")
    shutil.copytree(run.folder, tmp_path / "elsewhere" / "run")
    shutil.rmtree(run.folder.parent)
    pack.rename(moved)

    place, audio = str(tmp_path / "elsewhere" / "run"), notes / "nsynth-test" / "audio"
    evaluated, *predicted = map(json.loads, other_process(
        ["evaluate", place, "--data", str(moved), "--split", "test", "--json", "--device", "cpu"],
        ["predict", place, str(audio), "--json", "--top", "3", "--device", "cpu"],
        ["embed", place, "--data", str(moved), "--out", str(tmp_path / "x.parquet"), "--device", "cpu"],
        ["export", place, "--out", str(tmp_path / "exported")],
    ))  # fmt: skip
    assert evaluated["rows"] == 11
    assert evaluated["loss"] == pytest.approx(float(before.loss.mean()), rel=1e-6)
    answers = {Path(one["file"]).stem: one["classes"] for one in predicted}
    for key, probabilities in zip(before.keys, before.probabilities, strict=True):
        np.testing.assert_allclose([answers[key][name] for name in before.classes], probabilities, atol=1e-6)
    assert pq.read_table(tmp_path / "x.parquet")["key"].to_pylist() == list(before.keys)
    assert (tmp_path / "exported" / "model.pt2").is_file()

    again = ["train", "--runs", str(tmp_path / "elsewhere"), "--resume", "run", "--local", "--device", "cpu"]
    other_process([*again, "--data", str(moved)])
    assert rows_of(Run(Path(place))) == rows_of(whole)
    assert told(Run(Path(place))) == told(whole)
