"""effects: a crop, its view -> the crop with noise, gain and polarity, in place, in one pass after the engine.

Noise is white and near-gaussian: sample i is a sum of four uniforms (Irwin and Hall), the 16-bit words of
splitmix64's output i, a hash of seed + (i + 1) * golden ratio (Steele, Lea and Flood 2014). So any sample can be had by
its number, and no generator is kept. It lies over all of the crop, padding too: where noise ended with the note, a
network could read the note's length from it. Silence stays silence: there is nothing to measure a ratio against.
"""

import math

import numpy as np
from numpy.typing import NDArray

from streaming import loops
from streaming.compiled import HAS_NUMBA
from streaming.loops import FIRST, GOLDEN, MIDDLE, S16, S27, S30, S31, S32, S48, SECOND, WORD
from streaming.view import View

# of the sum of four words: each is uniform on 65,536 whole numbers, so its variance is (65,536**2 - 1) / 12
DEVIATION = math.sqrt((65536**2 - 1) / 3)


def apply_effects(waveform: NDArray[np.float32], view: View, *, valid: int) -> None:
    """Add the view's noise to a crop (time,), whose first `valid` samples are sound, then apply its gain; in place."""
    level = 0.0
    if view.noise_snr_db is not None:
        level = _rms(waveform[:valid]) / 10 ** (view.noise_snr_db / 20) / DEVIATION
    if level:
        add = loops.add_noise if HAS_NUMBA else add_noise_slowly
        add(waveform, np.uint64(view.noise_seed), np.float32(view.gain), np.float32(view.gain * level))
    elif view.gain != 1:
        waveform *= np.float32(view.gain)


def _rms(waveform: NDArray[np.float32]) -> float:
    # einsum, not dot: BLAS shares a long sum out over its threads, and their number would show in the last bit
    return math.sqrt(float(np.einsum("i,i->", waveform, waveform)) / max(1, len(waveform)))


def noise(seed: np.uint64, length: int) -> NDArray[np.int64]:
    """Return the sums of four words less their mean, (length,)."""
    x = seed + np.arange(1, length + 1, dtype=np.uint64) * GOLDEN
    x = (x ^ (x >> S30)) * FIRST
    x = (x ^ (x >> S27)) * SECOND
    x ^= x >> S31
    total = (x & WORD) + ((x >> S16) & WORD) + ((x >> S32) & WORD) + (x >> S48)
    return total.astype(np.int64) - MIDDLE


def add_noise_slowly(waveform: NDArray[np.float32], seed: np.uint64, gain: np.float32, level: np.float32) -> None:
    """Do what `loops.add_noise` does, bit for bit, in numpy's passes."""
    waveform *= gain
    waveform += noise(seed, len(waveform)).astype(np.float32) * level


def warm_up() -> None:
    """Compile the loop, or load it from numba's cache."""
    if HAS_NUMBA:
        loops.add_noise(np.zeros(1, np.float32), np.uint64(0), np.float32(1), np.float32(0))
