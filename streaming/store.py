"""store: row -> bytes. One pread by the index, checked by its crc32; a damaged row is named, never trained on."""

import os
from collections import OrderedDict
from pathlib import Path

from isal import isal_zlib

from shards.errors import DataError
from shards.index import Pack

MAX_OPEN = 64


class Store:
    """Reads rows of a pack. Holds up to `MAX_OPEN` descriptors; pickles without them."""

    def __init__(self, pack: Pack) -> None:
        self.pack = pack
        self._open: OrderedDict[int, int] = OrderedDict()

    def __getstate__(self) -> dict[str, object]:
        return {"pack": self.pack, "_open": OrderedDict()}

    def read(self, row: int) -> bytes:
        """Read one sample's audio file.

        Raises:
            DataError: the shard is gone or cut short, or the bytes don't match the index's crc32.
        """
        places = self.pack.places
        offset, size = int(places["offset"][row]), int(places["size"][row])
        data = os.pread(self._descriptor(int(self.pack.shard_numbers[row])), size, offset)
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
            os.close(self._open.popitem()[1])

    def _descriptor(self, number: int) -> int:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        path = Path(self.pack.folder) / self.pack.shards[number].name
        try:
            found = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except FileNotFoundError as error:
            raise DataError(f"shard {path} is gone: fetch or pack it anew") from error
        self._open[number] = found
        if len(self._open) > MAX_OPEN:
            os.close(self._open.popitem(last=False)[1])
        return found
