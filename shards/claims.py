"""claims: what an index says of its split -> what is wrong with it, before a row or a shard is looked at."""

import reprlib
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import pyarrow as pa

from shards import audio, format
from shards.index_file import MAX_CLASSES, PLACE
from shards.remote import Location, locate

MAX_SHARD_BYTES = 1 << 50
MAX_SHARD_ROWS = 1 << 22  # a shard's rows are loaded at once: 4 million take 400 MB
LEAST_ROW_BYTES = 2 * format.BLOCK  # of a tar: a member's header and one block
SCHEMES = ("abfs", "abfss", "file", "gcs", "gs", "http", "https", "s3")  # where shards may lie that aren't beside it
KINDS = {"split": str, "sample_rate": int, "codec": str, "shards": list, "classes": dict, "options": dict}


def find_fault(about: Mapping[str, Any], *, schema: pa.Schema, group_rows: Sequence[int]) -> str | None:
    """Tell what is wrong with an index's metadata, columns and row groups; None where nothing is."""
    for name, kind in KINDS.items():
        if type(about.get(name)) is not kind:
            return f"says {name} {reprlib.repr(about.get(name))}"
    if not 1 <= about["sample_rate"] <= format.MAX_SAMPLE_RATE:
        return f"says sample_rate {about['sample_rate']}"
    if about["codec"] not in audio.CODECS:
        return f"says codec {reprlib.repr(about['codec'])}"
    if not format.SPLIT_NAME.fullmatch(about["split"]):
        return f"says split {reprlib.repr(about['split'])}"
    return (
        _columns_fault(schema, classes=about["classes"])
        or _shards_fault(about["shards"])
        or _rows_fault([shard["rows"] for shard in about["shards"]], group_rows=group_rows)
        or _room_fault(about["shards"])
    )


def _columns_fault(schema: pa.Schema, *, classes: Mapping[str, Any]) -> str | None:
    if len(set(schema.names)) < len(schema.names):
        return "has two columns of one name"
    for field in PLACE:
        if schema.get_field_index(field.name) < 0 or schema.field(field.name).type != field.type:
            return f"lacks the column {field.name} of type {field.type}"
    for column, names in classes.items():
        if column not in schema.names or not pa.types.is_string(schema.field(column).type):
            return f"has classes of {column!r}, which is not a column of text"
        if type(names) is not list or len(names) > MAX_CLASSES or any(type(name) is not str for name in names):
            return f"has classes of {column!r} that are not up to {MAX_CLASSES:,} names"
    return None


def _shards_fault(shards: Sequence[Any]) -> str | None:
    if len(shards) > format.MAX_SHARDS:
        return f"has {len(shards):,} shards, over {format.MAX_SHARDS:,}"
    seen = set()
    for shard in shards:
        kinds = [(name, type(value)) for name, value in shard.items()] if type(shard) is dict else []
        if sorted(kinds, key=str) != [("bytes", int), ("hash", str), ("name", str), ("rows", int)]:
            return f"describes a shard as {reprlib.repr(shard)}"
        if not format.SHARD_NAME.fullmatch(shard["name"]):
            return f"names a shard {reprlib.repr(shard['name'])}, which is not a plain file name"
        if shard["name"] in seen:
            return f"names shard {shard['name']} twice"
        if shard["rows"] < 0 or not 0 <= shard["bytes"] <= MAX_SHARD_BYTES:
            return f"says that {shard['name']} has {shard['rows']} rows and {shard['bytes']} bytes"
        seen.add(shard["name"])
    return None


def _rows_fault(told: Sequence[int], *, group_rows: Sequence[int]) -> str | None:
    if sum(told) != sum(group_rows) or not sum(told):
        return f"has {sum(group_rows)} rows, its shards {sum(told)}"
    if list(told) != list(group_rows):
        at = next((i for i, (rows, there) in enumerate(zip(told, group_rows, strict=False)) if rows != there), 0)
        return f"has {len(group_rows)} row groups for {len(told)} shards, or unlike them from number {at} on"
    return None


def _room_fault(shards: Sequence[Mapping[str, Any]]) -> str | None:
    """A row group of equal rows takes a few bytes on the disk, and any number of them in memory."""
    for shard in shards:
        if shard["rows"] > min(MAX_SHARD_ROWS, shard["bytes"] // LEAST_ROW_BYTES):
            return (
                f"says that {shard['name']} has {shard['rows']:,} rows, too many for {shard['bytes']:,} bytes or for us"
            )
    return None


def shards_folder(base: Any, *, home: Location) -> Location | None:
    """Tell where an index in `home` says that its shards lie; None where it can't say so."""
    if base is None:
        return home
    if type(base) is not str or "\0" in base:
        return None
    if "://" in base:
        # as it is written: urlsplit would take FILE:// and a blank before it for file://
        known = base.partition("://")[0] in SCHEMES
        return locate(base) if known and not _is_local(base, home=home) else None
    return None if home.is_url or not PurePath(base).is_absolute() else locate(base)


def _is_local(base: str, *, home: Location) -> bool:
    """An index from elsewhere has nothing to say of this machine's files."""
    return base.startswith("file:") and home.is_url and not home.text.startswith("file:")
