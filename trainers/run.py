"""run: a run's folder. RUN/{config.json, environment.json, metrics.jsonl, log.txt, tb/, checkpoints/, report.html}."""

import dataclasses
import importlib.metadata
import json
import platform
import shlex
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from shards.errors import UsageError
from shards.format import write_whole
from shards.index import Pack
from shards.owner import ROOT
from trainers.config import TrainConfig, read_config, to_json

PACKAGES = ("torch", "torchaudio", "timm", "ray", "webdataset", "pyarrow", "numba", "numpy")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's folder, by name of what lies in it."""

    folder: Path

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
        return attempt

    @property
    def report(self) -> Path:
        """The page about the run, written at its end."""
        return self.folder / "report.html"


def open_run(folder: Path) -> Run:
    """Find a run that began before.

    Raises:
        UsageError: there is none.
    """
    run = Run(folder.resolve())
    if not run.config.is_file():
        there = sorted(path.parent.name for path in folder.parent.glob("*/config.json"))
        known = f"{folder.parent} holds {', '.join(there[-5:])}" if there else f"{folder.parent} holds no run"
        raise UsageError(f"run {folder} does not exist ({known}): begin it with --name {folder.name}")
    return run


def begin_run(config: TrainConfig, *, packs: dict[str, Pack]) -> tuple[Run, TrainConfig]:
    """Make the folder of a new run and write what it is; return it with the config that holds its name.

    Raises:
        UsageError: the name is taken.
    """
    name = config.name or f"{config.preset}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    run = Run((Path(config.runs) / name).resolve())
    if run.config.exists():
        raise UsageError(f"run {name} exists in {config.runs}: take --resume {name} to go on, or another --name")
    config = dataclasses.replace(config, name=name, data=str(Path(config.data or "").resolve()))
    run.folder.mkdir(parents=True, exist_ok=True)
    write_whole(run.environment, json.dumps(describe_environment(packs), indent=2).encode())
    write_whole(run.config, json.dumps(to_json(config), indent=2).encode())
    return run, config


def resume_run(config: TrainConfig, *, name: str) -> tuple[Run, TrainConfig]:
    """Open a run to go on with: its own options, but for those that may change at every restart."""
    run = open_run(Path(config.runs) / name)
    own = read_config(run.config)
    free = ("world_size", "readers", "device", "local", "address", "max_failures", "log_every", "log_rows")
    changed = {field: getattr(config, field) for field in free}
    return run, dataclasses.replace(own, **changed, resume=name, runs=config.runs)


def describe_environment(packs: dict[str, Pack]) -> dict[str, Any]:
    """Tell what a result depends on beside the config."""
    return {
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "command": shlex.join(sys.orig_argv),
        "commit": _commit(),
        "fingerprints": {split: pack.fingerprint for split, pack in packs.items()},
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
