"""connect: a place and a byte -> a connection that reads on from there. One try: who calls decides about others.

Web servers are asked by urllib, since fsspec's client asks for every block anew; stores by pyarrow.
"""

import dataclasses
import re
import urllib.error
import urllib.request
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa
import pyarrow.fs as pafs

from shards.errors import DataError
from shards.remote import Location

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

STORE_BYTES = 8 << 20  # of a request to a store: each costs a round trip
TIMEOUT_SECONDS = 60.0  # without a byte
CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


class Bytes(Protocol):
    """What a connection is read through."""

    def readinto(self, buffer: "WriteableBuffer", /) -> int | None:
        """Read on; 0 at the end."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Connection:
    """A file of `size` bytes opened at byte `at`. `tag` is its ETag or time of change, empty where there is none."""

    file: Bytes
    at: int
    size: int
    tag: str


def connect(place: Location, *, at: int, tag: str) -> Connection:
    """Open a file at a byte. A server without ranges, or whose file has another tag by now, begins at 0 instead.

    Raises:
        DataError: a server doesn't tell the size, or answers with other bytes.
        OSError, and what else a backend has: it can't be opened.
    """
    if place.is_web:
        return _from_web(place, at=at, tag=tag)
    if place.is_url:
        return _from_store(place, at=at)
    file = place.path.open("rb", buffering=0)
    file.seek(at)
    return Connection(file=file, at=at, size=place.path.stat().st_size, tag="")


def web_part(place: Location, *, at: int, count: int) -> tuple[bytes, int]:
    """Read up to `count` bytes from byte `at` on, and the whole file's size, from a web server.

    Raises:
        DataError: the server gives no parts of files.
        OSError: it can't be reached, or the part is cut short.
    """
    with _ask(place, {"Range": f"bytes={at}-{at + count - 1}"}) as response:
        begins, size = _extent(response)
        if response.status != 206 or begins != at or size is None:
            raise DataError(f"{place} isn't given in parts, and a broken download must go on: fetch it, give the file")
        data = response.read(count)
    if len(data) != min(count, size - at):
        raise ConnectionError("it ended early")
    return data, size


def _from_web(place: Location, *, at: int, tag: str) -> Connection:
    asked = {"Range": f"bytes={at}-"} if at else {}
    if at and tag and not tag.startswith("W/"):  # a weak tag has no meaning there
        asked["If-Range"] = tag
    response = _ask(place, asked)
    begins, size = _extent(response)
    if size is None or begins is None:
        response.close()
        raise DataError(f"{place} comes without its size, and a break looks like its end: fetch it, give the file")
    told = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
    return Connection(file=response, at=begins, size=size, tag=told)


def _from_store(place: Location, *, at: int) -> Connection:
    filesystem, path = place.resolve()
    info = filesystem.get_file_info(path)
    if info.type != pafs.FileType.File:
        raise FileNotFoundError("there is no such file")
    file = filesystem.open_input_file(path)
    file.seek(at)
    return Connection(
        file=pa.BufferedInputStream(file, STORE_BYTES), at=at, size=info.size, tag=str(info.mtime_ns or "")
    )


def _ask(place: Location, headers: dict[str, str]) -> HTTPResponse:
    try:
        asked = urllib.request.Request(place.text, headers={"Accept-Encoding": "identity"} | headers)
        return urllib.request.urlopen(asked, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()  # the page that says so
        raise


def _extent(response: HTTPResponse) -> tuple[int | None, int | None]:
    """Return where an answer begins in its file, and the file's size."""
    if response.status != 206:
        return 0, response.length
    told = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return (int(told[1]), int(told[2])) if told else (None, None)
