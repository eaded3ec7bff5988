"""A transform that hangs for ever, once and where it is told to by a file: HOW KEY, by name of `sleep` or `lock`."""

import ctypes
import os
import time
from pathlib import Path

from numpy.typing import NDArray

from streaming.draws import Draw


def stall(waveform: NDArray, draw: Draw) -> NDArray:
    """Give the crop as it is, or nothing more."""
    order = Path(os.environ["NOTESTREAM_TEST_STALL"])
    if order.exists():
        how, key = order.read_text().split()
        if draw.key == key and draw.epoch == 1:
            order.rename(order.with_suffix(".done"))  # the next attempt goes on
            while how == "sleep":
                time.sleep(1000)
            while how == "lock":  # C code that keeps Python's lock, so that no other thread runs
                ctypes.PyDLL(None).sleep(1000)
    return waveform
