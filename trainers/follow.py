"""follow: a run's files -> what its user sees while it goes on. Ranks write; the process that started them shows.

New lines of log.txt are printed as they come; on a terminal a bar under them tells how far the run is.
"""

import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from trainers.beside import beside
from trainers.run import Run

POLL_SECONDS = 0.2


@contextlib.contextmanager
def follow(run: Run, *, steps: int, log: Path) -> Iterator[None]:
    """Show new lines of the run's log while the block runs, and the last of them after it."""
    start = log.stat().st_size if log.exists() else 0
    with beside(partial(_show, run, log, steps, start)):
        yield


def _show(run: Run, log: Path, steps: int, start: int, done: threading.Event) -> None:
    console = Console(file=sys.stdout, soft_wrap=True, highlight=False)
    columns = (TextColumn("training"), BarColumn(), TextColumn("step {task.completed:,.0f}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("training", total=steps)
        while True:
            last = done.wait(POLL_SECONDS)  # once more after the end, for what came in between
            start = _print_new(log, console, start)
            bar.update(task, completed=_step(run) if console.is_terminal else 0)
            if last:
                return


def _print_new(log: Path, console: Console, start: int) -> int:
    """Print whole lines past `start` and return where the next begin."""
    if not log.exists():
        return start
    start = min(start, log.stat().st_size)  # a restored run's log is as long as its checkpoint
    with log.open("rb") as file:
        file.seek(start)
        fresh = file.read()
    whole = fresh[: fresh.rfind(b"\n") + 1]
    for line in whole.decode(errors="replace").splitlines():
        console.print(Text(line))
    return start + len(whole)


def _step(run: Run) -> int:
    """Read the last record's step."""
    if not run.metrics.exists():
        return 0
    with run.metrics.open("rb") as file:
        file.seek(max(0, run.metrics.stat().st_size - 4096))
        lines = file.read().splitlines()
    for line in reversed(lines):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return int(json.loads(line)["step"])
    return 0
