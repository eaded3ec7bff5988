"""shard: a job -> what goes into each of its tars, and what a pack keeps of a tar once it is written."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from shards import format
from shards.contents import Contents, Facts
from shards.errors import DataError
from shards.files import Files
from shards.index_file import PLACE, Shard
from shards.manifest import Arrangement
from shards.target import UNDER_WAY, Target, Written


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """All that it takes to write any shard of a split but the files."""

    arrangement: Arrangement
    target: Target
    split: str
    codec: str
    sample_rate: int

    def name(self, number: int) -> str:
        """Name the tar of a shard."""
        return format.shard_name(self.split, number)

    def temporary(self, number: int) -> Path:
        """Say where the tar of a shard is made."""
        return self.target.work / f"{self.name(number)}{UNDER_WAY}"

    def todo(self) -> list[int]:
        """Number the shards that aren't whole, and say so where some are."""
        whole, shards = self.target.whole(), self.arrangement.shards
        if whole:
            told = f"{len(whole)} of {shards} shards are whole already"
            print(f"going on with {self.target.folder}: {told}", file=sys.stderr)  # noqa: T201
        return [number for number in range(shards) if number not in whole]

    def contents(self, number: int, files: Files) -> Contents:
        """Gather what goes into the tar of a shard."""
        return Contents(
            path=self.temporary(number), notes=self.arrangement.notes(number).to_pylist(), files=files,
            sample_rate=self.sample_rate, codec=self.codec,
        )  # fmt: skip

    def publish(self, number: int, path: Path, facts: Facts) -> None:
        """Put the tar of a shard, written at `path`, in its place."""
        name, rows = self.name(number), len(facts.places)
        table = index_table(facts.places, shard=name, labels=self.arrangement.notes(number).drop_columns(["key"]))
        shard = Shard(name=name, rows=rows, bytes=facts.bytes, hash=facts.hash)
        self.target.publish(Written(path=path, number=number, table=table, shard=shard))


def index_table(rows: Sequence[Mapping[str, Any]], *, shard: str, labels: pa.Table) -> pa.Table:
    """Join the rows of one shard with their label columns, (rows,) each, into the index's schema."""
    named = pa.DictionaryArray.from_arrays(pa.array([0] * len(rows), pa.int32()), pa.array([shard]))
    places = [pa.array([row[field.name] for row in rows], field.type) for field in list(PLACE)[1:]]
    table = pa.Table.from_arrays([named, *places], schema=PLACE)
    for name in labels.column_names:
        if name in PLACE.names:
            raise DataError(f"label column {name!r} has a name that the index keeps for itself: rename it")
        table = table.append_column(labels.schema.field(name), labels[name])
    return table
