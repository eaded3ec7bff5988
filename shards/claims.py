"""claims: what an index says of its split -> what is wrong with it, before a row or a shard is looked at."""

import reprlib
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shards import audio, format
from shards.index_file import MAX_CLASSES, PLACE
from shards.listing import Shards
from shards.remote import Location, locate

MAX_SHARD_BYTES = 1 << 50
MAX_SHARD_ROWS = 1 << 22  # a shard's rows are loaded at once: 4 million take 400 MB
LEAST_ROW_BYTES = 2 * format.BLOCK  # of a tar: a member's header and one block
SCHEMES = ("abfs", "abfss", "file", "gcs", "gs", "http", "https", "s3")  # where shards may lie that aren't beside it
KINDS = {"split": str, "sample_rate": int, "codec": str, "shards": int, "classes": dict, "options": dict}


def find_fault(about: Mapping[str, Any], *, schema: pa.Schema) -> str | None:
    """Tell what is wrong with an index's metadata and columns; None where nothing is. Its shards are told apart."""
    for name, kind in KINDS.items():
        if type(about.get(name)) is not kind:
            return f"says {name} {reprlib.repr(about.get(name))}"
    if not 1 <= about["sample_rate"] <= format.MAX_SAMPLE_RATE:
        return f"says sample_rate {about['sample_rate']}"
    if about["codec"] not in audio.CODECS:
        return f"says codec {reprlib.repr(about['codec'])}"
    if not format.SPLIT_NAME.fullmatch(about["split"]):
        return f"says split {reprlib.repr(about['split'])}"
    if not 1 <= about["shards"] <= format.MAX_SHARDS:
        return f"has {about['shards']:,} shards, which is none or over {format.MAX_SHARDS:,}"
    return _columns_fault(schema, classes=about["classes"])


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


def find_shards_fault(shards: Shards | None, *, group_edges: NDArray[np.int64]) -> str | None:
    """Tell what is wrong with what an index says of its shards; None where nothing is.

    `group_edges`, (groups + 1,), are the first rows of its row groups, and the row past the last.
    """
    if shards is None:
        return "has a list of shards that can't be read, or is of another length than it says"
    return (
        _names_fault(shards.names)
        or _numbers_fault(shards, rows=int(group_edges[-1]))
        or _groups_fault(shards, edges=group_edges)
    )


def _names_fault(names: pa.StringArray) -> str | None:
    # A name can't lead out of the folder. A link that lies there may: an index can't make one, and people link shards
    # on purpose, as git-annex and Hugging Face's cache do. What it leads to must be the index's bytes. They are looked
    # at as bytes, since they needn't be UTF-8.
    plain = pc.match_substring_regex(names.view(pa.binary()), pattern=rf"\A(?:{format.SHARD_NAME.pattern})\z")  # pyright: ignore[reportAttributeAccessIssue]
    if not pc.all(plain).as_py():  # pyright: ignore[reportAttributeAccessIssue]
        told = names.view(pa.binary())[plain.to_pylist().index(False)].as_py().decode(errors="replace")
        return f"names a shard {reprlib.repr(told)}, which is not a plain file name"
    # sorted, as nearly all are, they need no table of 130 MB
    rising = pc.all(pc.less(names[:-1], names[1:])).as_py()  # pyright: ignore[reportAttributeAccessIssue]
    if not rising and pc.count_distinct(names).as_py() < len(names):  # pyright: ignore[reportAttributeAccessIssue]
        twice = next(one["values"] for one in names.value_counts().to_pylist() if one["counts"] > 1)
        return f"names shard {twice} twice"
    return None


def _numbers_fault(shards: Shards, *, rows: int) -> str | None:
    told, sizes = shards.rows, shards.bytes
    bad = np.flatnonzero((told < 0) | (sizes < 0) | (sizes > MAX_SHARD_BYTES))
    if len(bad):
        shard = shards[int(bad[0])]
        return f"says that {shard.name} has {shard.rows} rows and {shard.bytes} bytes"
    if shards.starts[-1] != rows or not rows:
        return f"has {rows} rows, its shards {shards.starts[-1]}"
    # a row group of equal rows takes a few bytes on the disk, and any number of them in memory
    bad = np.flatnonzero(told > np.minimum(MAX_SHARD_ROWS, sizes // LEAST_ROW_BYTES))
    if len(bad):
        shard = shards[int(bad[0])]
        return f"says that {shard.name} has {shard.rows:,} rows, too many for {shard.bytes:,} bytes or for us"
    return None


def _groups_fault(shards: Shards, *, edges: NDArray[np.int64]) -> str | None:
    starts, rows = shards.starts, np.diff(edges)
    if rows.min() < 0 or rows.max() > MAX_SHARD_ROWS:
        return f"has row groups of {rows.min():,} to {rows.max():,} rows, outside 0..{MAX_SHARD_ROWS:,}"
    cut = edges[starts[np.searchsorted(starts, edges)] != edges]
    if len(cut):
        shard = shards[int(np.searchsorted(starts, cut[0])) - 1]
        return f"has a row group that ends inside {shard.name}, at row {cut[0]}"
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
