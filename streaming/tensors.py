"""tensors: batches of arrays, as readers make them <-> batches of tensors, as their users have them, without a copy.

In a reader this is imported only where a user's stages, which work on tensors, are to run.
"""

from collections.abc import Generator, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shards.errors import NotestreamError
from streaming.batch import Batch
from streaming.pipeline import Job, Maker, Stage, Task


def as_tensors(batch: Batch[NDArray[Any]] | Batch) -> Batch:
    """Return it with tensors that lie where the arrays lay."""
    return batch.map(lambda array: torch.from_numpy(array) if isinstance(array, np.ndarray) else array)


def run_stages(batch: Batch[NDArray[Any]], stages: Sequence[Stage]) -> Batch:
    """Run a user's stages."""
    tensors = as_tensors(batch)
    for stage in stages:
        tensors = stage(tensors)
    return tensors


def as_bytes(tensor: torch.Tensor) -> NDArray[np.uint8]:
    """Return a tensor's bytes in order; numpy lacks some of torch's types."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy()


def from_bytes(data: NDArray[np.uint8], *, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the tensor whose bytes these are; `dtype` is torch's name of a type."""
    return torch.from_numpy(data).view(getattr(torch, dtype)).view(shape)


def read_here(job: Job, numbers: Iterable[int], *, samples: int, pinned: bool = False) -> Generator[Batch]:
    """Make batches in this process, all in the same memory of `samples` float32; pinned is for a GPU's copies."""
    maker, out = Maker(job), torch.empty(samples, pin_memory=pinned).numpy()
    for number in numbers:
        made = maker.make(Task(number=number, out=out))
        if isinstance(made, NotestreamError):
            raise made
        yield as_tensors(made)
