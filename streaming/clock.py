"""clock: where a step's time goes. Seconds by name since the last reading, and the share spent waiting for data."""

import contextlib
import time
from collections.abc import Iterator, Mapping


class Clock:
    """Adds up seconds by name; `read` returns them and starts afresh."""

    def __init__(self) -> None:
        self._since = time.perf_counter()
        self._seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Count the block's seconds under `name`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add({name: time.perf_counter() - started})

    def add(self, seconds: Mapping[str, float]) -> None:
        """Count seconds that were measured elsewhere, such as those that a batch brings from its reader."""
        for name, count in seconds.items():
            self._seconds[name] = self._seconds.get(name, 0.0) + count

    def read(self) -> dict[str, float]:
        """Return the seconds by name and in all (`total`) since the last reading."""
        now = time.perf_counter()
        told, self._seconds = {**self._seconds, "total": now - self._since}, {}
        self._since = now
        return told
