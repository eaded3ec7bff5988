"""phases: input spectra -> output spectra that go on where the last one stopped. The vocoder's inner loop.

Compiled as streaming.frames is, under the same rules.
"""

import numpy as np
from numpy.typing import NDArray

from streaming.compiled import compiled

TINY = np.float32(1e-15)  # squared it is still a normal float32, so silence never divides by zero
WIDE = 16  # bins that a peak's turn is written to at once: fewer branches than to each its own


@compiled("contract")
def lock_phases(
    spectra: NDArray[np.float32],  # (frames, 2 * size): X_m + i X'_m, transformed as one
    state: NDArray[np.float32],  # (2, bins): Y_{m-1}, real and imaginary parts, of the last frame before; written
    is_first: bool,
    locked: NDArray[np.float32],  # (frames, >= 2 * bins), written: Y_m, 0 from `bins` on
) -> None:
    """Turn each spectrum so that it goes on where the one written before it stopped.

    Y_0 = X_0, then for m > 0, every bin k and the spectral peak q(k) nearest to it:

        Y_m[k] = X_m[k] * Z_m[q(k)],    Z_m[q] = unit(Y_{m-1}[q] * conj(X'_m[q])),    unit(w) = w / |w|

    X'_m is the input one output hop earlier, so Y_{m-1} / X'_m is the turn that was given to it when it was written,
    and X_m takes over that turn. All bins of one peak share it: they are one partial seen through the window, and
    turning them apart would smear it (identity phase locking, Laroche and Dolson 1999).
    The turn comes from Y, not from a running product of turns, so rounding can't add up and a silent frame can't mute
    what follows: Y = 0 makes the next turn unit(0 + TINY) = 1, and a note that starts late starts with its own phases.

    All is twice as loud: X = (S[k] + conj(S[-k])) / 2 and X' = (S[k] - conj(S[-k])) / 2i of S = spectra[m] without
    the halves.
    """
    bins = state.shape[1]
    size = spectra.shape[1] // 2
    real, imag = np.empty(bins, np.float32), np.empty(bins, np.float32)
    turn_real, turn_imag = np.empty(bins + WIDE, np.float32), np.empty(bins + WIDE, np.float32)
    peaks = np.empty(bins, np.int32)
    old_real, old_imag = state[0], state[1]
    for m in range(len(spectra)):
        _split(spectra[m], size, real, imag)
        if is_first and m == 0:
            old_real[:], old_imag[:] = real, imag
        else:
            count = _find_peaks(real, imag, peaks)
            _find_turns(spectra[m], size, peaks[:count], old_real, old_imag, turn_real, turn_imag)
            for k in range(bins):
                old_real[k] = real[k] * turn_real[k] - imag[k] * turn_imag[k]
                old_imag[k] = real[k] * turn_imag[k] + imag[k] * turn_real[k]
        out = locked[m]
        for k in range(bins):
            out[2 * k] = old_real[k]
            out[2 * k + 1] = old_imag[k]
        out[2 * bins :] = 0


@compiled("contract")
def _split(s: NDArray[np.float32], size: int, real: NDArray[np.float32], imag: NDArray[np.float32]) -> None:
    real[0], imag[0] = 2 * s[0], 0
    above, below = s[2:], s[: 2 * size]
    end = 2 * size - 2
    for k in range(len(real) - 1):
        real[k + 1] = above[2 * k] + below[end - 2 * k]
        imag[k + 1] = above[2 * k + 1] - below[end - 2 * k + 1]


@compiled("contract")
def _find_peaks(real: NDArray[np.float32], imag: NDArray[np.float32], peaks: NDArray[np.int32]) -> int:
    """Write the bins louder than two neighbours on either side, in order, and return how many there are.

    `power` holds bin k at k + 2. Below 0 a real signal's spectrum is its own mirror, so bins 0 and 1 can be peaks (a
    constant offset, the lowest notes); above the last bin is nothing.
    """
    bins = len(real)
    power, is_peak = np.empty(bins + 4, np.float32), np.empty(bins, np.uint8)
    inner, left, right, beyond = power[2:], power[1:], power[3:], power[4:]
    for k in range(bins):
        inner[k] = real[k] * real[k] + imag[k] * imag[k]
    power[0], power[1] = power[4], power[3]
    power[bins + 2 :] = 0
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
    spectrum: NDArray[np.float32],
    size: int,
    peaks: NDArray[np.int32],
    old_real: NDArray[np.float32],
    old_imag: NDArray[np.float32],
    turn_real: NDArray[np.float32],
    turn_imag: NDArray[np.float32],
) -> None:
    """Write each bin's turn: that of the peak nearest to it, or none where there is no peak, as in silence."""
    real, imag = np.empty(len(peaks), np.float32), np.empty(len(peaks), np.float32)
    for n in range(len(peaks)):
        q = peaks[n]
        mirror = size - q if q else 0
        was_real = spectrum[2 * q + 1] + spectrum[2 * mirror + 1]
        was_imag = spectrum[2 * mirror] - spectrum[2 * q]
        real[n] = old_real[q] * was_real + old_imag[q] * was_imag + TINY
        imag[n] = old_imag[q] * was_real - old_real[q] * was_imag
    for n in range(len(peaks)):
        scale = np.float32(1) / np.sqrt(real[n] * real[n] + imag[n] * imag[n])
        real[n] *= scale
        imag[n] *= scale
    if not len(peaks):
        turn_real[:], turn_imag[:] = 1, 0
    begin = 0
    for n in range(len(peaks)):
        end = (peaks[n] + peaks[n + 1] + 1) >> 1 if n + 1 < len(peaks) else len(old_real)
        a, b = real[n], imag[n]
        some_real, some_imag = turn_real[begin : begin + WIDE], turn_imag[begin : begin + WIDE]
        for k in range(WIDE):
            some_real[k] = a
        for k in range(WIDE):
            some_imag[k] = b
        if end > begin + WIDE:
            turn_real[begin + WIDE : end] = a
            turn_imag[begin + WIDE : end] = b
        begin = end
