"""examples: the bytes of NSynth's examples.json, as they come -> a manifest, a row a note in the file's order.

200 MB for train, parsed as a stream: beside the table there is a window of text and a batch of notes. Each note is
read by Python's own json, which refuses deep nesting. ijson is about as fast, but keeps a path for each level of it:
20,000 brackets take it a gigabyte.
"""

import codecs
import json
import re
import reprlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from shards.errors import DataError
from shards.fields import FIELDS

MAX_NOTE_CHARACTERS = 1 << 16  # true ones take 700
WINDOW_CHARACTERS = 1 << 18
BLANKS = re.compile(r"[ \t\n\r]*")
BATCH_ROWS = 4096
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100
_NAMES = FIELDS.names
_NOTE_STR = _NAMES.index("note_str")


def read_examples(chunks: Iterable[bytes], *, name: str) -> pa.Table:
    """Parse examples.json into a table: column `key`, then all of FIELDS; other fields are left out.

    Keys are unique and not empty of fields, but not yet fit for a shard (format.check_keys). `name` is for messages.

    Raises:
        DataError: it isn't JSON, is empty, holds a note twice or one over 65,536 characters, or a note lacks a
            field, calls itself by another name than its key, or has a value of another type.
    """
    rows = (_row(key, note, name=name) for key, note in _notes(_Window(chunks, name=name)))
    notes = pa.Table.from_batches(
        [_batch(batch, name=name) for batch in iter(lambda: list(islice(rows, BATCH_ROWS)), [])], schema=FIELDS
    )
    if not notes.num_rows:
        raise DataError(f"{name} holds no notes: give an NSynth split with an examples.json like NSynth's")
    _check_unique(notes["note_str"], name=name)
    return notes.add_column(0, pa.field("key", pa.string()), notes["note_str"])  # equal, so the two share their bytes


class _Window:
    """The text from `at` on: enough for any note, or all that is left."""

    def __init__(self, chunks: Iterable[bytes], *, name: str) -> None:
        self.name, self.text, self.at, self.passed, self.ended = name, "", 0, 0, False
        self._chunks, self._utf8 = iter(chunks), codecs.getincrementaldecoder("utf-8")()
        self._decoder = json.JSONDecoder(object_pairs_hook=self._unique)

    def fill(self) -> None:
        """Go on in the file where no whole note might be left."""
        have = len(self.text) - self.at
        if self.ended or have >= MAX_NOTE_CHARACTERS:
            return
        self.passed += self.at
        parts = [self.text[self.at :]]
        while have < WINDOW_CHARACTERS and not self.ended:
            chunk = next(self._chunks, None)
            self.ended = chunk is None
            try:
                parts.append(self._utf8.decode(chunk or b"", self.ended))
            except UnicodeDecodeError as error:
                raise self.broken(str(error)) from error
            have += len(parts[-1])
        self.text, self.at = "".join(parts), 0

    def value(self) -> Any:
        """Read a value of any type."""
        self.peek()
        try:
            found, self.at = self._decoder.raw_decode(self.text, self.at)
        except RecursionError as error:
            raise self.broken("it nests too deeply") from error
        except json.JSONDecodeError as error:
            # where a value goes on past the window, it's the window's end that json stumbles over
            if not self.ended and (
                error.msg.startswith("Unterminated") or error.pos > len(self.text) - len("-Infinity")
            ):
                raise self.too_long() from error
            raise self.broken(f"{error.msg} at character {self.passed + error.pos:,}") from error
        except ValueError as error:  # a number of 4,301 digits
            raise self.broken(str(error)) from error
        return found

    def take(self, wanted: str) -> str:
        """Read one of the signs in `wanted`."""
        sign = self.peek()
        if not sign and not self.ended:
            raise self.too_long()
        if not sign or sign not in wanted:
            raise self.broken(f"no {' or '.join(wanted)} at character {self.passed + self.at:,}")
        self.at += 1
        return sign

    def peek(self) -> str:
        """Return the next sign after blanks, or nothing at the window's end."""
        self.at = BLANKS.match(self.text, self.at).end()  # pyright: ignore[reportOptionalMemberAccess]
        return self.text[self.at : self.at + 1]

    def broken(self, told: str) -> DataError:
        """Make the error to be raised."""
        return DataError(f"{self.name} is not whole JSON ({told}): fetch or unpack it anew")

    def too_long(self) -> DataError:
        """Make the error to be raised."""
        most = f"{MAX_NOTE_CHARACTERS:,}"
        return DataError(f"{self.name} holds a note, or blanks, of over {most} characters: fetch or unpack it anew")

    def _unique(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
            raise DataError(f"{self.name} holds {_told(twice)} twice in one note: remove one")
        return found


def _notes(window: _Window) -> Iterator[tuple[str, Any]]:
    window.fill()
    window.take("{")
    sign = window.take("}") if window.peek() == "}" else ","
    while sign == ",":
        window.fill()
        begun = window.at
        key = window.value()
        if not isinstance(key, str):
            raise window.broken(f"{_told(key)} is no key")
        window.take(":")
        yield key, window.value()
        sign = window.take(",}")
        if window.at - begun > MAX_NOTE_CHARACTERS:
            raise window.too_long()
    window.fill()
    if window.peek():
        raise window.broken(f"more after its end at character {window.passed + window.at:,}")
    if not window.ended:
        raise window.too_long()


def _row(key: str, note: Any, *, name: str) -> tuple[Any, ...]:
    """Return a note's values in the order of FIELDS."""
    row = tuple(map(note.get, _NAMES)) if isinstance(note, dict) else (None,) * len(_NAMES)
    if None in row:
        lacks = ", ".join(field for field, value in zip(_NAMES, row, strict=True) if value is None)
        raise DataError(f"{name}: note {_told(key)} lacks {lacks}: NSynth's 13 fields are needed")
    if row[_NOTE_STR] != key:
        called = _told(row[_NOTE_STR])
        raise DataError(f"{name}: note {_told(key)} calls itself {called}: key and note_str must be equal")
    return row


def _batch(rows: list[tuple[Any, ...]], *, name: str) -> pa.RecordBatch:
    columns = []
    for field, values in zip(FIELDS, zip(*rows, strict=True), strict=True):
        if (column := _array(values, field.type)) is None:
            row = next(row for row, value in zip(rows, values, strict=True) if _array([value], field.type) is None)
            value = _told(row[_NAMES.index(field.name)])
            told = f"{field.name} of note {_told(row[_NOTE_STR])} is {value}, not {field.type}"
            raise DataError(f"{name} has a field of another type than NSynth's ({told}): mend it")
        columns.append(column)
    return pa.record_batch(columns, schema=FIELDS)


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array | None:
    if not _fits(values, kind):
        return None
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, OverflowError, ValueError):  # 300 where int8 is wanted, half a surrogate pair
        return None


def _fits(values: Iterable[Any], kind: pa.DataType) -> bool:
    """Tell whether all are of the type that is meant: Arrow alone takes 60.5 for 60, and a null within a list."""
    if isinstance(kind, pa.ListType):
        return set(map(type, values)) <= {list} and _fits(chain.from_iterable(values), kind.value_type)
    return set(map(type, values)) <= {str if pa.types.is_string(kind) else int}


def _check_unique(keys: pa.ChunkedArray, *, name: str) -> None:
    """Refuse equal keys: in a sorted column they're neighbours. A set of them would take 25 MB for train."""
    ordered = keys.take(pc.sort_indices(keys)).combine_chunks()  # pyright: ignore[reportAttributeAccessIssue]
    equal = pc.equal(ordered[1:], ordered[:-1])  # pyright: ignore[reportAttributeAccessIssue]
    if pc.any(equal).as_py():  # pyright: ignore[reportAttributeAccessIssue]
        twice = ordered[pc.index(equal, True).as_py()].as_py()  # pyright: ignore[reportAttributeAccessIssue]
        raise DataError(f"{name} holds {_told(twice)} twice: remove one")


def _told(value: Any) -> str:
    """Show a foreign value in a few characters, on one line."""
    return _SHORT.repr(value)
