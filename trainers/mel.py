"""mel: waveform batch -> log-mel batch, on each rank's device. Any parameter can change without touching a shard."""

import itertools
import warnings
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from shards.errors import UsageError
from trainers.builds import mismatch
from trainers.options import MelConfig

if TYPE_CHECKING:
    from torchaudio.transforms import MelSpectrogram

POWER_FLOOR = 1e-10  # of float32 waves in [-1, 1]: 100 dB below the quietest 16-bit sample's mel
LEVEL_FLOOR = -99.999  # dB: what has nothing above POWER_FLOOR
BLOCKS = 5  # of bands: more of them leave out more of what is 0, and are more calls
CPU_ROWS = 2  # a spectrogram of more notes than this falls out of a core's cache, and takes twice as long a note


def _transform() -> type["MelSpectrogram"]:
    """Import torchaudio, where a mel is made: one built against another torch fails, with either error."""
    try:
        from torchaudio.transforms import MelSpectrogram
    except (ImportError, OSError) as error:
        raise mismatch(error) from error
    return MelSpectrogram


class LogMel(torch.nn.Module):
    """Log-mel spectrogram in dB below each note's own maximum, or as it is, floored and scaled to 0..1.

    (batch, time) float32 -> (batch, 1, n_mels, frames) float32, frames = time // hop_length + 1. What is shorter than
    a frame's n_fft is silence from its end to there. A note's picture doesn't depend on its neighbours, and with its
    length not on what follows its end; exact silence gives finite values and gradients. Runs outside autocast, in
    float32, or in float64 after `double()`.

    Raises:
        UsageError: f_max lies above half the sample rate, or a band is narrower than a transform tells apart.
    """

    pairs: torch.Tensor

    def __init__(self, config: MelConfig | None = None, *, sample_rate: int) -> None:
        super().__init__()
        self.config = config = config or MelConfig()
        if config.f_max > sample_rate / 2:
            raise UsageError(f"mel f_max must be at most {sample_rate / 2:g} Hz, half the rate, got {config.f_max:g}")
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            try:
                self.spectrogram = _transform()(
                    sample_rate=sample_rate,
                    n_fft=config.n_fft,
                    win_length=config.win_length,
                    hop_length=config.hop_length,
                    n_mels=config.n_mels,
                    f_min=config.f_min,
                    f_max=config.f_max,
                    mel_scale=config.mel_scale,
                    norm=config.norm,
                    power=float(config.power),
                )
            except UserWarning as warning:  # a band without a bin would be a black row for ever
                raise UsageError(
                    f"mel n_mels ({config.n_mels}) is too high for an n_fft of {config.n_fft} at {sample_rate} Hz: "
                    "a band would hold no bin, so take fewer bands or a larger n_fft"
                ) from warning

        # each bin twice, for its real and its imaginary part; made from the config, so no part of a checkpoint
        bands = self.spectrogram.mel_scale.fb
        assert isinstance(bands, torch.Tensor), "torchaudio's own"
        self.register_buffer("pairs", bands.repeat_interleave(2, dim=0), persistent=False)
        self.blocks = _find_blocks(self.pairs)

    def forward(self, waveform: torch.Tensor, length: torch.Tensor | None = None) -> torch.Tensor:
        """Return the log-mel of each note; with `length`, (batch,) samples, what follows a note's end is silence."""
        if waveform.shape[1] < self.config.n_fft:  # a reflected edge needs half a frame to reflect
            waveform = functional.pad(waveform, (0, self.config.n_fft - waveform.shape[1]))
        with torch.autocast(waveform.device.type, enabled=False):
            waveform = waveform.to(self.pairs.dtype)
            if waveform.device.type != "cpu" or torch.compiler.is_exporting() or len(waveform) <= CPU_ROWS:
                return self._log_mel(waveform, length)
            lengths = itertools.repeat(None) if length is None else length.split(CPU_ROWS)
            return torch.cat([self._log_mel(*some) for some in zip(waveform.split(CPU_ROWS), lengths, strict=False)])

    def sounding_frames(self, length: torch.Tensor) -> torch.Tensor:
        """Return how many frames, (batch,), notes of these lengths have alone."""
        return length.clamp(min=self.config.n_fft) // self.config.hop_length + 1

    def _log_mel(self, waveform: torch.Tensor, length: torch.Tensor | None) -> torch.Tensor:
        config = self.config
        bands = self._bands(waveform) if length is None else self._bands_of_notes(waveform, length)
        bands = bands.clamp(min=POWER_FLOOR ** (config.power / 2))
        level = (20 / config.power) * torch.log10(bands)
        if config.reference == "note":
            # amax, not AmplitudeToDB(top_db): that takes one maximum over the whole batch
            loudest = level.amax(dim=(-2, -1), keepdim=True)
            # silence is no louder than its floor: else it would be the brightest of pictures
            loudest = torch.where(loudest > LEVEL_FLOOR, loudest, loudest + config.floor_db)
            level = level - loudest
        picture = level.clamp(min=-config.floor_db) / config.floor_db + 1
        return ((picture - config.mean) / config.std).unsqueeze(1)

    def _bands_of_notes(self, waveform: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """Return the bands, (batch, n_mels, frames), that each note has alone, and nothing after its end."""
        reach, frames = self.config.n_fft // 2, waveform.shape[1] // self.config.hop_length + 1
        padded = functional.pad(waveform, (0, reach))  # a note may end less than a frame's half before the batch does
        bands = self._bands(_reflect_ends(padded, length.clamp(min=self.config.n_fft), reach=reach))[..., :frames]
        after = torch.arange(frames, device=bands.device) >= self.sounding_frames(length)[:, None]
        return bands.masked_fill(after[:, None], 0)

    def _bands(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return what torchaudio's MelSpectrogram does, (batch, n_mels, frames), of powers in a third of its time.

        There it takes the root of each power, and squares it again. Here the real and imaginary parts are squared, and
        the product with the bands adds them up; on a CPU block by block, without most of what is 0 (on a GPU one
        product is less than five calls). Bands come row by row, as what follows reads them.
        """
        if self.config.power != 2:
            return self.spectrogram(waveform)
        size, made = self.config.n_fft, self.spectrogram.spectrogram
        assert isinstance(made.window, torch.Tensor), "torchaudio's own"
        edge = (size - len(made.window)) // 2, size - len(made.window) - (size - len(made.window)) // 2
        ends = waveform[:, 1 : size // 2 + 1].flip(1), waveform[:, -(size // 2) - 1 : -1].flip(1)
        padded = torch.cat((ends[0], waveform, ends[1]), dim=1)  # as pad's "reflect", which takes four times as long
        frames = padded.unfold(-1, size, self.config.hop_length) * functional.pad(made.window, edge)
        parts = torch.view_as_real(torch.fft.rfft(frames)).flatten(-2).square()
        rows = parts.flatten(0, 1).T
        blocks = self.blocks if waveform.device.type == "cpu" else [(slice(None), slice(None))]
        products = [self.pairs[inputs, bands].T @ rows[inputs] for inputs, bands in blocks]
        return torch.cat(products).unflatten(1, parts.shape[:2]).transpose(0, 1)


def _find_blocks(pairs: torch.Tensor) -> list[tuple[slice, slice]]:
    """Part bands, (inputs, n_mels), into BLOCKS of neighbours; return the inputs that each hears, and its bands."""
    blocks = []
    for some in torch.arange(pairs.shape[1]).tensor_split(min(BLOCKS, pairs.shape[1])):
        first, last = int(some[0]), int(some[-1]) + 1
        heard = torch.nonzero(pairs[:, first:last].any(dim=1))
        blocks.append((slice(int(heard[0]), int(heard[-1]) + 1), slice(first, last)))
    return blocks


def _reflect_ends(waveform: torch.Tensor, length: torch.Tensor, *, reach: int) -> torch.Tensor:
    """Put each note's mirror image behind its end, as far as frames reach: the edge that a note alone is given."""
    place = torch.arange(waveform.shape[1], device=waveform.device)
    past = place - (length[:, None] - 1)
    return waveform.gather(1, torch.where((past > 0) & (past <= reach), place - 2 * past, place))
