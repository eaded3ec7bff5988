"""Loggers: each gets a run's records and pictures once, however often the run is begun again; none can end it."""

import contextlib
import itertools
import json
import math
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shards.errors import UsageError
from tests.trainers.runs import ROOT, config, launch_until, told
from tests.trainers.test_metrics import make
from trainers.journal import Journal
from trainers.launch import launch
from trainers.loggers import Told, check_loggers, numbers
from trainers.pictures import confusion_image, mels_image
from trainers.run import Run


class Own:
    """A logger of one's own: a line a call, in RUN/own.txt."""

    def __init__(self, run: Run, *, step: int) -> None:
        self.path = run.folder / "own.txt"
        self._write("begin", step)

    def _write(self, *what: object) -> None:
        with self.path.open("a") as file:
            print(*what, file=file)

    def record(self, values):
        self._write("record", values["step"], *sorted(numbers(values)))

    def picture(self, name, image, *, step):
        self._write("picture", name, step, image.shape, image.dtype)

    def close(self):
        self._write("end")


class Broken(Own):
    """One that fails at its third record."""

    def record(self, values):
        if values["step"] == 3:
            raise ConnectionError("the server\nhas gone")
        super().record(values)


class Closed(Own):
    """One that can't be opened."""

    def __init__(self, run: Run, *, step: int) -> None:
        raise ConnectionError("no server")


def stopped_and_resumed(data: Path, runs: Path, *loggers: str) -> Run:
    """A run that is stopped twice, in the middle of epochs, and resumed past what it had logged."""
    given = {"loggers": loggers, "epochs": 1}
    launch_until(config(data, runs, **given), records=2)
    run = launch_until(config(data, runs, resume="run", name=None, **given), records=5)
    launch(config(data, runs, resume="run", name=None, **given))
    return run


def expected(run: Run) -> dict[str, list[tuple[int, float]]]:
    """What a logger should have: the numbers of metrics.jsonl by name, in order of step."""
    found: dict[str, list[tuple[int, float]]] = {}
    for record in map(json.loads, run.metrics.read_text().splitlines()):
        for name, value in numbers(record).items():
            found.setdefault(name, []).append((record["step"], value))
    assert len(found["train/loss"]) == 8
    assert "best/test/accuracy" in found
    return found


def test_tensorboard_and_an_own_logger_get_every_step_once(data: Path, tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = stopped_and_resumed(data, tmp_path, "tensorboard", "tests.trainers.test_loggers:Own")
    board = EventAccumulator(str(run.tensorboard))
    board.Reload()
    for name, points in expected(run).items():
        there = [(point.step, pytest.approx(point.value, rel=1e-6)) for point in board.Scalars(name)]
        assert points == there, name
    assert [image.step for image in board.Images("valid/confusion")] == [8]
    assert [image.step for image in board.Images("train/mels")] == [8]
    own = (run.folder / "own.txt").read_text().splitlines()
    assert [line.split()[1] for line in own if line.startswith("record") and "train/loss" in line] == list("12345678")
    assert sum(line.startswith("begin") for line in own) == sum(line == "end" for line in own) == 4  # the last reports
    assert "picture valid/confusion 8 (440, 480, 3) uint8" in own


def test_a_journal_at_an_older_cursor_supersedes_in_tensorboard_what_was_told(whole: Run, tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = Run(tmp_path)
    for first, last in ((1, 6), (4, 9)):  # the first attempt was lost after step 6, its checkpoint was of step 3
        journal = Journal(run, cursor=(first - 1) * 8, step=first - 1, loggers=["tensorboard"])
        for step in range(first, last + 1):
            journal.record({"step": step, "cursor": step * 8, "train/loss": float(10 * first + step)})
        journal.close()
    board = EventAccumulator(str(run.tensorboard))
    board.Reload()
    assert [(p.step, p.value) for p in board.Scalars("train/loss")] == [
        (s, 10.0 * (1 if s < 4 else 4) + s) for s in range(1, 10)
    ]
    assert [record["step"] for record in told(run)] == list(range(1, 10))


def test_a_full_disk_under_tensorboard_is_told_at_that_record(small_disk: Path, tmp_path: Path):
    run = Run(tmp_path)
    run.tensorboard.symlink_to(small_disk)
    journal = Journal(run, cursor=0, step=0, loggers=["tensorboard"])
    with contextlib.suppress(OSError), (small_disk / "ballast").open("wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(1 << 12))
    before = threading.active_count()
    failed = "logger tensorboard failed (OSError: [Errno 28] No space left on device): it gets nothing more"
    steps = itertools.count(1)
    while failed not in run.log.read_text():  # the last page has room for some
        journal.record({"step": next(steps), "cursor": 8, "train/loss": 1.0, "train/accuracy": 0.5})
    journal.close()
    assert 1 < next(steps) < 100
    assert threading.active_count() == before  # nobody is left to tell it late


def test_a_logger_that_fails_is_told_and_left_out(data: Path, tmp_path: Path):
    run = launch(config(data, tmp_path, epochs=1, loggers=("tests.trainers.test_loggers:Broken",)))
    assert (
        "logger tests.trainers.test_loggers:Broken failed (ConnectionError: the server has gone): "
        "it gets nothing more, the run goes on" in run.log.read_text()
    )
    records = [line for line in (run.folder / "own.txt").read_text().splitlines() if line.startswith("record")]
    assert [line.split()[1] for line in records if "train/loss" in line] == ["1", "2"]
    assert run.report.exists()


def test_loggers_that_can_not_be_had_are_told_before_a_run_begins(data: Path, tmp_path: Path, monkeypatch):
    with pytest.raises(
        UsageError, match=r"loggers must be tensorboard, mlflow, wandb or package\.module:attribute, got 'x'"
    ):
        launch(config(data, tmp_path, loggers=("x",)))
    with pytest.raises(UsageError, match=r"logger 'no\.module:X' can't be imported \(ModuleNotFoundError"):
        launch(config(data, tmp_path, loggers=("no.module:X",)))
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UsageError,
        match=r"logger wandb needs the package wandb, which is not installed: pip install 'notestream\[wandb\]'",
    ):
        check_loggers(["wandb"])
    assert not (tmp_path / "run").exists()


def test_a_logger_that_can_not_be_opened_ends_a_new_run_and_no_older_one(tmp_path: Path):
    name = "tests.trainers.test_loggers:Closed"
    with pytest.raises(
        UsageError, match=r"logger .*Closed can't be opened \(ConnectionError: no server\): mend it, or"
    ):
        Journal(Run(tmp_path), cursor=0, step=0, loggers=[name])
    Journal(Run(tmp_path), cursor=8, step=1, loggers=[name]).close()
    assert (
        "can't be opened (ConnectionError: no server): it gets nothing, the run goes on"
        in Run(tmp_path).log.read_text()
    )


def test_what_was_told_is_kept_by_name(tmp_path: Path):
    one = Told.of(Run(tmp_path), "x")
    one.id = "abc"
    one.keep(["train/loss"], step=5)
    again = Told.of(Run(tmp_path), "x")
    assert again.id == "abc"
    assert again.news({"step": 5, "train/loss": 1.0, "valid/loss": 2, "note": "a/b", "bad/one": math.nan}) == {
        "valid/loss": 2.0
    }
    assert again.news({"step": 6, "train/loss": 1.0, "checkpoint": "best"}) == {"best/train/loss": 1.0}


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning"
)  # MLflow's of SQLAlchemy, and its own
def test_mlflow_gets_every_step_once_in_one_run(data: Path, tmp_path: Path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = stopped_and_resumed(data, tmp_path / "runs", "mlflow")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    (experiment,) = [one for one in client.search_experiments() if one.name == "notestream"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "run"
    assert found.data.params["model.name"] == "test_resnet"
    for name, points in expected(run).items():
        there = client.get_metric_history(found.info.run_id, name)
        assert sorted((point.step, point.value) for point in there) == points, name
    for folder in ("valid/confusion", "train/mels"):
        assert [item.path for item in client.list_artifacts(found.info.run_id, folder)] == [f"{folder}/00000008.png"]


def records_of(path: Path) -> Iterator[bytes]:
    """Read a file of W&B's, in LevelDB's log format: blocks of 32 KB, of pieces with crc, length and type."""
    content, whole = path.read_bytes(), b""
    at = 7  # past W&B's own mark
    while at + 7 <= len(content):
        if 32_768 - at % 32_768 < 7:  # no piece begins in a block's last bytes
            at += 32_768 - at % 32_768
        _, size, kind = struct.unpack_from("<IHB", content, at)
        whole += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or a record's last piece
            yield whole
            whole = b""


def scan_wandb(run: Run) -> tuple[set[str], list[dict]]:
    """Read W&B's offline files: the ids of runs, and their rows."""
    from wandb.proto.wandb_internal_pb2 import Record

    ids, rows = set(), []
    for path in sorted((run.folder / "wandb").glob("offline-run-*/*.wandb")):
        for data in records_of(path):
            record = Record.FromString(data)
            if record.WhichOneof("record_type") == "run":
                ids.add(record.run.run_id)
            if record.WhichOneof("record_type") == "history":
                items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
                rows.append({name: json.loads(value) for name, value in items.items()})
    return ids, rows


@pytest.mark.slow
def test_wandb_gets_every_step_once_in_one_run(data: Path, tmp_path: Path):
    """In a process of its own: W&B leaves a service and threads behind, which this one needn't bear."""
    pytest.importorskip("wandb")
    code = (
        "import sys; from pathlib import Path; from tests.trainers.test_loggers import stopped_and_resumed\n"
        "stopped_and_resumed(Path(sys.argv[1]), Path(sys.argv[2]), 'wandb')"
    )
    env = os.environ | {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false"}
    done = subprocess.run([sys.executable, "-c", code, str(data), str(tmp_path)], cwd=ROOT, env=env,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    run = Run(tmp_path / "run")
    ids, rows = scan_wandb(run)
    assert ids == {json.loads((run.folder / "loggers" / "wandb.json").read_text())["id"]}
    for name, points in expected(run).items():
        assert sorted((row["_step"], row[name]) for row in rows if name in row) == points, name
    assert [row["_step"] for row in rows if "valid/confusion/path" in row] == [8]


def test_pictures_hold_what_they_show():
    image = confusion_image(make([0, 0, 1, 2], [0, 1, 1, 0], classes=("bass", "$x_$", "フルート")))
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    assert len(np.unique(image)) > 10
    mels = np.zeros((5, 40, 20), np.float32)
    mels[4, 0] = 1
    sheet = mels_image(mels)
    assert sheet.shape == (3 * 42 - 2, 2 * 22 - 2, 3)
    bright = np.argwhere(sheet.sum(2) > 600)
    assert set(bright[:, 0]) == {len(sheet) - 1}, "the fifth's lowest band lies at the bottom"
    assert set(bright[:, 1]) == set(range(20))
    assert mels_image(mels[:1]).shape == (40, 20, 3)
