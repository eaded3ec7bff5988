"""phases: the vocoder's inner loops. Find onsets, cut frames, lock their phases, lay them over each other.

Each loop runs once over its input, writes every element of its output, and keeps nothing between calls. They are
compiled for the types of `streaming.vocoder` only, release the GIL, and use one thread.

Of fast-math only what keeps NaN honest is allowed: fused multiply-add, and reordered sums where a loop has one.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

TINY = np.float32(1e-15)  # squared it is still a normal float32, so silence never divides by zero
BLOCK = 64  # samples: how finely onsets are placed
AFTER, BEFORE = 4, 12  # blocks compared at an onset: at 16 kHz 48 ms, two periods of the lowest notes, against 16 ms
RISE = np.float32(8.0)  # 9 dB
FLOOR = np.float32(1e-8)  # mean square at -80 dB of full scale: what rises below it is noise


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def find_onsets(
    waveform: NDArray[np.float32],  # (time,)
    gap: int,  # samples from one onset to the next, at least
    energy: NDArray[np.float32],  # (time // BLOCK,), scratch
    onsets: NDArray[np.int64],  # (time // BLOCK,), written up to the count returned
) -> int:
    """Write where the sound rises by RISE and stays there: block b and AFTER blocks from b against BEFORE before b."""
    for b in range(len(energy)):
        total = np.float32(0)
        for i in range(b * BLOCK, (b + 1) * BLOCK):
            total += waveform[i] * waveform[i]
        energy[b] = total / BLOCK
    count, b = 0, BEFORE
    while b + AFTER <= len(energy):
        threshold = RISE * energy[b - BEFORE : b].mean() + FLOOR
        if energy[b] > threshold and energy[b : b + AFTER].mean() > threshold:
            i = b * BLOCK
            while waveform[i] * waveform[i] < threshold and i < b * BLOCK + BLOCK - 1:  # to the sample
                i += 1
            onsets[count] = i
            count += 1
            b += gap // BLOCK + 2  # both onsets may lie anywhere in their blocks
        else:
            b += 1
    return count


@njit(cache=True, nogil=True, fastmath={"contract"})
def cut_frames(
    waveform: NDArray[np.float32],  # (time,)
    starts: NDArray[np.int64],  # (frames,), each start + size within the waveform
    window: NDArray[np.float32],  # (size,)
    frames: NDArray[np.float32],  # (frames, size), written
) -> None:
    """Write frames[m, i] = waveform[starts[m] + i] * window[i]."""
    size = len(window)
    for m in range(len(starts)):
        piece = waveform[starts[m] : starts[m] + size]
        frame = frames[m]
        for i in range(size):
            frame[i] = piece[i] * window[i]


@njit(cache=True, nogil=True, fastmath={"contract"})
def lock_phases(
    now: NDArray[np.complex64],  # (frames, >= bins): X_m
    before: NDArray[np.complex64],  # (frames - 1, >= bins): X'_m for m = 1, 2, ...
    peaks: NDArray[np.int32],  # (bins,), scratch
    power: NDArray[np.float32],  # (bins + 4,), scratch
    locked: NDArray[np.complex64],  # (frames, >= bins), written: Y_m, 0 from `bins` on
) -> None:
    """Turn each spectrum so that it goes on where the one written before it stopped.

    Y_0 = X_0, then for m > 0, every bin k and the spectral peak q(k) nearest to it:

        Y_m[k] = X_m[k] * Z_m[q(k)],    Z_m[q] = unit(Y_{m-1}[q] * conj(X'_m[q])),    unit(w) = w / |w|

    X'_m is the input one output hop earlier, so Y_{m-1} / X'_m is the turn that was given to it when it was written,
    and X_m takes over that turn. All bins of one peak share it: they are one partial seen through the window, and
    turning them apart would smear it (identity phase locking, Laroche and Dolson 1999).
    The turn comes from Y, not from a running product of turns, so rounding can't add up and a silent frame can't mute
    what follows: Y = 0 makes the next turn unit(0 + TINY) = 1, and a note that starts late starts with its own phases.
    """
    bins = len(peaks)
    locked[0, :bins] = now[0, :bins]
    locked[:, bins:] = 0
    for m in range(1, len(now)):
        new, old, earlier, out = now[m], locked[m - 1], before[m - 1], locked[m]
        count = _find_peaks(new, power, peaks)
        turn, begin = np.complex64(1), 0
        for n in range(count):
            q = peaks[n]
            end = (q + peaks[n + 1] + 1) // 2 if n + 1 < count else bins
            real = old[q].real * earlier[q].real + old[q].imag * earlier[q].imag + TINY
            imag = old[q].imag * earlier[q].real - old[q].real * earlier[q].imag
            scale = np.float32(1) / np.sqrt(real * real + imag * imag)
            turn = np.complex64(complex(real * scale, imag * scale))
            for k in range(begin, end):
                out[k] = new[k] * turn
            begin = end
        for k in range(begin, bins):  # all of them where there is no peak, as in silence
            out[k] = new[k] * turn


@njit(cache=True, nogil=True, fastmath={"contract"})
def _find_peaks(spectrum: NDArray[np.complex64], power: NDArray[np.float32], peaks: NDArray[np.int32]) -> int:
    """Write the bins louder than two neighbours on either side, in order, and return how many there are.

    `power` holds bin k at k + 2. Below 0 a real signal's spectrum is its own mirror, so bins 0 and 1 can be peaks (a
    constant offset, the lowest notes); above the last bin is nothing.
    """
    bins = len(peaks)
    for k in range(bins):
        power[k + 2] = spectrum[k].real * spectrum[k].real + spectrum[k].imag * spectrum[k].imag
    power[0], power[1] = power[4], power[3]
    power[bins + 2 :] = 0
    count = 0
    for k in range(bins):  # no branch: music makes it unpredictable, and a missed guess costs more than a store
        p = power[k : k + 5]
        peaks[count] = k
        count += (p[2] >= p[0]) & (p[2] >= p[1]) & (p[2] > p[3]) & (p[2] > p[4])
    return count


@njit(cache=True, nogil=True, fastmath={"contract"})
def overlap_add(
    frames: NDArray[np.float32],  # (blocks + 2, 3 * hop)
    window: NDArray[np.float32],  # (3 * hop,)
    gain: np.float32,
    output: NDArray[np.float32],  # (length,), blocks = ceil(length / hop), written
) -> None:
    """Write each block of one hop as the sum of the three frames that cover it.

    Frame m starts two blocks before block m, so block b is the last third of frame b, the middle of b + 1 and the
    first third of b + 2. One pass, and no sum is left to a later one: the output needs no zeroing.
    """
    hop = len(window) // 3
    for b in range(len(frames) - 2):
        block = output[b * hop : (b + 1) * hop]
        last, middle, first = frames[b, 2 * hop :], frames[b + 1, hop : 2 * hop], frames[b + 2, :hop]
        for i in range(len(block)):
            block[i] = gain * (last[i] * window[2 * hop + i] + middle[i] * window[hop + i] + first[i] * window[i])
