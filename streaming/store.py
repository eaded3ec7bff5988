"""store: row -> bytes. One read by the index, checked by its crc32; a damaged row is named, never trained on.

    local     one pread
    mirror    one pread, of a copy of the whole shard on this node's disk (streaming.mirror)
    ranged    one request to the store or web server (streaming.fetch)

A remote row that comes wrong is fetched once more before it is called damaged.
"""

import os
import sys
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from isal import isal_zlib

from shards.body import BREAKS, PAUSES_SECONDS
from shards.errors import DataError, UsageError
from shards.index import Pack
from streaming.fetch import Ranged
from streaming.mirror import Mirror, open_mirror

MAX_OPEN = 64
MAX_PLACES = 4096
Remote = Literal["mirror", "ranged"]


class Store:
    """Reads rows of a pack. Holds up to `MAX_OPEN` descriptors; pickles without them.

    Args:
        pack: an opened split.
        remote: how a pack at a URL is read; unless given, through the mirror where that has room for `working_bytes`,
            else by ranged requests, with a line on stderr.
        mirror_bytes: what this node's mirror may take; half of what its disk has, unless given.
        working_bytes: what the order needs at a time; all shards, unless given.
        pauses: seconds between attempts to reach a remote shard.

    Raises:
        UsageError: the mirror was asked for and can't be made, or has too little room.
    """

    def __init__(
        self,
        pack: Pack,
        *,
        remote: Remote | None = None,
        mirror_bytes: int | None = None,
        working_bytes: int | None = None,
        pauses: Sequence[float] = PAUSES_SECONDS,
    ) -> None:
        self.pack = pack
        self._open: OrderedDict[int, int] = OrderedDict()  # least recently used first; of local shards only
        self._places: dict[int, str] = {}
        self._local = pack.folder.local()
        self._remote: Mirror | Ranged | None = None
        if self._local is None:
            self._remote = _open_remote(
                pack, remote=remote, mirror_bytes=mirror_bytes, working_bytes=working_bytes, pauses=pauses
            )

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_open": OrderedDict()}

    @property
    def reads(self) -> Literal["local", "mirror", "ranged"]:
        """Tell how rows are read."""
        return "local" if self._remote is None else "mirror" if self.mirror else "ranged"

    def read(self, row: int) -> bytes:
        """Read one sample's audio file.

        Raises:
            DataError: the shard is gone or cut short, or the bytes don't match the index's crc32.
        """
        number, part, at = self.pack.find(row)
        offset, size, crc32, *_ = part.places.item(at)
        data = self._read(number, size=size, offset=offset, row=row)
        if isal_zlib.crc32(data) == crc32:
            return data
        if self._remote:
            self._remote.mend(number)
            data = self._read(number, size=size, offset=offset, row=row)
        if isal_zlib.crc32(data) != crc32:
            what = "is cut short" if len(data) < size else "doesn't match its crc32"
            raise DataError(f"{self.name(row)} {what}: the shard is damaged, fetch or pack it anew")
        return data

    def read_part(self, row: int, *, at: int, count: int) -> bytes:
        """Read `count` bytes of a sample's audio file from byte `at` on, unchecked but for their number (see read)."""
        number, part, i = self.pack.find(row)
        data = self._read(number, size=count, offset=part.places["offset"].item(i) + at, row=row)
        if len(data) < count:
            raise DataError(f"{self.name(row)} is cut short: the shard is damaged, fetch or pack it anew")
        return data

    @property
    def mirror(self) -> Mirror | None:
        """The node's copies of a remote pack, if rows are read through them."""
        return self._remote if isinstance(self._remote, Mirror) else None

    def name(self, row: int) -> str:
        """Say where a row is: shard, key, offset."""
        number, part, at = self.pack.find(row)
        return f"{self._place(number)}, {part.keys[at]}, offset {part.places['offset'][at]}"

    def close(self) -> None:
        """Close all descriptors."""
        while self._open:
            os.close(self._open.popitem()[1])
        if self._remote:
            self._remote.close()

    def _read(self, number: int, *, size: int, offset: int, row: int) -> bytes:
        shard = -1 if self._remote else self._descriptor(number, row=row)
        try:
            if self._remote is not None:
                return self._remote.read(number, size=size, offset=offset)
            return os.pread(shard, size, offset)
        except (DataError, *BREAKS) as error:
            told = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"{self.name(row)} can't be read ({told}): check disk or network, and --resume") from error

    def _place(self, number: int) -> str:
        # every row read is named, in case that it can't be decoded: a place needn't be put together again
        if number not in self._places:
            if len(self._places) >= MAX_PLACES:
                self._places.clear()
            self._places[number] = str(self.pack.folder / self.pack.shards[number].name)
        return self._places[number]

    def _descriptor(self, number: int, *, row: int) -> int:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        try:
            found = os.open(f"{self._local}/{self.pack.shards[number].name}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise DataError(f"{self.name(row)} can't be read, its shard is gone: fetch or pack it anew") from error
        self._open[number] = found
        if len(self._open) > MAX_OPEN:
            os.close(self._open.popitem(last=False)[1])
        return found


def expect(stores: Sequence[Store], shards: Sequence[Sequence[int]]) -> None:
    """Tell the mirrors of packs that are read together which shards each needs next, in order (see Mirror.expect).

    The lists reach equally far, as streaming.order.next_shards makes them: all packs share one budget.
    """
    found = [(store.mirror, numbers) for store, numbers in zip(stores, shards, strict=True) if store.mirror]
    needed: dict[str, int] = {}
    for mirror, numbers in found:
        for name, place in mirror.places(numbers).items():
            needed[name] = min(place, needed.get(name, place))
    for mirror, numbers in found:
        mirror.expect(numbers, needed=needed)


def _open_remote(
    pack: Pack,
    *,
    remote: Remote | None,
    mirror_bytes: int | None,
    working_bytes: int | None,
    pauses: Sequence[float],
) -> Mirror | Ranged:
    if remote != "ranged":
        try:
            return open_mirror(pack, budget_bytes=mirror_bytes, working_bytes=working_bytes, pauses=pauses)
        except UsageError as error:
            if remote == "mirror":
                raise
            print(f"notestream: {error}. Reading goes on with a request a row", file=sys.stderr)  # noqa: T201
    return Ranged(pack, pauses=pauses)
