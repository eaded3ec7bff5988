"""buffers: a size -> slots of memory that processes share and use again. No name anywhere, so nothing can be left.

The memory is a file without a name (memfd, elsewhere an unlinked one), handed on as a descriptor: when its last
process has ended, however it ended, it is gone.
"""

import mmap
import os
import tempfile

import numpy as np
import torch
from numpy.typing import NDArray

from shards import linux


class Slots:
    """`count` slots of `size` bytes each. A process that is given the descriptor maps the same memory."""

    def __init__(self, *, count: int, size: int, descriptor: int | None = None) -> None:
        self.count = count
        self.size = -(-max(size, 1) // mmap.PAGESIZE) * mmap.PAGESIZE  # slots begin at pages
        self.descriptor = _nameless(count * self.size) if descriptor is None else descriptor
        self._memory = mmap.mmap(self.descriptor, count * self.size)
        self._runtime = None

    def waveform(self, slot: int) -> NDArray[np.float32]:
        """Return a slot as flat float32, to be written."""
        return np.frombuffer(self._memory, np.float32, count=self.size // 4, offset=slot * self.size)

    def put(self, slot: int, tensor: torch.Tensor) -> bool:
        """Make sure that a slot begins with a tensor's bytes; False where they don't fit."""
        if tensor.nbytes > self.size:
            return False
        mine = self.get(slot, dtype=tensor.dtype, shape=tuple(tensor.shape))
        inside = 0 <= tensor.data_ptr() - mine.data_ptr() < self.size
        if not inside:
            mine.copy_(tensor)
        elif tensor.data_ptr() != mine.data_ptr() or not tensor.is_contiguous():
            mine.copy_(tensor.clone())  # a part of the slot that a stage cut out: source and target overlap
        return True

    def get(self, slot: int, *, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
        """Return the tensor with which a slot begins, without a copy."""
        count = int(np.prod(shape))
        if not count:  # frombuffer refuses it
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(self._memory, dtype=dtype, count=count, offset=slot * self.size).view(shape)

    def pin(self) -> None:
        """Lock the memory for a GPU's copies, once for all batches that pass through it."""
        self._runtime = torch.cuda.cudart()
        assert self._runtime is not None, "a batch goes to a GPU only where there is one"
        torch.cuda.check_error(self._runtime.cudaHostRegister(self._address(), self.count * self.size, 0))

    def close(self) -> None:
        """Let go of the descriptor; the memory goes with the last tensor in it."""
        if self._runtime is not None:
            self._runtime.cudaHostUnregister(self._address())
        os.close(self.descriptor)

    def _address(self) -> int:
        return np.frombuffer(self._memory, np.uint8).ctypes.data


def _nameless(size: int) -> int:
    if linux.ON:
        descriptor = os.memfd_create("notestream", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor
