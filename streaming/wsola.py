"""wsola: a piece of one note -> the window asked for. The waveform's own frames, moved to where they go on smoothly.

Waveform similarity overlap-add (Verhelst and Roelands 1993). Nothing is turned: output frame m is the input frame
within SEARCH samples of t_m that is most like what would have followed frame m - 1, so that the two add up in phase.
That holds for one note, whose waveform repeats; of a chord's, no shift suits all. Frames are resampled to the pitch
by their spectra, as the vocoder's are. It takes half the vocoder's transforms, smears no attack, and wanders by up to
SEARCH samples.
"""

import numpy as np
from numpy.typing import NDArray

from streaming.compiled import compiled
from streaming.fourier import Plan, lay_frames, lay_spectra, plan, transform
from streaming.frames import add_frame, place
from streaming.layout import SEARCH, Layout
from streaming.scratch import borrow, flat, hann

Floats = NDArray[np.float32]

COARSE = 4  # samples that are added up for the first search
AT_ONCE = 4  # shifts that are compared
SILENCE = np.float32(1e-9)


def render_piece(piece: Floats, layout: Layout, output: Floats) -> None:
    """Move, cut, transform, resample, invert, overlap: (last - first,) -> (length,)."""
    size_in, size_out = layout.overlap * layout.step, layout.overlap * layout.hop
    starts, free = place(piece, layout)
    move_frames(piece, layout.step, starts, free)
    gain = flat(size_out, 1 / size_in)  # at two-fold overlap Hann windows add up to 1
    scratch = borrow(12 * max(size_in, size_out))
    output[:] = 0
    play_frames(piece, starts, layout.bins, hann(size_in), gain, plan(size_in), plan(size_out), scratch, output)


@compiled("contract")
def play_frames(
    piece: Floats,  # (last - first,)
    starts: NDArray[np.int64],  # (frames,)
    bins: int,
    window: Floats,  # (size_in,)
    gain: Floats,  # (size_out,)
    plan_in: Plan,
    plan_out: Plan,
    scratch: Floats,
    output: Floats,  # (length,), added to
) -> None:
    """Play all frames, four at a time; the last one again and again makes up four, and lies behind the output."""
    size_in, size_out, count = len(window), len(gain), len(starts)
    rows, spectra, resized = scratch, scratch[len(scratch) // 3 :], scratch[2 * len(scratch) // 3 :]
    spectra, resized = spectra[: 4 * size_in].reshape((4, size_in)), resized[: 4 * size_out].reshape((4, size_out))
    for m in range(0, count, 4):
        b, c, d = min(m + 1, count - 1), min(m + 2, count - 1), min(m + 3, count - 1)
        lay_frames(piece, starts[m], starts[b], starts[c], starts[d], window, rows)
        transform(rows, plan_in, spectra)
        resize(spectra, bins, resized)
        lay_spectra(resized, rows)
        transform(rows, plan_out, resized)
        for f in range(4):
            add_frame(resized[f ^ 1], gain, (m + f - 1) * (size_out // 2), output)  # swapped: see lay_spectra


@compiled("contract")
def resize(
    spectra: Floats,  # (4, size_in)
    bins: int,
    resized: Floats,  # (4, size_out), written
) -> None:
    """Copy the lowest `bins` of positive and of negative frequencies, and put nothing between them."""
    for plane in range(4):
        old, new = spectra[plane], resized[plane]
        new[bins : len(new) - bins + 1] = 0
        old_end, new_end = old[len(old) - bins :], new[len(new) - bins :]
        for k in range(bins):
            new[k] = old[k]
        for k in range(1, bins):
            new_end[k] = old_end[k]


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
