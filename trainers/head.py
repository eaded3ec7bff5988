"""head: the last layer of a model; with the norms before it, what learns while the body is frozen.

Parameters that are unfrozen after DDP has wrapped a model are never averaged over ranks: each rank would go its own
way. So unfreezing ends with a new wrap, and with an optimizer that keeps what it knows of the head.
"""

from typing import Any

import torch

from shards.errors import UsageError
from trainers.optim import make_optimizer
from trainers.options import OptimConfig

NORMS = (torch.nn.modules.batchnorm._BatchNorm, torch.nn.GroupNorm, torch.nn.LayerNorm)


def head_of(model: torch.nn.Module) -> torch.nn.Module | None:
    """Return a model's last layer, by timm's word for it; None where the model has no such word."""
    classifier: Any = getattr(model, "get_classifier", None)
    return None if classifier is None else classifier()


def head_name(model: torch.nn.Module) -> str | None:
    """Name the last layer as the model's parameters do: fc, head.fc, ..."""
    head = head_of(model)
    return next((name for name, part in model.named_modules() if part is head), None) if head is not None else None


def freeze_body(model: torch.nn.Module) -> None:
    """Leave only the head to train, and the norms: pictures of sound have other levels than those the body has seen.

    Raises:
        UsageError: the model doesn't say which part that is.
    """
    head = head_of(model)
    if head is None or not list(head.parameters()):
        raise UsageError(
            f"frozen_epochs needs a model with get_classifier(), as timm's have, got {type(model).__name__}: "
            "add one that returns the last layer, or leave it out"
        )
    model.requires_grad_(False)
    for part in (head, *(part for part in model.modules() if isinstance(part, NORMS))):
        part.requires_grad_(True)


def unfreeze(model: torch.nn.Module, optimizer: torch.optim.Optimizer, config: OptimConfig) -> torch.optim.Optimizer:
    """Make all of a model trainable, and return an optimizer of it that goes on with what it knows of the head."""
    model.requires_grad_(True)
    fresh = make_optimizer(model, config)
    fresh.state.update(optimizer.state)
    return fresh
