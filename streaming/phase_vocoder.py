"""phase_vocoder: a piece of any sound -> the window asked for. Four frames at a time, in one compiled loop.

Four frames and their earlier twins are two complex transforms of two frames each, side by side; and four frames back
are two more. All that lies between them stays in a core's first caches.
"""

import numpy as np
from numpy.typing import NDArray

from streaming.compiled import compiled
from streaming.fourier import Plan, lay_frames, lay_spectra, plan, transform
from streaming.frames import add_frame, place
from streaming.lanes import LANES
from streaming.layout import Layout
from streaming.phases import lock_phases, make_work, pack_spectra
from streaming.scratch import borrow, hann

Floats = NDArray[np.float32]


def render_piece(piece: Floats, layout: Layout, output: Floats) -> None:
    """Cut, transform, lock, invert, overlap: (last - first,) -> (length,)."""
    size_in, size_out = layout.overlap * layout.step, layout.overlap * layout.hop
    starts, _ = place(piece, layout)
    # 1/2 since spectra come twice as loud; squared windows add up to 3/8 of the overlap
    window = hann(size_out, gain=0.5 / size_in / (0.375 * layout.overlap))
    scratch = borrow(8 * max(size_in, size_out))
    output[:] = 0
    play_frames(piece, starts, layout.bins, hann(size_in), window, plan(size_in), plan(size_out), scratch, output)


@compiled("contract")
def play_frames(
    piece: Floats,  # (last - first,)
    starts: NDArray[np.int64],  # (frames,)
    bins: int,
    window_in: Floats,  # (size_in,)
    window_out: Floats,  # (size_out,), the gain in it
    plan_in: Plan,
    plan_out: Plan,
    scratch: Floats,
    output: Floats,  # (length,), added to
) -> None:
    """Play all frames. Those behind the last one, to make up four, are the last one again and lie behind the output."""
    size_in, size_out, count = len(window_in), len(window_out), len(starts)
    step, hop = size_in // 3, size_out // 3
    most = max(size_in, size_out)
    rows, spectra, packed = scratch, scratch[4 * most :][: 4 * size_in], scratch[4 * most :][: 4 * size_out]
    spectra, packed = spectra.reshape((4, size_in)), packed.reshape((4, size_out))
    locked, work = np.zeros((4, 2, bins + LANES), np.float32), make_work(bins)
    for m in range(0, count, 4):
        for f in range(0, 4, 2):
            a, c = starts[min(m + f, count - 1)], starts[min(m + f + 1, count - 1)]
            lay_frames(piece, a, max(a - step, 0), c, max(c - step, 0), window_in, rows)
            transform(rows, plan_in, spectra)
            lock_phases(spectra[0], spectra[1], locked[f - 1], m + f == 0, work, locked[f])
            lock_phases(spectra[2], spectra[3], locked[f], False, work, locked[f + 1])
        pack_spectra(locked[0], locked[1], bins, packed[0], packed[1])
        pack_spectra(locked[2], locked[3], bins, packed[2], packed[3])
        lay_spectra(packed, rows)
        transform(rows, plan_out, packed)
        for f in range(4):
            add_frame(packed[f ^ 1], window_out, (m + f - 2) * hop, output)  # swapped: see lay_spectra
