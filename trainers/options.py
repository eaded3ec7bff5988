"""options: what a user sets of mel, masks, network and optimizer, checked.

Without torch: help and a mistyped word are quick, and a command's readers, which import its main, don't load it.
"""

import dataclasses
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shards.errors import UsageError

NORMS = {"group": "groupnorm", "group1": "groupnorm1"}  # by timm's names


@dataclasses.dataclass(frozen=True, kw_only=True)
class MelConfig:
    """The log-mel's parameters, by torchaudio's names; the defaults are those of the 2018 experiment."""

    n_fft: int = 1024
    """Points of a frame's transform."""
    win_length: int | None = None
    """Samples of a frame under Hann's window, centred in n_fft; n_fft unless given."""
    hop_length: int = 256
    """Samples from frame to frame."""
    n_mels: int = 40
    """Mel bands."""
    f_min: float = 20.0
    """Lowest frequency, Hz."""
    f_max: float = 8000.0
    """Highest frequency, Hz; at most half the sample rate."""
    mel_scale: Literal["htk", "slaney"] = "htk"
    """How Hz map onto mels."""
    norm: Literal["slaney"] | None = None
    """slaney: bands of equal area instead of equal height."""
    power: Literal[1, 2] = 2
    """What bands add up: 1 magnitudes, 2 powers."""
    floor_db: float = 80.0
    """Levels further below the reference are cut to this, in dB."""
    reference: Literal["note", "fixed"] = "note"
    """What levels are measured from: each note's own maximum, or 0 dB as it is, louder than which nothing is cut."""
    mean: float = 0.0
    """Taken off the picture, whose floor is 0 and whose reference is 1, ..."""
    std: float = 1.0
    """... which is divided by this: for a network that was trained so."""

    def __post_init__(self) -> None:
        for name in ("n_fft", "hop_length", "n_mels", "floor_db", "std"):
            if getattr(self, name) <= 0:
                raise UsageError(f"mel {name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.f_min < self.f_max:
            raise UsageError(f"mel f_min must lie in 0..f_max ({self.f_max:g} Hz), got {self.f_min:g}")
        if self.win_length is not None and not 0 < self.win_length <= self.n_fft:
            raise UsageError(f"mel win_length must lie in 1..n_fft ({self.n_fft}), got {self.win_length}")
        for name, choices in (("mel_scale", ("htk", "slaney")), ("norm", ("slaney", None)), ("power", (1, 2)),
                              ("reference", ("note", "fixed"))):  # fmt: skip
            if getattr(self, name) not in choices:
                told = " or ".join(map(str, choices))
                raise UsageError(f"mel {name} must be {told}, got {getattr(self, name)!r}")

    @property
    def lowest(self) -> float:
        """What silence is in a picture."""
        return (0.0 - self.mean) / self.std

    def draw(self, picture: NDArray[np.float32]) -> NDArray[np.float32]:
        """Undo mean and std, for people's eyes: 0 silence, 1 the reference; louder than a fixed one is 1 too."""
        return np.clip(picture * self.std + self.mean, 0, 1)


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network looks at the mel."""

    name: str = "resnet18"
    """A model of timm's, or package.module:function, which is called with num_classes= and returns a module."""
    norm: Literal["group", "group1"] | None = None
    """GroupNorm of 32 groups or of one instead of BatchNorm, which sees each rank's rows only."""

    def __post_init__(self) -> None:
        if self.norm is not None and self.norm not in NORMS:
            raise UsageError(f"model norm must be {' or '.join(NORMS)}, got {self.norm!r}: leave it out for the usual")
        if self.norm and self.is_own:
            raise UsageError(f"model norm {self.norm!r} is for timm's models, got {self.name!r}: build it in there")

    @property
    def is_own(self) -> bool:
        """Tell whether the model is a function of the user's."""
        return ":" in self.name

    @property
    def arguments(self) -> dict[str, Any]:
        """What timm's create_model is given beside name and classes."""
        return {"in_chans": 1} | ({"norm_layer": NORMS[self.norm]} if self.norm else {})


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How weights move."""

    lr: float = 1e-3
    """The highest learning rate of the cycle."""
    weight_decay: float = 0.05
    """AdamW's decay of weights; biases and norms are spared."""
    warmup: float = 0.25
    """Share of the run in which the rate rises."""
    label_smoothing: float = 0.0
    """Share of each target spread over all classes."""
    clip_norm: float = 5.0
    """Gradients longer than this are cut to it."""
    frozen_epochs: int = 0
    """Passes in which only the last layer and the norms learn: a warm-up for a body that --init-from has brought."""

    def __post_init__(self) -> None:
        if self.frozen_epochs < 0:
            raise UsageError(f"optim frozen_epochs must not be negative, got {self.frozen_epochs}: 0 freezes nothing")
        for name, low, high in (("lr", 0, 10), ("weight_decay", 0, 10), ("warmup", 0, 1), ("label_smoothing", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise UsageError(f"optim {name} must lie in {low}..{high}, got {getattr(self, name)}")
