"""show: a pack -> what is in it, as a table for people or one JSON object for programs."""

from typing import Any

from rich.table import Table

from shards.errors import UsageError
from shards.index import Pack, open_pack, splits_of
from shards.remote import PathLike


def describe(pack: Pack) -> dict[str, Any]:
    """Tell shards, rows, hours, bytes, rate, codec, classes and fingerprint of a pack."""
    points = int(pack.places["length"].sum())
    sounding = int(pack.places["sounding_length"].sum())
    return {
        "split": pack.split,
        "shards": len(pack.shards),
        "rows": pack.rows,
        "bytes": sum(shard.bytes for shard in pack.shards),
        "hours": round(points / pack.sample_rate / 3600, 4),
        "sounding_share": round(sounding / points, 4),
        "sample_rate": pack.sample_rate,
        "codec": pack.codec,
        "fingerprint": pack.fingerprint,
        "classes": {column: len(names) for column, names in pack.classes.items()},
        "options": dict(pack.options),
    }


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
    """Lay descriptions side by side, a column a split."""
    table = Table("", *[str(one["split"]) for one in told])
    for name in ("shards", "rows", "hours", "sounding_share", "bytes", "sample_rate", "codec", "fingerprint"):
        values = [one[name] for one in told]
        table.add_row(name, *[f"{value:,}" if isinstance(value, int) else str(value) for value in values])
    for column in sorted({column for one in told for column in one["classes"]}):
        table.add_row(f"classes of {column}", *[str(one["classes"].get(column, "-")) for one in told])
    return table
