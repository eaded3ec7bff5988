"""model: a timm name -> a classifier of one-channel pictures, the same weights for the same seed."""

import dataclasses

import torch

from shards.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network looks at the mel."""

    name: str = "resnet18"
    """A model of timm's, by name."""


def build_model(config: ModelConfig, *, num_classes: int, seed: int) -> torch.nn.Module:
    """Build the network: (batch, 1, n_mels, frames) -> (batch, num_classes).

    Raises:
        UsageError: timm has no model of that name.
    """
    import timm  # here: 3 s that `--help` and a mistyped option needn't wait for

    if not timm.is_model(config.name):
        near = timm.list_models(f"*{config.name[:5]}*")[:4]
        raise UsageError(
            f"model must be one of timm's, got {config.name!r}: "
            + (f"near are {', '.join(near)}" if near else "see timm.list_models()")
        )
    with torch.random.fork_rng(devices=[]):  # timm draws weights from the global generator: lent, then given back
        torch.manual_seed(seed)
        return timm.create_model(config.name, in_chans=1, num_classes=num_classes)
