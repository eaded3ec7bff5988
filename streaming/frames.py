"""frames: loops that both engines run. Find onsets, place frames, lay them over each other.

Each loop runs once over its input, writes every element of its output, keeps nothing between calls, and uses one
thread. Of fast-math only what keeps NaN honest is allowed: fused multiply-add, and reordered sums where a loop has one.
"""

import numpy as np
from numpy.typing import NDArray

from streaming.compiled import compiled
from streaming.layout import Layout

BLOCK = 64  # samples: how finely onsets are placed
PER_BLOCK = np.float32(1 / BLOCK)
AFTER, BEFORE = 4, 12  # blocks compared at an onset: at 16 kHz 48 ms, two periods of the lowest notes, against 16 ms
PER_BEFORE = np.float32(8.0 / BEFORE)  # a rise of 9 dB
FLOOR = np.float32(1e-8)  # mean square at -80 dB of full scale: what rises below it is noise


@compiled("contract", "reassoc")
def find_onsets(
    waveform: NDArray[np.float32],  # (time,)
    gap: int,  # samples from one onset to the next, at least
    onsets: NDArray[np.int64],  # (time // BLOCK,), written up to the count returned
) -> int:
    """Write where the sound rises by 9 dB and stays there: block b and AFTER blocks from b against BEFORE before b."""
    energy = np.empty(len(onsets), np.float32)
    for b in range(len(energy)):
        block, total = waveform[b * BLOCK : (b + 1) * BLOCK], np.float32(0)
        for i in range(len(block)):
            total += block[i] * block[i]
        energy[b] = total * PER_BLOCK
    count, b = 0, BEFORE
    while b + AFTER <= len(energy):
        before, after = np.float32(0), np.float32(0)
        for k in range(BEFORE):
            before += energy[b - BEFORE + k]
        for k in range(AFTER):
            after += energy[b + k]
        threshold = PER_BEFORE * before + FLOOR
        if energy[b] > threshold and after > np.float32(AFTER) * threshold:
            i = b * BLOCK
            while waveform[i] * waveform[i] < threshold and i < b * BLOCK + BLOCK - 1:  # to the sample
                i += 1
            onsets[count] = i
            count += 1
            b += gap // BLOCK + 2  # both onsets may lie anywhere in their blocks
        else:
            b += 1
    return count


def place(piece: NDArray[np.float32], layout: Layout) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return where the input frames start in a layout's piece, and which of them no onset holds, (frames,) each."""
    starts, free = np.empty(layout.frames, np.int64), np.empty(layout.frames, np.bool_)
    begin = layout.origin - layout.first
    place_frames(piece, begin, layout.overlap, layout.step, layout.hop, layout.speed, starts, free)
    return starts, free


@compiled("contract")
def place_frames(
    waveform: NDArray[np.float32],  # (time,), the piece that the layout names
    begin: int,  # the sample of output sample 0
    overlap: int,
    step: int,
    hop: int,
    speed: float,
    starts: NDArray[np.int64],  # (frames,), written: each input frame's first sample
    free: NDArray[np.bool_],  # (frames,), written: False for frames that an onset holds in their place
) -> None:
    """Place frame m at t_m - N_a / 2, but those around an onset so that it's heard once, in time.

    A frame plays its inside at speed p, not at `speed`: an onset would be heard by each frame over it at another time,
    up to 9 ms apart. Frames that cover it play it p * away from their centres, where `away` is from their centre to
    where the onset belongs. Frames beyond stay where they are, or as far as it takes (N_a / 2) not to hear it.
    """
    half_in, half_out = 0.5 * overlap * step, 0.5 * overlap * hop
    ratio = step / hop
    onsets = np.empty(len(waveform) // BLOCK, np.int64)
    gap = int(np.ceil(overlap * max(float(step), hop * speed)))  # so that no frame has two onsets
    count, reached = find_onsets(waveform, gap, onsets), 0
    for m in range(len(starts)):
        output = (m + 1 - 0.5 * overlap) * hop
        centre = begin + output * speed
        free[m] = True
        while reached < count and output - (onsets[reached] - begin) / speed > max(half_out, half_in / speed):
            reached += 1
        for onset in onsets[reached : min(reached + 2, count)]:
            away = output - (onset - begin) / speed
            covers = abs(away) < half_out
            if covers or speed * abs(away) < half_in:
                moved = ratio * abs(away) if covers else half_in
                centre = onset + (moved if away >= 0 else -moved)
                free[m] = False
        starts[m] = int(np.rint(centre)) - overlap * step // 2


@compiled("contract")
def add_frame(
    frame: NDArray[np.float32],  # (size,)
    window: NDArray[np.float32],  # (size,), the gain in it
    at: int,  # where the frame begins in the output; may be below it
    output: NDArray[np.float32],  # (length,), added to
) -> None:
    """Add a frame to output[at : at + size], and what sticks out to nothing."""
    low, high = max(0, -at), min(len(window), len(output) - at)
    if low < high:
        place, some, factors = output[at + low : at + high], frame[low:high], window[low:high]
        for i in range(len(place)):
            place[i] += some[i] * factors[i]


@compiled("reassoc")
def is_finite(waveform: NDArray[np.float32]) -> bool:
    """Tell whether no sample is NaN or infinite: those less themselves are NaN, all others 0."""
    total = np.float32(0)
    for i in range(len(waveform)):
        total += waveform[i] - waveform[i]
    return total == 0
