"""pack: notes -> tar shards with an index. What is in shard i depends on the notes, the seed and i, nothing else.

    manifest ── select ── keyed permutation ──> shard 0 | shard 1 | ...      each: temporary name -> its place
                                                   └ sidecar: the shard's rows and its hash, so it is whole
    index.parquet <── all sidecars, written last: before it there is no pack, after it nothing changes

Interrupted and run again, it goes on with the shards that aren't whole. An archive's notes come in an order of their
own: shards.deal puts them into the same tars.
"""

import dataclasses
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from shards import format
from shards.card import write_cards
from shards.deal import deal
from shards.errors import DataError, UsageError
from shards.index import Pack, open_pack
from shards.index_writer import write_index
from shards.manifest import Files, Order, arrange, parse_where
from shards.progress import Meter, meter
from shards.remote import Location, PathLike
from shards.shard import Job
from shards.sources import Archive, Layout, find_origin
from shards.target import Target, find_target


def pack(
    src: PathLike,
    dst: PathLike,
    *,
    split: str,
    seed: int = 0,
    jobs: int = 1,
    codec: Literal["wav", "flac"] = "wav",
    order: Order = "shuffled",
    where: Sequence[str] = (),
    limit: int | None = None,
    rows_per_shard: int = 1024,
    layout: Layout = "auto",
    table: str | Path | None = None,
    label_from: str | None = None,
    rename_keys: bool = False,
    mono: bool = False,
    resample: int | None = None,
    license: str = "unknown",
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
    conditions = parse_where(where)
    origin = find_origin(
        src, split=split, layout=layout, table=Path(table) if table else None, label_from=label_from,
        rename_keys=rename_keys, mono=mono, resample=resample,
    )  # fmt: skip
    options = {
        "source": origin.identity, "seed": seed, "codec": codec, "order": order, "limit": limit,
        "where": {column: list(values) for column, values in conditions.items()}, "rows_per_shard": rows_per_shard,
        "rename_keys": rename_keys,
    }  # fmt: skip
    target = find_target(dst, split=split)

    def plan(manifest: pa.Table, *, sample_rate: int) -> Job:
        arrangement = arrange(
            manifest, where=conditions, limit=limit, order=order, seed=seed, rows_per_shard=rows_per_shard
        )
        return Job(arrangement=arrangement, target=target, split=split, codec=codec, sample_rate=sample_rate)

    try:
        if not target.claim(options):
            if isinstance(origin, Archive):
                job = deal(origin, target=target, plan=plan, codec=codec, jobs=jobs)
            else:
                source = origin.open()
                job = plan(source.manifest, sample_rate=source.sample_rate)
                _write_shards(job, source.files, jobs=jobs)
            _finish(job, options=options)
        target.clear()
    except BaseException:
        target.leave_nothing()
        raise
    _write_cards(target.folder.parent, license=license)
    return open_pack(target.folder.parent, split=split)


def _write_cards(data: Location, *, license: str) -> None:
    """Describe all splits there are; the pack is done, so what's wrong with another split is only told."""
    try:
        write_cards(data, license=license)
    except DataError as error:
        print(f"no dataset card was written: {error}", file=sys.stderr)  # noqa: T201


def is_packed(dst: PathLike, *, split: str) -> bool:
    """Tell whether DST/SPLIT has its index, which is written last."""
    return (find_target(dst, split=split).folder / format.INDEX_NAME).size() is not None


def _write_shards(job: Job, files: Files, *, jobs: int) -> None:
    todo = job.todo()
    told = f"packing {job.split}"
    with meter(told, total=len(job.arrangement.order), unit="notes") as progress:
        progress.advance(progress.total - sum(len(job.arrangement.rows(number)) for number in todo))
        if jobs == 1 or len(todo) < 2:
            _write_here(job, files, todo=todo, progress=progress)
            return
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(
            min(jobs, len(todo)), mp_context=spawn, initializer=_adopt, initargs=(job, files)
        ) as pool:
            try:
                for rows in pool.map(_write_adopted, todo):
                    progress.advance(rows)
            except BrokenProcessPool as error:
                told = "a packing process was killed, as happens where memory runs out"
                raise DataError(f"{told}: run again with fewer --jobs, whole shards are kept") from error
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _write_here(job: Job, files: Files, *, todo: Sequence[int], progress: Meter) -> None:
    """Write shards in this process; while the disk takes in one, the next is written."""
    with ThreadPoolExecutor(1) as disk:
        last: Future[None] | None = None
        for number in todo:
            written = job.write(number, files, advance=progress.advance)
            if last:
                last.result()
            last = disk.submit(job.target.publish, written)
        if last:
            last.result()


_adopted: list[tuple[Job, Files]] = []  # a packing process gets its job once, not with every shard


def _adopt(job: Job, files: Files) -> None:
    _adopted[:] = [(job, files)]
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    """End with the process that began us."""
    # the pool of one that was killed waits for ever, having first written what was queued: beside a run that goes on
    parent = multiprocessing.parent_process()
    assert parent is not None, "only a pool's process adopts a job"
    parent.join()
    os._exit(1)


def _write_adopted(number: int) -> int:
    job, files = _adopted[0]
    written = job.write(number, files, advance=lambda: None)
    job.target.publish(written)
    return written.shard.rows


def _finish(job: Job, *, options: Mapping[str, Any]) -> None:
    """Write the index from the sidecars, one at a time: memory doesn't grow with the pack."""
    shards = [job.target.read_shard(number) for number in range(job.arrangement.shards)]
    for shard in shards:
        job.target.check(shard)
    write_index(
        job.target.folder, split=job.split, sample_rate=job.sample_rate, codec=job.codec, shards=shards,
        tables=_Tables(job.target, len(shards)), options=options,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Tables:
    """All shards' rows, read back one shard at a time, as often as one likes."""

    target: Target
    shards: int

    def __iter__(self) -> Iterator[pa.Table]:
        return (self.target.read_table(number) for number in range(self.shards))
