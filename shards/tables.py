"""tables: a table, or a pattern on file names -> label columns, each of one type.

A csv has no types, so a column is what all its cells are: bool, int64, float64, else text; an empty cell is null. A
number with a leading zero is text: 007 is a name. Whether a column holds lists is told by its name alone, never by a
comma in a cell: captions have commas too, and all splits of a data set must get the same types.
"""

import csv
import json
import math
import posixpath
import re
import reprlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shards.errors import DataError, UsageError
from shards.index_file import PLACE

FILE_COLUMNS = ("filename", "file_name", "fname")
LIST_COLUMN = re.compile(r"(?:.*_)?(?:labels|tags|mids|classes|categories)")  # "labels", "positive_labels"
MAX_BYTES, MAX_ROWS = 1 << 29, 10_000_000  # of a table, which is read whole
BOOLS = {"true": True, "false": False}
INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
FIELD = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(:d)?")
FLOAT = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")


def read_table(path: Path) -> tuple[list[str], pa.Table]:
    """Read the table at PATH: the file that each row names, and the other columns, (rows,) each.

    Raises:
        UsageError: there is no such table, or it is of another kind.
        DataError: it can't be read, has no file column, no row, or a column that an index can't hold.
    """
    readers: dict[str, Callable[[Path], pa.Table]] = {
        ".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet
    }  # fmt: skip
    if not path.is_file() or path.suffix.lower() not in readers:
        told = "of a kind that is not read" if path.is_file() else "not a file"
        raise UsageError(f"table {path} is {told}: give a {', '.join(readers)} file")
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path} has {path.stat().st_size:,} bytes, over {MAX_BYTES:,}: leave columns out")
    try:
        table = readers[path.suffix.lower()](path)
    except (pa.ArrowException, OSError, csv.Error, UnicodeError, RecursionError) as error:
        raise DataError(f"{path} can't be read ({' '.join(str(error).split())}): write it anew as UTF-8") from error
    if fault := _fault(table.column_names):
        raise DataError(f"{path} {fault}")
    found = [name for name in FILE_COLUMNS if name in table.column_names]
    if len(found) != 1:
        raise DataError(f"{path} has {len(found)} file columns, not one (its columns: "
                        f"{', '.join(map(reprlib.repr, table.column_names[:20])) or 'none'}): "
                        f"call the one with file names {FILE_COLUMNS[0]}")  # fmt: skip
    if not table.num_rows:
        raise DataError(f"{path} has no rows: give a table with a row a file")
    files = [None if one is None else str(one) for one in table[found[0]].to_pylist()]
    if None in files or "" in files:
        at = next(row for row, one in enumerate(files, 1) if not one)
        raise DataError(f"{path} names no file in row {at}: name one, or remove the row")
    labels = table.drop_columns(found)
    columns = [_settle(labels[name], name=f"{path}: column {name!r}") for name in labels.column_names]
    return [one for one in files if one], pa.table(columns, names=labels.column_names)


def read_rows(table: Path, *, src: Path, listed: Iterable[str]) -> tuple[list[str], pa.Table]:
    """Find each row's file among those listed beneath SRC; return files and label columns, (rows,) each.

    A name is looked for as it is in SRC and in SRC/audio, then without an extension in SRC and in SRC/audio.

    Raises:
        UsageError, DataError: as read_table; a name leads out of SRC, to no file, to two, or where another row's does.
    """
    names, labels = read_table(table)
    whole = set(listed)
    stems: dict[str, list[str]] = {}
    for file in sorted(whole):
        stems.setdefault(posixpath.splitext(file)[0], []).append(file)
    files: list[str] = []
    missing: list[str] = []
    rows: dict[str, int] = {}
    for row, name in enumerate(names, 1):
        tries = [posixpath.normpath(name), posixpath.normpath(f"audio/{name}")]
        if name.startswith("/") or tries[0].startswith(".."):
            raise DataError(f"{table} names {name!r} in row {row}, which leads out of {src}: name files beneath it")
        found = [[one] for one in tries if one in whole] or [stems[one] for one in tries if one in stems] or [[]]
        if len(found[0]) > 1:
            told = ", ".join(map(repr, found[0]))
            raise DataError(f"{table} names {name!r} in row {row}, which may be {told}: write the extension too")
        missing += [] if found[0] else [name]
        for file in found[0]:
            if rows.setdefault(file, row) != row:
                raise DataError(f"{table} names {file!r} in rows {rows[file]} and {row}: remove one")
            files.append(file)
    if missing:
        raise DataError(
            f"{len(missing)} of {len(names)} rows of {table} name no audio file of {src} or {src / 'audio'} "
            f"({missing[0]!r}): fetch those files, or remove the rows"
        )
    return files, labels


def _fault(names: Sequence[str]) -> str | None:
    """Tell what is wrong with the names of columns: one stands there twice, has no name, or the index's own."""
    for at, name in enumerate(names):
        if not name:
            return f"has a column without a name, number {at + 1}: name it"
        if name in names[:at]:
            return f"has two columns {name!r}: rename one"
        if name in PLACE.names:
            return f"has a column {name!r}, a name that the index keeps for itself: rename it"
    return None


def _read_csv(path: Path) -> pa.Table:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter="," if path.suffix.lower() == ".csv" else "\t", strict=True)
        names = next(reader, [])
        rows = []
        for row in filter(None, reader):
            if len(row) != len(names):
                raise DataError(
                    f"{path} has {len(row)} cells in line {reader.line_num}, {len(names)} in its first: mend it"
                )
            rows.append(row)
    cells = zip(*rows, strict=True) if rows else [()] * len(names)
    return pa.table([_typed(name, column) for name, column in zip(names, cells, strict=True)], names=names)


def _typed(name: str, cells: Sequence[str]) -> pa.Array:
    """Give a csv's column the narrowest type that all its cells have."""
    if name in FILE_COLUMNS:
        return pa.array(cells, pa.string())
    if LIST_COLUMN.fullmatch(name):
        return pa.array([[part.strip() for part in cell.split(",") if part.strip()] for cell in cells],
                        pa.list_(pa.string()))  # fmt: skip
    there = [cell for cell in cells if cell]
    if there and all(cell.lower() in BOOLS for cell in there):
        return pa.array([BOOLS.get(cell.lower()) for cell in cells], pa.bool_())
    if there and all(INT.fullmatch(cell) for cell in there):
        return pa.array([int(cell) if cell else None for cell in cells], pa.int64())
    if there and all(FLOAT.fullmatch(cell) and math.isfinite(float(cell)) for cell in there):
        return pa.array([float(cell) if cell else None for cell in cells], pa.float64())
    return pa.array([cell or None for cell in cells], pa.string())


def _read_jsonl(path: Path) -> pa.Table:
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise DataError(f"{path} has no whole JSON in line {number} ({error}): mend it") from error
                if not isinstance(row, dict):
                    raise DataError(f"{path} holds no JSON object in line {number}: write one a line")
                rows.append(row)
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        try:
            columns[name] = pa.array([row.get(name) for row in rows])
        except (pa.ArrowException, ValueError, OverflowError) as error:
            told = " ".join(str(error).split())
            raise DataError(f"{path}: column {name!r} has values of more than one type ({told}): mend it") from error
    return pa.table(columns)


def _read_parquet(path: Path) -> pa.Table:
    file = pq.ParquetFile(path)  # read_table makes columns of folders named a=b
    about, rows = file.metadata, file.metadata.num_rows
    size = sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))
    if rows > MAX_ROWS or size > MAX_BYTES:
        raise DataError(f"{path} unpacks to {rows:,} rows of {size:,} bytes: leave rows or columns out")
    table = file.read().replace_schema_metadata()
    table.validate(full=True)  # text that isn't UTF-8 is met here, not by whoever reads a cell
    return table


def _settle(column: pa.ChunkedArray, *, name: str) -> pa.ChunkedArray:
    """Cast a column to a type that both the index and a sample's JSON can hold; a float that is no number is null."""
    kind = _plain(column.type)
    if kind is None:
        raise DataError(f"{name} is of type {column.type}: make it text, numbers, true and false, or lists of them")
    column = column.cast(kind)
    if not pa.types.is_floating(kind):
        return column
    return pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)  # pyright: ignore[reportAttributeAccessIssue]


def _plain(kind: pa.DataType) -> pa.DataType | None:
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        item = None if pa.types.is_nested(kind.value_type) else _plain(kind.value_type)
        return None if item is None else pa.list_(item)
    if pa.types.is_null(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_float16(kind):
        return pa.float32()
    return kind if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) else None


def read_names(files: Sequence[str], *, pattern: str) -> pa.Table:
    """Read labels off the files' paths by a pattern such as {class}_{take}, or {class}/{take:d} for a whole number.

    It is matched without the extension, against as many parts of the path as it has. No field holds a slash, or a
    character by which a field of the pattern ends: so a name fits in one way or in none, found in linear time.

    Raises:
        UsageError: the pattern has no fields, or two without anything between.
        DataError: a file doesn't fit.
    """
    regex, kinds = _compile(pattern)
    parts = pattern.count("/") + 1
    found = [regex.fullmatch("/".join(posixpath.splitext(file)[0].split("/")[-parts:])) for file in files]
    strange = [file for file, match in zip(files, found, strict=True) if match is None]
    if strange:
        raise DataError(
            f"{len(strange)} of {len(files)} files don't fit the pattern {pattern!r} ({strange[0]!r}): "
            "mend the pattern, or rename or remove them"
        )
    columns = zip(*[match.groups() for match in found if match], strict=True)
    return pa.table({
        name: pa.array(map(int, column), pa.int64()) if kind else pa.array(column, pa.string())
        for (name, kind), column in zip(kinds.items(), columns, strict=True)
    })  # fmt: skip


def _compile(pattern: str) -> tuple[re.Pattern[str], dict[str, str]]:
    parts = re.split(r"\{([^{}]*)\}", pattern)
    texts, fields = parts[::2], [FIELD.fullmatch(part) for part in parts[1::2]]
    names = [field[1] for field in fields if field]
    told = f"label_from {pattern!r}"
    if not fields or None in fields or re.search("[{}]", "".join(texts)):
        raise UsageError(f"{told} must hold fields such as {{class}} or {{take:d}}: write it like '{{class}}_{{take}}'")
    if fault := _fault(names):
        raise UsageError(f"{told} {fault}")
    if "" in texts[1:-1]:
        raise UsageError(f"{told} has two fields with nothing between them: put a character there")
    kinds = {field[1]: field[2] or "" for field in fields if field}
    ends = "".join(re.escape(text[0]) for text in texts[1:] if text)
    shapes = ["([0-9]{1,18})" if kind else f"([^/{ends}]+)" for kind in kinds.values()]
    regex = "".join(re.escape(text) + shape for text, shape in zip(texts, [*shapes, ""], strict=True))
    return re.compile(regex), kinds
