"""walk: a tar -> its members in order, read once and hashed on the way, past headers that can't be read.

Python's tarfile stops at a damaged header without a word; here the walk goes on where the index has its next row.
"""

import bisect
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import xxhash

from shards import format

READ_BYTES = 1 << 20
MAX_NAME_BYTES = 1 << 16  # of a longer header (pax, GNU), which is read whole
LONG_NAME, PAX = tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE
LONGER = (LONG_NAME, PAX, tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE)  # headers that speak of the next one
PAX_RECORD = re.compile(rb"^\d+ (path|size)=([^\n]*)$", re.MULTILINE)


class Tar:
    """A tar read once, front to back, and hashed on the way."""

    def __init__(self, file: pa.NativeFile, *, size: int) -> None:
        self.file, self.size, self.at, self.hash = pa.BufferedInputStream(file, READ_BYTES), size, 0, xxhash.xxh3_128()
        self.cut: str | None = None  # where its end was met before tar's end mark
        self.zeros_from: int | None = None  # the first all-zero header after which only zeros came

    def take(self, size: int) -> bytes:
        """Read on; fewer bytes only at the end. A size from a foreign header allocates no more than there is."""
        data = self.file.read(max(0, min(size, self.size - self.at)))
        self.hash.update(data)
        self.at += len(data)
        if self.zeros_from is not None and data.strip(b"\0"):
            self.zeros_from = None
        return data

    def skip_to(self, at: int) -> None:
        """Read on to byte `at`, or to the end."""
        while self.at < at and self.take(min(READ_BYTES, at - self.at)):
            pass


def members(tar: Tar, offsets: Sequence[int]) -> Iterator[tuple[str | None, int, int]]:
    """Yield each member's name, offset and size, with its contents next in the tar; the caller may take them.

    The name is None where a header can't be read; unless the caller takes what the index has there, the next header
    is looked for before the next of `offsets`, sorted. Python's tarfile stops at such a header without a word.
    """
    longer: dict[str, Any] = {}
    while True:
        start = tar.at
        block = tar.take(format.BLOCK)
        if len(block) < format.BLOCK:
            tar.cut = "inside a header" if block else "where a member ends"
            return
        info = _read_header(block, longer=longer)
        if info is None:
            if not block.strip(b"\0"):
                tar.zeros_from = start if tar.zeros_from is None else tar.zeros_from
                if not any(tar.at <= offset < tar.size for offset in offsets):
                    return  # the end mark, and no row after it
            longer = {}
            yield None, tar.at, 0
            following = bisect.bisect_left(offsets, start + 2 * format.BLOCK)
            if tar.at > start + format.BLOCK:
                tar.skip_to(padded(tar.at))
            elif following < len(offsets):
                tar.skip_to(offsets[following] - format.BLOCK)
            else:
                return
            continue
        # links and folders hold nothing, whatever size they say
        size = info.size if info.isreg() or info.type not in tarfile.SUPPORTED_TYPES or info.type in LONGER else 0  # pyright: ignore[reportAttributeAccessIssue]
        if info.type in LONGER:
            longer |= _long_header(info.type, tar.take(min(size, MAX_NAME_BYTES)))
        else:
            longer = {}
            yield (info.name if info.isreg() else ""), start + format.BLOCK, size
        end = start + format.BLOCK + size
        tar.skip_to(end)
        if tar.at < end:
            tar.cut = f"inside {info.name}"
            return
        tar.skip_to(padded(end))


def _read_header(block: bytes, *, longer: Mapping[str, Any]) -> tarfile.TarInfo | None:
    """Read a header, with what a longer one before it said; None where its checksum or size is wrong, or it's zero."""
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        if info.type not in LONGER:
            info.name, info.size = longer.get("path", info.name), int(longer.get("size", info.size))
    except (tarfile.HeaderError, ValueError):  # pyright: ignore[reportAttributeAccessIssue]
        return None
    return info if info.size >= 0 else None


def padded(size: int) -> int:
    return -(-size // format.BLOCK) * format.BLOCK


def _long_header(kind: bytes, text: bytes) -> dict[str, Any]:
    """Read a name that didn't fit its header: GNU's, or pax's records `LENGTH NAME=VALUE`."""
    if kind == LONG_NAME:
        return {"path": text.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    if kind != PAX:
        return {}
    return {name.decode(): value.decode("utf-8", "surrogateescape") for name, value in PAX_RECORD.findall(text)}
