"""python -m streaming: the doors of the streaming room."""

import sys
from typing import Annotated

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
    world_size: int = 1,
    rank: int = 0,
    readers: int = 0,
    cursor: int = 0,
    steps: int = 5,
    json: bool = False,
) -> None:
    """Show which rows a rank will get, step by step, without reading any: the order can be checked from outside.

    Args:
        data: the pack: a folder (or URL) with a folder a split.
        batch_size: rows of the global batch, over all ranks.
        split: which split.
        seed: the run's seed.
        world_size: ranks.
        rank: whose rows are shown.
        readers: DataLoader processes a rank; reader k makes steps k, k + n, ...
        cursor: rows consumed before the first step shown.
        steps: how many steps to show.
        json: print one JSON object a step and line.
    """
    from shards.index import open_pack
    from streaming.plan import make_plan
    from streaming.world import World

    if not 0 <= rank < world_size <= batch_size:
        raise UsageError(f"rank {rank} of world_size {world_size} does not fit batch_size {batch_size}: rank from 0")
    pack = open_pack(data, split=split)
    order = make_plan([shard.rows for shard in pack.shards], seed=seed)
    order.check_batch(batch_size=batch_size, cursor=cursor)
    for step in range(steps):
        at, slots = cursor + step * batch_size, World(rank=rank, world_size=world_size).share(batch_size)
        rows, epochs = order.slots(at, batch_size=batch_size, slots=slots)
        keys, reader = pack.take(rows.tolist())[0], step % readers if readers else None
        if json:
            print_json({"step": step, "cursor": at, "reader": reader, "keys": keys, "epochs": epochs.tolist()})
        else:
            print(f"step {step} cursor {at} epoch {epochs.min() if len(epochs) else '-'}: {one_line(' '.join(keys))}")


VERBS = {"plan": plan}

if __name__ == "__main__":
    sys.exit(run_door("streaming", VERBS))
