"""show: a pack -> what is in it, as a table for people or one JSON object for programs. Reads the index only."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich import box, filesize
from rich.table import Column, Table
from rich.text import Text

from shards.errors import UsageError
from shards.index import Pack, open_pack, splits_of
from shards.index_file import PLACE
from shards.remote import PathLike

MOST_COUNTED = 50  # classes of a column, in the JSON
MOST_SHOWN = 20  # in the table
USUAL = ("train", "valid", "test")  # splits stand in this order


def describe(pack: Pack) -> dict[str, Any]:
    """Tell shards, rows, hours, bytes, rate, codec, classes, counts, ranges and fingerprint of a pack.

    `counts` has the rows of each value of text columns, and of lists of text, with up to MOST_COUNTED values;
    `ranges` the least and the greatest value of columns of integers.
    """
    points, counts, ranges = _survey(pack)
    return {
        "split": pack.split,
        "folder": str(pack.folder),
        "shards": len(pack.shards),
        "rows": pack.rows,
        "bytes": int(pack.shards.bytes.sum()),
        "hours": round(points["length"] / pack.sample_rate / 3600, 4),
        "sounding_share": round(points["sounding_length"] / points["length"], 4),
        "sample_rate": pack.sample_rate,
        "codec": pack.codec,
        "fingerprint": pack.fingerprint,
        "classes": {column: len(names) for column, names in pack.classes.items()},
        "counts": {column: dict(sorted(count.items())) for column, count in counts.items()},
        "ranges": ranges,
        "options": dict(pack.options),
    }


def _survey(pack: Pack) -> tuple[Counter[str], dict[str, Counter[str]], dict[str, list[int]]]:
    """Go through the columns once: sums of the lengths, counts of the classes, ranges of the integers."""
    labels = [field for field in pack.schema if field.name not in PLACE.names]
    small = {name for name, names in pack.classes.items() if len(names) <= MOST_COUNTED}
    counted = [field.name for field in labels if field.name in small or _lists(field)]
    counts: dict[str, Counter[str]] = {name: Counter() for name in counted}
    ranges: dict[str, list[int]] = {field.name: [] for field in labels if pa.types.is_integer(field.type)}
    points: Counter[str] = Counter()
    for batch in pack.scan("length", "sounding_length", *counts, *ranges):
        for name in ("length", "sounding_length"):
            points[name] += pc.sum(batch[name]).as_py()  # pyright: ignore[reportAttributeAccessIssue]
        for name, count in list(counts.items()):
            values = batch[name] if name in small else pc.list_flatten(batch[name])  # pyright: ignore[reportAttributeAccessIssue]
            count.update({one["values"]: one["counts"] for one in values.drop_null().value_counts().to_pylist()})
            if len(count) > MOST_COUNTED:
                del counts[name]
        for name, found in ranges.items():
            both = pc.min_max(batch[name]).as_py()  # pyright: ignore[reportAttributeAccessIssue]
            found += [value for value in both.values() if value is not None]
            found[:] = [min(found), max(found)] if found else []
    return points, counts, {name: found for name, found in ranges.items() if found}


def _lists(field: pa.Field) -> bool:
    return pa.types.is_list(field.type) and pa.types.is_string(field.type.value_type)


def open_all(data: PathLike) -> list[Pack]:
    """Open every split of DATA.

    Raises:
        UsageError: there is none.
    """
    splits = splits_of(data)
    if not splits:
        raise UsageError(f"{data} holds no finished split: `python -m shards pack SRC {data} --split train` makes one")
    return [open_pack(data, split=split) for split in splits]


def show_table(told: list[dict[str, Any]]) -> Table:
    """Lay descriptions side by side, a column a split: facts, then ranges, then classes with their counts."""
    told = sorted(told, key=lambda one: USUAL.index(one["split"]) if one["split"] in USUAL else len(USUAL))
    splits = [Column(one["split"], justify="right", overflow="fold") for one in told]
    table = Table(Column(no_wrap=True), *splits, box=box.SIMPLE_HEAD)
    for name, write in FACTS.items():
        table.add_row(name, *[write(one) for one in told])
    table.add_section()
    for name in _names(told, "ranges"):
        table.add_row(_plain(name), *[_range(one["ranges"].get(name, [])) for one in told])
    for column in _names(told, "classes", "counts"):
        table.add_section()
        counts = [one["counts"].get(column, {}) for one in told]
        numbers = [one["classes"].get(column, len(count)) for one, count in zip(told, counts, strict=True)]
        table.add_row(_plain(column, style="bold"), *[_classes(number) for number in numbers])
        values = sorted({value for count in counts for value in count})
        for value in values if len(values) <= MOST_SHOWN else ():
            cells = [
                f"{count.get(value, 0):,}" if number else "-" for count, number in zip(counts, numbers, strict=True)
            ]
            table.add_row(_plain(value, indent=2), *cells)
    return table


FACTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "rows": lambda told: f"{told['rows']:,}",
    "shards": lambda told: f"{told['shards']:,}",
    "size": lambda told: filesize.decimal(told["bytes"]),
    "sound": lambda told: _duration(told["hours"]),
    "sounding share": lambda told: f"{100 * told['sounding_share']:.1f} %",
    "sample rate": lambda told: f"{told['sample_rate']:,} Hz",
    "codec": lambda told: told["codec"],
    "fingerprint": lambda told: told["fingerprint"],
}


def _duration(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


def _names(told: list[dict[str, Any]], *parts: str) -> list[str]:
    """List the columns that any split tells of; without integers that are told already, or that text spells out."""
    names = dict.fromkeys(name for one in told for part in parts for name in one[part])
    texts = {name for one in told for name in (*one["classes"], *one["counts"])}
    return [name for name in names if f"{name}_str" not in texts and name != "sample_rate"]


def _range(found: list[int]) -> str:
    return " to ".join(str(value) for value in dict.fromkeys(found)) or "-"


def _classes(number: int) -> str:
    return f"{number:,} class{'' if number == 1 else 'es'}" if number else "-"


def _plain(text: str, *, indent: int = 0, style: str = "") -> Text:
    """Labels are foreign: neither markup nor a terminal's control codes."""
    return Text(" " * indent + (text if text.isprintable() else repr(text)), style=style)
