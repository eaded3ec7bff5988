"""progress: how far a long piece of work is. A bar on a terminal, a plain line every few seconds elsewhere."""

import contextlib
import sys
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_INTERVAL_SECONDS = 5.0


class Meter:
    """Counts `unit`s of a task towards `total`; `advance` is cheap enough to call for every note."""

    def __init__(self, title: str, *, total: int, unit: str) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done, self.started = 0, time.monotonic()
        self._spoke = self.started
        self._bar: Progress | None = None
        self._task = None
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
            self._bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
            self._task = self._bar.add_task(title, total=total)
            self._bar.start()

    def advance(self, amount: int = 1) -> None:
        """Say that `amount` more are done."""
        self.done += amount
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.done)
        elif time.monotonic() - self._spoke >= PLAIN_INTERVAL_SECONDS:
            self._spoke = time.monotonic()
            self._line()

    def close(self) -> None:
        """Take the bar down, or print the last line."""
        if self._bar is not None:
            self._bar.stop()
        else:
            self._line()

    def _line(self) -> None:
        rate = self.done / max(1e-9, time.monotonic() - self.started)
        print(f"{self.title}: {self.done:,} of {self.total:,} {self.unit}, {rate:,.0f}/s", file=sys.stderr, flush=True)  # noqa: T201


@contextlib.contextmanager
def meter(title: str, *, total: int, unit: str) -> Iterator[Meter]:
    """Show progress on stderr while the block runs; the bar is taken down on an error too."""
    shown = Meter(title, total=total, unit=unit)
    try:
        yield shown
    finally:
        shown.close()
