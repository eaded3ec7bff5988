"""Runs for tests: one small config, as an object and as a command line, and what a run leaves to compare."""

import json
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from streaming.augment import Augment
from trainers import checkpoint
from trainers.config import TrainConfig
from trainers.journal import read_records
from trainers.launch import launch
from trainers.options import ModelConfig
from trainers.run import Run

ROOT = Path(__file__).resolve().parents[2]
FOLDER = {"config.json", "environment.json", "metrics.jsonl", "log.txt", "tb", "checkpoints", "report.html"}


def config(data: Path | str, runs: Path, **options: Any) -> TrainConfig:
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
        "--augment.pitch-semitones", "2", "--augment.speed", "1.1", "--augment.random-start", "--augment.low-pass", "1",
        "--augment.low-pass-probability", "1", "--baseline-rows", "20",
        *(["--local"] if local else []),
    ]  # fmt: skip


def rows_of(run: Run) -> list[tuple[int, list[str], list[str]]]:
    """The row log of all ranks: per step, its rows' keys and hashes in order; of a step's attempts the last counts."""
    logged: dict[int, dict[int, list[dict[str, Any]]]] = {}
    for path in sorted((run.folder / "rows").glob("attempt-*-rank-*.jsonl")):  # by rank within an attempt
        for line in read_records(path):  # a full disk or a kill may cut the last one short: that step is done again
            logged.setdefault(line["step"], {}).setdefault(line["attempt"], []).append(line)
    last = {step: attempts[max(attempts)] for step, attempts in sorted(logged.items())}
    return [
        (step, [key for rank in ranks for key in rank["keys"]], [one for rank in ranks for one in rank["hashes"]])
        for step, ranks in last.items()
    ]


def weights(run: Run) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run.last / checkpoint.MODEL)


def told(run: Run) -> list[dict[str, Any]]:
    """The records, without what depends on the clock."""
    records = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    clocked = ("time", "train/samples_per_second", "train/wait_share", "train/memory_bytes")
    return [
        {name: value for name, value in record.items() if name not in clocked and not name.endswith("_seconds")}
        for record in records
    ]


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


def finished(
    command: list[str], *, timeout: float = 200, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def wait_for_records(run: Run, count: int, process: subprocess.Popen[Any], *, timeout: float = 120) -> None:
    until = time.monotonic() + timeout
    while not run.metrics.exists() or len(run.metrics.read_text().splitlines()) < count:
        assert process.poll() is None, "it ended before it could be interrupted"
        assert time.monotonic() < until
        time.sleep(0.02)
