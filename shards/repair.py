"""repair: damaged shards -> whole ones, written anew from what they were packed of. The hash in the index decides.

The index says which notes a shard holds, in which order and with which labels; the source gives only their audio. So
any source that has the files will do, a folder for an archive too: a shard that would be another than it was is
refused. The index isn't touched.
"""

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from shards import format
from shards.arrivals import Note, arrivals
from shards.body import open_body
from shards.contents import Contents, write_tar
from shards.errors import DataError, UsageError
from shards.files import AudioFiles, Files, FolderFiles
from shards.folders import key_of, list_audio
from shards.index import Pack, read_pack
from shards.index_file import PLACE, Shard
from shards.keys import COLUMN
from shards.progress import Meter, meter
from shards.remote import PathLike, locate
from shards.sources import find_nsynth
from shards.spool import Spool
from shards.verify import verify_split

STAGING = ".repairing"


def repair(src: PathLike, data: PathLike, *, split: str) -> tuple[str, ...]:
    """Rewrite a split's damaged and missing shards from what it was packed of; return their names.

    Each is written beside the pack, held against the index's hash, and put in its place.

    Raises:
        UsageError: the pack was indexed and not packed.
        DataError: a rewritten shard isn't what it was, audio is missing, or the index itself is damaged.
    """
    pack = read_pack(data, split=split)
    if "source" not in pack.options:
        raise UsageError(f"{pack.home} was indexed, not packed by us: bring its tars again from where they came")
    report = verify_split(data, split=split)
    if not report.damaged:
        if report.findings:
            raise DataError(f"{pack.home} has whole tars and a damaged index ({report.findings[0]})")
        return ()
    damaged = {number: shard for number, shard in enumerate(pack.shards) if shard.name in report.damaged}
    notes = {number: _notes(pack, number) for number in damaged}
    told = meter(f"repairing {split}", total=sum(shard.rows for shard in damaged.values()), unit="notes")
    with _staging(pack) as staging, _open_files(src, pack, notes, staging=staging) as files, told as progress:
        for number, shard in damaged.items():
            _rewrite(pack, shard, notes=notes[number], files=files, staging=staging, progress=progress)
    return report.damaged


def _notes(pack: Pack, number: int) -> pa.Table:
    """Read back what was packed into a shard: key and labels, (rows,) each."""
    table = pack.parts.table(number)
    return table.select(["key", *(name for name in table.column_names if name not in PLACE.names)])


@contextlib.contextmanager
def _staging(pack: Pack) -> Iterator[Path]:
    """Make a folder for tars under way: on the pack's disk, so that a rename is enough."""
    if pack.folder.is_url:
        with tempfile.TemporaryDirectory(prefix="notestream-") as folder:
            yield Path(folder)
        return
    folder = pack.folder.path / STAGING
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _open_files(src: PathLike, pack: Pack, notes: Mapping[int, pa.Table], *, staging: Path) -> Iterator[Files]:
    """Find the audio of some notes in SRC: an NSynth folder or archive, or a folder of audio."""
    keys = [key for table in notes.values() for key in table["key"].to_pylist()]
    names = dict(zip(keys, keys, strict=True))
    if pack.options.get("rename_keys"):
        names = dict(zip(keys, (name for table in notes.values() for name in table[COLUMN].to_pylist()), strict=True))
    found = find_nsynth(locate(src), split=pack.split)
    if found is None:
        yield _audio_files(locate(src).path, pack, names)
    elif not found.is_url and found.path.is_dir():
        there = {entry.name for entry in os.scandir(found.path / "audio")}
        _refuse([name for name in names.values() if f"{name}.wav" not in there], src=src, pack=pack)
        yield FolderFiles(found.path / "audio", names)
    else:
        with Spool(staging / "notes") as spool, open_body(found) as body:
            wanted = set(names.values())
            for arrived in arrivals(body, threads=True, progress=None):
                if isinstance(arrived, Note) and arrived.key in wanted:
                    spool.add(arrived.key, arrived.data)
            _refuse([name for name in names.values() if name not in spool], src=src, pack=pack)
            yield _Spooled(spool, names, found.name)


def _audio_files(src: Path, pack: Pack, names: Mapping[str, str]) -> AudioFiles:
    """Find audio files by their keys; those that were renamed by their paths."""
    listed = list_audio(src)
    by_key = {key_of(file): file for file in listed} | {key_of(file.removeprefix("audio/")): file for file in listed}
    paths = {key: name if name in listed else by_key.get(name, name) for key, name in names.items()}
    _refuse([key for key, path in paths.items() if path not in listed], src=src, pack=pack)
    # what was mixed down or resampled then is so now: where it shouldn't be, the hash tells
    return AudioFiles(src, paths, pack.sample_rate, mono=True, resample=True)


def _refuse(missing: list[str], *, src: PathLike, pack: Pack) -> None:
    if missing:
        raise DataError(f"{len(missing)} notes have no audio in {src} ({missing[0]!r}): give the source of {pack.home}")


@dataclasses.dataclass(frozen=True)
class _Spooled:
    """Notes of an archive, by their keys."""

    spool: Spool
    names: Mapping[str, str]
    archive: str

    def read(self, key: str) -> bytes:
        return self.spool.read(self.names[key])

    def name(self, key: str) -> str:
        return f"{self.archive}:{self.names[key]}.wav"


def _rewrite(pack: Pack, shard: Shard, *, notes: pa.Table, files: Files, staging: Path, progress: Meter) -> None:
    path, place = staging / shard.name, pack.folder / shard.name
    contents = Contents(path=path, notes=notes.to_pylist(), files=files, sample_rate=pack.sample_rate, codec=pack.codec)
    written = write_tar(contents, advance=progress.advance)
    if (len(written.places), written.bytes, written.hash) != (shard.rows, shard.bytes, shard.hash):
        raise DataError(
            f"{shard.name} would be another than it was (xxh3-128 {written.hash}, not {shard.hash}): the source's "
            "audio has changed, or libFLAC has; pack anew into another folder"
        )
    if place.is_url:
        place.upload(path)
    else:
        format.replace_file(path, place.path)
