"""metrics: per-row results of a split -> the numbers that are told. Pure numpy; nothing here knows a model or a device.

A class without a row in the split (NSynth's synth_lead outside train) has no accuracy and counts in no mean. What
can't be said, since there are no rows or fewer than two groups, is None, never nan: the numbers go to JSON.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shards.errors import DataError

INTERVAL_SEED = 0
RESAMPLES = 2000


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """A model's answers for every row of a split, in index order.

    `target` (rows,) and `probabilities` (rows, classes) are in the order of `classes`; `loss` (rows,) is in nats.
    `group` names each row's instrument, the key itself where there is none; `source` is empty where it isn't known.
    `masked` rows couldn't be read and are left out of all else.
    Raises DataError where the fields don't fit each other.
    """

    split: str
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    target: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    loss: NDArray[np.float32]
    group: tuple[str, ...]
    source: tuple[str, ...]
    masked: int = 0

    def __post_init__(self) -> None:
        rows, num_classes = len(self.keys), len(self.classes)
        if len(set(self.classes)) != num_classes or not num_classes:
            raise DataError(f"class names must differ and be at least one; split {self.split!r} has {self.classes}")
        shapes = (self.target.shape, self.probabilities.shape, self.loss.shape)
        if shapes != ((rows,), (rows, num_classes), (rows,)):
            raise DataError(
                f"target, probabilities and loss must fit {rows} keys and {num_classes} classes;"
                f" split {self.split!r} has shapes {shapes}"
            )
        if len(self.group) != rows or len(self.source) not in (0, rows):
            counts = (len(self.group), len(self.source))
            raise DataError(f"group and source must name {rows} rows; split {self.split!r} has {counts}")
        if rows and not (self.target.min() >= 0 and self.target.max() < num_classes):
            raise DataError(
                f"targets must lie in 0..{num_classes - 1};"
                f" split {self.split!r} has {self.target.min()}..{self.target.max()}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tally:
    """How many rows there were, and how many of them were answered rightly."""

    rows: int
    correct: int

    @property
    def accuracy(self) -> float | None:
        """The share of right answers; None without rows."""
        return self.correct / self.rows if self.rows else None


class Confused(NamedTuple):
    """A wrong answer that was given to `rows` rows, a `share` of all that the target's class has."""

    target: str
    predicted: str
    rows: int
    share: float


def predicted(predictions: Predictions) -> NDArray[np.int64]:
    """Pick the likeliest class of each row (rows,), the first of equals."""
    return predictions.probabilities.argmax(axis=1)


def correct(predictions: Predictions) -> NDArray[np.bool_]:
    """Say for each row (rows,) whether its likeliest class is its target."""
    return predicted(predictions) == predictions.target


def accuracy(predictions: Predictions) -> float | None:
    """Give the share of rows answered rightly; None without rows."""
    return float(correct(predictions).mean()) if predictions.keys else None


def per_class(predictions: Predictions) -> dict[str, Tally]:
    """Count rows and right answers of every class, absent ones too."""
    counts = confusion(predictions)
    rows, right = counts.sum(axis=1), counts.diagonal()
    return {
        name: Tally(rows=int(n), correct=int(c)) for name, n, c in zip(predictions.classes, rows, right, strict=True)
    }


def per_source(predictions: Predictions) -> dict[str, Tally]:
    """Count rows and right answers of every source, by name; empty where sources aren't known."""
    if not predictions.source:
        return {}
    codes, names = _codes(predictions.source)
    rows, right = _counts(codes, num_codes=len(names), right=correct(predictions))
    return {names[i]: Tally(rows=int(rows[i]), correct=int(right[i])) for i in np.argsort(names)}


def macro_accuracy(predictions: Predictions) -> tuple[float | None, tuple[str, ...]]:
    """Average the accuracies of the classes present, and say which these are; None without rows."""
    present = {name: tally for name, tally in per_class(predictions).items() if tally.rows}
    if not present:
        return None, ()
    return float(np.mean([tally.correct / tally.rows for tally in present.values()])), tuple(present)


def confusion(predictions: Predictions) -> NDArray[np.int64]:
    """Count answers (classes, classes): rows are targets, columns what was predicted."""
    n = len(predictions.classes)
    pairs = predictions.target * n + predicted(predictions)
    return np.bincount(pairs, minlength=n * n).astype(np.int64).reshape(n, n)


def most_confused(predictions: Predictions, *, n: int) -> list[Confused]:
    """List the `n` wrong answers given most often; of equals, those of earlier classes first."""
    counts = confusion(predictions)
    rows = counts.sum(axis=1)
    np.fill_diagonal(counts, 0)
    likeliest = np.argsort(-counts, axis=None, kind="stable")[:n]
    places = [(int(i), int(j)) for i, j in zip(*np.unravel_index(likeliest, counts.shape), strict=True)]
    names = predictions.classes
    return [
        Confused(names[i], names[j], int(counts[i, j]), float(counts[i, j] / rows[i]))
        for i, j in places
        if counts[i, j]
    ]


def majority_share(target: NDArray[np.int64]) -> float | None:
    """Give what always answering the commonest class of `target` (rows,) would score; None without rows."""
    return float(np.bincount(target).max() / len(target)) if len(target) else None


def interval(predictions: Predictions, *, seed: int, resamples: int = RESAMPLES) -> tuple[float, float] | None:
    """Bound the accuracy (low, high) at 95 % by resampling groups with replacement; None for fewer than two groups.

    Notes of one instrument are right or wrong together, so rows drawn singly would give an interval far too narrow.
    This is the percentile cluster bootstrap (Davison and Hinkley 1997, 3.8) of the pooled accuracy; with fewer than
    some twenty groups it's still somewhat narrow.
    """
    codes, names = _codes(predictions.group)
    if len(names) < 2:
        return None
    tallies = np.stack(_counts(codes, num_codes=len(names), right=correct(predictions)), axis=1)
    # Groups of equal tallies are exchangeable: drawing how often each kind comes up has the same law as drawing the
    # groups, and takes kilobytes where 289,205 groups of one row would take gigabytes.
    kinds, counts = np.unique(tallies, axis=0, return_counts=True)
    generator = np.random.Generator(np.random.Philox(key=seed))
    pooled = generator.multinomial(len(names), counts / len(names), size=resamples) @ kinds
    low, high = np.quantile(pooled[:, 1] / pooled[:, 0], (0.025, 0.975))
    return float(low), float(high)


def summary(predictions: Predictions) -> dict[str, float | int | None]:
    """Give a split's numbers as one flat dict of plain values for JSON, classes' accuracies as `accuracy/NAME`."""
    macro, present = macro_accuracy(predictions)
    low, high = interval(predictions, seed=INTERVAL_SEED) or (None, None)
    loss = float(predictions.loss.mean(dtype=np.float64)) if predictions.keys else None
    numbers = {
        "rows": len(predictions.keys),
        "masked": predictions.masked,
        "groups": len(set(predictions.group)),
        "classes_present": len(present),
        "loss": loss if loss is not None and np.isfinite(loss) else None,
        "accuracy": accuracy(predictions),
        "accuracy_low": low,
        "accuracy_high": high,
        "macro_accuracy": macro,
        "majority_share": majority_share(predictions.target),
    }
    return numbers | {f"accuracy/{name}": tally.accuracy for name, tally in per_class(predictions).items()}


def _codes(names: tuple[str, ...]) -> tuple[NDArray[np.int64], list[str]]:
    """Number names (rows,) by first appearance, and list what the numbers stand for."""
    numbers: dict[str, int] = {}
    codes = np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)
    return codes, list(numbers)


def _counts(
    codes: NDArray[np.int64], *, num_codes: int, right: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count rows and right answers (num_codes,) of each code."""
    return np.bincount(codes, minlength=num_codes), np.bincount(codes[right], minlength=num_codes)
