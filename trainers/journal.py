"""journal: what rank 0 writes as a run goes: metrics.jsonl for programs, log.txt for people, tb/ for TensorBoard."""

import contextlib
import json
import logging
import time
from pathlib import Path
from typing import Any

from shards.format import write_whole
from trainers.run import Run


class Journal:
    """Appends records and lines; a line is on disk when the call returns, so that others can follow it."""

    def __init__(self, run: Run, *, cursor: int, step: int) -> None:
        """Open the journal at a cursor: what was written past it by a lost attempt is superseded, and goes."""
        logging.getLogger("tensorboard").setLevel(logging.ERROR)
        from torch.utils.tensorboard import SummaryWriter  # here: 1 s that only rank 0 pays

        _drop_superseded(run.metrics, cursor=cursor)
        self._metrics = run.metrics.open("a")
        self._log = run.log.open("a")
        self._board = SummaryWriter(run.tensorboard, purge_step=step)

    def record(self, values: dict[str, Any]) -> None:
        """Write one record; names with a slash are drawn over steps in TensorBoard."""
        self._metrics.write(json.dumps(values | {"time": round(time.time(), 3)}) + "\n")
        self._metrics.flush()
        for name, value in values.items():
            if "/" in name and isinstance(value, int | float):
                self._board.add_scalar(name, value, values["step"])

    def line(self, text: str) -> None:
        """Write lines for people."""
        self._log.write(text + "\n")
        self._log.flush()

    def close(self) -> None:
        """Close all three, each whatever becomes of the others."""
        with contextlib.ExitStack() as last:
            for part in (self._metrics, self._log, self._board):
                last.callback(part.close)


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
