"""python -m streaming: the doors of the streaming room."""

import sys
from typing import Annotated, Literal

import tyro

from shards.door import print_json, run_door
from shards.errors import UsageError, one_line


def plan(
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")],
    /,
    *,
    batch_size: int,
    split: str = "train",
    seed: int = 0,
    where: str | None = None,
    limit: int | None = None,
    balance: str | None = None,
    lanes: int = 1,
    window: int | None = None,
    world_size: int = 1,
    rank: int = 0,
    readers: int = 0,
    cursor: int = 0,
    steps: int = 5,
    json: bool = False,
) -> None:
    """Show which rows a rank will get, step by step, without reading any: the order can be checked from outside.

    Args:
        data: the pack: a folder (or URL) with a folder a split; A=7,B=3 mixes packs by these weights.
        batch_size: rows of the global batch, over all ranks.
        split: which split.
        seed: the run's seed.
        where: which rows, by an expression on the index's columns: "pitch >= 40 and velocity in (100, 127)".
        limit: so many rows of each pack, drawn fairly; the same ones for any seed.
        balance: LABEL or LABEL=POWER: repeat rows of rare classes; 0.5 goes half the way (default), 1 all of it.
        lanes: places of the data that are shuffled at a time, side by side; for packs that don't fit a disk.
        window: rows of such a place; all of them unless given.
        world_size: ranks.
        rank: whose rows are shown.
        readers: DataLoader processes a rank; reader k makes steps k, k + n, ...
        cursor: rows consumed before the first step shown.
        steps: how many steps to show.
        json: print one JSON object a step and line.
    """
    from shards.index import open_pack
    from streaming.balance import parse_balance
    from streaming.mix import make_order, parse_data
    from streaming.world import World

    if not 0 <= rank < world_size <= batch_size:
        raise UsageError(f"rank {rank} of world_size {world_size} does not fit batch_size {batch_size}: rank from 0")
    places = parse_data(data)
    packs = [open_pack(place, split=split) for place, _ in places]
    order = make_order(
        packs, seed=seed, weights=[weight for _, weight in places], where=where, limit=limit,
        balance=parse_balance(balance) if balance is not None else None, lanes=lanes, window=window,
    )  # fmt: skip
    order.check_batch(batch_size=batch_size, cursor=cursor)
    slots = World(rank=rank, world_size=world_size).share(batch_size)
    for step in range(steps):
        at = cursor + step * batch_size
        found = order.slots(at, batch_size=batch_size, slots=slots)
        rows = zip(found.pack.tolist(), found.row.tolist(), strict=True)
        keys, epochs = [packs[number].take([row])[0][0] for number, row in rows], found.epoch.tolist()
        told = {"step": step, "cursor": at, "reader": step % readers if readers else None, "keys": keys}
        told |= {"epochs": epochs} | ({"packs": found.pack.tolist()} if len(packs) > 1 else {})
        told |= {"repeats": found.repeat.tolist()} if balance is not None else {}
        if json:
            print_json(told)
        else:
            print(f"step {step} cursor {at} epoch {min(epochs, default='-')}: {one_line(' '.join(keys))}")


def measure(
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")],
    /,
    *,
    split: str = "train",
    augment: Literal["none", "light", "default", "strong"] = "none",
    readers: int = 0,
    consumer_rate: float | None = None,
    seconds: float = 6.0,
    batch_size: int = 64,
    crop_seconds: float = 2.5,
    json: bool = False,
) -> None:
    """Tell how fast this machine feeds a consumer, and how many cores one would need.

    Args:
        data: the pack: a folder (or URL) with a folder a split.
        split: which split.
        augment: the policy: none reads and crops only.
        readers: reader processes; 0 reads in this one.
        consumer_rate: samples/s that a GPU takes; 80 % of what the readers give at most, unless given.
        seconds: how long to measure.
        batch_size: rows of a batch.
        crop_seconds: length of each waveform.
        json: print the numbers as one JSON object.
    """
    from shards.index import open_pack
    from streaming.augment import preset
    from streaming.measure import measure as measured

    found = measured(
        open_pack(data, split=split), augment=preset(augment), readers=readers, consumer_rate=consumer_rate,
        seconds=seconds, batch_size=batch_size, crop_seconds=crop_seconds,
    )  # fmt: skip
    if json:
        print_json(found)
        return
    print(
        f"{readers} readers give up to {found['ceiling_samples_per_second']:,.0f} samples/s "
        f"({found['ceiling_megabytes_per_second']:,.0f} MB/s of files); a core gives "
        f"{found['samples_per_second_a_core']:,.0f}\n"
        f"a consumer of {found['consumer_samples_per_second']:,.0f} samples/s waits for data "
        f"{100 * found['wait_share']:.1f} % of its time, and needs {found['cores_needed']:.1f} cores like these\n"
        + "  ".join(f"{name} {value:,.0f} us" for name, value in found["us_a_sample"].items())
        + " a sample"
    )


VERBS = {"plan": plan, "measure": measure}

if __name__ == "__main__":
    sys.exit(run_door("streaming", VERBS))
