"""view: policy, keyed draws -> one note as it will be heard: where its crop starts, its pitch, its speed and the rest.

Draws are uniforms of our own, named by (seed, epoch, pack, key, repeat): the same note in the same epoch is augmented
alike on any rank, in any reader, and after any resume. Each quantity has its own place among them, used or not, so
switching one off changes no other:

    0 pitch moved   1 pitch     2 speed moved   3 speed   4 start       5 low-passed   6 cut-off   7 upside down
    8 gain moved    9 gain     10 noisy        11 SNR    12 the noise's own seed
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streaming import vocoder
from streaming.augment import Augment
from streaming.draws import Key, draw_uniforms
from streaming.layout import Engine


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """One note as it will be heard: output sample n lies at input sample start + n * speed.

    `band` is the share of the band below Nyquist that is kept; `gain` a factor, below 0 upside down; `noise_snr_db`
    None without noise, whose samples `noise_seed` names.
    """

    start: int
    pitch_ratio: float
    speed: float
    length: int
    band: float = 1.0
    gain: float = 1.0
    noise_snr_db: float | None = None
    noise_seed: int = 0
    engine: Engine = "vocoder"

    @property
    def is_cut(self) -> bool:
        """Tell whether no engine is needed: the samples are the note's own, before effects."""
        return self.pitch_ratio == 1 and self.speed == 1 and self.band == 1

    @property
    def is_plain(self) -> bool:
        """Tell whether this is the note itself, cut out and nothing else."""
        return self.is_cut and self.gain == 1 and self.noise_snr_db is None


def draw_view(augment: Augment, *, length: int, note_length: int, sounding_length: int, key: Key) -> View:
    """Draw the view of one note: `length` samples out of `note_length`, of which the first `sounding_length` sound."""
    # a block costs half as much as all the rest: the second one holds what few policies ask for
    drawn = draw_uniforms(key, blocks=1 + augment.is_loudness_drawn)
    pitch_moved, pitch, speed_moved, tempo, place, passed, cut_off, turned, *loudness = drawn
    semitones = _semitones(augment, pitch) if pitch_moved < augment.pitch_probability else 0.0
    speed = augment.speed ** (2 * tempo - 1) if speed_moved < augment.speed_probability else 1.0
    start = 0
    if augment.random_start:
        start = round(place * latest_start(length * speed, note_length=note_length, sounding_length=sounding_length))
    gain, snr, seed = _draw_loudness(augment, loudness) if loudness else (1.0, None, 0)
    return View(
        start=start,
        pitch_ratio=2.0 ** (semitones / 12),
        speed=speed,
        length=length,
        band=augment.low_pass + (1 - augment.low_pass) * cut_off if passed < augment.low_pass_probability else 1.0,
        gain=-gain if turned < augment.polarity_probability else gain,
        noise_snr_db=snr,
        noise_seed=seed,
        engine=augment.engine,
    )


def _semitones(augment: Augment, uniform: float) -> float:
    most = augment.pitch_semitones
    if not augment.whole_semitones:
        return most * (2 * uniform - 1)
    most = math.floor(most)
    return float(math.floor(uniform * (2 * most + 1)) - most)


def _draw_loudness(augment: Augment, drawn: Sequence[float]) -> tuple[float, float | None, int]:
    """Draw gain, SNR and the noise's seed."""
    gained, level, noisy, ratio, seed = drawn[:5]
    gain = 10 ** (augment.gain_db * (2 * level - 1) / 20) if gained < augment.gain_probability else 1.0
    if noisy >= augment.noise_probability:
        return gain, None, 0
    low, high = augment.noise_snr_db
    return gain, low + (high - low) * ratio, int(seed * 2**53)


def latest_start(length: float, *, note_length: int, sounding_length: int) -> float:
    """Where a crop of `length` input samples may start at the latest: inside the note, and half of it sounding."""
    return max(0.0, min(note_length - length, sounding_length - length / 2))


def input_range(view: View) -> tuple[int, int]:
    """Return the input samples [first, last) that a view needs; it may stick out of the note, where silence is."""
    if view.is_cut:
        return view.start, view.start + view.length
    return vocoder.reach(start=view.start, **engine_options(view))


def apply_view(waveform: NDArray[np.float32], view: View, *, first: int, out: NDArray[np.float32]) -> float:
    """Render a view from input samples that begin at `first` into `out`, (view.length,); return the ratio applied."""
    return vocoder.render(waveform, start=view.start - first, out=out, **engine_options(view))[1]


def engine_options(view: View) -> dict[str, Any]:
    """Tell an engine all of a view but where it starts."""
    return {name: getattr(view, name) for name in ("pitch_ratio", "speed", "length", "band", "engine")}


def valid_length(view: View, *, note_length: int) -> int:
    """Count the view's samples that lie in the note; what follows is padding."""
    return max(0, min(view.length, math.ceil((note_length - view.start) / view.speed)))
