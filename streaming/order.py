"""order: several packs' plans, weights -> one order of rows. Still one integer of state, exact at any batch size.

Slot p of the run takes its pack from a fixed table of M slots, the sum of the weights, at p % M. Of the m slots of a
pack in the table, those before this one are its rank, so it is the pack's own place (p // M) * m + rank:

    weights 3, 2       table  A B A A B | A B A A B | ...
                       place  0 0 1 2 1 | 3 2 4 5 3 |     A's plan and B's plan, each with epochs of its own

The first n slots hold each pack's share of n to within one row, for any n. The run's epoch is the first pack's, in
slots: ceil(N * M / m) for its N rows an epoch. A pack alone has its plan's own order, unchanged.
"""

import dataclasses
import heapq
import itertools
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import xxhash

from shards.errors import UsageError
from streaming.ahead import upcoming
from streaming.plan import Plan, Rows
from streaming.select import Selection


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slots:
    """Where the rows of some slots come from, (slots,) each: number of the pack, row in its index, repeat, epoch."""

    pack: Rows
    row: Rows
    repeat: Rows
    epoch: Rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Need:
    """From `cursor` on a shard is needed: its pack's number and its own."""

    cursor: int
    pack: int
    shard: int


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """The order of a run: for each pack its plan, its rows and its weight. Pickles as these; holds no pack."""

    plans: tuple[Plan, ...]
    selections: tuple[Selection, ...]
    weights: tuple[int, ...]

    @property
    def span(self) -> int:
        """Count the rows of an epoch of the run: how far the cursor moves in it."""
        return -(-self.plans[0].span * sum(self.weights) // self.weights[0])

    @property
    def seed(self) -> int:
        """The seed of all plans."""
        return self.plans[0].seed

    @property
    def fingerprint(self) -> str:
        """Hash what is read: a lone pack's selection as it is, else each with its weight."""
        if len(self.plans) == 1:
            return self.selections[0].fingerprint
        parts = zip([selection.fingerprint for selection in self.selections], self.weights, strict=True)
        return xxhash.xxh3_128_hexdigest(json.dumps(list(parts)).encode())

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of an order, by name: a run goes on with the same or not at all."""
        return {
            "seed": self.seed,
            "lanes": self.plans[0].lanes,
            "window": self.plans[0].window,
            "weights": list(self.weights),
            "selection": [selection.told for selection in self.selections],
            "fingerprint": self.fingerprint,
        }

    def epoch(self, cursor: int) -> int:
        """Tell the epoch of the run in which the batch at `cursor` begins."""
        return cursor // self.span

    def check_batch(self, *, batch_size: int, cursor: int) -> None:
        """Refuse a batch size or a cursor that doesn't fit; lanes bind only a pack alone."""
        if len(self.plans) == 1:
            self.plans[0].check_batch(batch_size=batch_size, cursor=cursor)
        elif batch_size < 1 or cursor < 0:
            raise UsageError(f"batch_size must be positive and cursor not negative, got {batch_size} and {cursor}")

    def slots(self, cursor: int, *, batch_size: int, slots: range) -> Slots:
        """Say where the rows of `slots` of the batch at `cursor` come from."""
        if len(self.plans) == 1:
            numbers, epoch = self.plans[0].slots(cursor, batch_size=batch_size, slots=slots)
            row, repeat = self.selections[0].find(numbers)
            return Slots(pack=np.zeros_like(row), row=row, repeat=repeat, epoch=epoch)
        turn, at = np.divmod(np.arange(cursor + slots.start, cursor + slots.stop), len(self._table[0]))
        pack, rank = (column[at] for column in self._table)
        found = Slots(pack=pack, row=np.empty_like(pack), repeat=np.empty_like(pack), epoch=np.empty_like(pack))
        for number, (plan, weight) in enumerate(zip(self.plans, self.weights, strict=True)):
            here = np.flatnonzero(pack == number)
            # its lanes take turns row by row: a batch holds no fixed number of its rows to be shared among them
            place, lane = np.divmod(turn[here] * weight + rank[here], plan.lanes)
            numbers, found.epoch[here] = plan.find(lane, place)
            found.row[here], found.repeat[here] = self.selections[number].find(numbers)
        return found

    def upcoming(self, cursor: int) -> Iterator[Need]:
        """Yield the shards that are needed next, in order (see streaming.ahead): endless where there are windows."""
        return heapq.merge(*(self._needs(number, cursor) for number in range(len(self.plans))), key=_when)

    def stretch(self, cursor: int) -> int:
        """Number the stretch of the run in which `cursor` lies; at the border of two, other shards are needed next."""
        own = (cursor * weight // sum(self.weights) for weight in self.weights)
        return sum(at // plan.window for at, plan in zip(own, self.plans, strict=True) if plan.window)

    @property
    def needs(self) -> int:
        """Count the needs that are looked ahead: all shards, or those of the open windows and of as many again."""
        return sum(plan.open_shards for plan in self.plans)

    def _needs(self, number: int, cursor: int) -> Iterator[Need]:
        weight, total, own = self.weights[number], sum(self.weights), np.flatnonzero(self._table[0] == number)
        begun = cursor // total * weight + int(np.searchsorted(own, cursor % total))
        for place, shard in upcoming(self.plans[number], begun):
            slot = place // weight * total + int(own[place % weight])
            yield Need(cursor=max(slot, cursor), pack=number, shard=shard)

    @cached_property
    def _table(self) -> tuple[Rows, Rows]:
        """Return for each slot of a turn its pack and its rank among the pack's own: (M,) each."""
        table = make_table(self.weights)
        rank = np.empty_like(table)
        for number, weight in enumerate(self.weights):
            rank[table == number] = np.arange(weight)
        return table, rank


def next_shards(order: Order, cursor: int, *, most: int | None = None) -> tuple[tuple[int, ...], ...]:
    """Return for each pack the shards that are needed next, in order, each once: what a mirror should expect."""
    found: list[dict[int, None]] = [{} for _ in order.plans]
    for need in itertools.islice(order.upcoming(cursor), order.needs if most is None else most):
        found[need.pack][need.shard] = None
    return tuple(tuple(shards) for shards in found)


def _when(need: Need) -> int:
    return need.cursor


def make_table(weights: Sequence[int]) -> Rows:
    """Spread the packs over a turn, (sum of weights,): any first n slots hold n * weight / sum of each, within one.

    That is so if the k-th of a pack's m slots lies in [floor(k * M / m), ceil((k + 1) * M / m)). Taking the earliest
    deadline first finds such slots for all (Baruah and others, "Proportionate progress", Algorithmica 15, 1996).
    """
    total, taken = sum(weights), [0] * len(weights)
    table = np.empty(total, np.int64)
    for slot in range(total):
        ready = [
            (-(-(taken[i] + 1) * total // weight), i)
            for i, weight in enumerate(weights)
            if taken[i] < weight and taken[i] * total // weight <= slot
        ]
        table[slot] = chosen = min(ready)[1]
        taken[chosen] += 1
    return table
