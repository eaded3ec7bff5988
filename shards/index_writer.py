"""index_writer: shards' tables -> index.parquet, a row group a shard. One row group is held at a time.

A footer tells of each column of each row group, a kilobyte of memory each: beyond MOST_GROUPS shards, a row group holds
several, always whole ones.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shards import format
from shards.index_file import MAX_CLASSES, META_KEY, PLACE, SHARDS_KEY, Shard
from shards.listing import encode_shards, gather
from shards.remote import PathLike, locate

MOST_GROUPS = 2048  # 45 MB of an open footer with NSynth's columns
MOST_GROUP_ROWS = 1 << 19  # of several shards


def write_index(
    folder: PathLike,
    *,
    split: str,
    sample_rate: int,
    codec: str,
    shards: Iterable[Shard],
    tables: Iterable[pa.Table],
    options: Mapping[str, Any],
    base: str | None = None,
) -> None:
    """Write FOLDER's index.parquet, whole or not at all: a row group a shard, the rest in its metadata.

    `tables` are gone through twice, first for the classes, then for the rows: give a list, or an object whose
    `__iter__` reads them anew, so that few are held at a time. `base` is where the shards lie, if not in FOLDER.
    """
    if isinstance(tables, Iterator):
        raise TypeError("tables are gone through twice: give a list, or an object that can begin again")
    classes, schema = find_classes(tables)
    columns = gather(shards)
    about = {
        "version": format.VERSION,
        "split": split,
        "sample_rate": sample_rate,
        "codec": codec,
        "shards": len(columns),
        "classes": classes,
        "options": dict(options),
    } | ({} if base is None else {"base": base})
    told = {META_KEY: json.dumps(about), SHARDS_KEY: encode_shards(columns)}
    groups = group_tables(tables, most=-(-len(columns) // MOST_GROUPS))
    place = locate(folder) / format.INDEX_NAME
    if place.is_url:
        with tempfile.TemporaryDirectory() as here:
            written = Path(here) / format.INDEX_NAME
            _write(written, groups, schema=schema, told=told)
            place.upload(written)
        return
    temporary = place.path.with_name(f".{format.INDEX_NAME}.tmp")
    try:
        _write(temporary, groups, schema=schema, told=told)
        format.replace_file(temporary, place.path)
    finally:
        temporary.unlink(missing_ok=True)


def _write(path: Path, groups: Iterable[pa.Table], *, schema: pa.Schema, told: Mapping[bytes, str | bytes]) -> None:
    # ARROW:schema would hide what is told from who reads the file by Arrow; of our types parquet's own say enough
    with pq.ParquetWriter(path, schema, compression="zstd", store_schema=False) as writer:
        for table in groups:
            writer.write_table(table, row_group_size=max(1, table.num_rows))
        writer.add_key_value_metadata(told)


def group_tables(tables: Iterable[pa.Table], *, most: int) -> Iterator[pa.Table]:
    """Put up to `most` shards' tables together, and up to MOST_GROUP_ROWS rows unless one alone has more."""
    group: list[pa.Table] = []
    rows = 0
    for table in tables:
        if group and (len(group) == most or rows + len(table) > MOST_GROUP_ROWS):
            yield _join(group)
            group, rows = [], 0
        group.append(table)
        rows += len(table)
    if group:
        yield _join(group)


def _join(tables: Sequence[pa.Table]) -> pa.Table:
    # each chunk of each column costs a call of its own in writing
    return tables[0] if len(tables) == 1 else pa.concat_tables(tables).combine_chunks()


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
