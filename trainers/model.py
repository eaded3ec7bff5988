"""model: a name -> a classifier of one-channel pictures, the same weights for the same seed."""

from collections.abc import Callable
from typing import Any

import torch

from shards.collector import uncollected
from shards.errors import UsageError
from trainers.named import load
from trainers.options import ModelConfig

NORMS = {"group": "groupnorm", "group1": "groupnorm1"}  # by timm's names


def build_model(config: ModelConfig, *, num_classes: int, seed: int) -> torch.nn.Module:
    """Build the network: (batch, 1, n_mels, frames) -> (batch, num_classes).

    Raises:
        UsageError: timm has no model of that name or not with that norm, or the function can't be had.
    """
    make = find_own(config.name) if config.is_own else _timm(config)
    with torch.random.fork_rng(devices=[]):  # weights are drawn from the global generator: lent, then given back
        torch.manual_seed(seed)
        model = make(num_classes=num_classes)
    if not isinstance(model, torch.nn.Module):
        raise UsageError(f"model {config.name!r} must return a torch.nn.Module, got {type(model).__name__}")
    return model


def find_own(name: str) -> Callable[..., Any]:
    """Import a function that makes a model.

    Raises:
        UsageError: it can't be imported, or isn't callable.
    """
    found = load(name, kind="model")
    if not callable(found):
        raise UsageError(f"model {name!r} must be a callable (num_classes=) -> module, got {type(found).__name__}")
    return found


def _timm(config: ModelConfig) -> Callable[..., torch.nn.Module]:
    with uncollected():
        import timm  # here: 2 s that `--help` and a mistyped option needn't wait for

    if not timm.is_model(config.name):
        near = timm.list_models(f"*{config.name[:5]}*")[:4]
        raise UsageError(
            f"model must be one of timm's, got {config.name!r}: "
            + (f"near are {', '.join(near)}" if near else "see timm.list_models()")
        )

    def make(*, num_classes: int) -> torch.nn.Module:
        try:
            return timm.create_model(config.name, num_classes=num_classes, **config.arguments)
        except (TypeError, ValueError, AssertionError) as error:
            if config.norm is None:
                raise
            told = " ".join(str(error).split())
            raise UsageError(
                f"model {config.name} can't be had with norm {config.norm} ({told}): take the other of group and group1"
            ) from error

    return make
