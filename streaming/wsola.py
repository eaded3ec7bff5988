"""wsola: a piece of one note -> the window asked for. The waveform's own frames, moved to where they go on smoothly.

Waveform similarity overlap-add (Verhelst and Roelands 1993). Nothing is turned: output frame m is the input frame
within SEARCH samples of t_m that is most like what would have followed frame m - 1, so that the two add up in phase.
That holds for one note, whose waveform repeats; of a chord's, no shift suits all. Frames are resampled to the pitch
by their spectra, as the vocoder's are. It takes half the vocoder's transforms, smears no attack, and wanders by up to
SEARCH samples.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from streaming.compiled import compiled
from streaming.frames import add_pairs, cut_pairs, place
from streaming.layout import SEARCH, Layout
from streaming.scratch import as_floats, hann, workspace

COARSE = 4  # samples that are added up for the first search
AT_ONCE = 4  # shifts that are compared
SILENCE = np.float32(1e-9)
PAIRS = 20  # of frames, worked on at a time


def render_piece(piece: NDArray[np.float32], layout: Layout, output: NDArray[np.float32]) -> None:
    """Move, cut, transform, resample, invert, overlap: (last - first,) -> (length,)."""
    size_in, size_out = layout.overlap * layout.step, layout.overlap * layout.hop
    starts, free = place(piece, layout)
    move_frames(piece, layout.step, starts, free)
    even, odd = pair(starts)
    window_in, gain = hann(size_in), np.float32(1 / size_in)  # at two-fold overlap Hann windows add up to 1
    output[:] = 0
    for m in range(0, len(even), PAIRS):
        some = len(even[m : m + PAIRS])
        frames, resized = workspace(some, size_in, some, size_out)
        cut_pairs(piece, even[m : m + PAIRS], odd[m : m + PAIRS], window_in, frames.floats)
        resize(as_floats(torch.fft.fft(frames.tensor)), layout.bins, resized.floats)
        grains = torch.fft.ifft(resized.tensor, norm="forward")
        add_pairs(as_floats(grains), gain, layout.hop, (2 * m + 1 - layout.overlap) * layout.hop, output)


def pair(starts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return frames' starts two by two, for two are transformed as one; a last one's other lies behind the output."""
    even, odd = starts[::2].copy(), starts[1::2]
    return even, np.append(odd, starts[len(starts) - 1 :]) if len(odd) < len(even) else odd.copy()


@compiled("contract")
def resize(
    spectra: NDArray[np.float32],  # (frames, 2 * size)
    bins: int,
    resized: NDArray[np.float32],  # (frames, 2 * size_out), written
) -> None:
    """Copy the lowest `bins` of positive and of negative frequencies, and put nothing between them."""
    tail = 2 * bins - 2
    for m in range(len(spectra)):
        old, new = spectra[m], resized[m]
        new[: 2 * bins] = old[: 2 * bins]
        new[2 * bins : len(new) - tail] = 0
        new[len(new) - tail :] = old[len(old) - tail :]


@compiled("contract", "reassoc")
def move_frames(
    waveform: NDArray[np.float32],  # (time,)
    step: int,
    starts: NDArray[np.int64],  # (frames,), changed
    free: NDArray[np.bool_],  # (frames,): those that may be moved
) -> None:
    """Move each frame to where it goes on best from the one before: coarsely by sums of COARSE, then by samples.

    Likeness is c |c| / e, of the correlation c over the samples that the two share, and the energy e of the candidate.
    """
    coarse = np.empty(len(waveform) // COARSE, np.float32)
    for i in range(len(coarse)):
        total = np.float32(0)
        for k in range(COARSE):
            total += waveform[COARSE * i + k]
        coarse[i] = total
    length, reach, last = step // COARSE, SEARCH // COARSE, len(waveform) - step - AT_ONCE
    for m in range(1, len(starts)):
        follows, target = starts[m - 1] + step, starts[m]  # what frame m - 1 leads to
        if not free[m] or follows > last:
            continue
        wanted, begin = waveform[follows : follows + step], follows // COARSE
        low, high = max(0, target // COARSE - reach), min(len(coarse) - length - AT_ONCE, target // COARSE + reach)
        at = COARSE * _most_like(coarse, coarse[begin : begin + length], low, high) + follows % COARSE
        starts[m] = _most_like(waveform, wanted, max(0, at - COARSE), min(last, at + COARSE))


@compiled("contract", "reassoc")
def _most_like(waveform: NDArray[np.float32], wanted: NDArray[np.float32], low: int, high: int) -> int:
    """Return the shift from low to high, high + AT_ONCE + len(wanted) samples being there, that is likest `wanted`."""
    best, found, size = np.float32(-np.inf), low, len(wanted)
    for at in range(low, high + 1, AT_ONCE):  # what is wanted is loaded once for four
        energy = SILENCE
        a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        one, two = waveform[at : at + size], waveform[at + 1 : at + 1 + size]
        three, four = waveform[at + 2 : at + 2 + size], waveform[at + 3 : at + 3 + size]
        for i in range(size):
            a += one[i] * wanted[i]
            b += two[i] * wanted[i]
            c += three[i] * wanted[i]
            d += four[i] * wanted[i]
            energy += one[i] * one[i]
        for k, product in enumerate((a, b, c, d)):
            likeness = product * abs(product) / energy
            if likeness > best and at + k <= high:
                best, found = likeness, at + k
            leaves, enters = waveform[at + k], waveform[at + k + size]
            energy = max(SILENCE, energy + enters * enters - leaves * leaves)
    return found
