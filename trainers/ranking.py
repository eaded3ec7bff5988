"""ranking: which rows a class holds for, and what was answered -> how well each class's rows are ranked before others.

Average precision and the area under the ROC curve, as scikit-learn has them, need rows of both kinds: a class that
holds for all rows or for none has neither, and counts in no mean. Nor has any where an answer isn't finite.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """A class: how many rows it holds for, their share of all, and how they're ranked (None where that can't be)."""

    name: str
    rows: int
    share: float
    ap: float | None
    auc: float | None


def score_classes(target: NDArray[Any], answers: NDArray[np.floating], *, classes: Sequence[str]) -> list[Score]:
    """Score each class, given 0 or 1 and probabilities, (rows, classes) each."""
    from sklearn.metrics import average_precision_score, roc_auc_score  # here: a second that others needn't wait for

    scores, finite = [], bool(np.isfinite(answers).all())
    for name, truth, answer in zip(classes, target.T, answers.T, strict=True):
        positives, rows = int(truth.sum()), len(truth)
        both = finite and 0 < positives < rows
        scores.append(
            Score(
                name=name,
                rows=positives,
                share=positives / rows if rows else 0.0,
                ap=float(average_precision_score(truth, answer)) if both else None,
                auc=float(roc_auc_score(truth, answer)) if both else None,
            )
        )
    return scores


def mean_ap(scores: Sequence[Score]) -> float | None:
    """Average the classes' average precisions (mAP)."""
    return _mean([score.ap for score in scores if score.ap is not None])


def macro_auc(scores: Sequence[Score]) -> float | None:
    """Average the classes' areas under the ROC curve."""
    return _mean([score.auc for score in scores if score.auc is not None])


def chance_ap(scores: Sequence[Score]) -> float | None:
    """Return the mAP of answers that know nothing: the mean share of rows that a class holds for."""
    return _mean([score.share for score in scores if score.ap is not None])


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
