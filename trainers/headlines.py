"""headlines: a split's predictions, baselines -> its first figures, with a verdict in plain words."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from trainers import metrics, ranking, tables
from trainers.baseline import CHANCE, MAJORITY
from trainers.predictions import Predictions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mark:
    """A baseline's score on a split, and whether it lies below, inside or above the interval ("" without one)."""

    name: str
    score: float
    place: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Headline:
    """A split's first figures: what was reached, within what bounds, beside what marks. `unit` is what a group is.

    `score` is accuracy or mAP, as `what` says; `facts` are further figures by name.
    """

    split: str
    rows: int
    groups: int
    unit: str
    what: str
    score: float | None
    bounds: tuple[float, float] | None
    facts: tuple[tuple[str, float | None], ...]
    absent: tuple[str, ...]
    marks: tuple[Mark, ...]
    verdict: str


def make_headline(predictions: Predictions, *, baselines: Mapping[str, float]) -> Headline:
    """Say what a split reached, beside its baselines by name."""
    groups = len(set(predictions.group))
    told = _headline_of_many if predictions.many else _headline_of_one
    return Headline(
        split=predictions.split,
        rows=len(predictions.keys),
        groups=groups,
        unit="instruments" if groups < len(predictions.keys) else "samples",
        **told(predictions, baselines=baselines),
    )


def _headline_of_one(predictions: Predictions, *, baselines: Mapping[str, float]) -> dict[str, Any]:
    bounds = metrics.interval(predictions, seed=metrics.INTERVAL_SEED)
    macro, present = metrics.macro_accuracy(predictions)
    majority = baselines.get(MAJORITY, metrics.majority_share(predictions.target))
    others = {name: share for name, share in baselines.items() if name != MAJORITY}
    marks = others if majority is None else {MAJORITY: majority} | others
    facts = [(f"macro accuracy over {_classes(len(present))} present", macro)] if present else []
    facts += [(tables.PITCH[name], share) for name, share in metrics.pitch_accuracies(predictions).items()]
    return {
        "what": "accuracy",
        "score": metrics.accuracy(predictions),
        "bounds": bounds,
        "facts": tuple(facts),
        "absent": tuple(name for name in predictions.classes if name not in present) if present else (),
        "marks": tuple(
            Mark(name=name, score=share, place=_place(share, bounds=bounds)) for name, share in marks.items()
        ),
        "verdict": _verdict(bounds, majority=majority),
    }


def _headline_of_many(predictions: Predictions, *, baselines: Mapping[str, float]) -> dict[str, Any]:
    scores = tables.scores_of(predictions)
    reached, chance = ranking.mean_ap(scores), baselines.get(CHANCE, ranking.chance_ap(scores))
    scored = [score.name for score in scores if score.ap is not None]
    marks = baselines if chance is None else {CHANCE: chance, **baselines}
    verdict = "No class has rows of both kinds, so there is nothing to rank."
    if reached is not None and chance is not None:
        better = "Better than" if reached > chance else "Not better than"
        verdict = f"{better} chance, {percent(chance)}, which is what answers get that know nothing of a sample."
    return {
        "what": "mean average precision (mAP)",
        "score": reached,
        "bounds": None,
        "facts": (
            (
                f"area under the ROC curve, mean over {_classes(len(scored))} with rows of both kinds",
                ranking.macro_auc(scores),
            ),
            ("classes decided rightly, of all classes of all samples", metrics.accuracy(predictions)),
        ),
        "absent": tuple(score.name for score in scores if score.name not in scored) if scored else (),
        "marks": tuple(Mark(name=name, score=share, place="") for name, share in marks.items()),
        "verdict": verdict,
    }


def _classes(count: int) -> str:
    return f"{count} {'class' if count == 1 else 'classes'}"


def _place(share: float, *, bounds: tuple[float, float] | None) -> str:
    if bounds is None:
        return ""
    return "below" if share < bounds[0] else "above" if share > bounds[1] else "inside"


def _verdict(bounds: tuple[float, float] | None, *, majority: float | None) -> str:
    """Say in plain words whether the interval's lower end lies above always answering the majority class."""
    if majority is None:
        return "There are no rows, so there is nothing to compare."
    if bounds is None:
        return "With one instrument only there is no interval: how it would do on others can't be told."
    low, mark = percent(bounds[0]), percent(majority)
    if bounds[0] > majority:
        return f"Better than always answering the majority class: the interval's lower end, {low}, lies above {mark}."
    return (
        "Not shown to be better than always answering the majority class:"
        f" the interval's lower end, {low}, doesn't lie above {mark}."
    )


def percent(share: float | None, decimals: int = 1) -> str:
    """Write a share as a page has it."""
    return "–" if share is None else f"{100 * share:.{decimals}f}\N{NO-BREAK SPACE}%"
