"""walk: a tar -> its members in order, read once and hashed on the way.

Python's tarfile stops at a damaged header without a word. `sound_members` refuses such a tar; `members` goes on where
an index has its next row.
"""

import bisect
import dataclasses
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import xxhash

from shards import format
from shards.errors import DataError
from shards.remote import Location, unreachable

READ_BYTES = 1 << 20
FETCH_BYTES = 8 << 20  # a store answers each read with a round trip
MAX_ZEROS = 2 << 20  # at a tar's end: tars are padded to a record, of 10 KB or so; more is a lost end
MAX_NAME_BYTES = 1 << 16  # of a longer header (pax, GNU), which is read whole
LONG_NAME, PAX, SOLARIS_PAX = tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE
# headers that speak of the next one
LONGER = (LONG_NAME, PAX, SOLARIS_PAX, tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE)
PAX_RECORD = re.compile(rb"(\d{1,9}) ([^=]+)=")
AGAIN = "fetch or pack it anew"
# What nearly every header looks like: name, mode, uid, gid, size, time, checksum, a plain file (or x, by which pax says
# more of the next one), numbers or nothing for a device, prefix. tarfile's own reader takes 26 us for it, of which most
# goes to a checksum that is summed twice.
PLAIN = re.compile(
    rb"([^\0]{1,100})\0*(?<=^.{100})(?:[0-7]{7}[\0 ]){3}([0-7]{11})[\0 ][0-7]{11}[\0 ]([0-7]{6})[\0 ]{2}([0x]).{100}"
    rb"ustar.{67}(?:[0-7]{7}[\0 ]|\0{8}){2}([^\0]{0,155})\0.*",
    re.DOTALL,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """A header's name, where the contents begin, their bytes, and whether it is a plain file (no link, no folder)."""

    name: str
    offset: int
    size: int
    is_file: bool


class Tar:
    """A tar read once, front to back, and hashed on the way. Read errors are told of `place`, where it is given."""

    def __init__(self, file: pa.NativeFile, *, size: int, place: Location | None = None) -> None:
        self.file = pa.BufferedInputStream(file, FETCH_BYTES if place is not None and place.is_url else READ_BYTES)
        self.size, self.place, self.at, self.hash = size, place, 0, xxhash.xxh3_128()
        self.cut: str | None = None  # where its end was met before tar's end mark
        self.zeros_from: int | None = None  # the first all-zero header after which only zeros came

    def take(self, size: int) -> bytes:
        """Read on; fewer bytes only at the end. A size from a foreign header allocates no more than there is."""
        try:
            data = self.file.read(max(0, min(size, self.size - self.at)))
        except Exception as error:  # as in shards.remote.reaching, which takes 2 us
            if self.place is None:
                raise
            raise unreachable(self.place, error) from error
        self.hash.update(data)
        self.at += len(data)
        if self.zeros_from is not None and data.strip(b"\0"):
            self.zeros_from = None
        return data

    def skip_to(self, at: int) -> None:
        """Read on to byte `at`, or to the end."""
        while self.at < at and self.take(min(READ_BYTES, at - self.at)):
            pass


def sound_members(tar: Tar, *, name: str) -> Iterator[Member]:
    """Yield the members of a whole tar, each with its contents next in the tar; the caller may take them.

    Raises:
        DataError: it's cut, empty, no tar at all, has a damaged header or a sparse member, or more after its end mark.
    """
    longer: dict[str, Any] = {}
    before, is_awaited = "at its beginning", False
    while True:
        start = tar.at
        block = tar.take(format.BLOCK)
        if len(block) < format.BLOCK:
            raise DataError(f"{name} {_cut(tar, start)} ({tar.size:,} bytes), {before}: {AGAIN}")
        info = read_header(block, longer=longer)
        if info is None:
            if not block.strip(b"\0") and not is_awaited:
                _check_end(tar, start, name=name, before=before)
                return
            raise DataError(f"{name} {_damage(block, start)}, {before}: {AGAIN}")
        size = _contents(info)
        end = start + format.BLOCK + size
        if end > tar.size:
            lack = f"{end - tar.size:,} of {size:,} bytes lack"
            raise DataError(f"{name} is cut inside {info.name[:99]!r} ({lack}), {before}: {AGAIN}")
        is_awaited = info.type in LONGER
        if is_awaited:
            if size > MAX_NAME_BYTES:
                raise DataError(f"{name} has {size:,} bytes of extended header at byte {start:,}, {before}: {AGAIN}")
            text = tar.take(format.padded(size))  # tarfile takes the padding for text too
            if info.type == tarfile.XGLTYPE and any(_pax_records(text)):
                raise DataError(f"{name} has one name or size for all members at byte {start:,}, {before}: {AGAIN}")
            longer = long_header(info.type, text) | longer  # of several the first holds, as in tarfile
        else:
            if info.type == tarfile.GNUTYPE_SPARSE or "sparse" in longer:
                raise DataError(f"{name} holds {info.name[:99]!r} as a sparse file: make the tar anew without --sparse")
            longer = {}
            yield Member(info.name, start + format.BLOCK, size, info.isreg())
            before = f"after {info.name[:99]!r}"
        tar.skip_to(format.padded(end))


def _cut(tar: Tar, start: int) -> str:
    if not tar.size:
        return "is empty"
    return "is cut inside a header" if tar.size - start else "ends without tar's end mark, as if it was cut"


def _damage(block: bytes, start: int) -> str:
    packed = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}.get(block[:2])
    if packed and not start:
        return f"is compressed by {packed}, and nothing can be read from the middle of that: unpack it first"
    return f"has a damaged header at byte {start:,}, where stock readers stop without a word"


def _check_end(tar: Tar, start: int, *, name: str, before: str) -> None:
    """Read on to the end, which must be zeros: a header that was zeroed looks like an end mark too."""
    if tar.size - start > MAX_ZEROS:
        raise DataError(f"{name} ends {tar.size - start:,} bytes before its size, {before}, as if zeroed: {AGAIN}")
    tar.zeros_from = start
    tar.skip_to(tar.size)
    if tar.zeros_from is None:
        raise DataError(
            f"{name} has tar's end mark at byte {start:,}, {before}, and more behind it, where no reader looks: {AGAIN}"
        )


def _contents(info: tarfile.TarInfo) -> int:
    """Return how many bytes follow a header: links and folders hold nothing, whatever size they say."""
    known = info.type in tarfile.SUPPORTED_TYPES  # pyright: ignore[reportAttributeAccessIssue]
    return info.size if info.isreg() or info.type in LONGER or not known else 0


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
        info = read_header(block, longer=longer)
        if info is None:
            if not block.strip(b"\0"):
                tar.zeros_from = start if tar.zeros_from is None else tar.zeros_from
                if not any(tar.at <= offset < tar.size for offset in offsets):
                    return  # the end mark, and no row after it
            longer = {}
            yield None, tar.at, 0
            following = bisect.bisect_left(offsets, start + 2 * format.BLOCK)
            if tar.at > start + format.BLOCK:
                tar.skip_to(format.padded(tar.at))
            elif following < len(offsets):
                tar.skip_to(offsets[following] - format.BLOCK)
            else:
                return
            continue
        size = _contents(info)
        if info.type in LONGER:
            longer = long_header(info.type, tar.take(min(size, MAX_NAME_BYTES))) | longer
        else:
            longer = {}
            yield (info.name if info.isreg() else ""), start + format.BLOCK, size
        end = start + format.BLOCK + size
        tar.skip_to(end)
        if tar.at < end:
            tar.cut = f"inside {info.name}"
            return
        tar.skip_to(format.padded(end))


def read_header(block: bytes, *, longer: Mapping[str, Any]) -> tarfile.TarInfo | None:
    """Read a header, with what a longer one before it said; None where its checksum or size is wrong, or it's zero."""
    try:
        info = _plain_header(block) or tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        if info.type not in LONGER:
            info.name, info.size = longer.get("path", info.name), int(longer.get("size", info.size))
    except (tarfile.HeaderError, ValueError):  # pyright: ignore[reportAttributeAccessIssue]
        return None
    return info if info.size >= 0 else None


def _plain_header(block: bytes) -> tarfile.TarInfo | None:
    """Read the header of a plain file or pax record; None for any other, and for all that could be wrong with it."""
    found = PLAIN.fullmatch(block)
    # the sum of all bytes, with blanks for the eight of the checksum itself
    if found is None or sum(block) - sum(block[148:156]) + 8 * ord(" ") != int(found[3], 8):
        return None
    name = b"/".join(part for part in (found[5], found[1]) if part)
    info = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
    info.size, info.type = int(found[2], 8), found[4]
    return info


def long_header(kind: bytes, text: bytes) -> dict[str, Any]:
    """Read what didn't fit a header: GNU's long name, or pax's path and size, and whether the next file is sparse."""
    if kind == LONG_NAME:
        return {"path": text.partition(b"\0")[0].decode("utf-8", "surrogateescape")}
    return dict(_pax_records(text)) if kind in (PAX, SOLARIS_PAX) else {}


def _pax_records(text: bytes) -> Iterator[tuple[str, Any]]:
    """Read pax's records `LENGTH NAME=VALUE`, each as long as it says: a value may hold anything, a newline too."""
    at = 0
    while (record := PAX_RECORD.match(text, at)) and (end := at + int(record[1])) > record.end():
        if record[2] in (b"path", b"size"):
            yield record[2].decode(), text[record.end() : end - 1].decode("utf-8", "surrogateescape")
        elif record[2].startswith(b"GNU.sparse."):
            yield "sparse", True
        at = end
