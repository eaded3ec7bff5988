"""select: pack, condition, limit, balance -> which rows make up the data, and how often each.

    index rows ── where ──> rows kept ── limit ──> fewer, drawn fairly ── balance ──> each once or several times
    0 1 2 3 4 5             1 2 4 5                1 2 5                              1 2 2 2 5 5
                                                              numbered for the plan:  0 1 2 3 4 5

A selection depends on the pack and on what was asked for, never on rank, time or place; its fingerprint is a hash of
the rows themselves, so an index whose labels were changed since isn't taken for the same data. All rows, each once,
cost nothing; otherwise 8 bytes for each row kept, twice that where they are repeated.
"""

import dataclasses
import json
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from shards.bijection import permute
from shards.errors import UsageError
from shards.index import Pack
from streaming.balance import Balance, repeat_rows
from streaming.where import Where, parse_where

Rows = NDArray[np.int64]
NUMBER = "row number"  # beside the columns of an index, while it is filtered
HASH_ROWS = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """Which rows of a pack make up the data. The plan numbers them, with their repeats, in index order.

    shard_rows (shards,): rows of each shard, repeats counted; kept (rows,): the rows' numbers in the index, or None for
    all; ends (rows,): for each row kept the number past its last repeat, or None where none is repeated. `told` says it
    in words; `fingerprint` is the pack's own where all rows are taken once.
    """

    shard_rows: Rows
    kept: Rows | None = None
    ends: Rows | None = None
    fingerprint: str
    told: str

    @property
    def rows(self) -> int:
        """Count the rows, repeats too."""
        return int(self.shard_rows.sum())

    def find(self, numbers: Rows) -> tuple[Rows, Rows]:
        """Return the index rows and the repeats (0 is the first) that the plan's numbers stand for, (n,) each."""
        rows, repeats = numbers, np.zeros_like(numbers)
        if self.ends is not None:
            rows = np.searchsorted(self.ends, numbers, side="right")
            repeats = numbers - np.where(rows > 0, self.ends[rows - 1], 0)
        return (rows if self.kept is None else self.kept[rows]), repeats


def select_rows(
    pack: Pack, *, seed: int, where: str | None = None, limit: int | None = None, balance: Balance | None = None
) -> Selection:
    """Choose the rows of a pack; `seed`, the run's, says which rows of a class are repeated once more than others.

    Raises:
        UsageError: nothing is left, or an option doesn't fit the pack.
        DataError: the index can't be read.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit must be at least 1 row, got {limit}: leave it out for all rows")
    parsed = parse_where(where, schema=pack.schema) if where is not None else None
    kept = None if parsed is None else matching_rows(pack, where=parsed)
    rows = pack.rows if kept is None else len(kept)
    if limit is not None and limit < rows:
        drawn = draw_rows(limit, rows=rows)
        kept = drawn if kept is None else kept[drawn]
    kept = None if kept is None or len(kept) == pack.rows else kept
    ends = None if balance is None else repeat_rows(pack, kept=kept, balance=balance, seed=seed)
    options = [("where", where), ("limit", limit), ("balance", balance)]
    return Selection(
        shard_rows=_count(pack, kept=kept, ends=ends),
        kept=kept,
        ends=ends,
        fingerprint=_fingerprint(pack, kept=kept, ends=ends),
        told=", ".join(f"{name} {value}" for name, value in options if value is not None) or "all rows",
    )


def matching_rows(pack: Pack, *, where: Where) -> Rows:
    """Return the rows that a condition holds for, in index order; the columns are scanned, never held whole.

    Raises:
        UsageError: no row is left.
    """
    found, at = [], 0
    for batch in pack.scan(*where.columns):
        numbered = _plain(batch).append_column(NUMBER, pa.array(np.arange(at, at + len(batch))))
        try:
            matched = numbered.filter(where.expression)[NUMBER].to_numpy()
        except pa.ArrowException as error:  # such as a number past what its column's type holds
            told = " ".join(str(error).split())[:160]
            raise UsageError(f"where can't be asked of {pack.home} ({told}): {where.text[:80]!r}") from error
        found.append(np.sort(matched))  # a filter may run in parallel
        at += len(batch)
    kept = np.concatenate(found)
    if not len(kept):
        raise UsageError(
            f"where leaves no row of {pack.home}: {where.text[:80]!r}; `python -m shards show` tells labels"
        )
    return kept


def draw_rows(limit: int, *, rows: int) -> Rows:
    """Draw `limit` of `rows` places, sorted. The same ones for any seed; those of a smaller limit are among them."""
    return np.sort(permute(np.arange(limit), rows, "limit"))


def _plain(batch: pa.Table) -> pa.Table:
    """Spell dictionaries out: what text is compared with is text."""
    for at, field in enumerate(batch.schema):
        if pa.types.is_dictionary(field.type):
            batch = batch.set_column(at, field.name, batch[field.name].cast(field.type.value_type))
    return batch


def _count(pack: Pack, *, kept: Rows | None, ends: Rows | None) -> Rows:
    """Count each shard's rows, repeats too: (shards,)."""
    edges = pack.starts
    if kept is not None:
        edges = np.searchsorted(kept, edges)
    if ends is not None:
        edges = np.concatenate([[0], ends])[edges]
    return np.diff(edges)


def _fingerprint(pack: Pack, *, kept: Rows | None, ends: Rows | None) -> str:
    if kept is None and ends is None:
        return pack.fingerprint
    hashes = ["" if rows is None else _hash(rows) for rows in (kept, ends)]
    return xxhash.xxh3_128_hexdigest(json.dumps([pack.fingerprint, *hashes]).encode())


def _hash(rows: Rows) -> str:
    state = xxhash.xxh3_128()
    for block in _blocks(rows):
        state.update(block.astype("<i8").tobytes())
    return state.hexdigest()


def _blocks(rows: Rows) -> Iterator[Rows]:
    for first in range(0, len(rows), HASH_ROWS):
        yield rows[first : first + HASH_ROWS]
