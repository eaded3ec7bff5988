"""scratch: a thread's buffers for frames and spectra, used again, and windows.

Asking the heap for a megabyte a note costs as much as an FFT, and making views of tensors nearly as much: they're kept.
"""

import threading
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

MOST_VIEWS = 1024


class Buffer(NamedTuple):
    """Rows of complex numbers, as torch transforms them and as loops see them: real and imaginary parts in turn."""

    tensor: torch.Tensor
    floats: NDArray[np.float32]


class Workspace(NamedTuple):
    """Input frames, (inputs, size_in), and output spectra, (outputs, size_out)."""

    frames: Buffer
    changed: Buffer


class _Local(threading.local):
    def __init__(self) -> None:
        self.flat = torch.empty(0, dtype=torch.complex64)
        self.views: dict[tuple[int, int, int, int], Workspace] = {}
        self.piece = np.empty(0, np.float32)


_local = _Local()


def workspace(inputs: int, size_in: int, outputs: int, size_out: int) -> Workspace:
    """Return this thread's workspace of that size, uninitialised, over the same memory as every other one."""
    key = inputs, size_in, outputs, size_out
    found = _local.views.get(key)
    if found is None:
        sizes = [(inputs, size_in), (outputs, size_out)]
        total = sum(rows * size for rows, size in sizes)
        if total > len(_local.flat) or len(_local.views) >= MOST_VIEWS:
            _local.flat = torch.empty(max(total, len(_local.flat)), dtype=torch.complex64)
            _local.views.clear()
        parts = _local.flat[:total].split([rows * size for rows, size in sizes])
        tensors = [part.view(shape) for part, shape in zip(parts, sizes, strict=True)]
        found = Workspace(*(Buffer(tensor, as_floats(tensor)) for tensor in tensors))
        _local.views[key] = found
    return found


def as_floats(tensor: torch.Tensor) -> NDArray[np.float32]:
    """View complex numbers (..., size) as (..., 2 * size), real and imaginary parts in turn."""
    return tensor.numpy().view(np.float32)


def cut_piece(waveform: NDArray[np.float32], first: int, last: int) -> NDArray[np.float32]:
    """Copy [first, last) into a reused buffer, silence where it sticks out. One layout and type for the loops."""
    if last - first > len(_local.piece):
        _local.piece = np.empty(last - first, np.float32)
    piece = _local.piece[: last - first]
    inside = waveform[min(max(first, 0), len(waveform)) : max(last, 0)]
    head = min(max(-first, 0), len(piece))
    tail = head + len(inside)
    piece[:head], piece[head:tail], piece[tail:] = 0, inside, 0
    return piece


@lru_cache(maxsize=256)
def hann(size: int, gain: float = 1.0) -> NDArray[np.float32]:
    """Return (size,): the periodic Hann window, 1/2 - 1/2 cos(2 pi i / size), times a gain."""
    return (gain * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size))).astype(np.float32)
