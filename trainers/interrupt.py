"""interrupt: Ctrl-C -> a checkpoint and a clean end. Ranks look for a file of the run's, so it reaches every node."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from trainers.run import Run


@contextlib.contextmanager
def stop_on_interrupt(run: Run) -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a checkpoint and a clean end, the second into an end at once."""
    asked = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        del number, frame
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        run.ask_to_stop()
        print("\nstopping at the next logging step, with a checkpoint; Ctrl-C again stops at once", flush=True)  # noqa: T201

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)
