"""r3: rubberband R3's log-mels of the notes, kept in r3_mels.npz. R3 is GPL, so it is listened to, never needed.

Remade by `python -m benchmarks.quality --remake`, where rubberband-cli is installed.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.streaming.quality import log_mel, mel_distance
from tests.streaming.sounds import Audio

MELS = Path(__file__).with_name("r3_mels.npz")
STEP_DB = 0.25  # adds 0.002 dB to the distances


def quantise(mel: Audio) -> NDArray[np.int16]:
    """Turn a log-mel into steps of STEP_DB, each frame less the one before it: it compresses to a third."""
    return np.diff(np.rint(mel / STEP_DB), axis=1, prepend=0).astype(np.int16)


def name_mel(number: int, ratio: float) -> str:
    """Name a note's mel of R3 by its number and its pitch in cents, since 4 cents alone are worth 0.3 dB."""
    return f"{number:02d} {1200 * np.log2(ratio):+.1f}"


def write_mels(mels: Mapping[str, Audio]) -> None:
    """Store the mels by name."""
    np.savez_compressed(MELS, names=list(mels), mels=np.stack([quantise(mel) for mel in mels.values()]))


@functools.cache
def _stored() -> dict[str, NDArray[np.int16]]:
    with np.load(MELS) as stored:
        return dict(zip(stored["names"].tolist(), stored["mels"], strict=True))


def read_mel(number: int, ratio: float) -> Audio:
    """Return rubberband R3's log-mel, (40, frames) in dB, of a note's crop at the ratio that an engine applied."""
    name = name_mel(number, ratio)
    if name not in _stored():
        raise LookupError(f"{MELS.name} has no mel {name!r}: python -m benchmarks.quality --remake")
    return np.cumsum(_stored()[name], axis=1, dtype=np.int64) * STEP_DB


def mel_distances(heard: Sequence[tuple[Audio, float]]) -> list[float]:
    """Return the distance of each note's crop from R3's, in dB; `heard` holds (crop, applied ratio) a note."""
    return [mel_distance(log_mel(output), read_mel(i, ratio)) for i, (output, ratio) in enumerate(heard)]
