"""store: row -> bytes. One read by the index, checked by its crc32; a damaged row is named, never trained on.

A local row is one pread; a remote one is one ranged request through pyarrow's filesystems.
"""

import os
from collections import OrderedDict

import pyarrow as pa
from isal import isal_zlib

from shards.errors import DataError
from shards.index import Pack
from shards.remote import Location

MAX_OPEN = 64


class Store:
    """Reads rows of a pack. Holds up to `MAX_OPEN` descriptors; pickles without them."""

    def __init__(self, pack: Pack) -> None:
        self.pack = pack
        self._open: OrderedDict[int, tuple[Location, int | pa.NativeFile]] = OrderedDict()  # least recently used first

    def __getstate__(self) -> dict[str, object]:
        return {"pack": self.pack, "_open": OrderedDict()}

    def read(self, row: int) -> bytes:
        """Read one sample's audio file.

        Raises:
            DataError: the shard is gone or cut short, or the bytes don't match the index's crc32.
        """
        number, part, at = self.pack.find(row)
        offset, size, crc32, *_ = part.places.item(at)
        data = self._read(self._shard(number)[1], size=size, offset=offset, row=row)
        if isal_zlib.crc32(data) != crc32:
            what = "is cut short" if len(data) < size else "doesn't match its crc32"
            raise DataError(f"{self.name(row)} {what}: the shard is damaged, fetch or pack it anew")
        return data

    def name(self, row: int) -> str:
        """Say where a row is: shard, key, offset."""
        number, part, at = self.pack.find(row)
        # every row read is named, in case that it can't be decoded: an open shard's place needn't be put together again
        place = self._open[number][0] if number in self._open else self._place(number)
        return f"{place}, {part.keys[at]}, offset {part.places['offset'][at]}"

    def close(self) -> None:
        """Close all descriptors."""
        while self._open:
            _close(self._open.popitem()[1][1])

    def _read(self, shard: int | pa.NativeFile, *, size: int, offset: int, row: int) -> bytes:
        try:
            return os.pread(shard, size, offset) if isinstance(shard, int) else shard.read_at(size, offset)
        except OSError as error:
            told = " ".join(str(error).split())
            raise DataError(f"{self.name(row)} can't be read ({told}): check disk or network, and --resume") from error

    def _place(self, number: int) -> Location:
        return self.pack.folder / self.pack.shards[number].name

    def _shard(self, number: int) -> tuple[Location, int | pa.NativeFile]:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        place = self._place(number)
        try:
            found = place.open() if place.is_url else os.open(place.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except FileNotFoundError as error:
            raise DataError(f"shard {place} is gone: fetch or pack it anew") from error
        self._open[number] = place, found
        if len(self._open) > MAX_OPEN:
            _close(self._open.popitem(last=False)[1][1])
        return place, found


def _close(shard: int | pa.NativeFile) -> None:
    if isinstance(shard, int):
        os.close(shard)
    else:
        shard.close()
