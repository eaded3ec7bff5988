"""masks: mel pictures, each note's own draws -> pictures with stripes of silence, on the rank's device.

SpecAugment's masks (Park et al. 2019) without its warping: the readers move pitch and tempo. What is drawn comes from
the note's name, with the batch, so a note's masks are the same on any rank and after any resume; nothing waits for the
device.
"""

import torch

from trainers.options import MaskConfig


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
