"""balance: class counts, power -> how often each row stands in an epoch, so that rare classes are heard more often.

A class of c rows gets c * (m / c) ** power places an epoch, rounded to whole ones; m is the most frequent class's rows.
Power 1 makes all classes equal, 0.5 goes half the way (Mahajan and others, "Exploring the limits of weakly supervised
pretraining", 2018). Each of its rows gets the whole part of places / c; what is left over goes to rows drawn by a keyed
permutation, so an epoch is as long under any seed, and each class's share is exact.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from shards.bijection import permute
from shards.errors import UsageError
from shards.index import Pack

Rows = NDArray[np.int64]
DEFAULT_POWER = 0.5
MAX_ROWS = 1 << 40  # of an epoch: a class of one row among a billion would be repeated a billion times


@dataclasses.dataclass(frozen=True, kw_only=True)
class Balance:
    """Balance the classes of `label`: power 0 repeats nothing, 1 makes all classes as frequent as the first."""

    label: str
    power: float = DEFAULT_POWER

    def __post_init__(self) -> None:
        if not 0 < self.power <= 1:
            raise UsageError(
                f"balance must have a power over 0 and up to 1, got {self.power:g}: 0.5 is usual, 1 is full"
            )

    def __str__(self) -> str:
        return f"{self.label}={self.power:g}"


def parse_balance(text: str) -> Balance:
    """Parse `LABEL` or `LABEL=POWER`.

    Raises:
        UsageError: the power is no number over 0 and up to 1.
    """
    label, equals, power = text.rpartition("=")
    if not equals:
        return Balance(label=text)
    try:
        return Balance(label=label, power=float(power))
    except ValueError as error:
        raise UsageError(f"balance must be LABEL or LABEL=POWER, got {text[:80]!r}: 0.5 is usual, 1 is full") from error


def repeat_rows(pack: Pack, *, kept: Rows | None, balance: Balance, seed: int) -> Rows:
    """Return for each row kept (None: all) the number past its last place, when all places are counted: (rows,).

    Raises:
        UsageError: the label is no column of text or whole numbers of the pack.
        DataError: a row has none of its classes.
    """
    classes = pack.label_names(balance.label)
    labels = pack.label_ids(balance.label, classes)
    labels = labels if kept is None else labels[kept]
    counts = np.bincount(labels, minlength=len(classes))
    places = class_places(counts, power=balance.power)
    if places.sum() > MAX_ROWS:
        raise UsageError(f"balance {balance} makes an epoch of {places.sum():,} rows: take a smaller power")
    whole, left = np.divmod(places, np.maximum(counts, 1))
    repeats = whole[labels]
    by_class = np.argsort(labels, kind="stable")
    first = 0
    for name, count, more in zip(classes, counts.tolist(), left.tolist(), strict=True):
        drawn = permute(np.arange(more), count, seed, "balance", balance.label, name)
        repeats[by_class[first : first + count][drawn]] += 1
        first += count
    return np.cumsum(repeats)


def class_places(counts: Rows, *, power: float) -> Rows:
    """Return each class's places in an epoch, (classes,), for its rows, (classes,)."""
    # one rounding: c * (m / c) ** power as whole number, in which a last bit of the power doesn't show
    most = float(counts.max())
    return np.array([round(count ** (1 - power) * most**power) if count else 0 for count in counts.tolist()], np.int64)
