"""body: a place -> its file's bytes, once, front to back, over as many connections as it takes.

What can't be opened is told at once. A connection that breaks later is made anew at the byte where it broke, and the
file must then be the one that it was. NSynth's own archives are held against their md5 as they pass.
"""

import dataclasses
import hashlib
import http.client
import io
import time
import urllib.error
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pyarrow as pa
import xxhash

from shards.connect import Connection, connect, web_part
from shards.errors import DataError
from shards.remote import Location, reaching

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

READ_BYTES = 1 << 20
PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)  # between attempts that bring no byte
BREAKS = (OSError, http.client.HTTPException, pa.ArrowException)
PASSING = (408, 425, 429, 500, 502, 503, 504)  # what a server may answer now and not in a minute


@dataclasses.dataclass(frozen=True, kw_only=True)
class Official:
    """An archive of NSynth's, known by its name and size."""

    md5: str
    least_bytes: int
    most_bytes: int


OFFICIAL = {
    "nsynth-train.jsonwav.tar.gz": Official(  # its exact size isn't written anywhere
        md5="fde6665a93865503ba598b9fac388660", least_bytes=23_700_000_000, most_bytes=23_900_000_000
    ),
    "nsynth-valid.jsonwav.tar.gz": Official(
        md5="87e94a00a19b6dbc99cf6d4c0c0cae87", least_bytes=1_068_767_009, most_bytes=1_068_767_009
    ),
    "nsynth-test.jsonwav.tar.gz": Official(
        md5="5e6f8719bf7e16ad0a00d518b78af77d", least_bytes=349_501_546, most_bytes=349_501_546
    ),
}


class Body(io.RawIOBase):
    """A file read once; `at` counts the bytes handed out, of `size`."""

    def __init__(self, place: Location, *, pauses: Sequence[float]) -> None:
        super().__init__()
        self.place, self.at, self._sum = place, 0, None
        self._pauses = tuple(pauses) if place.is_url else ()
        self._connection: Connection | None = None
        with reaching(place):
            self._connection = connect(place, at=0, tag="")
        self.size, self._tag = self._connection.size, self._connection.tag
        known = OFFICIAL.get(place.name)
        if known and known.least_bytes <= self.size <= known.most_bytes:
            self._sum = _Md5(known.md5)

    def readable(self) -> bool:
        """Say yes."""
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Read on, over a new connection where need be; 0 only at the end.

        Raises:
            DataError: the connection broke and can't be made anew, or the file is another by now.
        """
        view = memoryview(buffer)[: self.size - self.at]
        count = self._read_on(view) if view else 0
        if self._sum and count:
            self._sum.update(bytes(view[:count]))
        self.at += count
        return count

    def finish(self) -> None:
        """Read what is left, and hold an official archive against its md5.

        Raises:
            DataError: the sum is another.
        """
        rest = bytearray(READ_BYTES)
        while self.readinto(rest):
            pass
        if self._sum and (found := self._sum.hexdigest()) != self._sum.wanted:
            raise DataError(f"{self.place} has md5 {found}, NSynth's own has {self._sum.wanted}: fetch it anew")

    def close(self) -> None:
        """Let go of the connection."""
        if not self.closed:
            self._disconnect()
            if self._sum:
                self._sum.close()
        super().close()

    def _read_on(self, view: memoryview) -> int:
        told = ""
        for pause in (*self._pauses, None):
            try:
                self._connection = self._connection or self._reconnect()
                if count := self._connection.file.readinto(view):
                    return count
                told = "it ended early"
            except BREAKS as error:
                told = " ".join(str(error).split()) or type(error).__name__
            self._disconnect()
            if pause is not None:
                time.sleep(pause)
        where = f"{self.place} broke off at byte {self.at:,} of {self.size:,} ({told})"
        tried = f", {len(self._pauses)} attempts to go on failed" if self._pauses else ""
        raise DataError(f"{where}{tried}: check it and the way to it, then run this again")

    def _reconnect(self) -> Connection:
        """Open the same file where it broke off, or read over what was had already."""
        try:
            found = connect(self.place, at=self.at, tag=self._tag)
        except urllib.error.HTTPError as error:
            if error.code in PASSING:
                raise
            told = f"{self.place} was read to byte {self.at:,}, and now can't be read ({error})"
            raise DataError(f"{told}: check the address and run this again") from error
        try:
            self._check_same(found)
            _skip(found, self.at - found.at)
        except BaseException:
            found.file.close()
            raise
        return found

    def _check_same(self, found: Connection) -> None:
        same_tag = found.tag == self._tag or not (found.tag and self._tag)
        if found.size != self.size or not same_tag or found.at > self.at:
            was, now = f"{self.size:,} bytes {self._tag}".rstrip(), f"{found.size:,} bytes {found.tag}".rstrip()
            raise DataError(f"{self.place} changed while it was read (from {was} to {now}): run this again")

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.file.close()
            self._connection = None


class _Md5:
    """A sum made by a thread of its own: it takes 0.4 of gunzip's time, and lets go of the interpreter meanwhile."""

    def __init__(self, wanted: str) -> None:
        self.wanted, self._md5 = wanted, hashlib.md5(usedforsecurity=False)
        self._thread, self._last = ThreadPoolExecutor(1), Future()
        self._last.set_result(None)

    def update(self, data: bytes) -> None:
        self._last.result()  # no more than one block waits
        self._last = self._thread.submit(self._md5.update, data)

    def hexdigest(self) -> str:
        self._last.result()
        return self._md5.hexdigest()

    def close(self) -> None:
        self._thread.shutdown()


def open_body(place: Location, *, pauses: Sequence[float] = PAUSES_SECONDS) -> Body:
    """Open a file to be read once, from a disk, http(s):// or a store; `pauses` are seconds between attempts.

    Raises:
        DataError: it can't be opened, or its server doesn't tell its size.
    """
    return Body(place, pauses=pauses)


def identity_of(place: Location) -> str:
    """Tell archives apart without reading 24 GB: the xxh3-128 of size, first and last MiB; one for path and URL.

    Raises:
        DataError: it can't be read, or its web server gives no parts of files.
    """
    with reaching(place):
        if place.is_web:
            head, size = web_part(place, at=0, count=READ_BYTES)
            tail, _ = web_part(place, at=max(0, size - READ_BYTES), count=READ_BYTES)
        else:
            with place.open() as file:
                size = file.size()
                head, tail = file.read_at(READ_BYTES, 0), file.read_at(READ_BYTES, max(0, size - READ_BYTES))
    return xxhash.xxh3_128_hexdigest(size.to_bytes(8, "little") + head + tail)


def _skip(connection: Connection, count: int) -> None:
    rest = memoryview(bytearray(READ_BYTES))
    while count:
        had = connection.file.readinto(rest[:count])
        if not had:
            raise ConnectionError("it ended early")
        count -= had
