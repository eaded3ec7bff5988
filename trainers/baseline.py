"""baseline: mean log-mel of each note -> what a linear model scores. A network that doesn't beat it has learnt little.

Two marks are set beside every accuracy in a report: always answering the commonest class, and logistic regression on
the 40 or so numbers left when a note's log-mel is averaged over time. Where a row has any number of classes, they are
chance and a regression for each class. All are deterministic and take no tuning.
"""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import DataError

MAJORITY, CHANCE = "majority class", "chance"
LOGISTIC = "logistic regression on mean log-mel"
MAX_ITERATIONS = 200
MAX_NEWTON_WEIGHTS = 2000  # its Hessian is the square of that: 32 MB


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Score:
    """What the baseline got on a split: accuracy (None without rows) and probabilities (rows, classes)."""

    accuracy: float | None
    probabilities: NDArray[np.float32]


def fit_and_score(
    train_features: NDArray[np.float32],
    *,
    train_target: NDArray[np.int64],
    splits: Mapping[str, tuple[NDArray[np.float32], NDArray[np.int64]]],
    num_classes: int,
) -> dict[str, Score]:
    """Fit on train_features (rows, n_mels) and score `splits`, each a pair of features (rows, n_mels) and target.

    Columns are standardised by the training rows. A class that training never saw gets probability 0. Raises
    DataError for no training rows, for shapes that don't fit and for features that aren't finite.
    """
    _check(train_features, target=train_target, split="train", n_mels=train_features.shape[-1], num_classes=num_classes)
    if not len(train_target):
        raise DataError("the logistic baseline needs at least one training row and got none: leave it out")
    for split, (features, target) in splits.items():
        _check(features, target=target, split=split, n_mels=train_features.shape[-1], num_classes=num_classes)
    mean, scale = _standard(train_features)
    classes, weight, bias = _fit((train_features - mean) / scale, target=train_target)
    scores = {}
    for split, (features, target) in splits.items():
        logits = np.full((len(features), num_classes), -np.inf)
        logits[:, classes] = ((features - mean) / scale) @ weight.T + bias
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
        right = probabilities.argmax(axis=1) == target
        scores[split] = Score(accuracy=float(right.mean()) if len(right) else None, probabilities=probabilities)
    return scores


def fit_and_rank(
    train_features: NDArray[np.float32],
    *,
    train_target: NDArray[Any],
    splits: Mapping[str, NDArray[np.float32]],
) -> dict[str, NDArray[np.float32]]:
    """Fit one regression for each class on 0 and 1, train_target (rows, classes), and answer `splits`.

    Returns probabilities, (rows, classes) each; those of a class that training saw in all rows or in none are constant.
    """
    unknown = {split: (features, np.zeros(len(features), np.int64)) for split, features in splits.items()}
    answers: dict[str, list[NDArray[np.float32]]] = {split: [] for split in splits}
    for held in train_target.T.astype(np.int64):
        scores = fit_and_score(train_features, train_target=held, splits=unknown, num_classes=2)
        for split, score in scores.items():
            answers[split].append(score.probabilities[:, 1])
    return {split: np.stack(columns, axis=1) for split, columns in answers.items()}


def _check(
    features: NDArray[np.float32], *, target: NDArray[np.int64], split: str, n_mels: int, num_classes: int
) -> None:
    if target.ndim != 1 or features.shape != (len(target), n_mels):
        raise DataError(
            f"baseline features must be (rows, {n_mels}) with a target a row;"
            f" split {split!r} has {features.shape} and {target.shape}"
        )
    if not np.isfinite(features).all():
        bad = int((~np.isfinite(features).all(axis=1)).sum())
        raise DataError(f"baseline features must be finite; {bad} of {len(features)} rows of {split!r} aren't")
    if len(target) and not (target.min() >= 0 and target.max() < num_classes):
        raise DataError(f"targets must lie in 0..{num_classes - 1}; split {split!r} has {target.min()}..{target.max()}")


def _standard(features: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the columns' means and standard deviations (n_mels,), 1 for a column that never changes."""
    scale = features.std(axis=0, dtype=np.float64)
    # Bands above a recording's own rate differ by rounding only: dividing by that would blow noise up to signal.
    return features.mean(axis=0, dtype=np.float64), np.where(scale > 1e-6, scale, 1.0)


def _fit(
    features: NDArray[np.float64], *, target: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Fit the regression; give the classes seen, their weights (seen, n_mels) and biases (seen,)."""
    classes = np.unique(target)
    if len(classes) == 1:
        return classes, np.zeros((1, features.shape[1])), np.zeros(1)
    # Here, since the import costs a second that most users of this room needn't wait for.
    from scipy.linalg import LinAlgWarning
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    # Neighbouring mel bands are so alike that lbfgs crawls: 52 s for 50,000 rows where Newton's method takes 3.
    few = len(classes) * (features.shape[1] + 1) <= MAX_NEWTON_WEIGHTS
    model = LogisticRegression(C=1.0, solver="newton-cholesky" if few else "lbfgs", max_iter=MAX_ITERATIONS)
    with warnings.catch_warnings():
        # The last iterations move the score by hundredths of a point, and a baseline isn't worth an alarm.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", LinAlgWarning)  # newton-cholesky goes on by lbfgs after it
        model.fit(features, target)
    weight, bias = np.asarray(model.coef_), np.asarray(model.intercept_)
    if len(classes) == 2:  # scikit-learn keeps the second class's half only
        weight, bias = np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    return classes, weight, bias
