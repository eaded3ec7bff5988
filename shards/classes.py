"""classes: a label's column -> the names of its classes, and rows' targets in a list of names.

    column of          a row has     its classes                          its target
    text               one class     the values, sorted                   id
    whole numbers      one class     the values in numeric order          id
    lists of text      any number    the names found, sorted              0 or 1 for each class
    0/1 vectors        any number    its places, 0 to n - 1               0 or 1 for each class

Numbers are named by their text.
A column of whole numbers called pitch is MIDI's: its classes are all 128, whatever the split holds, since it can be
moved. A vector of ten called qualities is NSynth's, whose names are known.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shards.errors import DataError, UsageError
from shards.fields import QUALITIES
from shards.index_file import MAX_CLASSES, PLACE

MIDI = "pitch"
MIDI_CLASSES = tuple(map(str, range(128)))
Kind = Literal["text", "numbers", "names", "flags"]
KINDS = {"text": "text", "numbers": "whole numbers", "names": "lists of text", "flags": "0/1 vectors"}
MANY = ("names", "flags")  # any number of classes a row
Found = tuple[NDArray[Any], int, Collection[str]]


def is_midi(label: str, classes: Collection[str]) -> bool:
    """Tell whether a label's classes are MIDI's pitches."""
    return label == MIDI and tuple(classes) == MIDI_CLASSES


def label_kinds(schema: pa.Schema, text: Iterable[str]) -> dict[str, Kind]:
    """Tell what can be a label, and of what kind: first the columns of text that have classes, then the rest."""
    kinds: dict[str, Kind] = dict.fromkeys(text, "text")
    others = [(field.name, _kind(field.type)) for field in schema if field.name not in PLACE.names]
    for wanted in KINDS:
        kinds |= {name: kind for name, kind in others if kind is not None and kind == wanted}
    return kinds


def _kind(column: pa.DataType) -> Kind | None:
    if pa.types.is_integer(column):
        return "numbers"
    if not (pa.types.is_list(column) or pa.types.is_large_list(column) or pa.types.is_fixed_size_list(column)):
        return None
    held = column.value_type
    if pa.types.is_string(held):
        return "names"
    return "flags" if pa.types.is_integer(held) or pa.types.is_boolean(held) else None


def find_names(tables: Iterable[pa.Table], column: str, *, kind: Kind) -> tuple[str, ...]:
    """Name the classes of a column that isn't text.

    Raises:
        UsageError: it has too many, or none.
    """
    if kind == "numbers" and column == MIDI:
        return MIDI_CLASSES
    if kind == "flags":
        return _flag_names(tables, column)
    found: set[Any] = set()
    for table in tables:
        values = table[column].combine_chunks()
        found |= set((values.flatten() if kind == "names" else values).unique().drop_null().to_pylist())
        _check_count(column, len(found))
    if not found and kind == "names":
        raise UsageError(f"label {column!r} names no class in any row: take another")
    return tuple(map(str, sorted(found)))


def _flag_names(tables: Iterable[pa.Table], column: str) -> tuple[str, ...]:
    """Name the places of a 0/1 vector by its first row; the others are held against it where they're read."""
    for table in tables:
        for length in pc.list_value_length(table[column]).drop_null().to_pylist():  # pyright: ignore[reportAttributeAccessIssue]
            _check_count(column, length)
            if not length:
                raise UsageError(f"label {column!r} begins with an empty vector: take another")
            return QUALITIES if (column, length) == ("qualities", len(QUALITIES)) else tuple(map(str, range(length)))
    raise UsageError(f"label {column!r} has no vector in any row: take another")


def _check_count(column: str, count: int) -> None:
    if count > MAX_CLASSES:
        raise UsageError(f"label {column!r} must have up to {MAX_CLASSES:,} values to be classes: take another")


def read_blocks(
    tables: Iterable[pa.Table], column: str, *, kind: Kind, classes: Collection[str], split: str
) -> Iterator[NDArray[Any]]:
    """Yield rows' targets, a table's at a time, so that memory doesn't grow with the rows.

    Ids, (rows,), are of the smallest type that holds them; vectors are (rows, classes) uint8, 0 or 1.

    Raises:
        DataError: after the last table: a row's label is none of the classes.
    """
    known, unknown = pa.array(classes, pa.string()), 0
    strange: set[str] = set()
    for table in tables:
        found, lost, names = _FINDERS[kind](table[column].combine_chunks(), known)
        unknown, strange = unknown + lost, strange.union(names)
        yield found
    if unknown and kind == "flags":
        raise DataError(
            f"{unknown} rows of split {split!r} have a {column} that is no vector of {len(known)} zeros and ones: "
            "take another label, or drop them"
        )
    if unknown:
        raise DataError(
            f"{unknown} rows of split {split!r} have a {column} that train doesn't know "
            f"({', '.join(map(repr, sorted(strange)[:3])) or 'none at all'}): "
            "drop them, or pack train anew with them"
        )


def join_blocks(blocks: Iterable[NDArray[Any]], *, rows: int) -> NDArray[Any]:
    """Join blocks of `rows` rows in all; no more than one of them is held beside what they give."""
    joined, at = np.empty(0, np.uint8), 0
    for block in blocks:
        if not at:
            joined = np.empty((rows, *block.shape[1:]), block.dtype)
        joined[at : at + len(block)] = block
        at += len(block)
    return joined


def _find_ids(values: pa.Array, classes: pa.StringArray) -> Found:
    """Find values, (rows,), in `classes`: ids (rows,), how many rows have none, and some of those rows' values."""
    text = values if pa.types.is_string(values.type) else values.cast(pa.string())
    found = _index_in(text, classes)
    strange = text.filter(found.is_null()).unique().drop_null().to_pylist() if found.null_count else []
    ids = found.fill_null(0).to_numpy(zero_copy_only=False)
    return ids.astype(np.min_scalar_type(max(0, len(classes) - 1))), found.null_count, strange[:MAX_CLASSES]


def _find_names(values: pa.Array, classes: pa.StringArray) -> Found:
    """Find lists of names: vectors (rows, classes), how many rows hold an unknown one or no list, and some of them."""
    lengths, row = _rows_of(values)
    text = values.flatten()
    found = _index_in(text, classes)
    known = found.is_valid().to_numpy(zero_copy_only=False)
    vectors = np.zeros((len(values), len(classes)), np.uint8)
    vectors[row[known], found.drop_null().to_numpy()] = 1
    strange = text.filter(found.is_null()).unique().drop_null().to_pylist() if found.null_count else []
    return vectors, int((lengths < 0).sum()) + len(np.unique(row[~known])), strange[:MAX_CLASSES]


def _find_flags(values: pa.Array, classes: pa.StringArray) -> Found:
    """Take vectors of 0 and 1, (rows, classes), and count the rows that are none of this length."""
    lengths, row = _rows_of(values)
    held = values.flatten()
    flags = held.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    bad = lengths != len(classes)
    bad[row[(flags != 0) & (flags != 1)]] = True
    vectors = np.zeros((len(values), len(classes)), np.uint8)
    vectors[~bad] = flags[~bad[row]].reshape(-1, len(classes))
    return vectors, int(bad.sum()), ()


def _rows_of(lists: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each list's length, -1 for none, (rows,), and the row of each value that `flatten` gives."""
    lengths = pc.list_value_length(lists).fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)  # pyright: ignore[reportAttributeAccessIssue]
    return lengths, np.repeat(np.arange(len(lengths)), np.maximum(lengths, 0))


def _index_in(text: pa.Array, classes: pa.StringArray) -> pa.Int32Array:
    return pc.index_in(text, value_set=classes)  # pyright: ignore[reportAttributeAccessIssue]


_FINDERS = {"text": _find_ids, "numbers": _find_ids, "names": _find_names, "flags": _find_flags}
