"""interrupt: Ctrl-C, SIGTERM -> a checkpoint and a clean end. Ranks look for a file of the run's, on every node.

SIGTERM is how others ask: `ray job stop`, Kubernetes, Slurm, torchrun, a spot notice. It comes more than once (to the
process, then to its group), so that a second one changes nothing; who sent it kills what takes too long.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from shards.errors import NotestreamError
from trainers.run import Run

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def stop_on_interrupt(run: Run) -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a checkpoint and a clean end, a further Ctrl-C into an end at once."""
    asked = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        if asked.is_set():
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        asked.set()
        try:
            run.ask_to_stop()
        except NotestreamError as error:  # a store that is away for a moment must not cost what it was to save
            asked.clear()
            print(f"\nnot stopped, ask again: {error}", flush=True)  # noqa: T201
            return
        print("\nstopping at the next logging step, with a checkpoint; Ctrl-C again stops at once", flush=True)  # noqa: T201

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
