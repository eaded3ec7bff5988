"""buffers: a size -> slots of memory that processes share and use again. No name anywhere, so nothing can be left.

The memory is a file without a name (memfd, elsewhere an unlinked one), handed on as a descriptor: when its last
process has ended, however it ended, it is gone.
"""

import mmap
import os
import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards import linux


class Slots:
    """`count` slots of `size` bytes each. A process that is given the descriptor maps the same memory."""

    def __init__(self, *, count: int, size: int, descriptor: int | None = None) -> None:
        self.count = count
        self.size = -(-max(size, 1) // mmap.PAGESIZE) * mmap.PAGESIZE  # slots begin at pages
        self.descriptor = _nameless(count * self.size) if descriptor is None else descriptor
        self._memory = np.frombuffer(mmap.mmap(self.descriptor, count * self.size), np.uint8)
        self._runtime: Any = None

    def waveform(self, slot: int) -> NDArray[np.float32]:
        """Return a slot as flat float32, to be written."""
        return self.get(slot, size=self.size).view(np.float32)

    def put(self, slot: int, array: NDArray[Any]) -> bool:
        """Make sure that a slot begins with an array's bytes; False where they don't fit."""
        if array.nbytes > self.size:
            return False
        mine = self.get(slot, size=array.nbytes)
        if array.ctypes.data != mine.ctypes.data or not array.flags.c_contiguous:
            # copied twice: it may be a part of the slot that a stage cut out, and lie where it is to go
            mine[:] = np.frombuffer(array.tobytes(), np.uint8)
        return True

    def get(self, slot: int, *, size: int) -> NDArray[np.uint8]:
        """Return the first bytes of a slot, without a copy."""
        return self._memory[slot * self.size : slot * self.size + size]

    def pin(self) -> None:
        """Lock the memory for a GPU's copies, once for all batches that pass through it."""
        import torch  # here: a reader has no use for it

        self._runtime = torch.cuda.cudart()
        assert self._runtime is not None, "a batch goes to a GPU only where there is one"
        torch.cuda.check_error(self._runtime.cudaHostRegister(self._address(), self.count * self.size, 0))

    def close(self) -> None:
        """Let go of the descriptor; the memory goes with the last tensor in it."""
        if self._runtime is not None:
            self._runtime.cudaHostUnregister(self._address())
        os.close(self.descriptor)

    def _address(self) -> int:
        return self._memory.ctypes.data


def _nameless(size: int) -> int:
    if linux.ON:
        descriptor = os.memfd_create("notestream", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor
