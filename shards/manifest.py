"""manifest: a source's notes -> which are packed, and in what order. Pure functions of the manifest and a seed.

A manifest is a table: column `key`, then labels, a row a note in the source's own order. What depends on that order
is asked for (`--order source`); all else goes by the sorted keys, so that a folder and an archive of it agree.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shards import format
from shards.bijection import permute
from shards.errors import UsageError
from shards.files import AudioFiles, FolderFiles

Order: TypeAlias = Literal["shuffled", "source"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Notes to pack: their manifest, and the files it speaks of."""

    manifest: pa.Table
    sample_rate: int
    files: FolderFiles | AudioFiles


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arrangement:
    """Which notes go where: row `order[p]` of the manifest is the p-th note of the pack."""

    manifest: pa.Table
    order: NDArray[np.int64]
    rows_per_shard: int

    @property
    def shards(self) -> int:
        """Count the shards."""
        return -(-len(self.order) // self.rows_per_shard)

    def rows(self, number: int) -> NDArray[np.int64]:
        """Return the manifest's rows in shard `number`, in the order of its tar."""
        return self.order[number * self.rows_per_shard : (number + 1) * self.rows_per_shard]

    def keys(self, number: int) -> list[str]:
        """List the keys of one shard."""
        return self.manifest["key"].take(self.rows(number)).to_pylist()

    def notes(self, number: int) -> pa.Table:
        """Return the manifest of one shard."""
        return self.manifest.take(self.rows(number))


def arrange(
    manifest: pa.Table,
    *,
    where: Mapping[str, Sequence[str]],
    limit: int | None,
    order: Order,
    seed: int,
    rows_per_shard: int,
) -> Arrangement:
    """Check the keys, keep the rows asked for, and deal them to shards.

    Raises:
        UsageError: `where` names no label column, or leaves nothing.
        DataError: keys that a shard can't hold.
    """
    format.check_keys(manifest["key"].to_pylist())
    kept = np.flatnonzero(_matches(manifest, where))
    manifest = manifest.take(kept)
    by_key = pc.sort_indices(manifest["key"]).to_numpy().astype(np.int64)  # pyright: ignore[reportAttributeAccessIssue]
    rows = len(by_key)
    if limit is not None and limit < rows:  # a keyed draw over all, so that a small pack has the mix of the whole
        by_key = by_key[np.sort(permute(np.arange(limit), rows, seed, "limit"))]
    count = len(by_key)
    dealt = np.sort(by_key) if order == "source" else by_key[permute(np.arange(count), count, seed, "pack")]
    return Arrangement(manifest=manifest, order=dealt, rows_per_shard=rows_per_shard)


def parse_where(conditions: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read `COLUMN=VALUE[,VALUE...]` for each condition.

    Raises:
        UsageError: one isn't of that form, or two are about one column.
    """
    found: dict[str, tuple[str, ...]] = {}
    for condition in conditions:
        column, equals, values = condition.partition("=")
        parts = tuple(dict.fromkeys(part.strip() for part in values.split(",")))
        if not column or not equals or "" in parts:
            raise UsageError(f"where must be COLUMN=VALUE[,VALUE...], got {condition!r}: write it like fold=1,2,3")
        if column in found:
            raise UsageError(f"where names {column!r} twice: give its values in one, as {column}=A,B")
        found[column] = parts
    return found


def _matches(manifest: pa.Table, where: Mapping[str, Sequence[str]]) -> NDArray[np.bool_]:
    kept = np.ones(manifest.num_rows, bool)
    for column, values in where.items():
        if column not in manifest.column_names[1:]:
            told = ", ".join(manifest.column_names[1:]) or "none"
            raise UsageError(f"where names {column!r}, which is no label of this source: take one of {told}")
        if strange := [value for value in values if not _holds(manifest[column], (value,)).any()]:
            raise UsageError(f"where asks for {column} {strange[0]!r}, which no note has: {_told(manifest[column])}")
        kept &= _holds(manifest[column], values)
    if where and not kept.any():
        raise UsageError("where leaves no note: no one note has all that it asks for")
    return kept


def _holds(column: pa.ChunkedArray, values: Sequence[str]) -> NDArray[np.bool_]:
    """Tell which rows have one of the values, compared as text; a list has it if one of its items is it."""
    wanted = pa.array(list(values), pa.string())
    if not pa.types.is_list(column.type):
        return pc.is_in(column.cast(pa.string()), value_set=wanted).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]
    found, whole = np.zeros(len(column), bool), column.combine_chunks()
    items = pc.is_in(whole.flatten().cast(pa.string()), value_set=wanted).to_numpy(zero_copy_only=False)  # pyright: ignore[reportAttributeAccessIssue]
    parents = pc.list_parent_indices(whole).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]
    found[parents[items]] = True
    return found


def _told(column: pa.ChunkedArray) -> str:
    values = column.combine_chunks().flatten() if pa.types.is_list(column.type) else column
    there = sorted(str(value) for value in values.cast(pa.string()).unique().drop_null().to_pylist())
    return f"take one of {', '.join(there[:12])}{', ...' if len(there) > 12 else ''}"
