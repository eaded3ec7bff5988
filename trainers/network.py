"""network: waveforms of a batch -> logits, as training runs a model: mel, masks, and a pooling that hears no padding.

    waveform, length -> mel -> pictures -> masks -> [ features -> weighed by what is sound -> pooled -> head ] -> logits

What stands in brackets is `Pooled`, the part that DDP wraps. Evaluation needs none of it: there notes of one length go
through together, and the plain model answers.
"""

from typing import Any

import torch

from streaming.batch import Batch
from trainers.masks import mask
from trainers.mel import LogMel
from trainers.options import MaskConfig


def see(batch: Batch, *, mel: LogMel, masks: MaskConfig) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the pictures that the network gets, and of padded ones the share of frames, (batch,), that is sound."""
    length = batch.length if batch.is_padded else None
    pictures = mel(batch.waveform, length)
    sounding = None if length is None else mel.sounding_frames(length) / pictures.shape[-1]
    return mask(pictures, batch.draws, masks, silence=mel.config.lowest), sounding


class Pooled(torch.nn.Module):
    """A model whose average over time counts columns by the share of them that is sound.

    Only a network of timm's that averages (batch, channels, bands, columns) knows which columns these are; any other
    hears a note's padding as silence. `model` is the model itself.
    """

    model: Any  # forward_features and forward_head are timm's

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model, self.weighs = model, averages(model)

    def forward(self, pictures: torch.Tensor, sounding: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits, (batch, classes); `sounding`, (batch,), is the share of a picture's frames that is sound."""
        if sounding is None or not self.weighs:
            return self.model(pictures)
        features = self.model.forward_features(pictures)
        return self.model.forward_head(weigh(features, sounding))


def averages(model: torch.nn.Module) -> bool:
    """Tell whether a model is one of timm's that ends in an average over bands and columns."""
    from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d  # here: timm costs 3 s

    pool = getattr(model, "global_pool", None) or getattr(getattr(model, "head", None), "global_pool", None)
    return isinstance(pool, SelectAdaptivePool2d) and isinstance(pool.pool, torch.nn.AdaptiveAvgPool2d)


def weigh(features: torch.Tensor, sounding: torch.Tensor) -> torch.Tensor:
    """Scale columns so that their plain average is the average over the first `sounding` of them.

    A column that the end runs through counts by its share. (batch, channels, bands, columns) -> the same.
    """
    columns = features.shape[-1]
    end = sounding[:, None] * columns
    share = (end - torch.arange(columns, device=features.device)).clamp(0, 1)
    return features * (share * columns / end)[:, None, None, :].to(features.dtype)
