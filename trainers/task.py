"""task: a label's kind -> what a target is, what a row's answer costs, and what counts as right.

    kind    a row has                  target                          a row's loss                     answer
    one     one class of several       ids (rows,) int64               cross entropy                    softmax
    many    any number of classes      0 or 1 (rows, classes) float32  binary, averaged over classes    sigmoid

A row's loss depends on nothing but the row: weights go by its own classes, and the divisor stays the global batch, so
however rows are shared out, ranks add up to the same.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from shards.errors import UsageError
from shards.index import Pack
from streaming.labels import count_classes, has_many
from streaming.order import Order
from trainers.config import TrainConfig
from trainers.predictions import THRESHOLD

MONITORS = {
    False: ("valid/accuracy", "valid/macro_accuracy", "valid/loss"),
    True: ("valid/map", "valid/macro_auc", "valid/loss"),
}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What is learned: a column, its classes, and whether a row has any number of them (`many`) or one.

    `weights` (classes,), on the device of the answers, weigh rows in training; of many classes, their positives.
    """

    label: str = ""
    classes: tuple[str, ...] = ()
    many: bool = False
    weights: torch.Tensor | None = None

    @property
    def right(self) -> str:
        """What the share of right answers is called: of rows, or of all classes of all rows."""
        return "label_accuracy" if self.many else "accuracy"


def make_task(
    config: TrainConfig, packs: Sequence[Pack], *, classes: Sequence[str], order: Order, device: torch.device | str
) -> Task:
    """Make the task of a run; class weights take a pass over the label's column.

    Raises:
        UsageError: the column is no label.
    """
    many, weights = has_many(packs[0], config.label), None
    if config.class_weights is not None:
        shares = class_shares(packs, config.label, classes=classes, order=order)
        weights = torch.from_numpy(class_weights(shares, power=config.class_weights, many=many)).to(device)
    return Task(label=config.label, classes=tuple(classes), many=many, weights=weights)


def choose_monitor(config: TrainConfig, *, many: bool) -> str:
    """Choose the metric by which the best checkpoint is kept: accuracy or mAP, unless the config says.

    Raises:
        UsageError: the config's isn't one of this kind of label.
    """
    known = MONITORS[many]
    if config.monitor is not None and config.monitor not in known:
        raise UsageError(
            f"monitor must be one of {', '.join(known)} where label {config.label!r} has "
            f"{'any number of classes' if many else 'one class'} a row, got {config.monitor!r}"
        )
    return config.monitor or known[0]


def row_losses(
    task: Task,
    logits: torch.Tensor,
    target: torch.Tensor,
    *,
    smoothing: float = 0.0,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return each row's loss in nats, (rows,), of logits (rows, classes).

    `smoothing` is the share of each target that is spread over its alternatives: all classes, or yes and no.
    """
    if task.many:
        target = target.to(logits.dtype) * (1 - smoothing) + smoothing / 2
        each = functional.binary_cross_entropy_with_logits(logits, target, pos_weight=weights, reduction="none")
        return each.mean(1)
    losses = functional.cross_entropy(logits, target, reduction="none", label_smoothing=smoothing)
    # not cross_entropy's own weight: with smoothing that weighs a row by all classes, not by its own
    return losses if weights is None else losses * weights[target]


def right_answers(task: Task, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return how right each row's answer is, (rows,): 0 or 1, or the share of its classes decided rightly."""
    if task.many:
        return ((logits > 0) == (target > THRESHOLD)).float().mean(1)  # a logit of 0 is a probability of THRESHOLD
    return logits.argmax(1) == target


def probabilities(task: Task, logits: torch.Tensor) -> torch.Tensor:
    """Return the answers that logits stand for, (rows, classes)."""
    return logits.sigmoid() if task.many else logits.softmax(1)


def class_shares(packs: Sequence[Pack], label: str, *, classes: Sequence[str], order: Order) -> NDArray[np.float64]:
    """Return which share of the run's rows is of each class, (classes,): as they are chosen, repeated and mixed."""
    total = np.zeros(len(classes))
    for pack, chosen, weight in zip(packs, order.selections, order.weights, strict=True):
        counts = count_classes(pack, label, classes=classes, kept=chosen.kept, ends=chosen.ends)
        total += weight / sum(order.weights) * counts / chosen.rows
    return total


def class_weights(shares: NDArray[np.float64], *, power: float, many: bool) -> NDArray[np.float32]:
    """Return what a class weighs, (classes,) float32, for its share of the rows: power 1 makes all count alike.

    One class a row: share ** -power, scaled so that the mean over the rows is 1 and the learning rate keeps its
    meaning; a class without a row (a pitch that only augmentation reaches) weighs as much as the rarest. Many: what a
    positive weighs beside a negative, (negatives / positives) ** power; 1 where there are none of either.
    """
    if many:
        mixed = (shares > 0) & (shares < 1)
        odds = np.divide(1 - shares, shares, out=np.ones_like(shares), where=mixed)
        return (odds**power).astype(np.float32)
    weights = np.where(shares > 0, shares, shares[shares > 0].min()) ** -power
    return (weights / (shares * weights).sum()).astype(np.float32)
