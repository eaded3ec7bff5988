"""run: a run's folder. RUN/{config.json, environment.json, metrics.jsonl, log.txt, tb/, checkpoints/, report.html}."""

import dataclasses
import importlib.metadata
import json
import platform
import shlex
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from shards.errors import UsageError
from shards.format import write_whole
from shards.owner import ROOT
from shards.remote import locate
from streaming.mix import parse_data
from trainers import sync
from trainers.config import TrainConfig, to_json

PACKAGES = ("torch", "torchaudio", "timm", "ray", "webdataset", "pyarrow", "numba", "numpy")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's folder, by name of what lies in it; `url` is where it really lives, if that's not a disk."""

    folder: Path
    url: str | None = None

    @classmethod
    def at(cls, runs: str, name: str) -> "Run":
        """Name the run NAME of RUNS, a folder or URL; nothing is made or read yet."""
        place = locate(runs) / name
        return cls(sync.staging(place.text), place.text) if place.is_url else cls(place.path.resolve())

    @property
    def name(self) -> str:
        """The run's name."""
        return locate(self.url or self.folder).name

    @property
    def place(self) -> str:
        """Where people find it: the URL, or the folder."""
        return self.url or str(self.folder)

    def pull(self) -> None:
        """Bring what the URL has to this machine."""
        if self.url is not None:
            sync.pull(self.url, self.folder)

    def push(self, *names: str) -> None:
        """Bring files and folders of this machine to the URL, by name."""
        if self.url is not None:
            sync.push(self.url, self.folder, names)

    def push_checkpoints(self, *, best: bool) -> None:
        """Bring the last checkpoint, and the best where it is new, to the URL."""
        for checkpoint in (self.last, self.best) if best else (self.last,):
            if self.url is not None:
                sync.push_checkpoint(self.url, checkpoint)

    def ask_to_stop(self) -> None:
        """Make the run save and end at its next logging step, on whatever machine rank 0 is."""
        self.stop.touch()
        self.push(self.stop.name)

    def is_asked_to_stop(self) -> bool:
        """Tell whether someone asked."""
        return self.stop.exists() or (self.url is not None and sync.exists(self.url, self.stop.name))

    def forget_stop(self) -> None:
        """Take the question back, before the run begins again."""
        self.stop.unlink(missing_ok=True)
        if self.url is not None:
            sync.remove(self.url, self.stop.name)

    @property
    def config(self) -> Path:
        """The run's options."""
        return self.folder / "config.json"

    @property
    def environment(self) -> Path:
        """Versions, command, commit, pack fingerprint."""
        return self.folder / "environment.json"

    @property
    def metrics(self) -> Path:
        """A JSON object a line: training and validation as they went."""
        return self.folder / "metrics.jsonl"

    @property
    def log(self) -> Path:
        """What people read while it runs."""
        return self.folder / "log.txt"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's folder."""
        return self.folder / "tb"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.folder / "checkpoints" / "last"

    @property
    def best(self) -> Path:
        """The best checkpoint by the monitored metric."""
        return self.folder / "checkpoints" / "best"

    @property
    def stop(self) -> Path:
        """A file whose being there makes the run save and end at its next logging step."""
        return self.folder / ".stop"

    def next_attempt(self) -> int:
        """Count the ranks' starts: 0 at the first, one more after each restart or resume."""
        path = self.folder / ".attempts"
        attempt = int(path.read_text()) if path.exists() else 0
        write_whole(path, str(attempt + 1).encode())
        self.push(path.name)  # the next rank 0 may be on another node
        return attempt

    @property
    def report(self) -> Path:
        """The page about the run, written at its end."""
        return self.folder / "report.html"


def open_run(runs: str, name: str) -> Run:
    """Find the run NAME of RUNS.

    Raises:
        UsageError: there is none.
    """
    run = Run.at(runs, name)
    run.pull()
    if not run.config.is_file():
        there = [
            found for found in locate(runs).children() if (locate(runs) / found / "config.json").size() is not None
        ]
        known = f"{runs} holds {', '.join(there[-5:])}" if there else f"{runs} holds no run"
        raise UsageError(f"run {run.place} does not exist ({known}): begin it with --name {name}")
    return run


def open_run_at(place: str) -> Run:
    """Find a run by its folder or URL, as `evaluate RUN` takes it."""
    found = locate(place.rstrip("/"))
    return open_run(found.parent.text, found.name)


def check_name(config: TrainConfig) -> Run:
    """Return where a new run is to be, by its name or else by preset and time.

    Raises:
        UsageError: the name is taken.
    """
    name = config.name or f"{config.preset}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    run = Run.at(config.runs, name)
    if (locate(run.place) / run.config.name).size() is not None:
        raise UsageError(f"run {name} exists in {config.runs}: take --resume {name} to go on, or another --name")
    return run


def begin_run(config: TrainConfig, *, fingerprints: dict[str, str]) -> tuple[Run, TrainConfig]:
    """Make the folder of a new run and write what it is; return it with the config that holds its name.

    Raises:
        UsageError: the name is taken.
    """
    run = check_name(config)
    if run.url is not None:
        shutil.rmtree(run.folder, ignore_errors=True)  # what an earlier run of this URL left on this machine
    config = dataclasses.replace(config, name=run.name, data=absolute_data(config.data or ""), resume=None, config=None)
    run.folder.mkdir(parents=True, exist_ok=True)
    write_whole(run.environment, json.dumps(describe_environment(fingerprints), indent=2).encode())
    write_whole(run.config, json.dumps(to_json(config), indent=2).encode())
    run.push(run.environment.name, run.config.name)
    return run, config


def absolute_data(data: str) -> str:
    """Name places so that ranks find them from another working directory; a lone one without a weight, as it came."""
    found = [(locate(place), weight) for place, weight in parse_data(data)]
    named = [(place.text if place.is_url else str(place.path.resolve()), weight) for place, weight in found]
    return named[0][0] if len(named) == 1 else ",".join(f"{place}={weight}" for place, weight in named)


def describe_environment(fingerprints: dict[str, str]) -> dict[str, Any]:
    """Tell what a result depends on beside the config."""
    return {
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "command": shlex.join(sys.orig_argv),
        "commit": _commit(),
        "fingerprints": fingerprints,
        "machine": platform.platform(),
        "began": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _commit() -> str | None:
    """Return the checkout's commit, marked where files differ from it; None outside git."""
    try:
        said = subprocess.run(
            ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip()
