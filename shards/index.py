"""index: a pack's parquet file -> rows, shards, classes. One row a sample: where its audio is, and its labels.

An index is foreign input: names, offsets, sizes and rates are checked against the files before anything is read.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from shards import format
from shards.errors import DataError, UsageError
from shards.remote import Location, PathLike, locate

META_KEY = b"notestream"
MAX_CLASSES = 10_000  # a text column with more values is a description, not a label
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pack:
    """An opened split: what the index says, checked. Rows are numbered in index order."""

    folder: Location
    split: str
    sample_rate: int
    codec: str
    shards: tuple[Shard, ...]
    classes: Mapping[str, tuple[str, ...]]
    options: Mapping[str, Any]
    table: pa.Table

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
        return self.table.num_rows

    @cached_property
    def fingerprint(self) -> str:
        """Hash what is in the pack: ordered shard names, rows and hashes. Never where it lies, or when it was made."""
        told = json.dumps([[shard.name, shard.rows, shard.hash] for shard in self.shards])
        return xxhash.xxh3_128_hexdigest(told.encode())

    @cached_property
    def shard_numbers(self) -> NDArray[np.int32]:
        """Number the shard of each row, (rows,)."""
        return np.repeat(np.arange(len(self.shards), dtype=np.int32), [shard.rows for shard in self.shards])

    @cached_property
    def places(self) -> dict[str, NDArray[Any]]:
        """Hold offset, size, crc32, length and sounding_length as arrays, (rows,) each."""
        names = ("offset", "size", "crc32", "length", "sounding_length")
        return {name: self.table[name].to_numpy() for name in names}

    @cached_property
    def keys(self) -> pa.Array:
        """Hold the samples' keys."""
        return self.table["key"].combine_chunks()

    def label_ids(self, column: str, classes: Sequence[str]) -> NDArray[np.int64]:
        """Map a text column's values onto `classes` (train's, by name): (rows,) ids.

        Raises:
            UsageError: there is no such text column.
            DataError: a value is none of the classes.
        """
        if column not in self.classes:
            raise UsageError(
                f"label {column!r} is not a text column of {self.folder}: take one of {', '.join(self.classes)}"
            )
        ids = pc.index_in(self.table[column], value_set=pa.array(classes, pa.string()))  # pyright: ignore[reportAttributeAccessIssue]
        unknown = ids.null_count
        if unknown:
            strange = sorted(set(self.classes[column]) - set(classes))
            raise DataError(
                f"{unknown} rows of split {self.split!r} have a {column} that train doesn't know "
                f"({', '.join(map(repr, strange[:3]))}): drop them, or pack train anew with them"
            )
        return ids.to_numpy().astype(np.int64)


def class_names(table: pa.Table) -> dict[str, tuple[str, ...]]:
    """List the sorted values of each text column that can be a label; one that repeats the key can't."""
    found = {}
    for field in table.schema:
        if field.name not in PLACE.names and pa.types.is_string(field.type):
            values = table[field.name].unique().drop_null()
            if len(values) <= MAX_CLASSES and not table[field.name].equals(table["key"]):
                found[field.name] = tuple(sorted(values.to_pylist()))
    return found


def write_index(
    folder: Path,
    *,
    split: str,
    sample_rate: int,
    codec: str,
    shards: Sequence[Shard],
    tables: Sequence[pa.Table],
    options: Mapping[str, Any],
) -> None:
    """Write index.parquet by a rename: one row group a shard, the rest in its metadata under the key `notestream`."""
    table = pa.concat_tables(tables)
    about = {
        "version": format.VERSION,
        "split": split,
        "sample_rate": sample_rate,
        "codec": codec,
        "shards": [dataclasses.asdict(shard) for shard in shards],
        "classes": class_names(table),
        "options": dict(options),
    }
    schema = table.schema.with_metadata({META_KEY: json.dumps(about)})
    temporary = folder / f".{format.INDEX_NAME}.tmp"
    try:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for part in tables:
                writer.write_table(part.replace_schema_metadata(schema.metadata), row_group_size=max(1, part.num_rows))
        format.replace_file(temporary, folder / format.INDEX_NAME)
    finally:
        temporary.unlink(missing_ok=True)


def read_about(path: Location) -> dict[str, Any]:
    """Read an index's own metadata and check its version; costs no row."""
    try:
        with path.open() as file:
            schema = pq.read_schema(file)
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a parquet file that can be read ({error}): pack or index again") from error
    about = json.loads((schema.metadata or {}).get(META_KEY, b"{}"))
    if about.get("version") != format.VERSION:
        raise DataError(
            f"{path} is an index of version {about.get('version')}, this program reads {format.VERSION}: "
            "pack or index again with this program"
        )
    return about


def open_pack(data: PathLike, *, split: str) -> Pack:
    """Open the index of DATA/SPLIT and check it against its shards (see Pack.open)."""
    pack = read_pack(data, split=split)
    _check(pack)
    return pack


def read_pack(data: PathLike, *, split: str) -> Pack:
    """Read the index of DATA/SPLIT, and trust it no further: whether the shards are as it says isn't asked."""
    folder = locate(data) / split
    path = folder / format.INDEX_NAME
    if path.size() is None:
        raise UsageError(_missing(locate(data), split))
    about = read_about(path)
    try:
        pack = Pack(
            folder=folder,
            split=about["split"],
            sample_rate=about["sample_rate"],
            codec=about["codec"],
            shards=tuple(Shard(**shard) for shard in about["shards"]),
            classes={column: tuple(names) for column, names in about["classes"].items()},
            options=about["options"],
            table=_read_table(path),
        )
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        told = " ".join(str(error).split())
        raise DataError(f"{path} is damaged and can't be read ({told}): pack or index again") from error
    for shard in pack.shards:
        if not format.SHARD_NAME.fullmatch(shard.name):
            raise DataError(f"{path} names a shard {shard.name!r}, which is not a plain file name: pack or index again")
    if pack.rows != sum(shard.rows for shard in pack.shards) or not pack.rows:
        told = sum(shard.rows for shard in pack.shards)
        raise DataError(f"{path} has {pack.rows} rows, its shards {told}: pack or index again")
    return pack


def splits_of(data: PathLike) -> list[str]:
    """List the splits of DATA that have an index."""
    root = locate(data)
    return [name for name in root.children() if (root / name / format.INDEX_NAME).size() is not None]


def _read_table(path: Location) -> pa.Table:
    with path.open() as file:
        return pq.read_table(file, read_dictionary=["shard"]).replace_schema_metadata()


def _missing(data: Location, split: str) -> str:
    if not data.is_url and not data.path.exists():
        return f"data folder {data} does not exist: pack one with `python -m shards pack SRC {data} --split {split}`"
    there = splits_of(data)
    found = f"it holds the splits {', '.join(there)}" if there else "it holds no finished split"
    return f"split {split!r} is not in {data} ({found}): `python -m shards pack SRC {data} --split {split}` makes it"


def _check(pack: Pack) -> None:
    """Refuse an index that could make a reader leave the folder, over-read or over-allocate."""
    path = pack.folder / format.INDEX_NAME
    again = "pack or index again"
    if not 1 <= pack.sample_rate <= 1_000_000:
        raise DataError(f"{path} says sample_rate {pack.sample_rate}: {again}")
    for shard in pack.shards:
        file = pack.folder / shard.name
        # a remote shard is checked when it is opened: a request each would make opening slow
        size = shard.bytes if file.is_url else file.size()
        if size != shard.bytes:
            found = "missing" if size is None else size
            raise DataError(f"shard {file} is {found}, not the {shard.bytes} bytes of the index: {again}")
    offset, size = pack.places["offset"], pack.places["size"]
    limit = np.array([shard.bytes for shard in pack.shards])[pack.shard_numbers]
    bad = np.flatnonzero((offset < 0) | (size < 1) | (size > format.MAX_SAMPLE_BYTES) | (offset + size > limit))
    if len(bad):
        raise DataError(f"{path} places {pack.keys[int(bad[0])]} outside its shard: {again}")
    named = pc.equal(  # pyright: ignore[reportAttributeAccessIssue]
        pc.cast(pack.table["shard"], pa.string()),
        pa.array(np.array([shard.name for shard in pack.shards], object)[pack.shard_numbers]),
    )
    if not pc.all(named).as_py():  # pyright: ignore[reportAttributeAccessIssue]
        raise DataError(f"{path} has rows that are not in the order of its shards: {again}")
