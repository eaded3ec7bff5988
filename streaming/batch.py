"""batch: what a training step gets. Tensors of one rank's rows, with their keys and the cursor at which they stand.

While it is made it holds numpy's arrays: readers start without torch, which takes seconds and most of their memory.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array", default="torch.Tensor")
TENSORS = ("waveform", "label", "length", "weight", "semitones", "draws")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Masked:
    """A row that can't be read: handed out as silence of weight 0. `what` is the error that it would have been."""

    shard: str
    key: str
    offset: int
    what: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch(Generic[Array]):
    """One rank's rows of a global batch, in order. Valid until the next is asked for: its memory is used again.

    Keep one by `clone()`; moving it to a GPU makes a copy too.

    waveform (rows, time) float32 in [-1, 1]; label (rows,) int64, or (rows, classes) float32 of 0 and 1 where a
    row has any number of classes; length (rows,) int64, samples before padding;
    weight (rows,) float32, 0 for a masked row; semitones (rows,) float32, by how much the pitch was really moved;
    draws (rows, count) float32 in [0, 1), each row's own, for what is drawn on the device;
    key: each row's; cursor: where the global batch begins; is_padded: whether a row is shorter than its waveform;
    row, pack: each row's number in its pack, and that pack's; seconds: what it took to make, by name; masked: rows
    that can't be read.
    """

    waveform: Array
    label: Array
    length: Array
    weight: Array
    semitones: Array
    draws: Array
    key: tuple[str, ...]
    cursor: int
    is_padded: bool = False
    row: tuple[int, ...] = ()
    pack: tuple[int, ...] = ()
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    masked: tuple[Masked, ...] = ()

    def map(self, change: Callable[[Array], Any]) -> "Batch[Any]":
        """Return the same batch with `change` applied to each of its tensors."""
        return dataclasses.replace(self, **{name: change(getattr(self, name)) for name in TENSORS})

    def clone(self: "Batch[torch.Tensor]") -> "Batch[torch.Tensor]":
        """Copy it into memory of its own, which stays as it is when the next one is asked for."""
        return self.map(lambda tensor: tensor.clone())

    def to(
        self: "Batch[torch.Tensor]", device: "torch.device | str", *, non_blocking: bool = False
    ) -> "Batch[torch.Tensor]":
        """Return it on a device; Lightning moves batches by this."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))
