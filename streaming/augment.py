"""augment: what may happen to a note, as one frozen value. `streaming.view` draws from it, note by note.

note ──cut, pitch, tempo, low-pass──> crop ──noise, gain, polarity──> crop ──your transforms──> row of the batch
      streaming.vocoder, one pass           streaming.effects, one pass     streaming.transforms
"""

import dataclasses
from typing import get_args

from shards.errors import UsageError
from streaming.layout import Engine

MAX_SEMITONES = 12.0
MAX_SPEED = 2.0
LEAST_BAND = 0.1  # of the band below Nyquist: less leaves a note's lowest partials only
MAX_GAIN_DB = 24.0
SNR_DB = (-10.0, 100.0)  # from a note that drowns to less than the last bit of 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """What may happen to a note on the CPU, before its mel. As it stands, nothing does.

    Raises:
        UsageError: a field lies outside its range; it is named.
    """

    pitch_semitones: float = 0.0
    """Pitch moves by up to this many semitones, up or down, uniform."""
    pitch_probability: float = 1.0
    """Share of notes whose pitch is moved."""
    whole_semitones: bool = False
    """Pitch moves by whole semitones only, each as often as the others: best where pitch is the label."""
    speed: float = 1.0
    """Tempo lies in [1/speed, speed], uniform in its logarithm."""
    speed_probability: float = 1.0
    """Share of notes whose tempo is moved."""
    random_start: bool = False
    """Crops start anywhere in the note's sounding part; else at its first sample."""
    low_pass: float = 1.0
    """The top of the band is taken away from a cut-off on, uniform between this share of the band and all of it."""
    low_pass_probability: float = 1.0
    """Share of notes that are low-passed."""
    gain_db: float = 0.0
    """Loudness moves by up to this many decibels, up or down, uniform."""
    gain_probability: float = 1.0
    """Share of notes whose loudness is moved."""
    polarity_probability: float = 0.0
    """Share of notes that are turned upside down."""
    noise_snr_db: tuple[float, float] = (20.0, 50.0)
    """White noise lies this many decibels below the crop, lowest and highest, uniform."""
    noise_probability: float = 0.0
    """Share of notes that noise is added to."""
    engine: Engine = "vocoder"
    """How pitch and tempo are moved: vocoder, or wsola, which is faster and weaker on chords and bells."""

    def __post_init__(self) -> None:
        self._check("pitch_semitones", 0, MAX_SEMITONES, "3 is much")
        self._check("speed", 1, MAX_SPEED, "1.25 means 0.8 to 1.25")
        self._check("low_pass", LEAST_BAND, 1, "1 is off, 0.8 cuts off at 80 % of the band or above")
        self._check("gain_db", 0, MAX_GAIN_DB, "6 halves or doubles at most")
        for field in dataclasses.fields(self):
            if field.name.endswith("_probability"):
                self._check(field.name, 0, 1, "0.5 is every other note")
        if self.whole_semitones and 0 < self.pitch_semitones < 1:
            raise UsageError(
                f"pitch_semitones must be 0 or at least 1 with whole_semitones, got {self.pitch_semitones}: take 1"
            )
        least, most = SNR_DB
        if len(self.noise_snr_db) != 2 or not least <= self.noise_snr_db[0] <= self.noise_snr_db[1] <= most:
            told = " ".join(map(str, self.noise_snr_db))
            raise UsageError(
                f"noise_snr_db must be two figures in {least:g}..{most:g}, the lower first, got {told}: 20 50 is usual"
            )
        if self.engine not in get_args(Engine):
            raise UsageError(f"engine must be one of {', '.join(get_args(Engine))}, got {self.engine!r}")

    def _check(self, name: str, low: float, high: float, hint: str) -> None:
        value = getattr(self, name)
        if not low <= value <= high:  # NaN too
            raise UsageError(f"{name} must lie in {low:g}..{high:g}, got {value}: {hint}")

    @property
    def is_nothing(self) -> bool:
        """Tell whether every note stays as it is, cut at its first sample."""
        moved = (
            self.pitch_semitones * self.pitch_probability,
            (self.speed - 1) * self.speed_probability,
            (1 - self.low_pass) * self.low_pass_probability,
        )
        return not (self.random_start or any(moved) or self.polarity_probability or self.is_loudness_drawn)

    @property
    def is_loudness_drawn(self) -> bool:
        """Tell whether gain or noise may happen."""
        return bool(self.gain_db * self.gain_probability or self.noise_probability)


def preset(name: str) -> Augment:
    """Return a policy by name: none, light, default or strong."""
    # a note that falls by 3 semitones loses what lies above 84 % of the band, by 5 above 75 %: the cut-offs reach below
    presets = {
        "none": Augment(),
        "light": Augment(pitch_semitones=1.0, speed=1.1, random_start=True),
        "default": Augment(
            pitch_semitones=3.0, speed=1.25, random_start=True, low_pass=0.8, low_pass_probability=0.5
        ),
        "strong": Augment(
            pitch_semitones=5.0, speed=1.5, random_start=True, low_pass=0.7, low_pass_probability=0.5, gain_db=6.0,
            polarity_probability=0.5, noise_snr_db=(20.0, 50.0), noise_probability=0.5,
        ),
    }  # fmt: skip
    if name not in presets:
        raise UsageError(f"augment preset must be one of {', '.join(presets)}, got {name!r}")
    return presets[name]
