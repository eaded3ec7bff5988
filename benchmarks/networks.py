"""networks: pictures (batch, 1, n_mels, frames) -> logits. Small networks for one core, by name for --model.name.

    picture ── 5x5, stride 2 ── halved ──[ 3x3, halved ] x n ── 3x3 ── average over bands and frames ── head

The first layer and the first halving leave a sixteenth of the picture, so that the layers behind them fit a core's
caches; channels last halves the time again.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn

Norm = Callable[[int], nn.Module]


class Convolutions(nn.Module):
    """Convolutions of the given widths, each but the last followed by a halving, averaged, dropped out, and a head."""

    def __init__(
        self, widths: Sequence[int], *, num_classes: int, norm: Norm, dropout: float = 0.0, bands: int = 1
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for at, (before, after) in enumerate(zip((1, *widths), widths, strict=False)):
            size, stride = (5, 2) if at == 0 else (3, 1)
            convolution = nn.Conv2d(before, after, size, stride=stride, padding=size // 2, bias=False)
            layers += [convolution, norm(after), nn.ReLU(inplace=True)]
            layers += [nn.MaxPool2d(2, ceil_mode=True)] if at < len(widths) - 1 else []
        self.layers = nn.Sequential(*layers)
        self.average = nn.AdaptiveAvgPool2d((bands, 1))
        self.drop, self.head = nn.Dropout(dropout), nn.Linear(bands * widths[-1], num_classes)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def get_classifier(self) -> nn.Module:
        """Return the last layer, by timm's word for it."""
        return self.head

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        features = self.layers(pictures.contiguous(memory_format=torch.channels_last))
        return self.head(self.drop(self.average(features).flatten(1)))


def _groups(channels: int) -> nn.Module:
    return nn.GroupNorm(8, channels)


def small(*, num_classes: int) -> nn.Module:
    """165,043 parameters for 11 classes."""
    return Convolutions((24, 48, 96, 128), num_classes=num_classes, norm=nn.BatchNorm2d)


def small_group(*, num_classes: int) -> nn.Module:
    """The same with GroupNorm: no row sees another."""
    return Convolutions((24, 48, 96, 128), num_classes=num_classes, norm=_groups)


def small_dropout(*, num_classes: int) -> nn.Module:
    """The same; of what goes into the head, three in ten are dropped."""
    return Convolutions((24, 48, 96, 128), num_classes=num_classes, norm=nn.BatchNorm2d, dropout=0.3)


def small_bands(*, num_classes: int) -> nn.Module:
    """The same; low, middle and high bands reach the head apart."""
    return Convolutions((24, 48, 96, 128), num_classes=num_classes, norm=nn.BatchNorm2d, bands=3)


def wide(*, num_classes: int) -> nn.Module:
    """Twice as wide: 650,000 parameters."""
    return Convolutions((48, 96, 192, 256), num_classes=num_classes, norm=nn.BatchNorm2d)
