"""phases: input spectra -> output spectra that go on where the last one stopped. The vocoder's inner loop.

Compiled as streaming.frames is, under the same rules.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming.compiled import compiled
from streaming.lanes import LANES, load, reverse, splat, store

Floats = NDArray[np.float32]

TINY = np.float32(1e-15)  # squared it is still a normal float32, so silence never divides by zero


class Work(NamedTuple):
    """A spectrum's bins while they are worked on. Behind the last one is room for lanes that reach beyond it."""

    spectrum: Floats  # (2, bins + LANES): real and imaginary parts
    power: Floats  # (bins + 2 + LANES,): of bin k at k + 2
    is_peak: NDArray[np.uint8]  # (bins,)
    peaks: NDArray[np.int64]  # (bins,)
    turns: Floats  # (2, bins)


@compiled("contract")
def make_work(bins: int) -> Work:
    """Return room for spectra of `bins`."""
    return Work(
        np.zeros((2, bins + LANES), np.float32),
        np.zeros(bins + 2 + LANES, np.float32),
        np.empty(bins, np.uint8),
        np.empty(bins, np.int64),
        np.empty((2, bins), np.float32),
    )


@compiled("contract")
def lock_phases(
    real: Floats,  # (size,) and
    imag: Floats,  # (size,): X_m + i X'_m, transformed as one
    before: Floats,  # (2, bins + LANES): Y_{m-1}, real and imaginary parts
    is_first: bool,
    work: Work,
    locked: Floats,  # (2, bins + LANES), written: Y_m
) -> None:
    """Turn a spectrum so that it goes on where the one written before it stopped.

    Y_0 = X_0, then for m > 0, every bin k and the spectral peak q(k) nearest to it:

        Y_m[k] = X_m[k] * Z_m[q(k)],    Z_m[q] = unit(Y_{m-1}[q] * conj(X'_m[q])),    unit(w) = w / |w|

    X'_m is the input one output hop earlier, so Y_{m-1} / X'_m is the turn that was given to it when it was written,
    and X_m takes over that turn. All bins of one peak share it: they are one partial seen through the window, and
    turning them apart would smear it (identity phase locking, Laroche and Dolson 1999).
    The turn comes from Y, not from a running product of turns, so rounding can't add up and a silent frame can't mute
    what follows: Y = 0 makes the next turn unit(0 + TINY) = 1, and a note that starts late starts with its own phases.

    All is twice as loud: X = (S[k] + conj(S[-k])) / 2 and X' = (S[k] - conj(S[-k])) / 2i of S = real + i imag without
    the halves.
    """
    bins = len(work.peaks)
    _split(real, imag, bins, work.spectrum, work.power)
    count = 0 if is_first else _find_peaks(work.power, work.is_peak, work.peaks)
    if count:
        peaks, turn_real, turn_imag = work.peaks[:count], work.turns[0], work.turns[1]
        _find_turns(real, imag, peaks, before[0], before[1], turn_real, turn_imag)
        _turn(work.spectrum, peaks, turn_real, turn_imag, bins, locked)
    else:  # nothing to go on from, or silence
        for part in range(2):
            for k in range(bins):  # assigned as a whole, numba compiles what an error would say, for three seconds
                locked[part, k] = work.spectrum[part, k]


@compiled("contract")
def _split(s_real: Floats, s_imag: Floats, bins: int, spectrum: Floats, power: Floats) -> None:
    """Write X and its power. Below 0 a real signal's is its own mirror; above the last bin is nothing."""
    end, wide = len(s_real) - LANES + 1, spectrum.shape[1]
    for k in range(1, bins, LANES):
        real = load(s_real, k) + reverse(load(s_real, end - k))
        imag = load(s_imag, k) - reverse(load(s_imag, end - k))
        store(spectrum, k, real)
        store(spectrum, k + wide, imag)
        store(power, k + 2, real * real + imag * imag)
    spectrum[0, 0], spectrum[1, 0] = 2 * s_real[0], 0
    power[2] = spectrum[0, 0] * spectrum[0, 0]
    power[0], power[1] = power[4], power[3]
    power[bins + 2 :] = 0


@compiled("contract")
def _find_peaks(power: Floats, is_peak: NDArray[np.uint8], peaks: NDArray[np.int64]) -> int:
    """Write the bins louder than two neighbours on either side, in order, and return how many there are.

    Bins 0 and 1 can be peaks: a constant offset, the lowest notes.
    """
    bins = len(is_peak)
    left, inner, right, beyond = power[1:], power[2:], power[3:], power[4:]
    for k in range(bins):
        p = inner[k]
        is_peak[k] = (p >= power[k]) & (p >= left[k]) & (p > right[k]) & (p > beyond[k])
    count = 0
    for k in range(bins):  # no branch: music makes it unpredictable, and a missed guess costs more than a store
        peaks[count] = k
        count += is_peak[k]
    return count


@compiled("contract")
def _find_turns(
    s_real: Floats,
    s_imag: Floats,
    peaks: NDArray[np.int64],
    old_real: Floats,
    old_imag: Floats,
    turn_real: Floats,
    turn_imag: Floats,
) -> None:
    """Write each peak's turn."""
    size = len(s_real)
    for n in range(len(peaks)):
        q = peaks[n]
        mirror = size - q if q else 0
        was_real = s_imag[q] + s_imag[mirror]
        was_imag = s_real[mirror] - s_real[q]
        turn_real[n] = old_real[q] * was_real + old_imag[q] * was_imag + TINY
        turn_imag[n] = old_imag[q] * was_real - old_real[q] * was_imag
    for n in range(len(peaks)):
        scale = np.float32(1) / np.sqrt(turn_real[n] * turn_real[n] + turn_imag[n] * turn_imag[n])
        turn_real[n] *= scale
        turn_imag[n] *= scale


@compiled("contract")
def _turn(
    spectrum: Floats, peaks: NDArray[np.int64], turn_real: Floats, turn_imag: Floats, bins: int, locked: Floats
) -> None:
    """Write each bin, turned as the peak nearest to it. Lanes that reach into the next peak's bins come before it."""
    wide, k = spectrum.shape[1], 0
    for n in range(len(peaks)):
        end = (peaks[n] + peaks[n + 1] + 1) >> 1 if n + 1 < len(peaks) else bins
        a, b = splat(turn_real, n), splat(turn_imag, n)
        while k < end:
            real, imag = load(spectrum, k), load(spectrum, k + wide)
            store(locked, k, real * a - imag * b)
            store(locked, k + wide, real * b + imag * a)
            k += LANES
        k = end


@compiled("contract")
def pack_spectra(even: Floats, odd: Floats, bins: int, real: Floats, imag: Floats) -> None:
    """Write the spectrum of two real frames as one complex signal, even + i odd, of len(real) points."""
    size, wide, end, k = len(real), even.shape[1], len(real) - LANES + 1, 1
    while k + LANES <= bins:
        a_real, a_imag = load(even, k), load(even, k + wide)
        b_real, b_imag = load(odd, k), load(odd, k + wide)
        store(real, k, a_real - b_imag)
        store(imag, k, a_imag + b_real)
        store(real, end - k, reverse(a_real + b_imag))
        store(imag, end - k, reverse(b_real - a_imag))
        k += LANES
    for rest in range(k, bins):
        real[rest], imag[rest] = even[0, rest] - odd[1, rest], even[1, rest] + odd[0, rest]
        real[size - rest], imag[size - rest] = even[0, rest] + odd[1, rest], odd[0, rest] - even[1, rest]
    real[0], imag[0] = even[0, 0], odd[0, 0]
    real[bins : size - bins + 1], imag[bins : size - bins + 1] = 0, 0
