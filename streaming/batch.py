"""batch: what a training step gets. Tensors of one rank's rows, with their keys and the cursor at which they stand."""

import dataclasses
from collections.abc import Callable

import torch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """One rank's rows of a global batch, in order.

    waveform (rows, time) float32 in [-1, 1]; label (rows,) int64; length (rows,) int64, samples before padding;
    weight (rows,) float32, 0 for a masked row; key: each row's; cursor: where the global batch begins.
    """

    waveform: torch.Tensor
    label: torch.Tensor
    length: torch.Tensor
    weight: torch.Tensor
    key: tuple[str, ...]
    cursor: int

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        """Return the same batch with `change` applied to each of its tensors."""
        tensors = {name: change(getattr(self, name)) for name in ("waveform", "label", "length", "weight")}
        return dataclasses.replace(self, **tensors)
