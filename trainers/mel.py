"""mel: waveform batch -> log-mel batch, on each rank's device. Any parameter can change without touching a shard."""

import dataclasses

import torch
from torch.nn import functional

from shards.errors import UsageError

try:
    from torchaudio.transforms import MelSpectrogram
except (ImportError, OSError) as error:  # a torchaudio built against another torch fails with either
    import importlib.metadata

    have = {name: importlib.metadata.version(name) for name in ("torch", "torchaudio")}
    raise UsageError(
        f"torchaudio {have['torchaudio']} doesn't import beside torch {have['torch']} ({error}): "
        "pip install --force-reinstall torch torchaudio"
    ) from error

POWER_FLOOR = 1e-10  # of float32 waves in [-1, 1]: 100 dB below the quietest 16-bit sample's mel
CPU_ROWS = 4  # a spectrogram of more notes than this falls out of a core's cache: 1.1 ms a note against 2.8


@dataclasses.dataclass(frozen=True, kw_only=True)
class MelConfig:
    """The log-mel's parameters, by torchaudio's names; the defaults are those of the 2018 experiment."""

    n_fft: int = 1024
    """Samples a frame, windowed by Hann."""
    hop_length: int = 256
    """Samples from frame to frame."""
    n_mels: int = 40
    """Mel bands."""
    f_min: float = 20.0
    """Lowest frequency, Hz."""
    f_max: float = 8000.0
    """Highest frequency, Hz; at most half the sample rate."""
    floor_db: float = 80.0
    """Levels further below a note's own maximum are cut to this, in dB."""

    def __post_init__(self) -> None:
        for name in ("n_fft", "hop_length", "n_mels", "floor_db"):
            if getattr(self, name) <= 0:
                raise UsageError(f"mel {name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.f_min < self.f_max:
            raise UsageError(f"mel f_min must lie in 0..f_max ({self.f_max:g} Hz), got {self.f_min:g}")


class LogMel(torch.nn.Module):
    """Log-mel spectrogram in dB below each note's own maximum, floored and scaled to 0..1.

    (batch, time) float32 -> (batch, 1, n_mels, frames) float32, frames = time // hop_length + 1. What is shorter than
    a frame's n_fft is silence from its end to there. A note's picture doesn't depend on its neighbours; exact silence
    gives finite values and gradients. Runs outside autocast.

    Raises:
        UsageError: f_max lies above half the sample rate.
    """

    def __init__(self, config: MelConfig | None = None, *, sample_rate: int) -> None:
        super().__init__()
        self.config = config = config or MelConfig()
        if config.f_max > sample_rate / 2:
            raise UsageError(f"mel f_max must be at most {sample_rate / 2:g} Hz, half the rate, got {config.f_max:g}")
        self.spectrogram = MelSpectrogram(
            sample_rate=sample_rate,
            n_fft=config.n_fft,
            hop_length=config.hop_length,
            n_mels=config.n_mels,
            f_min=config.f_min,
            f_max=config.f_max,
        )

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return the log-mel of each note."""
        if waveform.shape[1] < self.config.n_fft:  # a reflected edge needs half a frame to reflect
            waveform = functional.pad(waveform, (0, self.config.n_fft - waveform.shape[1]))
        with torch.autocast(waveform.device.type, enabled=False):
            if waveform.device.type == "cpu" and len(waveform) > CPU_ROWS:
                return torch.cat([self._log_mel(rows) for rows in waveform.float().split(CPU_ROWS)])
            return self._log_mel(waveform.float())

    def _log_mel(self, waveform: torch.Tensor) -> torch.Tensor:
        power = self.spectrogram(waveform).clamp(min=POWER_FLOOR)
        level = 10 * torch.log10(power)
        # amax, not AmplitudeToDB(top_db): that takes one maximum over the whole batch
        below = level - level.amax(dim=(-2, -1), keepdim=True)
        return (below.clamp(min=-self.config.floor_db) / self.config.floor_db + 1).unsqueeze(1)
