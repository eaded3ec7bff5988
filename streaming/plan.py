"""plan: cursor -> rows. Decide who reads what before anything is read, as a pure function of one integer.

The cursor is the number of rows consumed since the run began. Slot j of the batch at cursor P is

    lane      j // (G/C)                       C lanes of L = N // C rows each; by default one lane of all rows
    position  P/C + j % (G/C)  in that lane    epoch = position // L, place = position % L
    row       axis(permute(place))             permuted inside windows of B rows; by default one window, the whole lane

The axis is the identity where one window holds everything: an epoch is one keyed permutation of all rows, each exactly
once. Otherwise it is the epoch's shards in a keyed order, laid end to end, so that only the shards of the open windows
are needed at a time. Batches straddle epochs: no tail, no padding. Nothing here knows of ranks but the slots asked for.
"""

import dataclasses
from collections.abc import Sequence
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from shards.bijection import permute
from shards.errors import UsageError

Rows = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The order of a run: rows a shard, a seed, lanes C and window B (None: the whole lane)."""

    shard_rows: tuple[int, ...]
    seed: int
    lanes: int = 1
    window: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.lanes <= self.rows:
            raise UsageError(f"lanes must lie in 1..{self.rows} (the rows), got {self.lanes}: 1 suits most runs")
        if self.window is not None and self.window < 1:
            raise UsageError(f"window must be at least 1 row, got {self.window}: leave it out for a global shuffle")

    @cached_property
    def rows(self) -> int:
        """Count the rows, N."""
        return sum(self.shard_rows)

    @property
    def length(self) -> int:
        """Count the rows of a lane and epoch, L; rows % lanes random rows of each epoch are left out."""
        return self.rows // self.lanes

    @property
    def span(self) -> int:
        """Count the rows of an epoch, L * C: how far the cursor moves in it."""
        return self.length * self.lanes

    def epoch(self, cursor: int) -> int:
        """Tell the epoch in which the batch at `cursor` begins."""
        return cursor // self.span

    def check_batch(self, *, batch_size: int, cursor: int) -> None:
        """Refuse a batch size or a cursor that lanes can't share evenly."""
        if batch_size < 1 or batch_size % self.lanes:
            raise UsageError(f"batch_size must be a positive multiple of lanes ({self.lanes}), got {batch_size}")
        if cursor < 0 or cursor % self.lanes:
            raise UsageError(f"cursor must be a multiple of lanes ({self.lanes}) and not negative, got {cursor}")

    def slots(self, cursor: int, *, batch_size: int, slots: range) -> tuple[Rows, Rows]:
        """Return rows and epochs of `slots` of the batch at `cursor`, (slots,) each."""
        each = batch_size // self.lanes
        j = np.arange(slots.start, slots.stop)
        lane, position = j // each, cursor // self.lanes + j % each
        epoch, place = np.divmod(position, self.length)
        number, start, size = self._windows(lane, place)
        rows = np.empty(len(j), np.int64)
        for window in sorted(set(zip(epoch.tolist(), lane.tolist(), number.tolist(), strict=True))):
            e, c, w = window
            here = (epoch == e) & (lane == c) & (number == w)
            first, n = int(start[here][0]), int(size[here][0])
            inside = permute(place[here] - first, n, self.seed, e, c, w, "rows")
            rows[here] = self._from_axis(e, c * self.length + first + inside)
        return rows, epoch

    def _windows(self, lane: Rows, place: Rows) -> tuple[Rows, Rows, Rows]:
        """Return each place's window: its number, first place and size."""
        if self.window is None or self.window >= self.length:
            return np.zeros_like(place), np.zeros_like(place), np.full_like(place, self.length)
        # lanes are staggered by the size of their first window, so that not all of them open new shards at once
        head = np.maximum(1, self.window * (lane + 1) // self.lanes)
        number = np.where(place < head, 0, 1 + (place - head) // self.window)
        start = np.where(number == 0, 0, head + (number - 1) * self.window)
        return number, start, np.minimum(np.where(number == 0, head, self.window), self.length - start)

    def _from_axis(self, epoch: int, places: Rows) -> Rows:
        if self.lanes == 1 and (self.window is None or self.window >= self.length):
            return places
        order, edges, first = _shard_axis(self.shard_rows, self.seed, epoch)
        number = np.searchsorted(edges, places, side="right") - 1
        return first[order[number]] + places - edges[number]


@lru_cache(4)
def _shard_axis(shard_rows: tuple[int, ...], seed: int, epoch: int) -> tuple[Rows, Rows, Rows]:
    """Lay the epoch's shards end to end: their order, where each begins, and each shard's first row in the index."""
    counts = np.array(shard_rows, np.int64)
    order = permute(np.arange(len(counts)), len(counts), seed, epoch, "shards")
    return order, _before(counts[order]), _before(counts)


def _before(counts: Rows) -> Rows:
    return np.concatenate([[0], np.cumsum(counts)[:-1]])


def steps_in(plan: Plan, *, epoch: int, batch_size: int) -> int:
    """Count the steps whose first row lies in `epoch`."""
    first, past = epoch * plan.span, (epoch + 1) * plan.span
    return -(-past // batch_size) - -(-first // batch_size)


def make_plan(shard_rows: Sequence[int], *, seed: int, lanes: int = 1, window: int | None = None) -> Plan:
    """Make a plan from rows a shard in index order."""
    return Plan(shard_rows=tuple(int(rows) for rows in shard_rows), seed=seed, lanes=lanes, window=window)
