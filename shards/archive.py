"""archive: NSynth's official tar.gz -> one spool file of audio, read by position. One pass, wherever examples.json is.

Gunzip is the slow part (24 GB for train) and can't be seeked in, so the audio is laid down once, end to end; from
then on an archive is packed exactly as a folder is, and the shards are the same to the byte.
"""

import dataclasses
import json
import os
import re
import shutil
import tarfile
import zlib
from pathlib import Path
from typing import BinaryIO

import xxhash
from isal import igzip

from shards import format
from shards.errors import DataError, UsageError
from shards.nsynth import Source, check_present, make_source, read_examples
from shards.progress import Meter, meter

MEMBER = re.compile(r"(?:\./)?nsynth-[A-Za-z0-9_-]+/(?:audio/(?P<key>[^/]+)\.wav|examples\.json)")
INFLATION = 1.7  # NSynth's archives grow 1.57 times
MAX_EXAMPLES_BYTES = 1 << 30
MAX_NOTE_BYTES = 64 << 20
READ_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class SpoolFiles:
    """Notes as ranges of one spool file."""

    path: Path
    archive: str
    ranges: dict[str, tuple[int, int]]

    def read(self, key: str) -> bytes:
        """Read one note's file."""
        offset, size = self.ranges[key]
        with self.path.open("rb") as file:
            return os.pread(file.fileno(), size, offset)

    def name(self, key: str) -> str:
        """Say where that file was."""
        return f"{self.archive}:{key}.wav"


def open_archive(archive: Path, *, work: Path) -> Source:
    """Unpack a tar.gz into WORK once (a whole spool is used again) and read its manifest.

    Raises:
        UsageError: WORK's disk has too little room for spool and shards.
        DataError: the archive is cut short, damaged, or not NSynth's.
    """
    identity = identity_of(archive)
    spool, catalogue = work / f"spool-{identity}.bin", work / f"spool-{identity}.json"
    if not catalogue.exists():
        _check_room(archive, work=work)
        work.mkdir(parents=True, exist_ok=True)
        _unpack(archive, spool=spool, catalogue=catalogue)
    found = json.loads(catalogue.read_bytes())
    ranges = {key: (offset, size) for key, (offset, size) in found["ranges"].items()}
    manifest = read_examples(found["examples"].encode(), name=f"{archive}:examples.json")
    check_present([key for key in manifest["key"].to_pylist() if key not in ranges], name=str(archive))
    return make_source(manifest, files=SpoolFiles(spool, archive.name, ranges), identity=identity)


def identity_of(archive: Path) -> str:
    """Tell archives apart without reading 24 GB: their size, head and tail."""
    size = archive.stat().st_size
    with archive.open("rb") as file:
        head = file.read(READ_BYTES)
        file.seek(max(0, size - READ_BYTES))
        return xxhash.xxh3_128_hexdigest(size.to_bytes(8, "little") + head + file.read(READ_BYTES))


def _check_room(archive: Path, *, work: Path) -> None:
    """Say what spool and shards will take, and refuse at once where it isn't there."""
    there = next(folder for folder in (work, *work.parents) if folder.exists())
    needed, free = int(2 * INFLATION * archive.stat().st_size), shutil.disk_usage(there).free
    if needed > free:
        raise UsageError(
            f"{archive} needs about {needed:,} bytes at {there} to be packed, {free:,} are free: make room"
        )


def _unpack(archive: Path, *, spool: Path, catalogue: Path) -> None:
    try:
        with (
            spool.open("wb") as out,
            igzip.IGzipFile(archive, "rb") as plain,
            tarfile.open(fileobj=plain, mode="r|") as tar,
        ):
            total = int(INFLATION * archive.stat().st_size) >> 20
            with meter(f"unpacking {archive.name}", total=total, unit="MB (about)") as progress:
                examples, ranges = _copy_members(tar, out, archive=archive, progress=progress)
        if examples is None:
            raise DataError(f"{archive} holds no nsynth-SPLIT/examples.json: give one of NSynth's jsonwav.tar.gz files")
        format.write_whole(catalogue, json.dumps({"ranges": ranges, "examples": examples}).encode())
    except (EOFError, zlib.error, tarfile.TarError, igzip.BadGzipFile, UnicodeDecodeError) as error:
        raise DataError(f"{archive} is cut short or damaged ({error}): fetch it anew and compare its md5") from error
    finally:
        if not catalogue.exists():
            spool.unlink(missing_ok=True)


def _copy_members(
    tar: tarfile.TarFile, out: BinaryIO, *, archive: Path, progress: Meter
) -> tuple[str | None, dict[str, list[int]]]:
    """Lay every note's bytes end to end in `out`; return examples.json's text and each note's [offset, size]."""
    examples, ranges, end = None, {}, 0
    for member in tar:
        if member.isdir():
            continue
        known = MEMBER.fullmatch(member.name)
        if known is None or not member.isreg():
            raise DataError(f"{archive} holds {member.name!r}, which is no part of NSynth: give an official archive")
        key = known["key"]
        if member.size > (MAX_EXAMPLES_BYTES if key is None else MAX_NOTE_BYTES):
            raise DataError(f"{archive} says {member.name!r} has {member.size:,} bytes: give an official archive")
        file = tar.extractfile(member)
        data = file.read() if file else b""
        if key is None:
            examples = data.decode()
        elif key in ranges:
            raise DataError(f"{archive} holds {member.name!r} twice: give an official archive")
        else:
            out.write(data)
            ranges[key] = [end, len(data)]
            progress.advance(((end + len(data)) >> 20) - (end >> 20))
            end += len(data)
    return examples, ranges
