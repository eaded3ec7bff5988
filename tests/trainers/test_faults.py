"""Kills for real: after each, the row log is the uninterrupted run's. `make test-faults` runs these."""

import contextlib
import dataclasses
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from shards.errors import DataError
from tests.trainers.runs import (
    ROOT,
    as_flags,
    config,
    finished,
    launch_until,
    rows_of,
    told,
    wait_for_records,
    weights,
)
from tests.trainers.worlds import kill_in, open_ranks, train_at
from trainers import checkpoint
from trainers.launch import launch
from trainers.options import ModelConfig
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
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(run).items())


@pytest.mark.parametrize(("world_size", "bound"), [(1, 0.0), (2, 0.0), (3, 1e-6)])
def test_a_rank_killed_mid_epoch_costs_no_row_and_no_weight(data: Path, tmp_path: Path, world_size: int, bound: float):
    """Bit for bit at 1 and 2 ranks; from 3 on the order of a sum is gloo's to choose."""
    tiny = ModelConfig(name="tests.trainers.worlds:Tiny")
    options = config(data, tmp_path, epochs=3, checkpoint_seconds=0.05, crop_seconds=0.2, model=tiny)
    with open_ranks() as ranks:
        whole = train_at(world_size, options, name="whole", ranks=ranks)
        for after in (5, 14):
            run = kill_in(world_size, options, name="killed", after=after)
        run = train_at(world_size, options, name="killed", ranks=ranks)
    assert (run.folder / ".attempts").read_text() == "3"
    assert rows_of(run) == rows_of(whole)
    assert all(torch.allclose(value, weights(whole)[name], rtol=0, atol=bound) for name, value in weights(run).items())


def test_a_truncated_checkpoint_goes_back_to_the_one_before(whole: Run, data: Path, tmp_path: Path):
    options = config(data, tmp_path, checkpoint_seconds=0.0)
    run = launch_until(options, records=12)
    newest = checkpoint.read_state(run.last)["cursor"]
    model = run.last / checkpoint.MODEL
    model.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    launch(dataclasses.replace(options, resume="run", name=None))
    log = run.log.read_text()
    assert f"going on at step {newest // 8 - 1} of 16" in log
    assert rows_of(run) == rows_of(whole)
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(run).items())


def test_a_disk_that_is_full_at_a_checkpoint_costs_no_row(whole: Run, data: Path, large_disk: Path):
    """Room is made once the run has ended with its line; it goes on from the checkpoint before."""
    options = config(data, large_disk)
    run, ballast = Run(large_disk / "run"), large_disk / "ballast"

    def fill() -> None:
        while not run.last.exists():
            time.sleep(0.001)
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))

    filler = threading.Thread(target=fill)
    filler.start()
    with pytest.raises((DataError, OSError), match=r"checkpoint of row \d+ can't be written|No space left"):
        launch(options)
    filler.join()
    assert checkpoint.newest(run.last) is not None
    ballast.unlink()
    launch(dataclasses.replace(options, resume="run", name=None))
    assert rows_of(run) == rows_of(whole)
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(run).items())


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
