"""arrivals: the bytes of an NSynth tar.gz -> its notes and its manifest, in the order in which they come.

One pass, whatever the order, with one note in memory. An archive is foreign input: what NSynth's don't hold is refused
by name, nothing is believed about sizes, and nothing is written.
"""

import contextlib
import dataclasses
import re
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO, TypeAlias

import pyarrow as pa
from isal import igzip, igzip_threaded, isal_zlib

from shards.body import Body
from shards.errors import DataError
from shards.examples import read_examples
from shards.format import BLOCK, padded
from shards.progress import Meter
from shards.walk import LONGER, MAX_NAME_BYTES, long_header, read_header

MEMBER = re.compile(r"(?:\./)?nsynth-[A-Za-z0-9_-]+/(?:audio/(?P<key>[^/\ud800-\udfff]+)\.wav|examples\.json)")
REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE)  # TarInfo.isreg() takes sparse files too
MAX_EXAMPLES_BYTES = 1 << 30
MAX_NOTE_BYTES = 64 << 20
MAX_END_BYTES = 1 << 20  # of the zeros that fill a tar up to a record
READ_BYTES = 1 << 16
NAME_SHOWN = 200  # characters: a foreign name may have 65,536
BLOCK_BYTES = 1 << 18  # handed from the unpacking thread to ours: it stays in the cache
# gunzip may make a thousand bytes of one. NSynth's archives grow 1.57 times, tiny notes of silence 40 times
MAX_INFLATION, FREE_BYTES = 100, 1 << 30
BROKEN: tuple[type[Exception], ...] = (EOFError, igzip.BadGzipFile, isal_zlib.error)  # pyright: ignore[reportAssignmentType]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Note:
    """The file of one note."""

    key: str
    data: bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examples:
    """What examples.json says: column `key`, then shards.fields.FIELDS, a row a note."""

    manifest: pa.Table


Arrival: TypeAlias = Note | Examples


def arrivals(body: Body, *, threads: bool, progress: Meter | None) -> Iterator[Arrival]:
    """Yield each note and, once, the manifest, wherever examples.json stands; read the archive to its end.

    With `threads` a second core unpacks. `progress` is advanced by the body's MiB. Keys are unique, but not yet fit
    for a shard; that notes and manifest agree is for the caller to see. Publish nothing before the end: gunzip's
    checksum and the md5 of an official archive are known only there.

    Raises:
        DataError: the archive is cut short, damaged, hostile, or not NSynth's.
    """
    with contextlib.closing(_unpack(body, threads=threads)) as file:
        plain = _Plain(file, body=body)
        try:
            yield from _metered(_read(plain), body=body, progress=progress)
            plain.finish()
            body.finish()
        except BROKEN as error:
            after = f", after {plain.member!r}" if plain.member else ""
            told = f"{body.place} is cut short or damaged ({error}{after})"
            raise DataError(f"{told}: fetch it anew and compare its md5") from error


class _Plain:
    """The tar within, read once, front to back; `member` is the last one that was begun."""

    def __init__(self, file: BinaryIO, *, body: Body) -> None:
        self.name, self.member, self._at, self._file, self._body = str(body.place), "", 0, file, body

    def take(self, size: int) -> bytes:
        """Read the next `size` bytes, no fewer."""
        data = self._file.read(size)
        self._at += len(data)
        if len(data) < size:
            raise EOFError("the tar within ends early")
        if self._at > FREE_BYTES + MAX_INFLATION * self._body.at:
            told = f"{self.name} inflates {self._body.at:,} bytes to over {self._at:,}"
            raise DataError(f"{told}, which no sound does: give an official archive")
        return data

    def blocks(self, size: int) -> Iterator[bytes]:
        """Read the next `size` bytes in blocks."""
        for at in range(0, size, READ_BYTES):
            yield self.take(min(READ_BYTES, size - at))

    def finish(self) -> None:
        """Read the zeros that fill a tar up, so that gunzip comes to its checksum."""
        for _ in range(0, MAX_END_BYTES, READ_BYTES):
            rest = self._file.read(READ_BYTES)
            if not rest:
                return
            if rest.strip(b"\0"):
                break
        raise DataError(f"{self.name} goes on after its tar's end: fetch it anew and compare its md5")


def _unpack(body: Body, *, threads: bool) -> BinaryIO:
    """Open gunzip over a body; large reads are filled without a copy."""
    if threads:
        return igzip_threaded.open(body, "rb", threads=1, block_size=BLOCK_BYTES)  # pyright: ignore[reportArgumentType, reportReturnType]
    return igzip.IGzipFile(fileobj=body, mode="rb")  # pyright: ignore[reportReturnType]


def _metered(found: Iterator[Arrival], *, body: Body, progress: Meter | None) -> Iterator[Arrival]:
    """Advance the meter by each MiB."""
    shown = 0
    for arrival in found:
        yield arrival
        if progress and body.at >> 20 > shown:
            progress.advance((body.at >> 20) - shown)
            shown = body.at >> 20


def _read(plain: _Plain) -> Iterator[Arrival]:
    seen: set[str | None] = set()  # None stands for examples.json
    for info in _members(plain):
        known = _recognise(info, name=plain.name)
        if known is None:
            for _ in plain.blocks(info.size):
                pass
            continue
        key = known["key"]
        if key in seen:
            raise DataError(f"{plain.name} holds {info.name[:NAME_SHOWN]!r} twice: give an official archive")
        seen.add(key)
        if key is None:
            yield Examples(manifest=read_examples(plain.blocks(info.size), name=f"{plain.name}:{info.name}"))
        else:
            yield Note(key=key, data=plain.take(info.size))
    if None not in seen:
        raise DataError(f"{plain.name} holds no nsynth-SPLIT/examples.json: give one of NSynth's jsonwav.tar.gz files")


def _members(plain: _Plain) -> Iterator[tarfile.TarInfo]:
    """Yield each member's header; the caller then takes its `size` bytes. Folders and links have none."""
    longer, is_awaited = {}, False
    while True:
        block = plain.take(BLOCK)
        info = read_header(block, longer=longer)
        if info is None:
            if not block.strip(b"\0") and not is_awaited:
                return  # the end mark
            raise EOFError("a header can't be read")
        is_awaited = info.type in LONGER
        if is_awaited:
            longer |= _longer(plain, info)
            continue
        longer, plain.member = {}, info.name[:NAME_SHOWN]
        if info.type not in REGULAR:
            info.size = 0
        yield info
        plain.take(-info.size % BLOCK)


def _longer(plain: _Plain, info: tarfile.TarInfo) -> dict[str, Any]:
    """Read a header that speaks of the next: a long name, or pax's records."""
    if info.size > MAX_NAME_BYTES:
        raise DataError(f"{plain.name} has a header of {info.size:,} bytes: give an official archive")
    found = long_header(info.type, plain.take(padded(info.size))[: info.size])
    if found.get("sparse"):  # contents with holes, which may call themselves a plain file
        raise DataError(f"{plain.name} holds a sparse file, which is no part of NSynth: give an official archive")
    return found


def _recognise(info: tarfile.TarInfo, *, name: str) -> re.Match[str] | None:
    """Match a member's name; None where it's to be passed over."""
    path = info.name.split("/")
    inside, regular = path[0] != "" and ".." not in path, info.type in REGULAR
    if inside and (info.isdir() or (regular and (path[-1].startswith("._") or path[-1] == ".DS_Store"))):
        known = None
    elif (known := MEMBER.fullmatch(info.name)) is None or not regular:
        raise DataError(
            f"{name} holds {info.name[:NAME_SHOWN]!r}, which is no part of NSynth: give an official archive"
        )
    if info.size > (MAX_EXAMPLES_BYTES if known and known["key"] is None else MAX_NOTE_BYTES):
        raise DataError(f"{name} says {info.name[:NAME_SHOWN]!r} has {info.size:,} bytes: give an official archive")
    return known
