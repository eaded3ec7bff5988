"""scratch: a thread's buffers for a piece, rows and spectra, used again, and windows.

Asking the heap for a megabyte a note costs as much as its transforms.
"""

import threading
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

LINE = 64  # bytes: lanes that lie across two of a cache's lines take twice as long


class _Local(threading.local):
    def __init__(self) -> None:
        self.piece = np.empty(0, np.float32)
        self.floats = np.empty(0, np.float32)


_local = _Local()


def borrow(count: int) -> NDArray[np.float32]:
    """Return this thread's (count,) floats, uninitialised, where a cache's line begins: until the next call."""
    if count > len(_local.floats):
        whole = np.empty(count + LINE // 4, np.float32)
        _local.floats = whole[-whole.ctypes.data % LINE // 4 :][:count]
    return _local.floats[:count]


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


@lru_cache(maxsize=256)
def flat(size: int, gain: float) -> NDArray[np.float32]:
    """Return (size,): a gain."""
    return np.full(size, gain, np.float32)
