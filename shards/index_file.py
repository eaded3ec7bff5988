"""index_file: index.parquet -> what it says of the whole split, and its rows, a shard's at a time.

    footer ── schema, metadata "notestream": split, rate, codec, classes; the shards     read at once, costs no row
    row group 0 | row group 1 | ...   whole shards, mostly one each                      read when a shard is needed

An index is foreign input. Here it is held against its own shape; shards.index and shards.parts judge what it says.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from shards import format
from shards.errors import DataError
from shards.remote import Location, reaching

META_KEY = b"notestream"
SHARDS_KEY = b"notestream.shards"
MAX_CLASSES = 10_000  # a text column with more values is a description, not a label
SCAN_ROWS = 1 << 16  # a batch of a scan
PLACE = pa.schema(
    [
        ("shard", pa.dictionary(pa.int32(), pa.string())),
        ("key", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int32()),
        ("crc32", pa.uint32()),
        ("length", pa.int32()),
        ("sounding_length", pa.int32()),
    ]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar: its file name, rows, bytes and xxh3-128 of the whole file."""

    name: str
    rows: int
    bytes: int
    hash: str


class IndexFile:
    """An open index.parquet. Pickles as its place, and is opened anew in the process that it comes to.

    A local file is read where it lies; one at a URL is fetched whole, once a process.
    """

    def __init__(self, place: Location) -> None:
        self.place = place
        self._parquet: pq.ParquetFile | None = None
        self._mark: str | None = None  # of the metadata: an index that was replaced since is no longer this one
        self._held: tuple[object, pa.Table] | None = None  # a row group of many shards: the next is often its neighbour
        self._edges: NDArray[np.int64] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"place": self.place, "_parquet": None, "_mark": self._mark, "_held": None, "_edges": self._edges}

    @property
    def schema(self) -> pa.Schema:
        """The columns, without metadata."""
        return self._open().schema_arrow.remove_metadata()

    @property
    def about(self) -> dict[str, Any]:
        """The index's own metadata, of our version."""
        return _parse_about(self._open().metadata.metadata, place=self.place)

    @property
    def listing(self) -> bytes:
        """The text of the shards (see shards.listing)."""
        return (self._open().metadata.metadata or {}).get(SHARDS_KEY, b"")

    @property
    def group_edges(self) -> NDArray[np.int64]:
        """Number the first row of each row group, and the row past the last: (groups + 1,)."""
        if self._edges is None:
            footer = self._open().metadata
            rows = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
            self._edges = np.cumsum([0, *rows], dtype=np.int64)
        return self._edges

    def rows(self, first: int, count: int, *, columns: Sequence[str] | None = None) -> pa.Table:
        """Read `count` rows from number `first` on, which lie in one row group.

        Raises:
            DataError: they can't be read, hold text that isn't UTF-8, or lack a place.
        """
        edges = self.group_edges
        number = min(int(edges.searchsorted(first, side="right")), len(edges) - 1) - 1  # no rows lie past the last too
        begin, past = edges[number : number + 2].tolist()
        with _whole(self.place):
            if (begin, past) == (first, first + count):
                return self._valid(self._group(number, columns))
            if self._held is None or self._held[0] != (number, columns):
                self._held = (number, columns), self._group(number, columns)
            # a copy: a slice would keep all of the row group in memory for as long as the shard's rows are held
            # pa.array would import pandas where there is one: 45 MB and 0.3 s in every reader
            all_ = pa.Int64Array.from_buffers(pa.int64(), count, [None, pa.py_buffer(np.arange(count))])
            return self._valid(self._held[1].slice(first - begin, count).take(all_))

    def _group(self, number: int, columns: Sequence[str] | None) -> pa.Table:
        # one thread: a reader is one of many, and a row group is small
        return self._open().read_row_group(number, columns=columns, use_threads=False)

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Read some columns of all rows (see rows)."""
        parquet = self._open()
        with _whole(self.place):
            return self._valid(parquet.read(columns=columns))

    def scan(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Read some columns of all rows in order, a batch at a time, in memory that doesn't grow with the rows."""
        parquet = self._open()
        with _whole(self.place):
            for batch in parquet.iter_batches(SCAN_ROWS, columns=columns, use_threads=False):
                yield self._valid(pa.Table.from_batches([batch]))

    def _valid(self, table: pa.Table) -> pa.Table:
        table = table.replace_schema_metadata()
        table.validate(full=True)
        for name in table.column_names:
            if name in PLACE.names and table[name].null_count:
                raise DataError(f"{self.place} has rows without {name}: pack or index again")
        return table

    def _open(self) -> pq.ParquetFile:
        if self._parquet is None:
            parquet = open_parquet(self.place)
            pa.default_memory_pool().release_unused()  # of a large footer's bytes, now that it's read
            told = parquet.metadata.metadata or {}
            mark = xxhash.xxh3_64_hexdigest(told.get(META_KEY, b"") + told.get(SHARDS_KEY, b""))
            if mark != (self._mark or mark):
                raise DataError(f"{self.place} is another than when it was opened first: start again")
            self._parquet, self._mark = parquet, mark
        return self._parquet


def open_parquet(place: Location) -> pq.ParquetFile:
    """Open a parquet file by its footer; one at a URL is fetched whole.

    Raises:
        DataError: it isn't there, or is no parquet file.
    """
    source = pa.BufferReader(place.read_bytes()) if place.is_url else place.open()
    with _parquet(place):
        return pq.ParquetFile(source, read_dictionary=["shard"])


def read_about(place: Location) -> dict[str, Any]:
    """Read an index's own metadata and check its version; costs no row."""
    with reaching(place), _parquet(place), place.open() as file:
        schema = pq.read_schema(file)
    return _parse_about(schema.metadata, place=place)


def _parse_about(told: Mapping[bytes, bytes] | None, *, place: Location) -> dict[str, Any]:
    try:
        about = json.loads((told or {}).get(META_KEY, b"{}"))
    except (ValueError, RecursionError) as error:
        raise _damaged(place, error) from error
    version = about.get("version") if isinstance(about, dict) else None
    if version != format.VERSION:
        raise DataError(
            f"{place} is an index of version {version}, this program reads {format.VERSION}: "
            "pack or index again with this program"
        )
    return about


@contextlib.contextmanager
def _parquet(place: Location) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, UnicodeError) as error:
        told = " ".join(str(error).split())
        raise DataError(f"{place} is not a parquet file that can be read ({told}): pack or index again") from error


@contextlib.contextmanager
def _whole(place: Location) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _damaged(place, error) from error


def _damaged(place: Location, error: Exception) -> DataError:
    told = " ".join(str(error).split())
    return DataError(f"{place} is damaged and can't be read ({told}): pack or index again")
