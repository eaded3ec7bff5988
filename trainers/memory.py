"""memory: a device -> the most memory that this process has had at a time."""

import resource
import sys

import torch


def peak_bytes(device: torch.device) -> int:
    """Tell the most that tensors took of a GPU so far, or this process of the machine's memory, without its readers."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
