"""log_wandb: records and pictures -> a run of Weights & Biases', found by its own variables (WANDB_PROJECT, ...).

WANDB_MODE=offline writes to RUN/wandb, to be sent later by `wandb sync`.
"""

import os
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.loggers import Told, flat_config
from trainers.run import Run


class Wandb:
    """One run of W&B's for a run of ours, however often it is begun again."""

    def __init__(self, run: Run) -> None:
        import wandb

        self._told = Told.of(run, "wandb")
        self._told.id = self._told.id or uuid.uuid4().hex
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "notestream"),
            id=self._told.id,
            name=run.name,
            resume="allow",
            dir=str(run.folder),
            config=flat_config(run),
            settings=wandb.Settings(silent=True, console="off"),  # log.txt is what people read
        )
        self._told.keep()

    def record(self, values: Mapping[str, Any]) -> None:
        """Log the record's numbers at its step."""
        news = self._told.news(values)
        if news:
            self._run.log(news, step=values["step"])
        self._told.keep(list(news), step=values["step"])

    def picture(self, name: str, image: NDArray[np.uint8], *, step: int) -> None:
        """Log a picture once a step."""
        import wandb

        if step > self._told.steps.get(name, -1):
            self._run.log({name: wandb.Image(image)}, step=step)
            self._told.keep([name], step=step)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()
