"""Whole runs: one rank equals two, kill and resume equals uninterrupted, and the folder they leave."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from shards.errors import UsageError
from streaming.augment import Augment
from trainers import checkpoint
from trainers.config import TrainConfig
from trainers.launch import launch
from trainers.model import ModelConfig
from trainers.run import Run

ROOT = Path(__file__).resolve().parents[2]
FOLDER = {"config.json", "environment.json", "metrics.jsonl", "log.txt", "tb", "checkpoints", "report.html"}


def config(data: Path, runs: Path, **options: Any) -> TrainConfig:
    given = {
        "data": str(data), "runs": str(runs), "name": "run", "local": True, "epochs": 2, "batch_size": 8, "readers": 0,
        "crop_seconds": 0.5, "log_every": 1, "log_rows": True, "model": ModelConfig(name="test_resnet"),
        "augment": Augment(pitch_semitones=2, speed=1.1, random_start=True), "baseline_rows": 20,
    }  # fmt: skip
    return TrainConfig(**(given | options))


def as_flags(given: TrainConfig, *, local: bool) -> list[str]:
    """The same run as a command line."""
    return [
        "train", "--data", str(given.data), "--runs", given.runs, "--epochs", "2", "--batch-size", "8", "--readers",
        str(given.readers), "--crop-seconds", "0.5", "--log-every", "1", "--log-rows", "--model.name", "test_resnet",
        "--augment.pitch-semitones", "2", "--augment.speed", "1.1", "--augment.random-start", "--baseline-rows", "20",
        *(["--local"] if local else []),
    ]  # fmt: skip


def rows_of(run: Run) -> list[tuple[int, list[str], list[str]]]:
    """The row log of all ranks: per step, the keys in order and the hashes; later attempts supersede."""
    ranks = []
    for path in sorted((run.folder / "rows").glob("rank-*.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        ranks.append({line["step"]: line for line in lines})
    steps = sorted(ranks[0])
    assert all(sorted(rank) == steps for rank in ranks)
    keys = {step: [key for rank in ranks for key in rank[step]["keys"]] for step in steps}
    return [(step, keys[step], [rank[step]["hash"] for rank in ranks]) for step in steps]


def weights(run: Run) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run.last / checkpoint.MODEL)


def told(run: Run) -> list[dict[str, Any]]:
    """The records, without what depends on the clock."""
    records = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    clocked = ("time", "train/samples_per_second", "train/wait_share")
    return [{name: value for name, value in record.items() if name not in clocked} for record in records]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An uninterrupted run on one rank."""
    return launch(config(data, tmp_path_factory.mktemp("runs")))


def test_a_run_leaves_its_folder_whole(whole: Run, data: Path):
    assert {path.name for path in whole.folder.iterdir() if path.name[0] != "."} == FOLDER | {"rows"}
    assert {path.name for path in (whole.folder / "checkpoints").iterdir()} == {"last", "best"}
    environment = json.loads(whole.environment.read_text())
    assert {"versions", "command", "commit", "fingerprints", "machine", "began"} == set(environment)
    assert json.loads(whole.config.read_text())["data"] == str(data)
    records = [json.loads(line) for line in whole.metrics.read_text().splitlines()]
    training = {"loss", "accuracy", "samples_per_second", "wait_share", "lr"}
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
    assert sorted(keys[:61]) == sorted(keys[61:122]) == sorted(open_pack(data, split="train").keys.to_pylist())
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


def launch_until(given: TrainConfig, *, records: int) -> Run:
    """Launch a run and have it stopped once it has written so many records."""
    run = Run.at(given.runs, given.name or given.resume or "")

    def stop() -> None:
        while not run.metrics.exists() or len(run.metrics.read_text().splitlines()) < records:
            time.sleep(0.005)
        run.ask_to_stop()

    stopper = threading.Thread(target=stop)
    stopper.start()
    launch(given)
    stopper.join()
    assert not run.report.exists()
    return run


def finished(command: list[str], *, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_two_ranks_under_torchrun_take_the_same_rows(whole: Run, data: Path, tmp_path: Path):
    flags = as_flags(config(data, tmp_path), local=False)
    finished([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "trainers",
              *flags, "--name", "two", "--device", "cpu"])  # fmt: skip
    two = Run(tmp_path / "two")
    assert [keys for _, keys, _ in rows_of(two)] == [keys for _, keys, _ in rows_of(whole)]
    assert told(two)[-1]["test/rows"] == 11
    first, single = told(two)[0], told(whole)[0]
    assert first["train/loss"] == pytest.approx(single["train/loss"], rel=0.2), "BatchNorm sees a rank's rows only"


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(whole: Run, data: Path, tmp_path: Path):
    flags = as_flags(config(data, tmp_path), local=True)
    command = [sys.executable, "-m", "trainers", *flags, "--device", "cpu"]
    victim = subprocess.Popen([*command, "--name", "killed"], cwd=ROOT, stdout=subprocess.DEVNULL)
    run = Run(tmp_path / "killed")
    wait_for_records(run, 11, victim)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    finished([*command, "--resume", "killed"])
    assert rows_of(run) == rows_of(whole)
    assert told(run) == told(whole)


def wait_for_records(run: Run, count: int, process: subprocess.Popen[Any], *, timeout: float = 120) -> None:
    until = time.monotonic() + timeout
    while not run.metrics.exists() or len(run.metrics.read_text().splitlines()) < count:
        assert process.poll() is None, "it ended before it could be interrupted"
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.slow
def test_ray_train_interrupted_and_resumed_takes_the_same_rows(whole: Run, data: Path, tmp_path: Path):
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

    done = finished([*command, "--resume", "ray"])
    assert f"going on at step {state['cursor'] // 8} of 16" in done.stdout
    assert "accuracy, %" in done.stdout
    assert [keys for _, keys, _ in rows_of(run)] == [keys for _, keys, _ in rows_of(whole)]
    assert run.report.exists()

    said = finished([sys.executable, "-m", "trainers", "evaluate", str(run.folder), "--split", "test", "--json"])
    evaluated = json.loads(said.stdout)
    last = told(run)[-1]
    assert evaluated["rows"] == last["test/rows"] == 11
    assert evaluated["accuracy"] == last["test/accuracy"]
    assert evaluated["loss"] == pytest.approx(last["test/loss"], rel=1e-5)
