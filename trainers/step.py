"""step: a batch -> moved weights. The loss is weighted so that W ranks of uneven shares give the batch's mean."""

import dataclasses

import torch

from streaming.batch import Batch
from trainers.masks import MaskConfig, mask
from trainers.optim import OptimConfig, set_lr
from trainers.task import Task, right_answers, row_losses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learner:
    """What a step changes: the network behind its mel, as one rank runs it."""

    mel: torch.nn.Module
    masks: MaskConfig
    silence: float
    """What silence is in mel's pictures."""
    model: torch.nn.Module
    """Wrapped by DDP where there are several ranks."""
    optimizer: torch.optim.Optimizer
    config: OptimConfig
    task: Task = dataclasses.field(default_factory=Task)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepResult:
    """One rank's sums over its rows; tensors on the device, read on logging steps only."""

    loss: torch.Tensor
    correct: torch.Tensor


def train_step(learner: Learner, batch: Batch, *, batch_size: int, world_size: int, lr: float) -> StepResult:
    """Take one step on this rank's rows of a global batch of `batch_size`.

    DDP averages gradients over W ranks, so a rank's loss is the sum over its rows times W / G: together the mean over
    the batch, however its rows are shared out.
    """
    set_lr(learner.optimizer, lr)
    learner.model.train()
    pictures = mask(learner.mel(batch.waveform), batch.draws, learner.masks, silence=learner.silence)
    logits = learner.model(pictures).float()
    task, smoothing = learner.task, learner.config.label_smoothing
    losses = row_losses(task, logits, batch.label, smoothing=smoothing, weights=task.weights)
    loss = (losses * batch.weight).sum()
    learner.optimizer.zero_grad(set_to_none=True)
    (loss * (world_size / batch_size)).backward()
    torch.nn.utils.clip_grad_norm_(learner.model.parameters(), learner.config.clip_norm)
    learner.optimizer.step()
    correct = (right_answers(task, logits.detach(), batch.label) * batch.weight).sum()
    return StepResult(loss=loss.detach(), correct=correct)
