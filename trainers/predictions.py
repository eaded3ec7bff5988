"""predictions: a model's answers for every row of a split, beside what is known of the rows. Pure numpy."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import DataError

THRESHOLD = 0.5  # of a class's probability, past which it is said to hold


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """A model's answers for every row of a split, in index order.

    `target` (rows,), or where a row has any number of classes 0 and 1 (rows, classes), and `probabilities` (rows,
    classes) are in the order of `classes`; `loss` (rows,) is in nats. `label` is the column that is learned. `group`
    names each row's instrument, the key itself where there is none; `source` and `family` are empty where they aren't
    known, or are the label. `masked` rows couldn't be read and are left out of all else.
    Raises DataError where the fields don't fit each other.
    """

    split: str
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    target: NDArray[Any]
    probabilities: NDArray[np.float32]
    loss: NDArray[np.float32]
    group: tuple[str, ...]
    source: tuple[str, ...]
    family: tuple[str, ...] = ()
    label: str = ""
    masked: int = 0

    def __post_init__(self) -> None:
        rows, num_classes = len(self.keys), len(self.classes)
        if len(set(self.classes)) != num_classes or not num_classes:
            raise DataError(f"class names must differ and be at least one; split {self.split!r} has {self.classes}")
        shapes = (self.target.shape, self.probabilities.shape, self.loss.shape)
        if shapes not in [(own, (rows, num_classes), (rows,)) for own in ((rows,), (rows, num_classes))]:
            raise DataError(
                f"target, probabilities and loss must fit {rows} keys and {num_classes} classes;"
                f" split {self.split!r} has shapes {shapes}"
            )
        counts = (len(self.group), len(self.source), len(self.family))
        if counts[0] != rows or not {*counts[1:]} <= {0, rows}:
            raise DataError(f"group, source and family must name {rows} rows; split {self.split!r} has {counts}")
        highest = 1 if self.many else num_classes - 1
        if rows and not (self.target.min() >= 0 and self.target.max() <= highest):
            raise DataError(
                f"targets must lie in 0..{highest}; split {self.split!r} has {self.target.min()}..{self.target.max()}"
            )

    @property
    def many(self) -> bool:
        """Tell whether a row has any number of the classes, not one."""
        return self.target.ndim == 2

    @property
    def each(self) -> int:
        """Count the answers that a row asks for."""
        return len(self.classes) if self.many else 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tally:
    """How many rows there were, how many answers each asks for, and how many of all these were right."""

    rows: int
    correct: int
    each: int = 1

    @property
    def accuracy(self) -> float | None:
        """The share of right answers; None without rows."""
        return self.correct / (self.rows * self.each) if self.rows else None


def tell(classes: Sequence[str], target: NDArray[Any] | np.integer[Any]) -> str:
    """Name a row's classes, given its id () or for each class 0 or 1, or its probability (classes,)."""
    if not isinstance(target, np.ndarray) or not target.ndim:
        return classes[int(target)]
    held = [name for name, share in zip(classes, target.tolist(), strict=True) if share > THRESHOLD]
    return ", ".join(held) or "none"
