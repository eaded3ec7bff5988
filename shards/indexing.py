"""indexing: any WebDataset tars -> index.parquet beside them, or in a folder of its own. No tar changes.

Each tar is read once, front to back, and hashed on the way; of its samples the audio is decoded to see where it falls
silent. What is kept of a tar is a file of its rows, so memory holds one tar's rows, and eight bytes for each key.
"""

import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from shards import format
from shards.errors import DataError, NotestreamError, UsageError
from shards.index import Pack, open_pack
from shards.index_file import Shard, read_about
from shards.index_writer import write_index
from shards.kept import KeptRows
from shards.labels import Columns
from shards.places import find_tars
from shards.progress import Meter, meter
from shards.remote import Location, PathLike, locate, reaching
from shards.samples import Sample, read_samples
from shards.shard import index_table
from shards.walk import Tar

BATCH_ROWS = 1024
BATCH_LABEL_BYTES = 4 << 20
MAX_LABEL_BYTES = 256 << 20  # of one tar, whose rows are one piece of the index and so of memory
ASKING = 8  # threads that ask a store for the sizes of its tars


def index_shards(places: Sequence[str], *, out: PathLike | None, split: str | None) -> Pack:
    """Index tars, by names that `find_tars` knows, as a split that has the name of their folder unless given.

    The index lies beside the tars, or in OUT/SPLIT, from where it says where they are.

    Raises:
        UsageError: tars are missing or lie in several folders, or the index can't be written where it should be.
        DataError: a tar is damaged, a sample has no audio, or rates, codecs or labels differ.
    """
    tars = find_tars(places)
    folder = tars[0].parent
    home = _home(folder, out=out, split=split)
    sizes = _sizes(tars)
    _check_writable(home)
    columns, facts = Columns(), {}
    with tempfile.TemporaryDirectory(prefix="notestream-index-") as work:
        kept, shards = KeptRows(Path(work), columns), []
        with meter(f"indexing {home.name}", total=sum(sizes) >> 20, unit="MB") as progress:
            for tar, start in zip(tars, itertools.accumulate(sizes, initial=0), strict=False):
                shards.append(_index_tar(tar, kept=kept, facts=facts, progress=progress, start=start))
        kept.check_unique()
        base = None if home == folder else folder.text
        if not home.is_url:
            home.path.mkdir(parents=True, exist_ok=True)
        write_index(
            home, split=home.name, shards=shards, tables=kept, options=_options(home),
            base=base, **facts,
        )  # fmt: skip
    return open_pack(home.parent, split=home.name)


def _index_tar(place: Location, *, kept: KeptRows, facts: dict[str, Any], progress: Meter, start: int) -> Shard:
    """Read one tar, keep its rows in `kept`, and return what the index says of it as a whole."""
    with place.open() as file:
        with reaching(place):
            size = file.size()
        tar = Tar(file, size=size, place=place)
        batches = []
        for samples in _batched(read_samples(tar, name=str(place), facts=facts), name=str(place)):
            labels = kept.columns.table([sample.labels for sample in samples], name=str(place))
            kept.columns.agree(labels.schema, name=str(place))
            batches.append(index_table([sample.row for sample in samples], shard=place.name, labels=labels))
            progress.advance((start + tar.at >> 20) - progress.done)
    progress.advance((start + size >> 20) - progress.done)
    if not batches:
        raise DataError(f"{place} holds no sample: leave it out")
    kept.append(batches, name=str(place))
    rows = sum(batch.num_rows for batch in batches)
    return Shard(name=place.name, rows=rows, bytes=size, hash=tar.hash.hexdigest())


def _batched(samples: Iterator[Sample], *, name: str) -> Iterator[list[Sample]]:
    """Put samples together as many as may stay Python's objects, which take ten times what columns do."""
    batch, total, taken = [], 0, 0
    for sample in samples:
        batch.append(sample)
        taken += sample.label_bytes
        if len(batch) == BATCH_ROWS or taken >= BATCH_LABEL_BYTES:
            yield batch
            batch, total, taken = [], total + taken, 0
        if total + taken > MAX_LABEL_BYTES:
            raise DataError(f"{name} holds over {MAX_LABEL_BYTES:,} bytes of labels: split it into smaller tars")
    if batch:
        yield batch


def _home(folder: Location, *, out: PathLike | None, split: str | None) -> Location:
    """Return the folder that the index goes to, whose name is the split's."""
    if split is None and not format.SPLIT_NAME.fullmatch(folder.name):
        raise UsageError(f"{folder} has a name that no split can have: give --out FOLDER and --split NAME")
    name = folder.name if split is None else split
    format.check_split(name)
    if out is not None:
        place = locate(out)
        home = (place if place.is_url else locate(place.path.absolute())) / name
        if home != folder and any(child.endswith(".tar") for child in home.children()):
            raise UsageError(f"{home} holds tars of its own: give --out another folder, or --split another name")
        if home != folder and str(folder) != folder.text:
            raise UsageError("the tars' URL holds a password, which the index would tell: give it by the environment")
        return home
    if name != folder.name:
        raise UsageError(f"an index beside {folder} is that of split {folder.name!r}: give --out FOLDER for {name!r}")
    return folder


def _check_writable(home: Location) -> None:
    """Try whether an index can be written there, before hours of reading."""
    try:
        if home.is_url:
            probe = home / f".{format.INDEX_NAME}.probe"
            probe.write_bytes(b"")
            probe.remove()
        elif not os.access(next(path for path in (home.path, *home.path.parents) if path.exists()), os.W_OK):
            raise UsageError(f"{home} is read-only")
    except NotestreamError as error:
        raise UsageError(f"no index can be written there, so give --out FOLDER for it: {error}") from error


def _sizes(tars: Sequence[Location]) -> list[int]:
    with ThreadPoolExecutor(ASKING) as pool:
        found = list(pool.map(Location.size, tars))
    sizes = [size for size in found if size is not None]
    if len(sizes) < len(tars):
        missing = [str(tar) for tar, size in zip(tars, found, strict=True) if size is None]
        told = f"{len(missing)} of {len(tars)} shards are not there, or can't be reached ({', '.join(missing[:3])})"
        raise UsageError(f"{told}: check their names")
    return sizes


def _options(home: Location) -> dict[str, Any]:
    """Keep how the shards were packed, where an index says so: the packer knows its own folder by it."""
    try:
        return dict(read_about(home / format.INDEX_NAME)["options"])
    except (NotestreamError, KeyError, TypeError, ValueError):
        return {"indexed": True}
