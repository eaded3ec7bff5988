"""store: row -> bytes. One read by the index, checked by its crc32; a damaged row is named, never trained on.

A local row is one pread; a remote one is one ranged request through pyarrow's filesystems.
"""

import os
from collections import OrderedDict

import pyarrow as pa
from isal import isal_zlib

from shards.errors import DataError
from shards.index import Pack

MAX_OPEN = 64


class Store:
    """Reads rows of a pack. Holds up to `MAX_OPEN` descriptors; pickles without them."""

    def __init__(self, pack: Pack) -> None:
        self.pack = pack
        self._open: OrderedDict[int, int | pa.NativeFile] = OrderedDict()  # least recently used first

    def __getstate__(self) -> dict[str, object]:
        return {"pack": self.pack, "_open": OrderedDict()}

    def read(self, row: int) -> bytes:
        """Read one sample's audio file.

        Raises:
            DataError: the shard is gone or cut short, or the bytes don't match the index's crc32.
        """
        places = self.pack.places
        offset, size = int(places["offset"][row]), int(places["size"][row])
        data = self._read(self._shard(int(self.pack.shard_numbers[row])), size=size, offset=offset, row=row)
        if isal_zlib.crc32(data) != places["crc32"][row]:
            what = "is cut short" if len(data) < size else "doesn't match its crc32"
            raise DataError(f"{self.name(row)} {what}: the shard is damaged, fetch or pack it anew")
        return data

    def name(self, row: int) -> str:
        """Say where a row is: shard, key, offset."""
        shard = self.pack.shards[self.pack.shard_numbers[row]]
        return f"{self.pack.folder / shard.name}, {self.pack.keys[row]}, offset {self.pack.places['offset'][row]}"

    def close(self) -> None:
        """Close all descriptors."""
        while self._open:
            _close(self._open.popitem()[1])

    def _read(self, shard: int | pa.NativeFile, *, size: int, offset: int, row: int) -> bytes:
        try:
            return os.pread(shard, size, offset) if isinstance(shard, int) else shard.read_at(size, offset)
        except OSError as error:
            told = " ".join(str(error).split())
            raise DataError(f"{self.name(row)} can't be read ({told}): check disk or network, and --resume") from error

    def _shard(self, number: int) -> int | pa.NativeFile:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        place = self.pack.folder / self.pack.shards[number].name
        try:
            found = place.open() if place.is_url else os.open(place.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except FileNotFoundError as error:
            raise DataError(f"shard {place} is gone: fetch or pack it anew") from error
        self._open[number] = found
        if len(self._open) > MAX_OPEN:
            _close(self._open.popitem(last=False)[1])
        return found


def _close(shard: int | pa.NativeFile) -> None:
    if isinstance(shard, int):
        os.close(shard)
    else:
        shard.close()
