"""Kills for real: after each, the row log is the uninterrupted run's. `make test-faults` runs these."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.trainers.runs import ROOT, as_flags, config, finished, rows_of, told, wait_for_records
from trainers.run import Run

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("seed", range(3))
def test_a_run_killed_at_any_moment_and_resumed_equals_uninterrupted(whole: Run, data: Path, tmp_path: Path, seed: int):
    flags = as_flags(config(data, tmp_path), local=True)
    command = [sys.executable, "-m", "trainers", *flags, "--device", "cpu", "--checkpoint-seconds", "0.2"]
    moment = random.Random(seed)
    run = Run(tmp_path / "killed")
    for attempt in range(2):
        begun = subprocess.Popen(
            [*command, *(["--resume"] if attempt else ["--name"]), "killed"], cwd=ROOT, stdout=subprocess.DEVNULL
        )
        wait_for_records(run, 2 + 6 * attempt, begun)
        time.sleep(moment.random() * 0.3)
        begun.send_signal(signal.SIGKILL)
        begun.wait()
    finished([*command, "--resume", "killed"])
    assert rows_of(run) == rows_of(whole)
    assert told(run) == told(whole)


def test_a_rank_killed_under_ray_is_started_anew_and_nothing_is_lost(whole: Run, data: Path, tmp_path: Path):
    flags = as_flags(config(data, tmp_path, readers=1), local=False)
    command = [sys.executable, "-m", "trainers", *flags, "--world-size", "2", "--device", "cpu"]
    begun = subprocess.Popen([*command, "--name", "ray"], cwd=ROOT, stdout=subprocess.DEVNULL)
    run = Run(tmp_path / "ray")
    wait_for_records(run, 10, begun)  # past the first epoch's checkpoint
    ranks = [p for p in psutil.Process(begun.pid).children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline())]
    assert len(ranks) == 2
    ranks[1].kill()
    assert begun.wait(timeout=200) == 0
    assert (run.folder / ".attempts").read_text() == "2"
    assert rows_of(run) == rows_of(whole)
    assert run.report.exists()
