"""shard: notes and their files -> one tar and its rows of the index. Its bytes follow from the notes alone."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from shards import format
from shards.index_file import Shard
from shards.manifest import Arrangement, Files
from shards.members import index_table, label_json, place_row, prepare
from shards.tar import Tarball
from shards.target import UNDER_WAY, Target, Written


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """All that it takes to write any shard of a split but the files; crosses to packing processes."""

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

    def write(self, number: int, files: Files, *, advance: Callable[[], Any]) -> Written:
        """Write the tar of a shard to its temporary place."""
        table, shard = write_tar(
            self.temporary(number), notes=self.arrangement.notes(number), name=self.name(number), files=files,
            sample_rate=self.sample_rate, codec=self.codec, advance=advance,
        )  # fmt: skip
        return Written(path=self.temporary(number), number=number, table=table, shard=shard)


def write_tar(
    path: Path,
    *,
    notes: pa.Table,
    name: str,
    files: Files,
    sample_rate: int,
    codec: str,
    advance: Callable[[], Any],
) -> tuple[pa.Table, Shard]:
    """Write a tar, note after note; `notes` are `key` and labels, (rows,) each. Return its rows, and it as a shard.

    Raises:
        DataError: a note that can't be packed; nothing of the tar stays behind.
    """
    rows = []
    try:
        with Tarball(path) as tar:
            for labels in notes.to_pylist():
                key = labels.pop("key")
                data, samples = prepare(files.read(key), sample_rate=sample_rate, codec=codec, name=files.name(key))
                offsets = tar.add(key, {"json": label_json(labels), codec: data})
                rows.append(place_row(key, data, samples=samples, offset=offsets[codec]))
                advance()
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    table = index_table(rows, shard=name, labels=notes.drop_columns(["key"]))
    return table, Shard(name=name, rows=len(rows), bytes=tar.size, hash=tar.hash)
