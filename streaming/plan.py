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
import math
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shards.bijection import Word, permute, permute_groups
from shards.errors import UsageError

Rows = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axis:
    """An epoch's shards end to end: their numbers, where each begins, and each shard's first row; (shards,) each.

    `first` is by the shard's number, the others by its place in the order.
    """

    order: Rows
    edges: Rows
    first: Rows


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """The order of a run: rows a shard, a seed, lanes C and window B (None: the whole lane). Pickles as just that.

    `pack` is the pack's number in a mix, so that two packs of one size don't go in step.
    """

    shard_rows: Rows
    seed: int
    lanes: int = 1
    window: int | None = None
    pack: int = 0

    def __post_init__(self) -> None:
        if not self.rows:
            raise UsageError("the data holds no row: choose others, or pack it anew")
        if not 1 <= self.lanes <= self.rows:
            raise UsageError(f"lanes must lie in 1..{self.rows} (the rows), got {self.lanes}: 1 suits most runs")
        if self.window is not None and self.window < 1:
            raise UsageError(f"window must be at least 1 row, got {self.window}: leave it out for a global shuffle")

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @cached_property
    def rows(self) -> int:
        """Count the rows, N."""
        return int(self.shard_rows.sum())

    @property
    def length(self) -> int:
        """Count the rows of a lane and epoch, L; rows % lanes random rows of each epoch are left out."""
        return self.rows // self.lanes

    @property
    def span(self) -> int:
        """Count the rows of an epoch, L * C: how far the cursor moves in it."""
        return self.length * self.lanes

    @property
    def has_windows(self) -> bool:
        """Tell whether the lanes are cut in windows."""
        return self.window is not None and self.window < self.length

    @property
    def is_global(self) -> bool:
        """Tell whether an epoch is one permutation of all rows."""
        return self.lanes == 1 and not self.has_windows

    @property
    def open_shards(self) -> int:
        """Bound the shards that are open at a time, and those of as many windows again: all, without windows."""
        there = int((self.shard_rows > 0).sum())
        if self.window is None or self.is_global:
            return there
        return min(there, 2 * self.lanes * (2 + math.ceil(self.window * there / self.rows)))

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
        lane, within = np.divmod(np.arange(slots.start, slots.stop), batch_size // self.lanes)
        return self.find(lane, cursor // self.lanes + within)

    def find(self, lane: Rows, position: Rows) -> tuple[Rows, Rows]:
        """Return rows and epochs of positions in lanes, (n,) each."""
        epoch, place = np.divmod(position, self.length)
        if self.is_global and len(epoch) and epoch.min() == epoch.max():  # all but a few batches
            return permute(place, self.length, *self._key(int(epoch[0]), 0, 0, "rows")), epoch
        number, start, size = self.windows(lane, place)
        of = (epoch * self.lanes + lane) * (self.length + 1) + number  # names a window in one integer
        _, at, group = np.unique(of, return_index=True, return_inverse=True)
        keys = [
            self._key(*words, "rows") for words in zip(*(x[at].tolist() for x in (epoch, lane, number)), strict=True)
        ]
        inside = permute_groups(place - start, group, sizes=size[at].tolist(), keys=keys)
        return self._from_axis(epoch, lane * self.length + start + inside), epoch

    def windows(self, lane: Rows, place: Rows) -> tuple[Rows, Rows, Rows]:
        """Return each place's window: its number, first place and size."""
        if self.window is None or not self.has_windows:
            return np.zeros_like(place), np.zeros_like(place), np.full_like(place, self.length)
        # lanes are staggered by the size of their first window, so that not all of them open new shards at once
        head = np.maximum(1, self.window * (lane + 1) // self.lanes)
        number = np.where(place < head, 0, 1 + (place - head) // self.window)
        start = np.where(number == 0, 0, head + (number - 1) * self.window)
        return number, start, np.minimum(np.where(number == 0, head, self.window), self.length - start)

    @cached_property
    def axis(self) -> Callable[[int], Axis]:
        """Lay an epoch's shards end to end; the last few epochs' are kept."""
        return lru_cache(4)(self._lay_out)

    def _from_axis(self, epoch: Rows, places: Rows) -> Rows:
        if self.is_global:
            return places
        rows = np.empty_like(places)
        for e in sorted(set(epoch.tolist())):
            axis, here = self.axis(e), epoch == e
            number = np.searchsorted(axis.edges, places[here], side="right") - 1
            rows[here] = axis.first[axis.order[number]] + places[here] - axis.edges[number]
        return rows

    def _lay_out(self, epoch: int) -> Axis:
        count = len(self.shard_rows)
        order = permute(np.arange(count), count, *self._key(epoch, "shards"))
        return Axis(order=order, edges=_before(self.shard_rows[order]), first=self.first_rows)

    @cached_property
    def first_rows(self) -> Rows:
        """Number the first row of each shard: (shards,)."""
        return _before(self.shard_rows)

    def _key(self, *words: Word) -> tuple[Word, ...]:
        # a lone pack's keys, and the first one's, are those of the golden vectors
        return (self.seed, *words, self.pack) if self.pack else (self.seed, *words)


def _before(counts: Rows) -> Rows:
    return np.cumsum(counts) - counts


class Epochs(Protocol):
    """What has epochs of `span` rows: a plan, or an order of several."""

    @property
    def span(self) -> int:
        """Count the rows of an epoch."""
        ...


def steps_in(plan: Epochs, *, epoch: int, batch_size: int) -> int:
    """Count the steps whose first row lies in `epoch`."""
    first, past = epoch * plan.span, (epoch + 1) * plan.span
    return -(-past // batch_size) - -(-first // batch_size)


def make_plan(
    shard_rows: Sequence[int] | Rows, *, seed: int, lanes: int = 1, window: int | None = None, pack: int = 0
) -> Plan:
    """Make a plan from rows a shard in index order."""
    return Plan(shard_rows=np.array(shard_rows, np.int64), seed=seed, lanes=lanes, window=window, pack=pack)
