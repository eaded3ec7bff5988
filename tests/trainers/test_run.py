"""Whole runs: one rank equals two, kill and resume equals uninterrupted, and the folder they leave."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from shards.errors import UsageError
from shards.pack import pack
from streaming.augment import Augment
from tests.trainers.runs import (
    FOLDER,
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
from trainers import checkpoint
from trainers.__main__ import main as door
from trainers.launch import launch
from trainers.run import Run


def test_a_run_leaves_its_folder_whole(whole: Run, data: Path):
    assert {path.name for path in whole.folder.iterdir() if path.name[0] != "."} == FOLDER | {"rows"}
    assert {path.name for path in (whole.folder / "checkpoints").iterdir()} == {"last", "last-before", "best"}
    environment = json.loads(whole.environment.read_text())
    assert {"versions", "command", "commit", "fingerprints", "machine", "began"} == set(environment)
    assert json.loads(whole.config.read_text())["data"] == str(data)
    records = [json.loads(line) for line in whole.metrics.read_text().splitlines()]
    training = {"loss", "accuracy", "samples_per_second", "wait_share", "lr", "masked", "grad_norm", "memory_bytes"}
    training |= {"read_seconds", "decode_seconds", "augment_seconds"}
    assert set(records[0]) == {"step", "cursor", "epoch", "time"} | {f"train/{name}" for name in training}
    validation = next(record for record in records if "valid/accuracy" in record)
    assert {"valid/loss", "valid/macro_accuracy", "valid/accuracy_low", "valid/rows"} <= set(validation)
    assert records[-1]["checkpoint"] == "best"
    assert records[-1]["test/rows"] == 11
    assert [record["step"] for record in records if "train/loss" in record] == list(range(1, 17))
    assert "report:" in whole.log.read_text()
    assert list(whole.tensorboard.glob("events*"))


def test_a_run_takes_every_row_once_an_epoch(whole: Run, data: Path):
    from shards.index import open_pack

    keys = [key for _, keys, _ in rows_of(whole) for key in keys]
    there = open_pack(data, split="train").read("key")["key"].to_pylist()
    assert sorted(keys[:61]) == sorted(keys[61:122]) == sorted(there)
    assert len(keys) == 128  # 16 steps of 8: the last begins before row 122


def test_stopped_and_resumed_equals_uninterrupted(whole: Run, data: Path, tmp_path: Path):
    launch_until(config(data, tmp_path), records=3)
    run = launch_until(config(data, tmp_path, resume="run", name=None), records=11)
    launch(config(data, tmp_path, resume="run", name=None))
    assert rows_of(run) == rows_of(whole)
    assert told(run) == told(whole)
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(run).items())
    assert "going on at step" in run.log.read_text()


def test_a_finished_run_is_left_alone(whole: Run, data: Path, capsys: pytest.CaptureFixture[str]):
    before = whole.metrics.stat().st_mtime_ns
    launch(config(data, whole.folder.parent, resume="run", name=None))
    assert "run run is finished, its report is" in capsys.readouterr().out
    assert whole.metrics.stat().st_mtime_ns == before


def test_names_and_changed_packs_are_refused(whole: Run, data: Path, notes: Path, tmp_path: Path):
    runs = whole.folder.parent
    with pytest.raises(UsageError, match=r"run run exists in .*: take --resume run to go on, or another --name"):
        launch(config(data, runs))
    with pytest.raises(UsageError, match=r"run .*none does not exist \(.* holds run\): begin it with --name none"):
        launch(config(data, runs, name=None, resume="none"))
    with pytest.raises(UsageError, match=r"take --resume x or --name run, not both"):
        launch(config(data, runs, resume="x"))
    with pytest.raises(UsageError, match=r"data must be named: --data DST"):
        launch(dataclasses.replace(config(data, runs, name="other"), data=None))
    with pytest.raises(UsageError, match=r"monitor must be one of valid/accuracy, .*, got 'valid/nothing'"):
        launch(config(data, tmp_path, monitor="valid/nothing"))


def test_what_an_order_depends_on_can_not_change_at_a_resume(whole: Run, data: Path, tmp_path: Path):
    run = launch_until(config(data, tmp_path), records=2)
    for change, told_as in (
        ({"epochs": 3}, "epochs was 2 when run run began, and is 3 now"),
        ({"seed": 1}, "seed was 0 when run run began, and is 1 now"),
        ({"batch_size": 4}, "batch_size was 8"),
        ({"augment": Augment()}, "augment was"),
    ):
        with pytest.raises(UsageError, match=told_as):
            launch(config(data, tmp_path, resume="run", name=None, **change))
    assert not run.report.exists()


def test_a_run_goes_on_with_its_own_packs_alone_wherever_they_lie(data: Path, notes: Path, tmp_path: Path):
    run = launch_until(config(data, tmp_path), records=2)
    for split in ("train", "valid"):
        pack(notes, tmp_path / "other", split=split, rows_per_shard=7)
    shutil.copytree(data / "train", tmp_path / "part" / "train")
    for place, told_as in (
        ("other", r"train of .*/other is another pack \(\w+\); run run began with \w+: give that pack with --data, or"),
        ("part", r"valid of .*/part isn't there; run run began with \w+: give that pack"),
    ):
        with pytest.raises(UsageError, match=told_as):
            launch(config(tmp_path / place, tmp_path, resume="run", name=None))
    assert not run.report.exists()


@pytest.mark.slow
def test_two_ranks_under_torchrun_take_the_same_rows(whole: Run, data: Path, tmp_path: Path):
    flags = as_flags(config(data, tmp_path), local=False)
    finished([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "trainers",
              *flags, "--name", "two", "--device", "cpu"])  # fmt: skip
    two = Run(tmp_path / "two")
    assert rows_of(two) == rows_of(whole)
    assert told(two)[-1]["test/rows"] == 11
    first, single = told(two)[0], told(whole)[0]
    assert first["train/loss"] == pytest.approx(single["train/loss"], rel=0.2), "BatchNorm sees a rank's rows only"


def group_of(pid: int) -> int | None:
    with contextlib.suppress(ProcessLookupError):
        return os.getpgid(pid)
    return None


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_sigterm_to_all_processes_saves_and_ends_cleanly(whole: Run, data: Path, tmp_path: Path, ranks: int):
    """As Slurm and torchrun send it: to the ranks, to their readers and to who started them, and more than once."""
    flags = as_flags(config(data, tmp_path, readers=1), local=ranks == 1)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *launcher, "-m", "trainers", *flags, "--device", "cpu"]
    begun = subprocess.Popen(
        [*command, "--name", "run"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}, start_new_session=True,
    )  # fmt: skip
    run = Run(tmp_path / "run")
    wait_for_records(run, 3, begun)
    os.killpg(begun.pid, signal.SIGTERM)
    begun.send_signal(signal.SIGTERM)
    out, _ = begun.communicate(timeout=100)
    assert "stopping at the next logging step, with a checkpoint" in out
    assert out.count("notestream: interrupted: go on with --resume run") == ranks, out
    state = checkpoint.read_state(run.last)
    assert not state["finished"]
    assert state["cursor"] >= 3 * 8
    until = time.monotonic() + 20
    while left := [pid for pid in psutil.pids() if group_of(pid) == begun.pid]:
        assert time.monotonic() < until, left
        time.sleep(0.1)
    launch(config(data, tmp_path, resume="run", name=None, readers=0))  # on one rank
    assert f"going on at step {state['cursor'] // 8} of 16 on 1 rank(s)" in run.log.read_text()
    assert rows_of(run) == rows_of(whole)


@pytest.mark.slow
def test_ray_train_interrupted_and_resumed_takes_the_same_rows(whole: Run, data: Path, tmp_path: Path, capsys):
    """One 2-rank run on a real Ray cluster: Ctrl-C saves and ends cleanly, --resume goes on, nothing is lost."""
    flags = as_flags(config(data, tmp_path, readers=1), local=False)
    command = [sys.executable, "-m", "trainers", *flags, "--world-size", "2", "--device", "cpu"]
    begun = subprocess.Popen(
        [*command, "--name", "ray"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONWARNINGS": "ignore"}, start_new_session=True,
    )  # fmt: skip
    run = Run(tmp_path / "ray")
    wait_for_records(run, 5, begun)
    begun.send_signal(signal.SIGINT)
    out, err = begun.communicate(timeout=60)
    assert begun.returncode == 130, out + err
    assert "stopping at the next logging step" in out
    assert err.strip().splitlines()[-1] == "notestream: interrupted: go on with --resume ray"
    state = checkpoint.read_state(run.last)
    assert not state["finished"]
    assert state["cursor"] >= 5 * 8

    # without readers this time: how many there are changes nothing
    done = finished([*command, "--resume", "ray", "--readers", "0"])
    assert f"going on at step {state['cursor'] // 8} of 16" in done.stdout
    assert "accuracy, %" in done.stdout
    assert rows_of(run) == rows_of(whole)
    assert run.report.exists()

    assert door(["evaluate", str(run.folder), "--split", "test", "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    last = told(run)[-1]
    assert evaluated["rows"] == last["test/rows"] == 11
    assert evaluated["accuracy"] == last["test/accuracy"]
    assert evaluated["loss"] == pytest.approx(last["test/loss"], rel=1e-5)
