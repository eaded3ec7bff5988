"""index: a split's index.parquet -> a Pack: its shards, classes and rows. Opening costs the same at any number of rows.

    open_pack ── footer, a stat for each shard ──> Pack ──pickles to readers as this much, without rows──> ...
                                                    ├ find, take    rows by their number, their shards loaded as needed
                                                    ├ label_*       one column of the split as classes
                                                    └ read, scan    columns of the split

An index is foreign input: what it says of the split is checked here, before anything is read; its rows are checked
shard by shard, as they're loaded (shards.parts).
"""

import bisect
import contextlib
import dataclasses
import os
import reprlib
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shards import format
from shards.claims import find_fault, find_shards_fault, shards_folder
from shards.classes import MANY, Kind, find_names, join_blocks, label_kinds, read_blocks
from shards.errors import DataError, UsageError
from shards.index_file import IndexFile
from shards.listing import Shards, decode_shards, fingerprint
from shards.parts import PLACES, Part, Parts
from shards.remote import Location, PathLike, locate

MOST_LISTED = 50_000


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
    shards: Shards
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
        return int(self.starts[-1])

    @property
    def starts(self) -> NDArray[np.int64]:
        """Number the first row of each shard, and the row past the last: (shards + 1,)."""
        return self.shards.starts

    @cached_property
    def fingerprint(self) -> str:
        """Hash what is in the pack: ordered shard names, rows and hashes. Never where it lies, or when it was made."""
        return fingerprint(self.shards)

    @cached_property
    def _edges(self) -> Sequence[int]:
        # Python's own integers: bisecting an array takes five times as long. A list is fastest, and takes 40 bytes each
        return self.starts.tolist() if len(self.shards) <= MOST_LISTED else self.starts.data

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def part(self, number: int) -> Part:
        """Return one shard's keys and places, loaded and checked when they're first asked for.

        Raises:
            DataError: they can't be read, aren't this shard's, or point outside it.
        """
        return self.parts[number]

    def locate(self, row: int) -> tuple[int, int]:
        """Return the number of a row's shard, and the row's number in it."""
        edges = self._edges
        if not 0 <= row < edges[-1]:
            raise IndexError(f"row {row} of {self.rows}")
        number = bisect.bisect_right(edges, row) - 1
        return number, row - edges[number]

    def find(self, row: int) -> tuple[int, Part, int]:
        """Find a row: its shard's number, that shard's part, and the row's number in it (see part)."""
        number, at = self.locate(row)
        return number, self.parts[number], at

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

    def label_ids(self, column: str, classes: Sequence[str], *, shard: int | None = None) -> NDArray[np.int64]:
        """Map the values of a label with one class a row onto `classes`: (rows,) ids (see label_blocks)."""
        if self.label_kind(column) in MANY:
            raise UsageError(f"label {column!r} has lists in {self.home}, not one class a row: take another")
        return self.label_targets(column, classes, shard=shard).astype(np.int64)

    def label_targets(self, column: str, classes: Sequence[str], *, shard: int | None = None) -> NDArray[Any]:
        """Return rows' ids, (rows,), or 0 and 1 for each class, (rows, classes), in as few bytes as hold them."""
        rows = self.rows if shard is None else int(self.shards.rows[shard])
        return join_blocks(self.label_blocks(column, classes, shard=shard), rows=rows)

    def label_blocks(self, column: str, classes: Sequence[str], *, shard: int | None = None) -> Iterator[NDArray[Any]]:
        """Yield rows' targets in `classes` (train's, by name), in memory that doesn't grow with them (shards.classes).

        Raises:
            UsageError: the column is no label.
            DataError: a row's label is none of the classes; after the last batch.
        """
        kind = self.label_kind(column)
        tables = self.scan(column) if shard is None else [self.parts.table(shard, columns=[column])]
        return read_blocks(tables, column, kind=kind, classes=classes, split=self.split)

    def label_names(self, column: str) -> tuple[str, ...]:
        """Name a label's classes: a text column's values, sorted, or those of others (shards.classes, label_kind)."""
        kind = self.label_kind(column)
        return self.classes[column] if kind == "text" else find_names(self.scan(column), column, kind=kind)

    def label_kind(self, column: str) -> Kind:
        """Tell what a label is.

        Raises:
            UsageError: the column is no label.
        """
        kinds = label_kinds(self.schema, self.classes)
        if column not in kinds:
            raise UsageError(
                f"label {column!r} is not a column of text or whole numbers of {self.home}, or of lists of them: "
                f"take one of {', '.join(kinds) or 'none'}"
            )
        return kinds[column]

    def _known(self, columns: Sequence[str]) -> Sequence[str]:
        for name in columns:
            if name not in self.schema.names:
                raise UsageError(f"{name!r} is not a column of {self.home}: take of {', '.join(self.schema.names)}")
        return columns


def open_pack(data: PathLike, *, split: str) -> Pack:
    """Open the index of DATA/SPLIT and check it against its shards (see Pack.open)."""
    pack = read_pack(data, split=split)
    if pack.folder.local() is not None:  # a remote shard is checked when it is opened: a request each would be slow
        _check_sizes(pack)
    return pack


def _check_sizes(pack: Pack) -> None:
    folder = pack.folder.local()
    for block in pack.shards.blocks():
        for name, told in zip(block.names.to_pylist(), block.bytes.tolist(), strict=True):
            with contextlib.suppress(OSError):  # told of below: a Location takes ten times as long
                found = os.stat(f"{folder}/{name}")  # noqa: PTH116
                if found.st_size == told and stat.S_ISREG(found.st_mode):
                    continue
            size = (pack.folder / name).size()
            if size != told:
                found = "missing" if size is None else size
                raise DataError(
                    f"shard {pack.folder / name} is {found}, not the {told} bytes of the index: pack or index again"
                )


def read_pack(data: PathLike, *, split: str) -> Pack:
    """Read the index of DATA/SPLIT, and trust it no further: whether the shards are as it says isn't asked."""
    home = locate(data) / split
    path = home / format.INDEX_NAME
    if path.size() is None:
        raise UsageError(_missing(locate(data), split))
    file = IndexFile(path)
    about, schema = file.about, file.schema
    folder = shards_folder(about.get("base"), home=home)
    fault, shards = find_fault(about, schema=schema), None
    if folder is None:
        fault = f"says that its shards lie in {reprlib.repr(about['base'])}, which no reader can go to from here"
    if not fault:
        shards = decode_shards(file.listing, count=about["shards"])
        fault = find_shards_fault(shards, group_edges=file.group_edges)
    if folder is None or shards is None or fault:
        raise DataError(f"{path} {fault}: pack or index again")
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
