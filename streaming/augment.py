"""augment: policy, keyed draws -> a view of each note: where its crop starts, at which pitch and speed.

Draws are uniforms of our own, named by (seed, epoch, pack, key, repeat): the same note in the same epoch is augmented
alike on any rank, in any reader, and after any resume.
"""

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from shards.bijection import uniforms
from shards.errors import UsageError
from streaming import vocoder

MAX_SEMITONES = 12.0
MAX_SPEED = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """What may happen to a note on the CPU, before its mel."""

    pitch_semitones: float = 0.0
    """Pitch moves by up to this many semitones, up or down, uniform."""
    speed: float = 1.0
    """Tempo lies in [1/speed, speed], uniform in its logarithm."""
    probability: float = 1.0
    """Share of notes whose pitch and tempo are moved; the others are cropped only."""
    random_start: bool = False
    """Crops start anywhere in the note's sounding part; else at its first sample."""

    def __post_init__(self) -> None:
        if not 0 <= self.pitch_semitones <= MAX_SEMITONES:
            raise UsageError(f"pitch_semitones must lie in 0..{MAX_SEMITONES:g}, got {self.pitch_semitones}: 3 is much")
        if not 1 <= self.speed <= MAX_SPEED:
            raise UsageError(f"speed must lie in 1..{MAX_SPEED:g}, got {self.speed}: 1.25 means 0.8 to 1.25")
        if not 0 <= self.probability <= 1:
            raise UsageError(f"probability must lie in 0..1, got {self.probability}")


def preset(name: str) -> Augment:
    """Return a policy by name: none, light, default or strong."""
    presets = {
        "none": Augment(),
        "light": Augment(pitch_semitones=1.0, speed=1.1, random_start=True),
        "default": Augment(pitch_semitones=3.0, speed=1.25, random_start=True),
        "strong": Augment(pitch_semitones=5.0, speed=1.5, random_start=True),
    }
    if name not in presets:
        raise UsageError(f"augment preset must be one of {', '.join(presets)}, got {name!r}")
    return presets[name]


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """One note as it will be heard: output sample n lies at input sample start + n * speed."""

    start: int
    pitch_ratio: float
    speed: float
    length: int

    @property
    def is_plain(self) -> bool:
        """Tell whether this is the note itself, cut out and not moved."""
        return self.pitch_ratio == 1 and self.speed == 1


def draw_view(
    augment: Augment, *, length: int, note_length: int, sounding_length: int, key: tuple[int | str, ...]
) -> View:
    """Draw the view of one note: `length` samples out of `note_length`, of which the first `sounding_length` sound."""
    moved, pitch, tempo, place = uniforms(4, *key).tolist()
    moved = moved < augment.probability
    semitones = augment.pitch_semitones * (2 * pitch - 1) if moved else 0.0
    speed = augment.speed ** (2 * tempo - 1) if moved else 1.0
    start = place * latest_start(length * speed, note_length=note_length, sounding_length=sounding_length)
    return View(
        start=round(start) if augment.random_start else 0,
        pitch_ratio=2.0 ** (semitones / 12),
        speed=speed,
        length=length,
    )


def latest_start(length: float, *, note_length: int, sounding_length: int) -> float:
    """Where a crop of `length` input samples may start at the latest: inside the note, and half of it sounding."""
    return max(0.0, min(note_length - length, sounding_length - length / 2))


def input_range(view: View) -> tuple[int, int]:
    """Return the input samples [first, last) that a view needs; it may stick out of the note, where silence is."""
    return vocoder.reach(pitch_ratio=view.pitch_ratio, speed=view.speed, start=view.start, length=view.length)


def apply_view(waveform: NDArray[np.float32], view: View, *, first: int) -> NDArray[np.float32]:
    """Render a view from input samples that begin at `first`; (time,) -> (view.length,)."""
    return vocoder.render(
        waveform, pitch_ratio=view.pitch_ratio, speed=view.speed, start=view.start - first, length=view.length
    )[0]


def valid_length(view: View, *, note_length: int) -> int:
    """Count the view's samples that lie in the note; what follows is padding."""
    return max(0, min(view.length, math.ceil((note_length - view.start) / view.speed)))
