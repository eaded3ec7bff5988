"""metrics: per-row results of a split -> the numbers that are told. Pure numpy; nothing here knows a model or a device.

A class without a row in the split (NSynth's synth_lead outside train) has no accuracy and counts in no mean. What
can't be said, since there are no rows or fewer than two groups, is None, never nan: the numbers go to JSON. Where a
row has any number of classes, what counts as an answer is the decision on each of them, at a probability of a half; how
well the classes are ranked is trainers.ranking's.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shards.classes import is_midi
from trainers import ranking
from trainers.predictions import THRESHOLD, Predictions, Tally

INTERVAL_SEED = 0
RESAMPLES = 2000
OCTAVE = 12


class Confused(NamedTuple):
    """A wrong answer that was given to `rows` rows, a `share` of all that the target's class has."""

    target: str
    predicted: str
    rows: int
    share: float


def predicted(predictions: Predictions) -> NDArray[np.int64]:
    """Pick the likeliest class of each row (rows,), the first of equals."""
    return predictions.probabilities.argmax(axis=1)


def correct(predictions: Predictions) -> NDArray[np.int64]:
    """Count each row's right answers (rows,): its likeliest class, or every class that is decided rightly."""
    if predictions.many:
        return ((predictions.probabilities > THRESHOLD) == predictions.target.astype(bool)).sum(axis=1)
    return (predicted(predictions) == predictions.target).astype(np.int64)


def accuracy(predictions: Predictions) -> float | None:
    """Give the share of right answers; None without rows."""
    return float(correct(predictions).mean() / predictions.each) if predictions.keys else None


def per_class(predictions: Predictions) -> dict[str, Tally]:
    """Count rows and right answers of every class, absent ones too."""
    counts = confusion(predictions)
    rows, right = counts.sum(axis=1), counts.diagonal()
    return {
        name: Tally(rows=int(n), correct=int(c)) for name, n, c in zip(predictions.classes, rows, right, strict=True)
    }


def per_source(predictions: Predictions) -> dict[str, Tally]:
    """Count rows and right answers of every source, by name; empty where sources aren't known."""
    return _per_name(predictions.source, predictions)


def per_family(predictions: Predictions) -> dict[str, Tally]:
    """Count rows and right answers of every family, by name; empty where families aren't known, or are the classes."""
    return _per_name(predictions.family, predictions)


def _per_name(named: tuple[str, ...], predictions: Predictions) -> dict[str, Tally]:
    codes, names = _codes(named)
    rows, right = _counts(codes, num_codes=len(names), right=correct(predictions)) if named else ([], [])
    return {names[i]: Tally(rows=int(rows[i]), correct=int(right[i]), each=predictions.each) for i in np.argsort(names)}


def pitch_accuracies(predictions: Predictions) -> dict[str, float]:
    """Give the shares of MIDI pitches answered within a semitone, and in the right pitch class in any octave."""
    if not predictions.keys or predictions.many or not is_midi(predictions.label, predictions.classes):
        return {}
    off = np.abs(predicted(predictions) - predictions.target)
    return {"semitone_accuracy": float((off <= 1).mean()), "chroma_accuracy": float((off % OCTAVE == 0).mean())}


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
    low, high = np.quantile(pooled[:, 1] / (pooled[:, 0] * predictions.each), (0.025, 0.975))
    return float(low), float(high)


def summary(predictions: Predictions) -> dict[str, float | int | None]:
    """Give a split's numbers as one flat dict of plain values for JSON: a class's own as `accuracy/NAME` and so on."""
    loss = float(predictions.loss.mean(dtype=np.float64)) if predictions.keys else None
    numbers: dict[str, float | int | None] = {
        "rows": len(predictions.keys),
        "masked": predictions.masked,
        "groups": len(set(predictions.group)),
        "loss": loss if loss is not None and np.isfinite(loss) else None,
    }
    numbers |= _summary_of_many(predictions) if predictions.many else _summary_of_one(predictions)
    for what, tallies in (("family", per_family(predictions)), ("source", per_source(predictions))):
        numbers |= {f"{what}/{name}": tally.accuracy for name, tally in tallies.items()}
    return numbers


def _summary_of_one(predictions: Predictions) -> dict[str, float | int | None]:
    macro, present = macro_accuracy(predictions)
    low, high = interval(predictions, seed=INTERVAL_SEED) or (None, None)
    numbers = {
        "classes_present": len(present),
        "accuracy": accuracy(predictions),
        "accuracy_low": low,
        "accuracy_high": high,
        "macro_accuracy": macro,
        "majority_share": majority_share(predictions.target),
        **pitch_accuracies(predictions),
    }
    return numbers | {f"accuracy/{name}": tally.accuracy for name, tally in per_class(predictions).items()}


def _summary_of_many(predictions: Predictions) -> dict[str, float | int | None]:
    scores = ranking.score_classes(predictions.target, predictions.probabilities, classes=predictions.classes)
    numbers = {
        "classes_scored": sum(score.ap is not None for score in scores),
        "map": ranking.mean_ap(scores),
        "macro_auc": ranking.macro_auc(scores),
        "chance_map": ranking.chance_ap(scores),
        "label_accuracy": accuracy(predictions),
    }
    numbers |= {f"ap/{score.name}": score.ap for score in scores}
    return numbers | {f"auc/{score.name}": score.auc for score in scores}


def _codes(names: tuple[str, ...]) -> tuple[NDArray[np.int64], list[str]]:
    """Number names (rows,) by first appearance, and list what the numbers stand for."""
    numbers: dict[str, int] = {}
    codes = np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)
    return codes, list(numbers)


def _counts(
    codes: NDArray[np.int64], *, num_codes: int, right: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count rows and right answers (num_codes,) of each code."""
    rights = np.bincount(codes, weights=right, minlength=num_codes)  # floats count exactly up to 2 ** 53
    return np.bincount(codes, minlength=num_codes), rights.astype(np.int64)
