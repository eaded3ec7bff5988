"""index_file: index.parquet -> what it says of the whole split, and its rows, a shard's row group at a time.

    footer ── schema, metadata "notestream": split, rate, codec, shards, classes     read at once, costs no row
    row group 0 | row group 1 | ...   one a shard                                    read when a shard is needed

An index is foreign input. Here it is held against its own shape; shards.index and shards.parts judge what it says.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from shards import format
from shards.errors import DataError
from shards.remote import Location, reaching

META_KEY = b"notestream"
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

    def __getstate__(self) -> dict[str, object]:
        return {"place": self.place, "_parquet": None, "_mark": self._mark}

    @property
    def schema(self) -> pa.Schema:
        """The columns, without metadata."""
        return self._open().schema_arrow.remove_metadata()

    @property
    def about(self) -> dict[str, Any]:
        """The index's own metadata, of our version."""
        return _parse_about(self._open().schema_arrow, place=self.place)

    @property
    def group_rows(self) -> list[int]:
        """Count the rows of each row group."""
        footer = self._open().metadata
        return [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]

    def group(self, number: int, *, columns: Sequence[str] | None = None) -> pa.Table:
        """Read one shard's rows.

        Raises:
            DataError: they can't be read, hold text that isn't UTF-8, or lack a place.
        """
        parquet = self._open()
        with _whole(self.place):
            # one thread: a reader is one of many, and a row group is small
            return self._valid(parquet.read_row_group(number, columns=columns, use_threads=False))

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Read some columns of all rows (see group)."""
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
            mark = xxhash.xxh3_64_hexdigest((parquet.schema_arrow.metadata or {}).get(META_KEY, b""))
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
    return _parse_about(schema, place=place)


def _parse_about(schema: pa.Schema, *, place: Location) -> dict[str, Any]:
    try:
        about = json.loads((schema.metadata or {}).get(META_KEY, b"{}"))
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
