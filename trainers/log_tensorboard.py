"""log_tensorboard: records and pictures -> RUN/tb.

Events are written here and now, by the process that trains: tensorboard's own writer has a thread for it, whose fault
(a full disk) ends in a traceback of its own, long after the call that it belongs to has returned.
"""

import contextlib
import io
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.summary.writer.record_writer import RecordWriter

from trainers.loggers import numbers
from trainers.run import Run


class TensorBoard:
    """A run's event files; what a lost attempt wrote past `step` is shown no more."""

    def __init__(self, run: Run, *, step: int) -> None:
        run.tensorboard.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"  # read in this order
        self._file = (run.tensorboard / name).open("wb")
        self._events = RecordWriter(self._file)
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))  # from that step on

    def record(self, values: Mapping[str, Any]) -> None:
        """Draw the record's numbers at its step."""
        points = [Summary.Value(tag=name, simple_value=value) for name, value in numbers(values).items()]
        self._write(Event(step=values["step"], summary=Summary(value=points)))

    def picture(self, name: str, image: NDArray[np.uint8], *, step: int) -> None:
        """Show a picture, (height, width, 3)."""
        png = io.BytesIO()
        Image.fromarray(image).save(png, "png")
        height, width = image.shape[:2]
        shown = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png.getvalue())
        self._write(Event(step=step, summary=Summary(value=[Summary.Value(tag=name, image=shown)])))

    def close(self) -> None:
        """End the file; all of it is written."""
        self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        try:
            self._events.write(event.SerializeToString())
            self._file.flush()
        except OSError:
            with contextlib.suppress(OSError):  # it would tell of what is still in its buffer
                self._file.close()
            raise
