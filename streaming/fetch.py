"""fetch: a URL and what the index says of it -> a shard's bytes, the whole of it or one part, over a failing network.

    whole   one request, gone on with by Range where it breaks (shards.body) ──> a file, held against its xxh3-128
    part    one ranged request ──> bytes; their crc32 is checked by who knows it (streaming.store)

What passes is waited for: a busy server, a time-out, a connection that breaks. What doesn't is told at once.
"""

import os
import time
import urllib.error
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TypeVar

import pyarrow as pa
import xxhash

from shards.body import BREAKS, PASSING, PAUSES_SECONDS, READ_BYTES, open_body
from shards.connect import web_part
from shards.errors import DataError
from shards.index import Pack
from shards.index_file import Shard
from shards.remote import Location

T = TypeVar("T")
TRIES = 3  # of a shard that arrives whole and as another
MAX_OPEN = 64
FINAL = (FileNotFoundError, PermissionError)  # OSErrors that no pause mends


def fetch_shard(
    place: Location,
    *,
    shard: Shard,
    out: int,
    pauses: Sequence[float] = PAUSES_SECONDS,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Write a whole shard into the descriptor `out`; what it brings is held against the index's size and hash.

    Raises:
        DataError: it can't be read, or isn't the shard that the index knows; names place and both hashes.
        InterruptedError: `stopped` says so.
    """
    found, wanted = "", f"{shard.bytes:,} bytes with xxh3-128 {shard.hash}"
    for _ in range(TRIES):
        found = _copy(place, most_bytes=shard.bytes, out=out, pauses=pauses, stopped=stopped)
        if found == wanted:
            return
    raise DataError(f"shard {place} has {found}, the index says {wanted}: upload it again, or index it again")


def _copy(place: Location, *, most_bytes: int, out: int, pauses: Sequence[float], stopped: Callable[[], bool]) -> str:
    """Copy what lies there, unless it is longer than `most_bytes`; tell its size and hash."""
    digest, block = xxhash.xxh3_128(), memoryview(bytearray(READ_BYTES))
    os.lseek(out, 0, os.SEEK_SET)
    with patiently(lambda: open_body(place, pauses=pauses), pauses=pauses) as body:
        while body.size <= most_bytes and (count := body.readinto(block)):
            if stopped():
                raise InterruptedError
            digest.update(block[:count])
            _write(out, block[:count])
        return f"{body.size:,} bytes with xxh3-128 {digest.hexdigest() if body.at == body.size else 'unread'}"


def _write(out: int, block: memoryview) -> None:
    while block:
        block = block[os.write(out, block) :]


class Ranged:
    """Reads parts of a remote pack's shards, one request each. Pickles without its connections."""

    def __init__(self, pack: Pack, *, pauses: Sequence[float]) -> None:
        self.pack, self._pauses = pack, tuple(pauses)
        self._open: OrderedDict[int, pa.NativeFile] = OrderedDict()  # least recently used first; none over http

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_open": OrderedDict()}

    def read(self, number: int, *, offset: int, size: int) -> bytes:
        """Read a part of shard `number`; fewer bytes where the shard ends before.

        Raises:
            DataError, OSError, and what else a backend has: it can't be read, now or after all pauses.
        """
        return patiently(lambda: self._ask(number, offset=offset, size=size), pauses=self._pauses)

    def mend(self, number: int) -> None:
        """Ask anew next time: what came was wrong."""
        if number in self._open:
            self._open.pop(number).close()

    def close(self) -> None:
        """Let go of all connections."""
        while self._open:
            self._open.popitem()[1].close()

    def _ask(self, number: int, *, offset: int, size: int) -> bytes:
        place = self.pack.folder / self.pack.shards[number].name
        if place.is_web:
            return _web_part(place, offset=offset, size=size)
        try:
            if number not in self._open:
                self._open[number] = place.open()
                if len(self._open) > MAX_OPEN:
                    self._open.popitem(last=False)[1].close()
            self._open.move_to_end(number)
            return self._open[number].read_at(size, offset)
        except BREAKS:
            self.mend(number)
            raise


def _web_part(place: Location, *, offset: int, size: int) -> bytes:
    try:
        return web_part(place, at=offset, count=size)[0]
    except DataError:  # it gave another part, or the whole file: one of many servers behind one name may do so
        return web_part(place, at=offset, count=size)[0]


def patiently(work: Callable[[], T], *, pauses: Sequence[float]) -> T:
    """Call `work`, and again after each pause while it fails by what may pass."""
    for pause in pauses:
        try:
            return work()
        except Exception as error:
            if not _may_pass(error):
                raise
        time.sleep(pause)
    return work()


def _may_pass(error: Exception) -> bool:
    """Tell whether the same request may go well in a minute. A DataError is as its cause: without one, it is final."""
    cause = error.__cause__ if isinstance(error, DataError) else error
    if isinstance(cause, urllib.error.HTTPError):
        return cause.code in PASSING
    return isinstance(cause, BREAKS) and not isinstance(cause, FINAL)
