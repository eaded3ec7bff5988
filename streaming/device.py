"""device: batches in memory -> batches on the rank's device, the next one copied while this one is trained on."""

import dataclasses
import time
from collections.abc import Generator, Iterable

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


def to_device(batches: Iterable[Batch], *, device: torch.device) -> Generator[Batch]:
    """Yield batches on `device`; on cuda each copy runs on a stream of its own, one batch ahead.

    A batch is read no longer than until the next is asked for, so its memory may be used again then.
    """
    if device.type == "cpu":
        yield from batches
    elif device.type == "cuda":
        yield from _copy_ahead(batches, device=device)
    else:
        for batch in batches:
            started = time.perf_counter()
            moved = batch.to(device)
            yield _took(moved, time.perf_counter() - started)


def _copy_ahead(batches: Iterable[Batch], *, device: torch.device) -> Generator[Batch]:
    copying, training = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    begun, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        tensor.record_stream(training)  # its memory is not given out again before training has read it
        return tensor

    ready: Batch | None = None
    for batch in batches:
        pinned = batch.map(_pin)
        with torch.cuda.stream(copying):
            begun.record(copying)
            ahead = pinned.to(device, non_blocking=True)
            done.record(copying)
        if ready is not None:
            yield ready
        training.wait_stream(copying)
        done.synchronize()  # before the next is asked for, since that writes over this one
        ready = _took(ahead.map(keep), begun.elapsed_time(done) / 1000)
    if ready is not None:
        yield ready


def _pin(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.is_pinned() else tensor.pin_memory()  # the readers' memory is pinned for good


def _took(batch: Batch, seconds: float) -> Batch:
    return dataclasses.replace(batch, seconds={**batch.seconds, "copy": seconds})
