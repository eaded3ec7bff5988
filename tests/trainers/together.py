"""Ranks as threads of one process, that gather as Session does."""

import dataclasses
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch

from streaming.world import World

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Together:
    """A rank among threads."""

    world: World
    box: list[Any]
    barrier: threading.Barrier
    device: torch.device = dataclasses.field(default_factory=partial(torch.device, "cpu"))

    def share_buffers(self, model: torch.nn.Module) -> None:
        """All have one model."""

    def gather(self, value: Any) -> list[Any]:
        self.box[self.world.rank] = value
        self.barrier.wait(60)
        found = list(self.box)
        self.barrier.wait(60)
        return found


def on_ranks(world_size: int, work: Callable[[Together], T]) -> list[T]:
    """Run the same work on each rank of a group, and return what each gives."""
    box, barrier, found = [None] * world_size, threading.Barrier(world_size), [None] * world_size

    def run(rank: int) -> None:
        found[rank] = work(Together(World(rank=rank, world_size=world_size), box, barrier))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
