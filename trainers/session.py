"""session: who a rank is and how it speaks with the others. The loop sees this, and neither Ray nor torchrun.

Every collective is called by all ranks at the same step: nothing here acts on one rank's own clock or flag.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed

from streaming.device import choose_device
from streaming.world import World, find_world


@dataclasses.dataclass(frozen=True, kw_only=True)
class Session:
    """One rank of a run: its place in the world, and its device."""

    world: World
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Tell whether this is rank 0, the one that writes."""
        return self.world.rank == 0

    @property
    def is_alone(self) -> bool:
        """Tell whether there is no other rank."""
        return self.world.world_size == 1

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Add up a tensor over all ranks, in place."""
        if not self.is_alone:
            torch.distributed.all_reduce(values)
        return values

    def broadcast(self, value: Any) -> Any:
        """Give every rank the first one's value."""
        if self.is_alone:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, device=self._object_device())
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Give every rank the values of all, in order of rank."""
        if self.is_alone:
            return [value]
        found: list[Any] = [None] * self.world.world_size
        torch.distributed.all_gather_object(found, value)
        return found

    def share_buffers(self, model: torch.nn.Module) -> None:
        """Give every rank the first one's buffers: BatchNorm's statistics differ a little from rank to rank."""
        if not self.is_alone:
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def barrier(self) -> None:
        """Wait for all ranks."""
        if not self.is_alone:
            torch.distributed.barrier()

    def wrap(self, model: torch.nn.Module) -> torch.nn.Module:
        """Wrap a model on this device for gradient averaging; a lone rank needs none."""
        if self.is_alone:
            return model
        ids = [self.device] if self.device.type == "cuda" else None
        return torch.nn.parallel.DistributedDataParallel(model, device_ids=ids)

    def _object_device(self) -> torch.device | None:
        return self.device if torch.distributed.get_backend() == "nccl" else None


@contextlib.contextmanager
def local_session(*, device: str) -> Iterator[Session]:
    """Open a session without Ray: one rank, or torchrun's several from its environment."""
    world, local_rank = find_world(), int(os.environ.get("LOCAL_RANK", "0"))
    chosen = choose_device(device, local_rank=local_rank)
    beside, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if chosen.type == "cuda":
        chosen = torch.device("cuda", local_rank % gpus)
        torch.cuda.set_device(chosen)
    if world.world_size > 1:  # NCCL refuses ranks that share a GPU
        torch.distributed.init_process_group("nccl" if chosen.type == "cuda" and beside <= gpus else "gloo")
    try:
        yield Session(world=world, device=chosen)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def ray_session(*, device: str) -> Session:
    """Describe the rank that Ray Train started; it has joined the ranks already."""
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    world = World(rank=context.get_world_rank(), world_size=context.get_world_size())
    chosen = ray.train.torch.get_device() if device == "cuda" else choose_device(device)
    return Session(world=world, device=torch.device(chosen))
