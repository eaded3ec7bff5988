"""optim: AdamW, with a one-cycle rate that is a pure function of progress. There is no scheduler to save or resume."""

import math

import torch

from trainers.options import OptimConfig

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
