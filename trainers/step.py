"""step: a batch -> moved weights. The loss is weighted so that W ranks of uneven shares give the batch's mean.

A share that is too large for the rank's memory goes through in pieces, whose gradients add up; ranks meet once a step,
over the last piece. Nothing here waits for the device: what a step found is read on logging steps.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

import torch

from streaming.batch import Batch
from trainers.mel import LogMel
from trainers.network import Pooled, see
from trainers.optim import set_lr
from trainers.options import MaskConfig, OptimConfig
from trainers.task import Task, right_answers, row_losses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learner:
    """What a step changes: the network behind its mel, as one rank runs it."""

    mel: LogMel
    masks: MaskConfig
    model: Pooled
    network: torch.nn.Module
    """The model as it is called: compiled where that is asked for, wrapped by DDP where there are several ranks."""
    optimizer: torch.optim.Optimizer
    config: OptimConfig
    task: Task = dataclasses.field(default_factory=Task)
    dtype: torch.dtype = torch.float32
    """What the network computes in: bfloat16 is autocast, float64 is meant."""
    micro_batch: int | None = None
    """Rows that go through at once; all of the share unless given."""
    frozen: bool = False
    """Whether only head and norms learn."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepResult:
    """One rank's sums over its rows, and its gradient's length; tensors on the device, read on logging steps only."""

    loss: torch.Tensor
    correct: torch.Tensor
    grad_norm: torch.Tensor
    """Of the whole batch's gradient, before it is clipped: the same on all ranks."""


def train_step(learner: Learner, batch: Batch, *, batch_size: int, world_size: int, lr: float) -> StepResult:
    """Take one step on this rank's rows of a global batch of `batch_size`.

    DDP averages gradients over W ranks, so a rank's loss is the sum over its rows times W / G: together the mean over
    the batch, however its rows are shared out.
    """
    set_lr(learner.optimizer, lr)
    learner.network.train()
    learner.optimizer.zero_grad(set_to_none=True)
    found = []
    for piece, is_last in _pieces(batch, learner.micro_batch or max(1, len(batch.key))):
        with contextlib.nullcontext() if is_last else _no_sync(learner.network):
            loss, correct = _hear(learner, piece)
            (loss * (world_size / batch_size)).backward()
        found.append(torch.stack([loss.detach(), correct]))
    parameters = [parameter for group in learner.optimizer.param_groups for parameter in group["params"]]
    grad_norm = torch.nn.utils.clip_grad_norm_(parameters, learner.config.clip_norm)
    learner.optimizer.step()
    loss, correct = torch.stack(found).sum(0)
    return StepResult(loss=loss, correct=correct, grad_norm=grad_norm.detach())


def _hear(learner: Learner, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sums over some rows of loss and of right answers."""
    pictures, sounding = see(batch, mel=learner.mel, masks=learner.masks)
    with torch.autocast(pictures.device.type, dtype=torch.bfloat16, enabled=learner.dtype == torch.bfloat16):
        logits = learner.network(pictures, sounding)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    task, smoothing = learner.task, learner.config.label_smoothing
    losses = row_losses(task, logits, batch.label, smoothing=smoothing, weights=task.weights)
    correct = (right_answers(task, logits.detach(), batch.label) * batch.weight).sum()
    return (losses * batch.weight).sum(), correct.to(losses.dtype)


def _pieces(batch: Batch, rows: int) -> Iterator[tuple[Batch, bool]]:
    """Cut a rank's share into pieces of up to `rows`, and say of each whether it is the last; one if there is none."""
    for start in range(0, max(1, len(batch.key)), rows):
        piece = batch if rows >= len(batch.key) else batch.map(lambda tensor, at=start: tensor[at : at + rows])
        yield piece, start + rows >= len(batch.key)


def _no_sync(network: torch.nn.Module) -> contextlib.AbstractContextManager[None]:
    """Keep a piece's gradients on this rank, where DDP would average them."""
    wrapped = isinstance(network, torch.nn.parallel.DistributedDataParallel)
    return network.no_sync() if wrapped else contextlib.nullcontext()
