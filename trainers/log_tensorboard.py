"""log_tensorboard: records and pictures -> RUN/tb."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from trainers.loggers import numbers
from trainers.run import Run


class TensorBoard:
    """A run's event files; what a lost attempt wrote past `step` is shown no more."""

    def __init__(self, run: Run, *, step: int) -> None:
        logging.getLogger("tensorboard").setLevel(logging.ERROR)
        self._writer = SummaryWriter(run.tensorboard, purge_step=step + 1)  # from that step on, itself included

    def record(self, values: Mapping[str, Any]) -> None:
        """Draw the record's numbers at its step."""
        for name, value in numbers(values).items():
            self._writer.add_scalar(name, value, values["step"])

    def picture(self, name: str, image: NDArray[np.uint8], *, step: int) -> None:
        """Show a picture, (height, width, 3)."""
        self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
