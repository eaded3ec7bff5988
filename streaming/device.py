"""device: batches in memory -> batches on the rank's device, the next one copied while this one is trained on."""

from collections.abc import Iterator

import torch

from shards.errors import UsageError
from streaming.batch import Batch


def choose_device(name: str, *, local_rank: int = 0) -> torch.device:
    """Return the device called `name`; `auto` takes cuda, else mps, else cpu.

    Raises:
        UsageError: there is no such device here.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, found in there.items() if found)
    if not there.get(name):
        usable = ", ".join(kind for kind, found in there.items() if found)
        raise UsageError(f"device {name!r} is not usable here: take one of auto, {usable}")
    return torch.device("cuda", local_rank) if name == "cuda" else torch.device(name)


def to_device(batches: Iterator[Batch], *, device: torch.device) -> Iterator[Batch]:
    """Yield batches on `device`; on cuda each copy runs on a stream of its own, one batch ahead."""
    if device.type == "cpu":
        yield from batches
    elif device.type != "cuda":
        for batch in batches:
            yield batch.map(lambda tensor: tensor.to(device))
    else:
        yield from _copy_ahead(batches, device=device)


def _copy_ahead(batches: Iterator[Batch], *, device: torch.device) -> Iterator[Batch]:
    copying, training = torch.cuda.Stream(device), torch.cuda.current_stream(device)

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        tensor.record_stream(training)  # its memory is not given out again before training has read it
        return tensor

    ready: Batch | None = None
    for batch in batches:
        with torch.cuda.stream(copying):
            ahead = batch.map(lambda tensor: tensor.pin_memory().to(device, non_blocking=True))
        if ready is not None:
            yield ready
        training.wait_stream(copying)
        ready = ahead.map(keep)
    if ready is not None:
        yield ready
