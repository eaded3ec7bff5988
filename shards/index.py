"""index: a split's index.parquet -> a Pack: its shards, classes and rows. Opening costs the same at any number of rows.

    open_pack ── footer, a stat for each shard ──> Pack ──pickles to readers as this much, without rows──> ...
                                                    ├ find, take    rows by their number, their shards loaded as needed
                                                    ├ label_ids     one column of the split
                                                    └ read, scan    columns of the split

An index is foreign input: what it says of the split is checked here, before anything is read; its rows are checked
shard by shard, as they're loaded (shards.parts).
"""

import bisect
import dataclasses
import itertools
import json
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from shards import format
from shards.claims import find_fault, shards_folder
from shards.errors import DataError, UsageError
from shards.index_file import IndexFile, Shard
from shards.parts import PLACES, Part, Parts
from shards.remote import Location, PathLike, locate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pack:
    """An opened split: what the index says, checked. Rows are numbered in index order.

    `home` is the folder of the index, `folder` that of the shards: the same, unless the index says another.
    """

    home: Location
    folder: Location
    split: str
    sample_rate: int
    codec: str
    shards: tuple[Shard, ...]
    classes: Mapping[str, tuple[str, ...]]
    options: Mapping[str, Any]
    schema: pa.Schema
    parts: Parts = dataclasses.field(repr=False, compare=False)

    @classmethod
    def open(cls, data: PathLike, *, split: str) -> "Pack":
        """Open DATA/SPLIT.

        Raises:
            UsageError: there is no such folder or index.
            DataError: the index is of another version, or disagrees with its shards.
        """
        return open_pack(data, split=split)

    @property
    def rows(self) -> int:
        """Count the samples."""
        return self.starts[-1]

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Number the first row of each shard, and the row past the last: (shards + 1,)."""
        return tuple(itertools.accumulate((shard.rows for shard in self.shards), initial=0))

    @cached_property
    def fingerprint(self) -> str:
        """Hash what is in the pack: ordered shard names, rows and hashes. Never where it lies, or when it was made."""
        told = json.dumps([[shard.name, shard.rows, shard.hash] for shard in self.shards])
        return xxhash.xxh3_128_hexdigest(told.encode())

    def part(self, number: int) -> Part:
        """Return one shard's keys and places, loaded and checked when they're first asked for.

        Raises:
            DataError: they can't be read, aren't this shard's, or point outside it.
        """
        return self.parts[number]

    def find(self, row: int) -> tuple[int, Part, int]:
        """Find a row: its shard's number, that shard's part, and the row's number in it (see part)."""
        if not 0 <= row < self.rows:
            raise IndexError(f"row {row} of {self.rows}")
        number = bisect.bisect_right(self.starts, row) - 1
        return number, self.parts[number], row - self.starts[number]

    def take(self, rows: Iterable[int]) -> tuple[list[str], NDArray[np.void]]:
        """Return the keys and the places of some rows, in their order: (rows,) each (see part)."""
        # row by row: the rows of a shuffled batch lie in as many shards, where vectors of one are no gain
        found = [self.find(row)[1:] for row in rows]
        places = [part.places.item(at) for part, at in found]
        return [part.keys[at].as_py() for part, at in found], np.array(places, PLACES)

    def read(self, *columns: str) -> pa.Table:
        """Read these columns of the whole split, or all: in index order, as the index says, unchecked but for text.

        Raises:
            UsageError: one is no column.
            DataError: they can't be read.
        """
        return self.parts.file.read(self._known(columns or self.schema.names))

    def scan(self, *columns: str) -> Iterator[pa.Table]:
        """Read these columns batch by batch, in memory that doesn't grow with the rows (see read)."""
        return self.parts.file.scan(self._known(columns))

    def label_ids(self, column: str, classes: Sequence[str]) -> NDArray[np.int64]:
        """Map a text column's values onto `classes` (train's, by name): (rows,) ids.

        Raises:
            UsageError: there is no such text column.
            DataError: a value is none of the classes.
        """
        if column not in self.classes:
            raise UsageError(
                f"label {column!r} is not a text column of {self.home}: take one of {', '.join(self.classes)}"
            )
        ids, at, unknown, known = np.empty(self.rows, np.int64), 0, 0, pa.array(classes, pa.string())
        for batch in self.scan(column):
            found = pc.index_in(batch[column], value_set=known)  # pyright: ignore[reportAttributeAccessIssue]
            unknown += found.null_count
            ids[at : at + len(found)] = found.fill_null(0).to_numpy()
            at += len(found)
        if unknown:
            strange = sorted(set(self.classes[column]) - set(classes))
            raise DataError(
                f"{unknown} rows of split {self.split!r} have a {column} that train doesn't know "
                f"({', '.join(map(repr, strange[:3])) or 'none at all'}): drop them, or pack train anew with them"
            )
        return ids

    def _known(self, columns: Sequence[str]) -> Sequence[str]:
        for name in columns:
            if name not in self.schema.names:
                raise UsageError(f"{name!r} is not a column of {self.home}: take of {', '.join(self.schema.names)}")
        return columns


def open_pack(data: PathLike, *, split: str) -> Pack:
    """Open the index of DATA/SPLIT and check it against its shards (see Pack.open)."""
    pack = read_pack(data, split=split)
    for shard in pack.shards:
        file = pack.folder / shard.name
        # a remote shard is checked when it is opened: a request each would make opening slow
        size = shard.bytes if file.is_url else file.size()
        if size != shard.bytes:
            found = "missing" if size is None else size
            raise DataError(f"shard {file} is {found}, not the {shard.bytes} bytes of the index: pack or index again")
    return pack


def read_pack(data: PathLike, *, split: str) -> Pack:
    """Read the index of DATA/SPLIT, and trust it no further: whether the shards are as it says isn't asked."""
    home = locate(data) / split
    path = home / format.INDEX_NAME
    if path.size() is None:
        raise UsageError(_missing(locate(data), split))
    file = IndexFile(path)
    about, schema = file.about, file.schema
    folder = shards_folder(about.get("base"), home=home)
    fault = find_fault(about, schema=schema, group_rows=file.group_rows)
    if folder is None:
        fault = f"says that its shards lie in {reprlib.repr(about['base'])}, which no reader can go to from here"
    if folder is None or fault:
        raise DataError(f"{path} {fault}: pack or index again")
    shards = tuple(Shard(**shard) for shard in about["shards"])
    return Pack(
        home=home,
        folder=folder,
        split=about["split"],
        sample_rate=about["sample_rate"],
        codec=about["codec"],
        shards=shards,
        classes={column: tuple(names) for column, names in about["classes"].items()},
        options=about["options"],
        schema=schema,
        parts=Parts(file, shards),
    )


def splits_of(data: PathLike) -> list[str]:
    """List the splits of DATA that have an index."""
    root = locate(data)
    return [name for name in root.children() if (root / name / format.INDEX_NAME).size() is not None]


def _missing(data: Location, split: str) -> str:
    if not data.is_url and not data.path.exists():
        return f"data folder {data} does not exist: pack one with `python -m shards pack SRC {data} --split {split}`"
    there = splits_of(data)
    found = f"it holds the splits {', '.join(there)}" if there else "it holds no finished split"
    return f"split {split!r} is not in {data} ({found}): `python -m shards pack SRC {data} --split {split}` makes it"
