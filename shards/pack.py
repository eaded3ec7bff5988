"""pack: notes -> tar shards with an index. What is in shard i depends on the notes, the seed and i, nothing else.

    manifest ── select ── keyed permutation ──> shard 0 | shard 1 | ...      each: temporary name -> its place
                                                   └ sidecar: the shard's rows and its hash, so it is whole
    index.parquet <── all sidecars, written last: before it there is no pack, after it nothing changes

Interrupted and run again, it goes on with the shards that aren't whole. An archive's notes come in an order of their
own: shards.deal puts them into the same tars.
"""

import dataclasses
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from shards import format
from shards.card import write_cards
from shards.deal import deal
from shards.errors import DataError, UsageError
from shards.index import Pack, open_pack
from shards.index_writer import write_index
from shards.manifest import Order, Source, arrange, parse_where
from shards.packers import Packers, open_packers
from shards.progress import meter
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
                with open_packers(jobs) as packers:
                    source = origin.open()
                    job = plan(source.manifest, sample_rate=source.sample_rate)
                    _write_shards(job, source, packers=packers, jobs=jobs)
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


def _write_shards(job: Job, source: Source, *, packers: Packers, jobs: int) -> None:
    """Write the shards that aren't whole; while the disk takes some in, the next are written."""
    todo = job.todo()
    told = meter(f"packing {job.split}", total=len(job.arrangement.order), unit="notes")
    with told as progress, ThreadPoolExecutor(jobs) as disk:
        progress.advance(progress.total - sum(len(job.arrangement.rows(number)) for number in todo))
        contents = (job.contents(number, source.files.only(job.arrangement.keys(number))) for number in todo)
        under_way: deque[Future[None]] = deque()
        for number, facts in zip(todo, packers(contents, progress.advance), strict=True):
            if len(under_way) == jobs:
                under_way.popleft().result()
            under_way.append(disk.submit(job.publish, number, job.temporary(number), facts))
        for tar in under_way:
            tar.result()


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
