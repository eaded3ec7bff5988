"""ahead: plan, cursor -> the shards that it needs next, in order. For who fetches and drops shards; nothing is read.

    lane 0   |= window =|= window ======|= window ======| ...    a window's shards are needed from where it opens
    lane 1   |= window ======|= window ======|= window ... |     to where it ends, all of them, in no order
                        ^ cursor

Where one window holds everything, all shards are needed all the time: each is named once, at its first row.
"""

import heapq
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from streaming.plan import Plan

BLOCK_ROWS = 4096  # looked at together
Need = tuple[int, int]  # a cursor of the plan and the number of the shard that is needed from there on


def upcoming(plan: Plan, cursor: int) -> Iterator[Need]:
    """Yield (cursor, shard) in the order of need, beginning with the windows that are open at `cursor`.

    Endless where there are windows: a shard comes again when a later window needs it. Otherwise each comes once.
    """
    if plan.is_global:
        yield from _first_uses(plan, cursor)
    else:
        yield from heapq.merge(*(_lane_needs(plan, lane, cursor // plan.lanes) for lane in range(plan.lanes)))


def _lane_needs(plan: Plan, lane: int, position: int) -> Iterator[Need]:
    while True:
        epoch, place = divmod(position, plan.length)
        _, start, size = (int(of[0]) for of in plan.windows(np.array([lane]), np.array([place])))
        first = lane * plan.length + start
        for shard in _shards_in(plan, epoch, first, first + size):
            yield position * plan.lanes, shard
        position = epoch * plan.length + start + size


def _shards_in(plan: Plan, epoch: int, first: int, past: int) -> list[int]:
    """List the shards that lie in places first..past-1 of an epoch's axis, in order."""
    axis = plan.axis(epoch)
    begin, end = np.searchsorted(axis.edges, [first, past - 1], side="right")
    numbers = axis.order[begin - 1 : end]
    return numbers[plan.shard_rows[numbers] > 0].tolist()


def _first_uses(plan: Plan, cursor: int) -> Iterator[Need]:
    wanted = plan.shard_rows > 0
    while wanted.any():
        rows, _ = plan.slots(cursor, batch_size=BLOCK_ROWS, slots=range(BLOCK_ROWS))
        shards = np.searchsorted(plan.first_rows, rows, side="right") - 1
        yield from _new_ones(shards, wanted=wanted, cursor=cursor)
        cursor += BLOCK_ROWS


def _new_ones(shards: NDArray[np.int64], *, wanted: NDArray[np.bool_], cursor: int) -> Iterator[Need]:
    numbers, at = np.unique(shards, return_index=True)  # at: where each comes first
    new = wanted[numbers]
    wanted[numbers] = False
    for place, number in sorted(zip(at[new].tolist(), numbers[new].tolist(), strict=True)):
        yield cursor + place, number
