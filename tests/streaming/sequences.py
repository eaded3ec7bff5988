"""sequences: an order's options, a world, readers -> what its ranks hand out, as one sequence that can be compared.

A row is compared by what enters the mel: its key, a hash of its waveform, its label, length and weight.
"""

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import xxhash

from shards.index import Pack
from streaming.augment import Augment
from streaming.balance import Balance
from streaming.batch import Batch
from streaming.loader import Loader
from streaming.mix import make_order
from streaming.order import Order
from streaming.readers import Readers
from streaming.world import World

FAMILY = "instrument_family_str"
BATCH, SEED, CROP_SECONDS = 24, 4, 0.05
MOVED = Augment(random_start=True, pitch_semitones=2, speed=1.1, pitch_probability=0.2, speed_probability=0.1)
Row = tuple[str, str, int, int, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One way to order rows: how many of the packs, their weights, and what make_order takes."""

    weights: tuple[int, ...] = (1,)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


UNEVEN = {"where": f"{FAMILY} == 'bass' or pitch < 55", "balance": Balance(label=FAMILY, power=1.0)}
CASES = {
    "all rows": Case(),
    "lanes and windows": Case(options={"lanes": 4, "window": 8}),
    "where": Case(options={"where": "pitch > 50"}),
    "balance": Case(options=UNEVEN),
    "mix": Case(weights=(3, 2)),
    "mix, balance, windows": Case(weights=(1, 4), options={**UNEVEN, "lanes": 2, "window": 5}),
}


def order_of(packs: Sequence[Pack], case: Case) -> Order:
    """Make a case's order anew."""
    return make_order(packs[: len(case.weights)], seed=SEED, weights=case.weights, **case.options)


def make(packs: Sequence[Pack], case: Case = CASES["all rows"], *, readers: Readers | None = None, **options) -> Loader:
    """Make a loader of a case's order; `readers` are lent to it, since starting them costs most of a short test."""
    given = {"batch_size": BATCH, "label": FAMILY, "crop_seconds": CROP_SECONDS, "augment": MOVED} | options
    if "order" not in given:
        given["order"] = order_of(packs, case)
    loader = Loader(packs[: len(case.weights)], **given)
    if readers is not None:
        loader.readers, loader._pool = len(readers.pids), readers
    return loader


def endless(loader: Loader) -> Iterator[Batch]:
    """Yield batches over the borders of epochs."""
    while True:
        yield from loader


def pause(batch: Batch) -> Batch:
    """Take a while, so that a kill meets a reader in the middle of a batch: a stage."""
    time.sleep(0.001)
    return batch


def rows_of(batch: Batch) -> list[Row]:
    """Tell a batch's rows in order."""
    hashes = [xxhash.xxh3_64_hexdigest(waveform.numpy().tobytes()) for waveform in batch.waveform]
    columns = (batch.label.tolist(), batch.length.tolist(), batch.weight.tolist())
    return list(zip(batch.key, hashes, *columns, strict=True))


def take(loader: Loader, steps: int) -> list[list[Row]]:
    """Return the rows of some steps, each a list; what was made ahead is dropped, the readers live on."""
    found = [rows_of(batch) for batch, _ in zip(endless(loader), range(steps), strict=False)]
    loader._leave()
    return found


def join(ranks: Sequence[list[list[Row]]]) -> list[list[Row]]:
    """Lay the ranks' shares of each step end to end: the global batches. All ranks take as many steps."""
    return [[row for share in step for row in share] for step in zip(*ranks, strict=True)]


def handed_out(packs: Sequence[Pack], case: Case, *, world_size: int, steps: int, **options) -> list[list[Row]]:
    """Return the global batches that a group of ranks hands out."""
    worlds = [World(rank=rank, world_size=world_size) for rank in range(world_size)]
    order = order_of(packs, case)
    return join([take(make(packs, case, world=world, order=order, **options), steps) for world in worlds])
