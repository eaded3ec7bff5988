"""index_writer: shards' tables -> index.parquet, one row group a shard. One table is held at a time."""

import dataclasses
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shards import format
from shards.index_file import MAX_CLASSES, META_KEY, PLACE, Shard
from shards.remote import PathLike, locate


def write_index(
    folder: PathLike,
    *,
    split: str,
    sample_rate: int,
    codec: str,
    shards: Sequence[Shard],
    tables: Iterable[pa.Table],
    options: Mapping[str, Any],
    base: str | None = None,
) -> None:
    """Write FOLDER's index.parquet, whole or not at all: one row group a shard, the rest in its metadata.

    `tables` are gone through twice, first for the classes, then for the rows: give a list, or an object whose
    `__iter__` reads them anew, so that one is held at a time. `base` is where the shards lie, if not in FOLDER.
    """
    if isinstance(tables, Iterator):
        raise TypeError("tables are gone through twice: give a list, or an object that can begin again")
    classes, schema = find_classes(tables)
    about = {
        "version": format.VERSION,
        "split": split,
        "sample_rate": sample_rate,
        "codec": codec,
        "shards": [dataclasses.asdict(shard) for shard in shards],
        "classes": classes,
        "options": dict(options),
    } | ({} if base is None else {"base": base})
    schema = schema.with_metadata({META_KEY: json.dumps(about)})
    place = locate(folder) / format.INDEX_NAME
    if place.is_url:
        with tempfile.TemporaryDirectory() as here:
            written = Path(here) / format.INDEX_NAME
            _write(written, tables, schema=schema)
            place.upload(written)
        return
    temporary = place.path.with_name(f".{format.INDEX_NAME}.tmp")
    try:
        _write(temporary, tables, schema=schema)
        format.replace_file(temporary, place.path)
    finally:
        temporary.unlink(missing_ok=True)


def _write(path: Path, tables: Iterable[pa.Table], *, schema: pa.Schema) -> None:
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table.replace_schema_metadata(schema.metadata), row_group_size=max(1, table.num_rows))


def find_classes(tables: Iterable[pa.Table]) -> tuple[dict[str, list[str]], pa.Schema]:
    """List the sorted values of each text column that can be a label, and the tables' schema.

    A column can't be one that repeats the key, or that has more than MAX_CLASSES values.
    """
    schema = pa.schema([])
    found: dict[str, set[str]] = {}
    repeats: set[str] = set()
    for number, table in enumerate(tables):
        if number == 0:
            schema = table.schema
            found = {field.name: set() for field in schema if _is_text(field)}
            repeats = set(found)
        repeats = {name for name in repeats & found.keys() if table[name].equals(table["key"])}
        for name in list(found):
            found[name].update(table[name].unique().drop_null().to_pylist())
            if len(found[name]) > MAX_CLASSES:
                del found[name]
    return {name: sorted(names) for name, names in found.items() if name not in repeats}, schema


def _is_text(field: pa.Field) -> bool:
    return field.name not in PLACE.names and pa.types.is_string(field.type)
