"""journal: what rank 0 writes as a run goes: metrics.jsonl for programs, log.txt for people, and what loggers take."""

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import NotestreamError, UsageError
from shards.format import write_whole
from trainers.loggers import Logger, open_logger
from trainers.run import Run


class Journal:
    """Appends records and lines; a line is on disk when the call returns, so that others can follow it.

    Loggers come after that, and are no reason to lose a run: one that fails is told in log.txt, and left out.
    """

    def __init__(self, run: Run, *, cursor: int, step: int, loggers: Sequence[str] = ()) -> None:
        """Open the journal at a cursor: what was written past it by a lost attempt is superseded, and goes.

        Raises:
            UsageError: a logger can't be had, or can't be opened at the beginning of a run.
        """
        _drop_superseded(run.metrics, cursor=cursor)
        self._metrics = run.metrics.open("a")
        self._log = run.log.open("a")
        self._loggers: dict[str, Logger] = {}
        try:
            for name in dict.fromkeys(loggers):
                self._open(name, run, step=step)
        except NotestreamError:
            self.close()
            raise

    def _open(self, name: str, run: Run, *, step: int) -> None:
        try:
            self._loggers[name] = open_logger(name, run, step=step)
        except NotestreamError:
            raise
        except Exception as error:  # a logger raises whatever it raises
            told = f"logger {name} can't be opened ({_what(error)})"
            if not step:
                raise UsageError(f"{told}: mend it, or choose others by --loggers") from error
            self.line(f"{told}: it gets nothing, the run goes on")

    def record(self, values: dict[str, Any]) -> None:
        """Write one record; numbers whose names have a slash are drawn over steps by loggers."""
        self._metrics.write(json.dumps(values | {"time": round(time.time(), 3)}) + "\n")
        self._metrics.flush()
        self._tell(lambda logger: logger.record(values))

    def picture(self, name: str, draw: Callable[[], NDArray[np.uint8]], *, step: int) -> None:
        """Hand a picture (height, width, 3) to loggers; it is drawn only where there are any."""
        if self._loggers:
            image = draw()
            self._tell(lambda logger: logger.picture(name, image, step=step))

    def line(self, text: str) -> None:
        """Write lines for people."""
        self._log.write(text + "\n")
        self._log.flush()

    def close(self) -> None:
        """Close all, each whatever becomes of the others."""
        self._tell(lambda logger: logger.close())
        with contextlib.ExitStack() as last:
            for part in (self._metrics, self._log):
                last.callback(part.close)

    def _tell(self, what: Callable[[Logger], None]) -> None:
        for name, logger in [*self._loggers.items()]:
            try:
                what(logger)
            except Exception as error:
                del self._loggers[name]
                self.line(f"logger {name} failed ({_what(error)}): it gets nothing more, the run goes on")


def _what(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl; a last line cut short by a kill is left out."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def _drop_superseded(path: Path, *, cursor: int) -> None:
    kept = [record for record in read_records(path) if record["cursor"] <= cursor]
    if path.exists():
        write_whole(path, "".join(json.dumps(record) + "\n" for record in kept).encode())
