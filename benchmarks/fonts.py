"""fonts: two SoundFonts -> how alike their recordings are, and which programs of the second sound one of the first.

Only recordings that rendered programs sound are compared. Each is brought to 8 kHz. An eighth of a second of one
font's, from where it begins to sound, is laid over each place of the other font's: a copy that was trimmed, amplified,
looped anew or resampled correlates at nearly 1. What is shorter than a piece is compared by its bytes alone.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards import soundfont
from shards.programs import PROGRAMS
from shards.soundfont import SoundFont

RATE, PIECE, LONGEST = 8000, 1024, 15_360  # samples a second, of a piece, of what it is laid over
FIT = LONGEST + PIECE
ALIKE = 0.95  # a correlation from which on a pair counts as one recording


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """A recording at 8 kHz, (time,), the hash of its bytes, and the programs that sound it."""

    sound: NDArray[np.float32]
    digest: bytes
    programs: frozenset[int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Likeness:
    """What two fonts share: recordings and pieces of each, equal ones, the closest, and programs of the second."""

    names: tuple[str, str]
    recordings: tuple[int, int]
    pieces: tuple[int, int]
    equal: int
    alike: int
    """Pairs that correlate at `ALIKE` or more."""
    highest: float
    next_highest: float
    """Of the pairs below `ALIKE`."""
    programs: tuple[int, ...]
    """Programs of the second font that sound an equal or alike recording."""


def compare(a: Path, b: Path) -> Likeness:
    """Compare all recordings of two fonts, each one's pieces with the other's recordings; half a minute."""
    one, two = (recordings(soundfont.read(path)) for path in (a, b))
    forth = correlate([of.sound for of in one], [of.sound for of in two])
    back = correlate([of.sound for of in two], [of.sound for of in one]).T
    alike = np.fmax(forth, back)
    equal = np.array([[of.digest == other.digest for other in two] for of in one])
    shared = [of for of, is_so in zip(two, (equal | (alike >= ALIKE)).any(axis=0), strict=True) if is_so]
    return Likeness(
        names=(a.name, b.name),
        recordings=(len(one), len(two)),
        pieces=(sum(len(of.sound) >= PIECE for of in one), sum(len(of.sound) >= PIECE for of in two)),
        equal=int(equal.sum()),
        alike=int((alike >= ALIKE).sum()),
        highest=float(alike.max()),
        next_highest=float(alike[alike < ALIKE].max()),
        programs=tuple(sorted(frozenset().union(*(of.programs for of in shared)))),
    )


def recordings(font: SoundFont) -> list[Recording]:
    """Return the recordings that the rendered programs sound."""
    used: dict[tuple[int, int, int], set[int]] = {}
    for program in PROGRAMS:
        for zone in font.presets.get(program, ()):
            place = zone.sample["start"], zone.sample["end"], zone.sample["rate"]
            used.setdefault(place, set()).add(program)
    return [
        Recording(
            sound=resample(font.points[start:end], rate),
            digest=hashlib.sha256(font.points[start:end].tobytes()).digest(),
            programs=frozenset(programs),
        )
        for (start, end, rate), programs in sorted(used.items())
    ]


def resample(points: NDArray[np.int16], rate: int) -> NDArray[np.float32]:
    """Bring a recording to 8 kHz, from where it begins to sound: at most `LONGEST` samples."""
    import soxr

    sound = soxr.resample(points[: rate * 3].astype(np.float32), rate, RATE)
    loud = np.flatnonzero(np.abs(sound) > 0.05 * np.abs(sound).max(initial=0.0))
    return sound[loud[0] if len(loud) else 0 :][:LONGEST]


def correlate(pieces: Sequence[NDArray[np.float32]], places: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return how alike each sound's first piece is to each other sound where it fits it best, (pieces, places).

    It is the normalised correlation without its sign; 0 where either is shorter than a piece.
    """
    found = np.zeros((len(pieces), len(places)), np.float32)
    rows = np.array([at for at, piece in enumerate(pieces) if len(piece) >= PIECE], np.int64)
    heads = [pieces[at][:PIECE] / np.linalg.norm(pieces[at][:PIECE]) for at in rows]
    spectra = np.conj(np.fft.rfft(np.stack(heads), FIT)).astype(np.complex64) if heads else np.zeros((0, 1))
    for (column, place), first in itertools.product(enumerate(places), range(0, len(rows), 64)):
        if len(place) < PIECE:
            continue
        sums = np.cumsum(np.concatenate([[0.0], place.astype(np.float64) ** 2]))
        energy = np.sqrt(sums[PIECE:] - sums[:-PIECE])
        sounding = energy > 0.1 * energy.max()
        spectrum = np.fft.rfft(place, FIT).astype(np.complex64)
        laid = np.fft.irfft(spectra[first : first + 64] * spectrum, FIT)[:, : len(energy)]
        found[rows[first : first + 64], column] = np.abs(laid[:, sounding] / energy[sounding]).max(axis=1)
    return found
