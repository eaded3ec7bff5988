"""optim: AdamW, with a one-cycle rate that is a pure function of progress. There is no scheduler to save or resume."""

import dataclasses
import math

import torch

from shards.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How weights move."""

    lr: float = 1e-3
    """The highest learning rate of the cycle."""
    weight_decay: float = 0.05
    """AdamW's decay of weights; biases and norms are spared."""
    warmup: float = 0.25
    """Share of the run in which the rate rises."""
    label_smoothing: float = 0.0
    """Share of each target spread over all classes."""
    clip_norm: float = 5.0
    """Gradients longer than this are cut to it."""
    frozen_epochs: int = 0
    """Passes in which only the last layer and the norms learn: a warm-up for a body that --init-from has brought."""

    def __post_init__(self) -> None:
        if self.frozen_epochs < 0:
            raise UsageError(f"optim frozen_epochs must not be negative, got {self.frozen_epochs}: 0 freezes nothing")
        for name, low, high in (("lr", 0, 10), ("weight_decay", 0, 10), ("warmup", 0, 1), ("label_smoothing", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise UsageError(f"optim {name} must lie in {low}..{high}, got {getattr(self, name)}")


START_SHARE, END_SHARE = 1 / 25, 1e-4  # of the highest rate, as in fastai's and torch's one-cycle


def one_cycle(progress: float, *, lr: float, warmup: float) -> float:
    """Return the learning rate at `progress` in 0..1 of a run: cosine up to `lr`, cosine down (Smith 2018)."""
    progress = min(max(progress, 0.0), 1.0)
    if progress < warmup:
        return _cosine(lr * START_SHARE, lr, progress / warmup)
    return _cosine(lr, lr * END_SHARE, (progress - warmup) / (1 - warmup) if warmup < 1 else 1.0)


def _cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


def make_optimizer(model: torch.nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Make AdamW over the model's parameters; vectors and scalars (biases, norms) aren't decayed."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
