"""windows: a disk's budget -> how far the shuffle reaches: lanes and window. All of the pack where it fits.

Of C lanes, C windows are open, and the shards of one more are fetched: C + 1 windows of B rows have to fit. A window
covers whole shards and, at its ends, parts of two more. The more lanes, the fewer shards change at a time, so the more
of the budget is open; but each lane costs two cut shards. What leaves most rows open is taken.
"""

import bisect
import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shards.errors import UsageError
from shards.index import Pack
from streaming.order import Order

MOST_LANES = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reach:
    """How far the shuffle reaches: lanes, and the rows of a window in each (None: all of the lane)."""

    lanes: int = 1
    window: int | None = None

    def __str__(self) -> str:
        if self.window is None:
            return "all rows of an epoch are shuffled together"
        return f"rows are shuffled in {self.lanes} windows at a time of {self.window:,} rows each"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """Bytes and rows of each shard of a pack, (shards,) each; those chosen, where not all rows are."""

    shard_bytes: Sequence[int] | NDArray[np.int64]
    rows: Sequence[int] | NDArray[np.int64]


def derive_reach(packs: Sequence[Sizes], *, budget_bytes: int, batch_size: int) -> Reach:
    """Choose lanes, of which batch_size is a multiple, and a window whose shards fit `budget_bytes` of a node's disk.

    Raises:
        UsageError: not even windows of one row fit.
    """
    loads = [_Load.of(sizes) for sizes in packs]
    if sum(load.total for load in loads) <= budget_bytes:
        return Reach()
    lanes = [lanes for lanes in (1, 2, 4, MOST_LANES) if batch_size % lanes == 0]
    found = [Reach(lanes=n, window=_widest(loads, lanes=n, budget_bytes=budget_bytes)) for n in lanes]
    best = max(found, key=lambda reach: reach.lanes * (reach.window or 0))
    if not best.window:
        least = sum(load.bytes(1, lanes=1) for load in loads)
        raise UsageError(
            f"the disk's budget of {budget_bytes / 1e9:.3g} GB is too small for these shards: "
            f"give at least {least / 1e9:.3g} GB, or pack smaller shards"
        )
    return best


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Load:
    """A pack's bytes as its worst shards fill up, those of most bytes a row first: (shards + 1,) rows and bytes."""

    filled_rows: NDArray[np.int64]
    filled_bytes: NDArray[np.int64]
    largest: int

    @classmethod
    def of(cls, sizes: Sizes) -> "_Load":
        rows, sizes_ = np.array(sizes.rows, np.int64), np.array(sizes.shard_bytes, np.int64)
        rows, sizes_ = rows[rows > 0], sizes_[rows > 0]  # a shard of no rows is never needed
        worst = np.argsort(-sizes_ / rows, kind="stable")
        edges = [np.concatenate([[0], np.cumsum(of[worst])]) for of in (rows, sizes_)]
        return cls(filled_rows=edges[0], filled_bytes=edges[1], largest=int(sizes_.max()))

    @property
    def total(self) -> int:
        return int(self.filled_bytes[-1])

    def bytes(self, window: int, *, lanes: int) -> int:
        """Bound the bytes that windows of `window` rows need, the one that is fetched next too."""
        whole = float(np.interp((lanes + 1) * window, self.filled_rows, self.filled_bytes))
        return min(self.total, math.ceil(whole) + 2 * (lanes + 1) * self.largest)


def _widest(loads: Sequence[_Load], *, lanes: int, budget_bytes: int) -> int:
    """Return the most rows of a window that fit, 0 where none do."""
    most = max(int(load.filled_rows[-1]) for load in loads)
    fits = range(most)  # bisected: the bytes grow with the window
    return bisect.bisect_right(fits, budget_bytes, key=lambda i: sum(load.bytes(i + 1, lanes=lanes) for load in loads))


def find_reach(order: Order, packs: Sequence[Pack], *, budget_bytes: int, batch_size: int) -> Reach:
    """Tell how far this order of these packs reaches on a node's disk; kept for the run, not to be derived on resume.

    Raises:
        UsageError: the budget is too small (see derive_reach).
    """
    return derive_reach(_sizes(order, packs), budget_bytes=budget_bytes, batch_size=batch_size)


def with_reach(order: Order, reach: Reach) -> Order:
    """Return the order with these lanes and this window for each pack."""
    plans = [dataclasses.replace(plan, lanes=reach.lanes, window=reach.window) for plan in order.plans]
    return dataclasses.replace(order, plans=tuple(plans))


def working_bytes(order: Order, packs: Sequence[Pack]) -> tuple[int, ...]:
    """Bound the bytes of shards that each pack's open windows and the next one need: all of them without windows."""
    plans = zip(order.plans, _sizes(order, packs), strict=True)
    return tuple(_Load.of(sizes).bytes(plan.window or plan.rows, lanes=plan.lanes) for plan, sizes in plans)


def _sizes(order: Order, packs: Sequence[Pack]) -> list[Sizes]:
    return [
        Sizes(shard_bytes=pack.shards.bytes, rows=plan.shard_rows)
        for pack, plan in zip(packs, order.plans, strict=True)
    ]
