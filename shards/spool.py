"""spool: files of an archive that must wait -> one file on the disk, read by name. It goes when the block ends."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType


class Spool:
    """Files laid end to end. Takes no space before the first; any thread may read."""

    def __init__(self, path: Path) -> None:
        self.path, self._end = path, 0
        self._ranges: dict[str, tuple[int, int]] = {}
        self._descriptor: int | None = None

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self.path.unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self._ranges)

    def __contains__(self, name: str) -> bool:
        return name in self._ranges

    def add(self, name: str, data: bytes) -> None:
        """Append a file."""
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]
        self._ranges[name] = (self._end, len(data))
        self._end += len(data)

    def read(self, name: str) -> bytes:
        """Read a file back."""
        assert self._descriptor is not None
        offset, size = self._ranges[name]
        return os.pread(self._descriptor, size, offset)

    def drain(self) -> Iterator[tuple[str, bytes]]:
        """Give every file back, in order, and forget it; what is added meanwhile stays."""
        for name in list(self._ranges):
            data = self.read(name)
            del self._ranges[name]
            yield name, data
