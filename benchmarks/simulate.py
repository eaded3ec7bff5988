"""Claim: from 8 to 1,024 ranks each row is read once an epoch, no node's share grows, and a lost node costs minutes.

No cluster is needed: the order, the windows and the ranks' shares are the code that a run uses, evaluated for every
step of an epoch. The store, the network and the clock are a model, whose constants are printed with where they're from.
The same seed prints the same page. Run: python -m benchmarks.simulate
"""

import argparse
import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Section, figure, table
from shards.bijection import uniforms
from streaming.order import Order, next_shards
from streaming.plan import make_plan
from streaming.select import Selection
from streaming.windows import Sizes, derive_reach
from streaming.world import World

WORLD_SIZES = (8, 16, 32, 64, 128, 256, 512, 1024)
BLOCK = 1 << 20  # rows counted together


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What is simulated; every figure is a constant of the model."""

    shards: int = 1_954
    rows_per_shard: int = 1_024
    row_bytes: int = 130_048
    disk_bytes: int | None = None
    """A node's mirror; None holds all."""
    ranks_per_node: int = 8
    batch_a_rank: int = 32
    rank_rate: float = 2_000.0
    """Rows a second that a rank trains on."""
    readers: int = 8
    reader_rate: float = 791.0
    """Rows a second of one reader, augmentation `default`."""
    spread: float = 0.112
    """Standard deviation of the logarithm of a note's time in a reader."""
    link_bytes: float = 1.25e9
    """Bytes a second that a node's network takes in."""
    checkpoint_seconds: float = 300.0
    restart_seconds: float = 36.0
    losses: int = 24
    """Hours simulated, with a node lost in each."""
    seed: int = 0

    @property
    def rows(self) -> int:
        """Rows of the pack."""
        return self.shards * self.rows_per_shard

    @property
    def shard_bytes(self) -> int:
        """Bytes of a shard."""
        return self.rows_per_shard * self.row_bytes


SOURCES = (
    ("rows a second of a reader", "791", "measured: docs/benchmarks.md, Feeding, `default, 1`, on one core"),
    ("spread of a note's time in a reader", "10 to 90 % of notes in 0.721 to 0.961 ms",
     "measured: docs/benchmarks.md, Pitch, tempo and crop, Back to back"),
    ("bytes of a row", "130,048", "a fact: 4 s of 16-bit WAV at 16 kHz in a tar"),
    ("checkpoint at least every", "300 s", "the default of --checkpoint-seconds"),
    ("from a lost node to the first step after it", "36 s",
     "measured by hand, Ray 2.60, two hosts on one machine of 2 cores; larger clusters aren't measured"),
    ("rows a second of a rank", "2,000", "assumed"),
    ("network of a node", "10 Gbit/s, shared with nobody", "assumed; the store answers as fast as they ask"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Told:
    """What comes of a setting at a world size: an epoch's rows and bytes, and what a lost node costs."""

    world_size: int
    nodes: int
    lanes: int
    window: int | None
    rows: int
    node_rows: NDArray[np.int64]
    """Rows that each node trains on, (nodes,)."""
    touched: NDArray[np.int64]
    """Shards that each node's rows lie in, (nodes,)."""
    first_bytes: int
    """What a node's mirror fetches in its first epoch."""
    next_bytes: int
    """... and in the second."""
    skew: float
    """How much longer than the mean the slowest rank's rows take in its readers, in one step."""
    losses: NDArray[np.float64]
    """Seconds that each loss of a node costs."""
    refill_seconds: float
    """Of these, what an empty mirror waits for the shards of the open windows."""
    epoch_seconds: float
    """What an epoch takes where no rank waits for data."""

    def fetching_seconds(self, fetched: int, *, setting: Setting) -> float:
        """Tell what an epoch takes in which each node has to fetch so many bytes."""
        return max(self.epoch_seconds, fetched / setting.link_bytes)


def simulate(setting: Setting, *, world_size: int) -> Told:
    """Run an epoch's plan at this many ranks, and the model of the store and of losses."""
    batch = setting.batch_a_rank * world_size
    order = make_order(setting, batch_size=batch)
    nodes = -(-world_size // setting.ranks_per_node)
    rows, counts = count_rows(order, setting=setting, world_size=world_size, batch_size=batch)
    first, second = (fetched_bytes(order, setting=setting, epoch=epoch) for epoch in (0, 1))
    plan = order.plans[0]
    working = setting.shard_bytes * min(setting.shards, plan.open_shards)
    refill = working / setting.link_bytes
    step_seconds = setting.batch_a_rank / min(setting.rank_rate, setting.readers * setting.reader_rate)
    return Told(
        world_size=world_size,
        nodes=nodes,
        lanes=plan.lanes,
        window=plan.window,
        rows=rows,
        node_rows=counts.sum(axis=1),
        touched=(counts > 0).sum(axis=1),
        first_bytes=first,
        next_bytes=second,
        skew=step_skew(setting, world_size=world_size),
        losses=lost_seconds(setting, world_size=world_size) + refill,
        refill_seconds=refill,
        epoch_seconds=order.span / batch * step_seconds,
    )


def make_order(setting: Setting, *, batch_size: int) -> Order:
    """Make the order that a run makes: windows where the disk is too small for all."""
    shard_rows = np.full(setting.shards, setting.rows_per_shard)
    reach: dict[str, int | None] = {}
    if setting.disk_bytes is not None:
        sizes = Sizes(shard_bytes=np.full(setting.shards, setting.shard_bytes), rows=shard_rows)
        found = derive_reach([sizes], budget_bytes=setting.disk_bytes, batch_size=batch_size)
        reach = {"lanes": found.lanes, "window": found.window}
    plan = make_plan(shard_rows, seed=setting.seed, **reach)  # pyright: ignore[reportArgumentType]
    chosen = Selection(shard_rows=shard_rows, fingerprint="made up", told="all")
    return Order(plans=(plan,), selections=(chosen,), weights=(1,))


def count_rows(order: Order, *, setting: Setting, world_size: int, batch_size: int) -> tuple[int, NDArray[np.int64]]:
    """Go through the steps of one epoch: rows in all, and rows of each shard on each node, (nodes, shards)."""
    node = np.concatenate(
        [
            np.full(len(World(rank=rank, world_size=world_size).share(batch_size)), rank // setting.ranks_per_node)
            for rank in range(world_size)
        ]
    )
    shape = (int(node[-1]) + 1, setting.shards)
    counts, waiting, held = np.zeros(math.prod(shape), np.int64), [], 0
    for cursor in range(0, order.span, batch_size):
        found = order.slots(cursor, batch_size=batch_size, slots=range(batch_size))
        own = found.epoch == 0  # the last step goes on into the next epoch
        here = node[own] * setting.shards + found.row[own] // setting.rows_per_shard
        waiting.append(here)
        held += len(here)
        if held > BLOCK:
            counts += np.bincount(np.concatenate(waiting), minlength=len(counts))
            waiting, held = [], 0
    counts += np.bincount(np.concatenate([np.zeros(0, np.int64), *waiting]), minlength=len(counts))
    return int(counts.sum()), counts.reshape(shape)


def fetched_bytes(order: Order, *, setting: Setting, epoch: int) -> int:
    """Count what a node's mirror fetches in an epoch, begun as the epoch before left it."""
    held: dict[int, None] = {}
    fetched = 0
    for at in range(epoch + 1):
        fetched = sum(_fetch(held, needed=needed, setting=setting) for needed in _needs(order, epoch=at))
    return fetched * setting.shard_bytes


def _needs(order: Order, *, epoch: int) -> Iterator[tuple[int, ...]]:
    """Yield what is expected at each stretch of an epoch, in the order of need, as the readers tell the mirror."""
    plan = order.plans[0]
    step = plan.span if plan.window is None else plan.window // plan.lanes * plan.lanes
    for cursor in range(epoch * order.span, (epoch + 1) * order.span, step):
        yield next_shards(order, cursor)[0]


def _fetch(held: dict[int, None], *, needed: Sequence[int], setting: Setting) -> int:
    """Fetch what is needed next as long as there is room; what isn't needed goes first, then what is needed last."""
    room = setting.shards if setting.disk_bytes is None else setting.disk_bytes // setting.shard_bytes
    place = {shard: at for at, shard in enumerate(needed)}
    fetched = 0
    for at, shard in enumerate(needed):
        if shard in held:
            continue
        if len(held) >= room:
            victim = max(held, key=lambda one: place.get(one, setting.shards))
            if place.get(victim, setting.shards) <= at:
                break
            del held[victim]
        held[shard] = None
        fetched += 1
    return fetched


def step_skew(setting: Setting, *, world_size: int, steps: int = 200) -> float:
    """Tell how much longer than the mean the slowest of the ranks' shares takes, on average over steps."""
    key = int(uniforms(1, setting.seed, "skew", world_size)[0] * 2**53)
    generator = np.random.Generator(np.random.Philox(key=key))
    slowest = []
    for _ in range(steps):
        seconds = generator.lognormal(sigma=setting.spread, size=(world_size, setting.batch_a_rank)).sum(axis=1)
        slowest.append(seconds.max() / seconds.mean() - 1)
    return float(np.mean(slowest))


def lost_seconds(setting: Setting, *, world_size: int) -> NDArray[np.float64]:
    """Lose a node once an hour, at a moment of its own: the work since the last checkpoint, and the restart."""
    moments = uniforms(setting.losses, setting.seed, "losses", world_size) * 3600
    return moments % setting.checkpoint_seconds + setting.restart_seconds


def cells(told: Told, *, setting: Setting) -> list[str]:
    """Write a row of the table."""
    share = int(told.node_rows.max()) * setting.row_bytes
    lost = float(told.losses.mean())
    times = [
        told.epoch_seconds,
        *(told.fetching_seconds(n, setting=setting) for n in (told.first_bytes, told.next_bytes)),
    ]
    return [
        f"{told.world_size:,}",
        f"{told.nodes:,}",
        "all rows" if told.window is None else f"{told.lanes} of {told.window:,}",
        figure(share / 1e9),
        figure(int(told.touched.max()) * setting.shard_bytes / 1e9),
        figure(told.first_bytes / 1e9),
        figure(told.next_bytes / 1e9),
        *(f"{seconds:,.0f}" for seconds in times),
        f"{100 * told.skew:.1f}",
        f"{lost:,.0f} to {told.losses.max():,.0f}",
        f"{100 * lost / 3600:.1f}",
    ]


COLUMNS = (
    "ranks", "nodes", "windows", "GB a node: its rows", "the shards of these", "its mirror, epoch 1", "epoch 2",
    "seconds an epoch: ranks alone", "mirror, epoch 1", "epoch 2", "skew of a step, %",
    "seconds a lost node costs, mean to worst", "% of an hour",
)  # fmt: skip


def section(setting: Setting, *, title: str, claim: str, world_sizes: Sequence[int]) -> tuple[Section, list[Told]]:
    """Simulate all world sizes."""
    told = [simulate(setting, world_size=world_size) for world_size in world_sizes]
    exact = all(one.rows == order_span(setting, one) for one in told)
    worst = max(float(one.losses.mean()) for one in told)
    return Section(
        title=title,
        claim=claim,
        columns=COLUMNS,
        rows=[cells(one, setting=setting) for one in told],
        summary=f"Rows of an epoch counted over all ranks are {'exact' if exact else 'NOT exact'} at every size; a "
        f"node lost every hour costs {worst:,.0f} s of it, {100 * worst / 3600:.1f} %.",
    ), told


def order_span(setting: Setting, told: Told) -> int:
    """Count the rows that an epoch must have at these lanes."""
    return setting.rows // told.lanes * told.lanes


def main() -> None:
    """Print the page's tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--disk-gb", type=float, default=100.0)
    given = parser.parse_args()
    whole = Setting(seed=given.seed)
    small = dataclasses.replace(whole, disk_bytes=round(given.disk_gb * 1e9))
    size = f"{whole.rows:,} notes in {whole.shards:,} shards, {whole.rows * whole.row_bytes / 1e9:,.0f} GB"
    print("### Constants\n\n" + table(("what", "value", "from"), SOURCES) + "\n")
    for setting, title, claim in (
        (whole, "A mirror that holds all", f"{size}; every node's disk has room for all of it."),
        (small, f"A mirror of {given.disk_gb:g} GB", f"{size}; shuffled in the windows that a run would choose."),
    ):
        found, _ = section(setting, title=title, claim=claim, world_sizes=WORLD_SIZES)
        print(f"### {found.title}\n\n{found.claim}\n\n{table(found.columns, found.rows)}\n\n**{found.summary}**\n")


if __name__ == "__main__":
    main()
