"""labels: json, cls and txt members -> label columns, each of one type over all shards.

What an index can hold is plain: text, numbers, true and false, or lists of them. An object or a list of lists becomes
its JSON text, and then so does its whole column. JSON has no NaN, but Python writes it for what is missing: it's null.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from shards.errors import DataError
from shards.index_file import PLACE

EXTENSIONS = ("json", "cls", "txt")
MAX_BYTES = 1 << 20  # of one member
MAX_COLUMNS = 1000
MAX_NAME_LENGTH = 255  # of a column
KEPT = frozenset(PLACE.names)


def read_labels(extension: str, data: bytes, *, name: str) -> dict[str, Any]:
    """Read one member's labels: a json's fields, or the text of cls and txt under their own names.

    Raises:
        DataError: it's no JSON object or no UTF-8, or an infinity is in it.
    """
    try:
        text = data.decode("utf-8-sig")
        labels = _DECODER.decode(text) if extension == "json" else {extension: text.strip()}
        if not isinstance(labels, dict):
            raise DataError(f"{name} holds no JSON object but {text[:20]!r}: write one with a field a label")
        return {_column(field, labels, name=name): _plain(value) for field, value in labels.items()}
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} can't be read as labels ({error}): make it anew as UTF-8") from error


def _constant(text: str) -> None:
    if text != "NaN":
        raise ValueError(f"{text} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_constant)


class Nested(str):
    """The JSON text of a value that no column can hold."""

    __slots__ = ()


def _column(field: str, labels: Mapping[str, Any], *, name: str) -> str:
    if field in KEPT and f"label_{field}" not in labels:
        return f"label_{field}"  # the index keeps these names for itself, and a tar of others isn't rewritten
    if field in KEPT or not field.isprintable() or not 0 < len(field) <= MAX_NAME_LENGTH:
        raise DataError(f"{name} has a label {field[:40]!r}, which can't name a column: rename it")
    return field


def _plain(value: Any) -> Any:
    nested = type(value) is dict or (type(value) is list and any(type(item) in (dict, list) for item in value))
    return Nested(json.dumps(value, ensure_ascii=False)) if nested else value


class Columns:
    """The schema that all labels seen so far fit into."""

    def __init__(self) -> None:
        self.schema = pa.schema([])
        self.nested: set[str] = set()

    def table(self, rows: Sequence[Mapping[str, Any]], *, name: str) -> pa.Table:
        """Make a table of labels, (rows,) each, whose types hold for these rows alone.

        Raises:
            DataError: a column has values of different types, or there are more columns than an index can hold.
        """
        names = list(dict.fromkeys(field for row in rows for field in row))
        if len({*names, *self.schema.names}) > MAX_COLUMNS:
            raise DataError(f"{name} brings the labels to over {MAX_COLUMNS:,} columns: keep what varies in a list")
        arrays = []
        for field in names:
            values = [row.get(field) for row in rows]
            if any(type(value) is Nested for value in values):
                self.nested.add(field)
            if field in self.nested:
                values = [_as_text(value) for value in values]
            try:
                arrays.append(pa.array(values))
            except (pa.ArrowException, ValueError, OverflowError, TypeError) as error:
                raise _conflict(name, field, error) from error
        return pa.table(arrays, names=names)

    def agree(self, labels: pa.Schema, *, name: str) -> None:
        """Widen the schema by that of more labels: a missing column is null, an int beside a float a float.

        Raises:
            DataError: a label is text in one place and a number in another; `name` is where it is found.
        """
        theirs = [self._nested_as_text(field) for field in labels]
        ours = [self._nested_as_text(field) for field in self.schema]
        try:
            self.schema = pa.unify_schemas([pa.schema(ours), pa.schema(theirs)], promote_options="permissive")
        except pa.ArrowException as error:
            raise _conflict(name, None, error) from error

    def fit(self, table: pa.Table, *, name: str) -> pa.Table:
        """Bring a table's label columns to the schema, in its order; its other columns stay before them."""
        fitted = table.select([field for field in table.column_names if field in KEPT])
        for field in self.schema:
            try:
                column = self._fit_column(table, field)
            except (pa.ArrowException, ValueError) as error:
                raise _conflict(name, field.name, error) from error
            fitted = fitted.append_column(field, column)
        return fitted

    def _nested_as_text(self, field: pa.Field) -> pa.Field:
        is_list = pa.types.is_list(field.type)
        return pa.field(field.name, pa.string()) if is_list and field.name in self.nested else field

    def _fit_column(self, table: pa.Table, field: pa.Field) -> pa.ChunkedArray | pa.Array:
        if field.name not in table.column_names:
            return pa.nulls(table.num_rows, field.type)
        column = table[field.name]
        if field.name in self.nested and pa.types.is_list(column.type):
            return pa.array([_as_text(value) for value in column.to_pylist()], pa.string())
        return column.cast(field.type)


def _as_text(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if type(value) is list else value


def _conflict(name: str, field: str | None, error: Exception) -> DataError:
    told, which = " ".join(str(error).split()), f"label {field!r}" if field else "a label"
    return DataError(f"{name} has {which} of a type that doesn't fit others of its name ({told}): make them alike")
