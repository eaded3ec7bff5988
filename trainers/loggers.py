"""loggers: names -> where a run's numbers and pictures go beside metrics.jsonl. A small protocol, open to your own.

    tensorboard                 RUN/tb, as ever
    mlflow, wandb               imported only when they are asked for
    package.module:attribute    yours: called with the run and the step at which it stands, gives a Logger

Rank 0 alone logs. A run that goes on, after a fault or by --resume, goes on in each logger; what a lost attempt had
told already isn't told twice.
"""

import dataclasses
import importlib.util
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shards.errors import UsageError
from shards.format import write_whole
from trainers.flat import flatten
from trainers.named import load
from trainers.run import Run

PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}


class Logger(Protocol):
    """Takes what rank 0 tells as a run goes."""

    def record(self, values: Mapping[str, Any]) -> None:
        """Take a record: `step` and `cursor`, and numbers whose names have a slash."""
        ...

    def picture(self, name: str, image: NDArray[np.uint8], *, step: int) -> None:
        """Take a picture, (height, width, 3)."""
        ...

    def close(self) -> None:
        """End; the run may go on later, in another process."""
        ...


def check_loggers(names: Sequence[str]) -> None:
    """Refuse loggers that can't be had here, before a run begins.

    Raises:
        UsageError: there is none of that name, or its package isn't installed.
    """
    for name in names:
        if ":" in name:
            load(name, kind="logger")
        elif name not in PACKAGES:
            raise UsageError(f"loggers must be {', '.join(PACKAGES)} or package.module:attribute, got {name!r}")
        elif importlib.util.find_spec(PACKAGES[name]) is None:
            raise UsageError(
                f"logger {name} needs the package {PACKAGES[name]}, which is not installed: "
                f"pip install 'notestream[{name}]'"
            )


def open_logger(name: str, run: Run, *, step: int) -> Logger:
    """Open a logger of a run that stands after `step` (see check_loggers)."""
    check_loggers([name])
    if ":" in name:
        return load(name, kind="logger")(run, step=step)
    # here: each is imported only where it was asked for, and takes a second or more
    if name == "tensorboard":
        from trainers.log_tensorboard import TensorBoard

        return TensorBoard(run, step=step)
    if name == "mlflow":
        from trainers.log_mlflow import Mlflow

        return Mlflow(run)
    from trainers.log_wandb import Wandb

    return Wandb(run)


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Pick what can be drawn over steps; the scores of a checkpoint bear its name, as best/test/accuracy."""
    prefix = f"{values['checkpoint']}/" if "checkpoint" in values else ""
    return {
        prefix + name: float(value)
        for name, value in values.items()
        if "/" in name and isinstance(value, int | float) and math.isfinite(value)
    }


@dataclasses.dataclass
class Told:
    """What a logger of a service's was told, kept in the run's folder: the service's id of the run, and steps by name.

    A restored run takes steps again that were told already; they are the same steps, so their first telling stays.
    """

    path: Path
    id: str | None = None
    steps: dict[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, run: Run, name: str) -> "Told":
        """Read what a run keeps for a logger."""
        path = run.folder / "loggers" / f"{name}.json"
        return cls(path, **json.loads(path.read_bytes())) if path.exists() else cls(path)

    def news(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Pick the numbers of a record that were not told yet."""
        return {name: value for name, value in numbers(values).items() if values["step"] > self.steps.get(name, -1)}

    def keep(self, names: Sequence[str] = (), *, step: int = 0) -> None:
        """Write down that these were told at a step."""
        self.steps |= dict.fromkeys(names, step)
        self.path.parent.mkdir(exist_ok=True)
        content = json.dumps({"id": self.id, "steps": self.steps}).encode()
        write_whole(self.path, content, durable=False)  # each logging step, and lost with the run's folder at worst


def flat_config(run: Run) -> dict[str, Any]:
    """List the run's options by dotted names."""
    return flatten(json.loads(run.config.read_bytes()))
