"""sounds: notes, tones, chords and bursts to move in pitch and tempo, each with how it is moved.

Shared by the gates (test_quality.py) and the table (benchmarks/quality.py). Everything is drawn with fixed seeds.
"""

import dataclasses
import functools
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from shards import render, soundfont
from streaming import vocoder
from streaming.layout import Engine

RATE = 16_000
ENGINES: tuple[Engine, ...] = get_args(Engine)
SEMITONES, SPEED = 4.0, 1.25
ATTACK = 80  # samples: 5 ms, of which 10 to 90 % are 4

# (General MIDI program, MIDI pitch, velocity), by family: bass, brass, flute, guitar, keyboard, mallet, organ, reed,
# string, vocal, synth lead
NOTES = (
    (33, 29, 80), (38, 34, 100), (32, 40, 64), (56, 70, 100), (58, 38, 100), (73, 72, 80), (75, 84, 64), (24, 45, 80),
    (29, 64, 100), (27, 52, 100), (0, 36, 100), (0, 67, 64), (4, 55, 80), (11, 60, 100), (12, 72, 80), (8, 84, 80),
    (16, 48, 80), (19, 62, 80), (65, 60, 100), (71, 52, 64), (48, 57, 80), (42, 40, 100), (52, 60, 80), (81, 50, 100),
)  # fmt: skip
Audio = NDArray[np.floating]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crop:
    """A waveform and what is made of it: `length` samples from `start` (input sample), at another pitch and speed."""

    waveform: NDArray[np.float32]
    semitones: float
    speed: float
    start: int
    length: int
    partials: Audio = dataclasses.field(default_factory=lambda: np.zeros(0))  # Hz, in the input
    onset: int = 0  # input sample

    def heard(self, sample: float) -> float:
        """Return the output sample at which an input sample belongs."""
        return (sample - self.start) / self.speed


def play(crop: Crop, *, engine: Engine) -> tuple[NDArray[np.float32], float]:
    """Render a crop by one of our engines; return it and the pitch ratio really applied."""
    return vocoder.render(
        crop.waveform, pitch_ratio=2 ** (crop.semitones / 12), speed=crop.speed, start=float(crop.start),
        length=crop.length, engine=engine,
    )  # fmt: skip


@functools.cache
def notes() -> tuple[Crop, ...]:
    """Render NOTES, to be cropped to 2.5 s from their first sample: attack, sustain and decay are heard."""
    font, random, crops = soundfont.read(render.font_path(None)), np.random.default_rng(1), []
    for program, pitch, velocity in NOTES:
        note = render.note(font, program=program, pitch=pitch, velocity=velocity, seed=0)
        assert note is not None, (program, pitch, velocity)
        semitones, speed = _draw(random)
        waveform = note.astype(np.float32) / np.float32(32_768)
        crops.append(Crop(waveform=waveform, semitones=semitones, speed=speed, start=0, length=40_000))
    return tuple(crops)


@functools.cache
def tones() -> tuple[Crop, ...]:
    """Make 20 harmonic tones of 58 Hz (MIDI 34) to 1047 Hz, partials 1/k up to 4 kHz."""
    random = np.random.default_rng(0)
    pitches = 440 * 2 ** ((np.round(np.linspace(34, 84, 20)) - 69) / 12)
    return tuple(_steady(hz * np.arange(1, int(4000 / hz) + 1), random, power=1) for hz in pitches)


@functools.cache
def chords() -> tuple[Crop, ...]:
    """Make 6 chords of 10 equal partials between 200 and 2000 Hz, inharmonic, no two nearer than 30 Hz."""
    random, crops = np.random.default_rng(5), []
    while len(crops) < 6:
        partials = np.sort(200 * 10 ** random.uniform(0, 1, 10))
        if np.diff(partials).min() > 30:
            crops.append(_steady(partials, random, power=0))
    return tuple(crops)


@functools.cache
def bursts() -> tuple[Crop, ...]:
    """Make 16 sines of 220 to 880 Hz that begin after silence, rise linearly within 5 ms and decay slowly."""
    random, crops = np.random.default_rng(3), []
    for _ in range(16):
        onset, hz = int(random.integers(9000, 12_000)), 220 * 4 ** random.uniform()
        semitones, speed = _draw(random)
        time = np.arange(32_000) - onset
        gain = np.clip(time / ATTACK, 0, 1) * np.exp(-np.maximum(time, 0) / RATE)
        waveform = (0.5 * gain * np.sin(2 * np.pi * hz / RATE * np.arange(32_000))).astype(np.float32)
        crops.append(Crop(waveform=waveform, semitones=semitones, speed=speed, start=4000, length=16_000, onset=onset))
    return tuple(crops)


@functools.cache
def high_tones() -> tuple[Crop, ...]:
    """Make sines that move past half the sample rate, by 157 Hz or more, so that nothing of them may be heard."""
    draws = ((6700, 4, 0.8), (7000, 4, 1.25), (7500, 2, 1.1), (7700, 1, 0.9), (7800, 3, 1.0))
    waves = [(0.5 * np.sin(2 * np.pi * hz / RATE * np.arange(64_000))).astype(np.float32) for hz, *_ in draws]
    return tuple(
        Crop(waveform=wave, semitones=semitones, speed=speed, start=8000, length=24_000)
        for wave, (_, semitones, speed) in zip(waves, draws, strict=True)
    )


def _draw(random: np.random.Generator) -> tuple[float, float]:
    return random.uniform(-SEMITONES, SEMITONES), SPEED ** random.uniform(-1, 1)


def _steady(partials: Audio, random: np.random.Generator, *, power: int) -> Crop:
    phases = random.uniform(0, 2 * np.pi, len(partials))
    angles = 2 * np.pi * np.outer(np.arange(64_000) / RATE, partials) + phases
    waveform = (np.sin(angles) / np.arange(1, len(partials) + 1) ** power).sum(axis=1)
    waveform = (0.5 * waveform / np.abs(waveform).max()).astype(np.float32)
    semitones, speed = _draw(random)
    return Crop(waveform=waveform, semitones=semitones, speed=speed, start=8000, length=24_000, partials=partials)
