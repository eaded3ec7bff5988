"""uploads: what is on rank 0's disk -> the run's URL, while training goes on. One at a time, in order."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Uploads:
    """Runs uploads in a thread; one that failed is told by whichever call comes next."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._last: Future[None] | None = None

    def start(self, upload: Callable[[], None]) -> None:
        """Begin an upload, once the one before is done."""
        self.wait()
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="upload")
        self._last = self._thread.submit(upload)

    def wait(self) -> None:
        """Wait until all is uploaded."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def close(self) -> None:
        """Let the last one come to its end; what went wrong with it is for `wait` to tell."""
        if self._thread is not None:
            self._thread.shutdown()
