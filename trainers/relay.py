"""relay: rank 0's log.txt -> the process that started the run, by way of the run's URL.

On a cluster rank 0 writes to a disk of its own node, and its checkpoints are minutes apart. So it uploads its log as it
grows, and who follows the run fetches it.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from shards.errors import DataError
from shards.format import write_whole
from shards.remote import locate
from trainers.beside import beside
from trainers.run import Run

UPLOAD_SECONDS, FETCH_SECONDS = 5.0, 2.0
SHARE = 0.02  # of the time may go into moving the log: a long one is moved less often


@contextlib.contextmanager
def uploaded_log(run: Run) -> Iterator[None]:
    """Upload the log while the block runs, as often as it has grown; runs on a disk need none of it."""
    with _repeating(lambda size: _upload(run, size), every=UPLOAD_SECONDS) if run.url else contextlib.nullcontext():
        yield


def local_log(run: Run) -> Path:
    """Name the log to follow: the run's own, or a copy of what its URL has, brought here as it is now."""
    if run.url is None:
        return run.log
    copy = run.folder.with_name(f"{run.folder.name}-log.txt")  # rank 0 may be on this node, with a log of its own
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.unlink(missing_ok=True)
    _fetch(run, copy, 0)
    return copy


@contextlib.contextmanager
def fetched_log(run: Run, copy: Path) -> Iterator[None]:
    """Fetch what the run's log has become into `copy` (see local_log) while the block runs, and at its end."""
    if run.url is None:
        yield
        return
    with _repeating(lambda size: _fetch(run, copy, size), every=FETCH_SECONDS):
        yield


def _upload(run: Run, size: int) -> int:
    now = run.log.stat().st_size if run.log.exists() else 0
    if now != size:
        run.push(run.log.name)
    return now


def _fetch(run: Run, copy: Path, size: int) -> int:
    log = locate(run.place) / run.log.name
    now = log.size() or 0
    if now != size:
        write_whole(copy, log.read_bytes())
    return now


def _repeating(move: Callable[[int], int], *, every: float) -> contextlib.AbstractContextManager[None]:
    """Call `move` with the size that it last returned, again and again, in a thread, and once more at the end."""

    def work(done: threading.Event) -> None:
        size, pause, last = 0, every, False
        while not last:
            last = done.wait(pause)
            began = time.monotonic()
            with contextlib.suppress(DataError, OSError):  # the log is for eyes: a store that is away ends no run
                size = move(size)
            pause = max(every, (time.monotonic() - began) / SHARE)

    return beside(work)
