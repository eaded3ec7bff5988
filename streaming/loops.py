"""loops: samples, one by one, where numpy needs several passes. Compiled if there is numba; callers have slow twins.

No fast-math here: a fused multiply-add would round otherwise than numpy does, and both must give the same bits.
"""

import numpy as np
from numpy.typing import NDArray

from streaming.compiled import compiled

SCALE = np.float32(1 / 32768)
WORD = np.uint64(0xFFFF)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio, odd
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
S16, S27, S30, S31, S32, S48 = (np.uint64(shift) for shift in (16, 27, 30, 31, 32, 48))
MIDDLE = np.int64(2 * 65535)  # mean of the sum of four words


@compiled()
def scale_pcm(pcm: NDArray[np.int16], out: NDArray[np.float32]) -> None:
    """Write out[i] = pcm[i] * SCALE, (time,)."""
    for i in range(len(out)):
        out[i] = np.float32(pcm[i]) * SCALE


@compiled()
def add_noise(
    waveform: NDArray[np.float32],  # (time,), changed in place
    seed: np.uint64,
    gain: np.float32,
    level: np.float32,  # of the noise, for a sum of four words less its mean
) -> None:
    """Write waveform[i] = gain * waveform[i] + level * noise_i (see streaming.effects.noise)."""
    for i in range(len(waveform)):
        x = seed + np.uint64(i + 1) * GOLDEN
        x = (x ^ (x >> S30)) * FIRST
        x = (x ^ (x >> S27)) * SECOND
        x = x ^ (x >> S31)
        total = (x & WORD) + ((x >> S16) & WORD) + ((x >> S32) & WORD) + (x >> S48)
        waveform[i] = waveform[i] * gain + np.float32(np.int64(total) - MIDDLE) * level
