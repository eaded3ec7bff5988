"""watchdog: no sign of life for so long -> what this rank and its readers hang in, in RUN/stalls/, and a real end.

    RUN/stalls/attempt-001-rank-000.txt     when, the step, the row in hand, then the stacks of all threads and readers

A sign of life is a batch that reaches the mel: of training or of validation, so a long validation is no stall. What
takes longer by its nature (the first step, while mirrors are filled and networks compiled; a checkpoint and its upload)
has TIMES the limit. Every rank has its own watchdog, and stays for a while after it has written: ranks that wait for
the one that hangs write too. Then the process ends, whatever its threads do, so that Ray starts the ranks anew.

A thread can't run while C code holds Python's lock. For that there is faulthandler's own timer, which needs no lock: it
is put off as long as the thread runs, and tells the stacks alone.
"""

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable

from streaming import hand
from streaming.loader import Loader
from trainers.run import Run

TIMES = 10  # the limit, for what may take longer
LINGER_SECONDS, PUSH_SECONDS, POLL_SECONDS = 3.0, 20.0, 5.0
EXIT_CODE = 70


class Watchdog:
    """Watches one rank from `start` to `stop`; a `limit` of 0 seconds watches nothing."""

    def __init__(self, run: Run, *, limit: float, rank: int, attempt: int, loader: Loader) -> None:
        self._run, self._limit, self._loader = run, limit, loader
        self._name = f"stalls/attempt-{attempt:03d}-rank-{rank:03d}.txt"
        self._fed, self._signs = (0.0, 0.0), 0  # when, and for how long; one value, for two threads
        self._stopped, self._arming = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")
        self._file: int | None = None

    def feed(self, *_: object) -> None:
        """Give a sign of life; takes what a module's hook is called with."""
        self._signs += 1
        before = self._fed[1]
        self.bear(TIMES if self._signs == 1 else 1)
        if self._fed[1] < before:  # at once: the thread may never run again to see that patience is short now
            self._arm()

    def bear(self, times: float = TIMES) -> None:
        """Let the next sign of life take `times` the limit."""
        self._fed = time.monotonic(), self._limit * times

    def start(self) -> None:
        """Begin to watch; the first sign may be late."""
        if not self._limit:
            return
        path = self._run.folder / self._name
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.bear()
        self._arm()
        self._thread.start()

    def stop(self) -> None:
        """Watch no more; nothing is left where nothing was written."""
        if self._file is None or self._stopped.is_set():
            return
        self._stopped.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        os.close(self._file)
        path = self._run.folder / self._name
        if not path.stat().st_size:
            path.unlink()
            with contextlib.suppress(OSError):  # other ranks are still watched, or have written
                path.parent.rmdir()

    def _watch(self) -> None:
        assert self._file is not None, "it is opened first"
        while not self._stopped.wait(min(POLL_SECONDS, self._limit / 10)):
            fed, patience = self._fed
            late = time.monotonic() - fed
            if late > patience:
                self._give_up(late, self._file)
            self._arm()

    def _arm(self) -> None:
        """Put faulthandler's timer off, from either thread: one at a time, and not past the end."""
        with self._arming:
            if self._file is not None and not self._stopped.is_set():
                faulthandler.dump_traceback_later(self._fed[1] + LINGER_SECONDS, file=self._file, exit=True)

    def _give_up(self, late: float, file: int) -> None:
        """Write, let the other ranks write, end the readers and this process."""
        faulthandler.cancel_dump_traceback_later()
        loader = self._loader
        step = f"step {loader.cursor // loader.batch_size:,} has its batch (up to row {loader.cursor:,})"
        _write(file, lambda: f"{time.strftime('%F %T')}: no sign of life for {late:.1f} s\n{step}\n")
        _write(file, lambda: f"\nrank, pid {os.getpid()}; in hand, last of all: {hand.tell()}\n")
        faulthandler.dump_traceback(file)
        readers = loader.started
        _write(file, lambda: "".join(f"\n{told}\n" for told in readers.stacks()) if readers else "")
        os.fsync(file)
        push = threading.Thread(target=self._run.push, args=(self._name,), daemon=True)
        push.start()
        push.join(PUSH_SECONDS)
        time.sleep(LINGER_SECONDS)
        if readers:
            readers.kill()  # a reader that hangs in C code doesn't notice that its rank has ended
        told = f"no step for {late:.0f} s (stall_seconds): {self._run.place}/{self._name} tells what hangs"
        with contextlib.suppress(OSError):  # nobody may be there to read it
            print(f"notestream: {told}; go on with --resume {self._run.name}", file=sys.stderr, flush=True)  # noqa: T201
        os._exit(EXIT_CODE)


def _write(file: int, tell: Callable[[], str]) -> None:
    """Write what can be told: the process is in an unknown state."""
    try:
        text = tell()
    except Exception as error:
        text = f"(not known: {type(error).__name__}: {error})\n"
    os.write(file, text.encode(errors="backslashreplace"))
