"""linux: what only Linux has, behind one guard, so that the rest runs on macOS too.

NOTESTREAM_PORTABLE=1 turns it off: a test runs the fast suite so.
"""

import ctypes
import os
import sys

ON = sys.platform == "linux" and os.environ.get("NOTESTREAM_PORTABLE", "") != "1"

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3


def cores() -> int:
    """Count the cores that this process may use (a container may have fewer than the machine)."""
    return len(os.sched_getaffinity(0)) if ON else os.cpu_count() or 1


def keep_heap() -> None:
    """Keep freed buffers in the heap. glibc hands blocks over 128 KB back at once: page faults at every batch."""
    if not ON:
        return
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
        libc.mallopt(M_TOP_PAD, 64 << 20)
    except (OSError, AttributeError):  # musl has no mallopt: slower, not wrong
        return
