"""masks: mel pictures, each note's own draws -> pictures with stripes of silence, on the rank's device.

SpecAugment's masks (Park et al. 2019) without its warping: the readers move pitch and tempo. What is drawn comes from
the note's name, with the batch, so a note's masks are the same on any rank and after any resume; nothing waits for the
device.
"""

import dataclasses

import torch

from shards.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """Stripes that are cut out of training pictures; none as it stands."""

    time_masks: int = 0
    """Stripes over all bands."""
    time_frames: int = 24
    """Their width at most, in frames, uniform from 0."""
    mel_masks: int = 0
    """Stripes over all frames."""
    mel_bands: int = 6
    """Their width at most, in bands, uniform from 0."""

    def __post_init__(self) -> None:
        for name in ("time_masks", "time_frames", "mel_masks", "mel_bands"):
            if getattr(self, name) < 0:
                raise UsageError(f"masks {name} must not be negative, got {getattr(self, name)}: 0 is none")

    @property
    def draws(self) -> int:
        """How many uniforms a note needs."""
        return 2 * (self.time_masks + self.mel_masks)


def mask(pictures: torch.Tensor, draws: torch.Tensor, config: MaskConfig, *, silence: float) -> torch.Tensor:
    """Cut stripes out of pictures, (batch, 1, n_mels, frames), by uniforms in [0, 1), (batch, config.draws)."""
    hit = torch.zeros_like(pictures, dtype=torch.bool)
    for i in range(config.time_masks + config.mel_masks):
        over_time = i < config.time_masks
        size = pictures.shape[-1 if over_time else -2]
        stripe = _stripe(draws[:, 2 * i : 2 * i + 2], size, config.time_frames if over_time else config.mel_bands)
        hit |= stripe[:, None, None, :] if over_time else stripe[:, None, :, None]
    return pictures.masked_fill(hit, silence) if config.draws else pictures


def _stripe(draws: torch.Tensor, size: int, widest: int) -> torch.Tensor:
    """Return (batch, size): True from a start on, for a width of 0 to `widest`."""
    width = (draws[:, :1] * (min(widest, size) + 1)).floor()
    start = (draws[:, 1:] * (size - width + 1)).floor()
    place = torch.arange(size, device=draws.device)
    return (place >= start) & (place < start + width)
