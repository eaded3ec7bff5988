"""classes: a label's column -> the names of its classes, and rows' ids in a list of names. Numbers are named by text.

A label is a column of text, or of whole numbers: their classes are the values in numeric order. A column of whole
numbers called pitch is MIDI's: its classes are all 128, whatever the split holds, since it can be moved.
"""

from collections.abc import Collection, Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shards.errors import UsageError
from shards.index_file import MAX_CLASSES, PLACE

MIDI = "pitch"
MIDI_CLASSES = tuple(map(str, range(128)))


def label_columns(schema: pa.Schema, text: Iterable[str]) -> list[str]:
    """List what can be a label: the columns of text that have classes, then those of whole numbers."""
    numbers = (field.name for field in schema if pa.types.is_integer(field.type) and field.name not in PLACE.names)
    return [*text, *numbers]


def number_names(tables: Iterable[pa.Table], column: str) -> tuple[str, ...]:
    """Name the classes of a column of whole numbers.

    Raises:
        UsageError: it has too many.
    """
    if column == MIDI:
        return MIDI_CLASSES
    found: set[int] = set()
    for table in tables:
        found |= set(table[column].unique().drop_null().to_pylist())
        if len(found) > MAX_CLASSES:
            raise UsageError(f"label {column!r} must have up to {MAX_CLASSES:,} values to be classes: take another")
    return tuple(map(str, sorted(found)))


def find_ids(values: pa.ChunkedArray, classes: pa.StringArray) -> tuple[NDArray[np.int64], int, Collection[str]]:
    """Find values, (rows,), in `classes`: ids (rows,), how many rows have none, and some of those rows' values."""
    text = values if pa.types.is_string(values.type) else values.cast(pa.string())
    found = pc.index_in(text, value_set=classes)  # pyright: ignore[reportAttributeAccessIssue]
    strange = text.filter(found.is_null()).unique().drop_null().to_pylist() if found.null_count else []
    return found.fill_null(0).to_numpy(), found.null_count, strange[:MAX_CLASSES]
