"""world: who this process is among the ranks -> its contiguous share of anything."""

import dataclasses
import os
import sys

from shards.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """A rank and how many there are. A rank is one training process, with one device."""

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank must lie in [0, world_size), got {self.rank} of {self.world_size}: number from 0")

    def share(self, count: int) -> range:
        """This rank's part of `count` things in order; parts differ by at most one, and may be empty."""
        return range(self.rank * count // self.world_size, (self.rank + 1) * count // self.world_size)


def find_world() -> World:
    """Tell the world of this process: torch.distributed's, else RANK and WORLD_SIZE as torchrun sets them, else one.

    Raises:
        UsageError: these are set to what is no rank and size.
    """
    # not imported here: it costs 3 s and 200 MB, and where nobody has imported it, it isn't initialised
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return World(rank=distributed.get_rank(), world_size=distributed.get_world_size())
    rank, world_size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    try:
        return World(rank=int(rank), world_size=int(world_size))
    except ValueError as error:
        raise UsageError(
            f"RANK must lie in [0, WORLD_SIZE), got {rank!r} of {world_size!r}: set both, or none"
        ) from error
