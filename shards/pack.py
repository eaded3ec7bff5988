"""pack: notes -> tar shards with an index. What is in shard i depends on the notes, the seed and i, nothing else.

    manifest (sorted by key) ── keyed permutation ──> shard 0 | shard 1 | ...   each: TarWriter -> temp name -> rename
                                                        └ sidecar parquet: the shard's rows and its hash
    index.parquet <── all sidecars, written last: before it there is no pack, after it nothing changes

Interrupted and run again, it goes on with the first shard that isn't whole.
"""

import dataclasses
import io
import json
import multiprocessing
import shutil
import sys
import tarfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from shards import format
from shards.bijection import permute
from shards.errors import DataError, UsageError
from shards.index import Pack, Shard, open_pack, read_about, write_index
from shards.members import index_row, index_table
from shards.nsynth import Source
from shards.progress import meter
from shards.remote import locate
from shards.sources import Layout, open_source

WORK = ".packing"
META_SHARD = b"shard"
WRITE_BYTES = 1 << 20  # tarfile writes 10 KB at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """All that a packing process needs to write any shard."""

    source: Source
    folder: Path
    split: str
    codec: str
    rows_per_shard: int
    seed: int

    def rows(self, number: int) -> range:
        """Positions of shard `number` in the packing order."""
        first = number * self.rows_per_shard
        return range(first, min(first + self.rows_per_shard, self.source.manifest.num_rows))

    @property
    def shards(self) -> int:
        """Count the shards."""
        return -(-self.source.manifest.num_rows // self.rows_per_shard)


def pack(
    src: str | Path,
    dst: str | Path,
    *,
    split: str,
    seed: int = 0,
    jobs: int = 1,
    codec: Literal["wav", "flac"] = "wav",
    limit: int | None = None,
    rows_per_shard: int = 1024,
    layout: Layout = "nsynth",
    table: str | Path | None = None,
    label_from: str | None = None,
    mono: bool = False,
    resample: int | None = None,
) -> Pack:
    """Pack SRC's notes into DST/SPLIT and return the finished pack; see `python -m shards pack --help`.

    Raises:
        UsageError: an argument, a missing source, or another pack already stands there.
        DataError: a note that can't be packed; it is named, and whole shards are kept for the next run.
    """
    format.check_split(split)
    for name, value in (("jobs", jobs), ("rows_per_shard", rows_per_shard), ("limit", limit)):
        if value is not None and value < 1:
            raise UsageError(f"{name} must be at least 1, got {value}")
    folder = Path(dst) / split
    try:
        source = open_source(
            Path(src), split=split, work=folder / WORK, layout=layout, table=Path(table) if table else None,
            label_from=label_from, mono=mono, resample=resample,
        )  # fmt: skip
        options = {
            "source": source.identity, "seed": seed, "codec": codec, "limit": limit, "rows_per_shard": rows_per_shard
        }  # fmt: skip
        if not _claim(folder, options=options):
            source = select(source, limit=limit, seed=seed)
            job = Job(source=source, folder=folder, split=split, codec=codec, rows_per_shard=rows_per_shard, seed=seed)
            _write_shards(job, jobs=jobs)
            _finish(job, options=options)
    except BaseException:
        _leave_nothing(folder)
        raise
    shutil.rmtree(folder / WORK, ignore_errors=True)
    return open_pack(dst, split=split)


def is_packed(dst: str | Path, *, split: str) -> bool:
    """Tell whether DST/SPLIT has its index, which is written last."""
    return (Path(dst) / split / format.INDEX_NAME).exists()


def _leave_nothing(folder: Path) -> None:
    """Remove the folder again where not even one shard is whole; whole ones are kept for the next run."""
    work = folder / WORK
    if folder.exists() and not any(work.glob("*.parquet")) and not any(work.glob("spool-*.json")):
        shutil.rmtree(work, ignore_errors=True)
        if not any(folder.iterdir()):
            folder.rmdir()


def _claim(folder: Path, *, options: Mapping[str, Any]) -> bool:
    """Make the folder ours, or refuse it; True where this very pack is already done."""
    done, plan = folder / format.INDEX_NAME, folder / WORK / "plan.json"
    stands = None
    if done.exists():
        stands = read_about(locate(done))["options"]
    elif plan.exists():
        stands = json.loads(plan.read_bytes())
    if stands is not None and stands != options:
        differ = next(name for name in options if stands.get(name) != options[name])
        raise UsageError(
            f"{folder} already holds a pack with {differ} {stands.get(differ)}, not {options[differ]}: "
            "pack into another folder, or remove this one"
        )
    if stands is None and any(folder.glob("*.tar")):
        raise UsageError(f"{folder} holds tars that no pack of ours began: pack into another folder, or remove them")
    if stands is None:
        plan.parent.mkdir(parents=True, exist_ok=True)
        format.write_whole(plan, json.dumps(options).encode())
    return done.exists()


def select(source: Source, *, limit: int | None, seed: int) -> Source:
    """Keep `limit` notes, a keyed draw over all, so that a small pack has the mix of the whole."""
    rows = source.manifest.num_rows
    if limit is None or limit >= rows:
        return source
    kept = np.sort(permute(np.arange(limit), rows, seed, "limit"))
    return dataclasses.replace(source, manifest=source.manifest.take(kept))


def _write_shards(job: Job, *, jobs: int) -> None:
    todo = [number for number in range(job.shards) if not _sidecar(job, number).exists()]
    if len(todo) < job.shards:
        told = f"{job.shards - len(todo)} of {job.shards} shards are whole already"
        print(f"going on with {job.folder}: {told}", file=sys.stderr)  # noqa: T201
    with meter(f"packing {job.split}", total=job.source.manifest.num_rows, unit="notes") as progress:
        progress.advance(sum(len(job.rows(n)) for n in range(job.shards)) - sum(len(job.rows(n)) for n in todo))
        if jobs == 1 or len(todo) < 2:
            for number in todo:
                for _ in write_shard(job, number):
                    progress.advance()
            return
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(jobs, len(todo)), mp_context=spawn, initializer=_adopt, initargs=(job,)) as pool:
            try:
                for rows in pool.map(_write_adopted, todo):
                    progress.advance(rows)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


_adopted: list[Job] = []  # a packing process gets its job once, not with every shard


def _adopt(job: Job) -> None:
    _adopted[:] = [job]


def _write_adopted(number: int) -> int:
    return sum(1 for _ in write_shard(_adopted[0], number))


def _sidecar(job: Job, number: int) -> Path:
    return job.folder / WORK / f"{number:06d}.parquet"


class _Hashing(io.RawIOBase):
    """A file that hashes what passes through."""

    def __init__(self, path: Path) -> None:
        self.file, self.hash, self.size = path.open("wb", buffering=WRITE_BYTES), xxhash.xxh3_128(), 0

    def write(self, data: Any, /) -> int:
        self.hash.update(data)
        self.size += len(data)
        return self.file.write(data)

    def close(self) -> None:
        self.file.close()
        super().close()


def write_shard(job: Job, number: int) -> Iterator[str]:
    """Write one shard and its sidecar, yielding each key as it is written; nothing half-written is left behind."""
    from webdataset.writer import TarWriter  # here, since it imports torch: 3.5 s that `show` needn't pay

    rows = list(job.rows(number))
    notes = job.source.manifest.take(permute(rows, job.source.manifest.num_rows, job.seed, "pack"))
    name = format.shard_name(job.split, number)
    temporary = job.folder / f".{name}.tmp"
    found = []
    try:
        with _Hashing(temporary) as file, TarWriter(cast("BinaryIO", file), encoder=False, mtime=0) as writer:
            # tarfile's default would put a longer header before a name that isn't ASCII, where no offset expects it
            writer.tarstream.format = tarfile.USTAR_FORMAT
            for note in notes.to_pylist():
                key = note.pop("key")
                data = job.source.files.read(key)
                members, row = index_row(
                    key, data, labels=note, sample_rate=job.source.sample_rate, codec=job.codec,
                    name=job.source.files.name(key), at=writer.tarstream.offset,
                )  # fmt: skip
                writer.write({"__key__": key, **members})
                found.append(row)
                yield key
        shard = Shard(name=name, rows=len(found), bytes=file.size, hash=file.hash.hexdigest())
        format.replace_file(temporary, job.folder / name)
    finally:
        temporary.unlink(missing_ok=True)
    table = index_table(found, shard=name, labels=notes.drop_columns(["key"]))
    _write_sidecar(_sidecar(job, number), table, shard)


def _write_sidecar(path: Path, table: pa.Table, shard: Shard) -> None:
    content = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({META_SHARD: json.dumps(dataclasses.asdict(shard))}), content)
    format.write_whole(path, content.getvalue())


def _finish(job: Job, *, options: Mapping[str, Any]) -> None:
    tables = [pq.read_table(_sidecar(job, number), read_dictionary=["shard"]) for number in range(job.shards)]
    shards = [Shard(**json.loads(table.schema.metadata[META_SHARD])) for table in tables]
    for shard in shards:
        file = job.folder / shard.name
        if not file.is_file() or file.stat().st_size != shard.bytes:
            raise DataError(f"{file} changed while it was packed: remove {job.folder} and pack again")
    write_index(
        job.folder, split=job.split, sample_rate=job.source.sample_rate, codec=job.codec, shards=shards,
        tables=[table.replace_schema_metadata() for table in tables], options=options,
    )  # fmt: skip
