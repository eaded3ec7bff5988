"""vocoder: decoded waveform, draw -> the window asked for, at another pitch and speed. One pass over what it needs.

The output is laid out in frames of N_s samples at hop H = N_s / 3. Output frame Y_m is made from the input frame X_m
of N_a samples centred at t_m, and from a second one, X'_m, at t_m - D, where D = N_a / 3:

    input    ....[ X'_m         ]........        output   ....[ Y_{m-1}     ]......
             ........[ X_m          ]....                 ........[ Y_m          ]..
                 <D >                                         <H >
    t_m = start + (m - 1/2) * H * speed          D / H = N_a / N_s = pitch ratio p

A partial of w radians a sample turns by w * D from X' to X, and as p * w by p * w * H = w * D from Y_{m-1} to Y_m: by
the same angle. So Y_m is X_m turned by the angle from X'_m to Y_{m-1}, which is a product of complex numbers: no
unwrapping, no arc tangent, no sine (`phases.lock_phases`). That holds wherever t_m lies, so t_m can be rounded to a
whole sample, and any speed costs the same. X_m has N_a / 2 bins and Y_m is inverted at N_s: cutting or padding the
spectrum resamples and band-limits at once, so any pitch costs the same too.

A frame plays its inside at speed p, not at `speed`, so an onset would be heard three times, up to 9 ms apart. The
three frames over an onset are therefore moved to lie D apart, around the place where it belongs, and those next to
them off it (`_anchor`): it is heard once, in time.

Only ratios D / H of FFT-friendly sizes exist: a near and cheap one is taken, and returned.
"""

import bisect
import dataclasses
import math
import threading
from functools import cache, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from streaming.phases import BLOCK, cut_frames, find_onsets, lock_phases, overlap_add

OVERLAP = 3  # squared Hann windows add up to 3 * 3/8 everywhere; two never add up, four cost a third more
HOP = 512  # 1536 points: at 16 kHz the partials of a note of 42 Hz and up lie a whole main lobe (4 bins) apart
RATIOS = (0.25, 4.0)  # of pitch and of speed
NEAR_CENTS = 4.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Layout:
    """Where the frames lie: D, H, speed, how many frames, and the input range [first, last) they can touch.

    `origin` is the input sample of output sample 0. No frames: the window is a plain slice of the input.
    """

    step: int
    hop: int
    speed: float
    frames: int
    origin: int
    first: int
    last: int


def render(
    waveform: NDArray[np.float32], *, pitch_ratio: float, speed: float, start: float, length: int
) -> tuple[NDArray[np.float32], float]:
    """Return (length,) float32 and the pitch ratio really applied: within 5 cents of pitch_ratio up to 6 semitones.

    Output sample n sounds like input sample start + n * speed (start rounded to a whole sample), its pitch multiplied
    by the ratio. Outside (time,) is silence. At speed 1 and an applied ratio of 1 the result is that slice, unchanged.
    Raises ValueError. The same input gives the same bits, and so does the slice that `reach` names.
    """
    _check_waveform(waveform)
    layout = _lay_out(pitch_ratio=pitch_ratio, speed=speed, start=start, length=length)
    piece = _read(waveform, layout.first, layout.last)
    output = _render(piece, layout, length) if layout.frames else piece.copy()
    if not np.isfinite(output).all():
        found = f"NaN or inf between samples {layout.first} and {layout.last}"
        raise ValueError(f"waveform must be finite, got {found}: repair or leave out this sample")
    return output, layout.step / layout.hop


def reach(*, pitch_ratio: float, speed: float, start: float, length: int) -> tuple[int, int]:
    """Return the input range [first, last) that render() reads for this window; it may stick out on both sides.

    render(waveform[first:last], start=start - first) gives the same bits as render(waveform, start=start): decode no
    more than that. Cut at the waveform's ends, not below 0, as slices want it.
    """
    layout = _lay_out(pitch_ratio=pitch_ratio, speed=speed, start=start, length=length)
    return layout.first, layout.last


def warm_up() -> None:
    """Compile every loop for the types used, or load it from numba's cache, so that no first note has to wait."""
    render(np.zeros(HOP, np.float32), pitch_ratio=1.25, speed=1.0, start=0.0, length=HOP)


def _lay_out(*, pitch_ratio: float, speed: float, start: float, length: int) -> _Layout:
    """Place the window. All is relative to one rounded origin, so a slice of the input is laid out as the whole is."""
    _check_window(pitch_ratio=pitch_ratio, speed=speed, start=start, length=length)
    step, hop = _hops(round(1200 * math.log2(pitch_ratio)))
    origin = math.floor(start + 0.5)  # round() goes to even: an odd shift would move ties
    first, last, frames = origin, origin + length, 0
    if step != hop or speed != 1:
        frames = math.ceil(length / hop) + OVERLAP - 1
        # half a frame, one more step back for X', what an anchor may move a frame by, and a sample for rounding
        margin = OVERLAP * step // 2 + math.ceil(abs(step - hop * speed) * OVERLAP / 2) + 1
        first = origin - math.ceil(0.5 * hop * speed) - margin - step
        last = origin + math.ceil((frames - 1.5) * hop * speed) + margin
    return _Layout(step=step, hop=hop, speed=speed, frames=frames, origin=origin, first=first, last=last)


def _render(piece: NDArray[np.float32], layout: _Layout, length: int) -> NDArray[np.float32]:
    """Cut, transform, lock, invert, overlap: (last - first,) -> (length,)."""
    count, size_in, size_out = layout.frames, OVERLAP * layout.step, OVERLAP * layout.hop
    starts = _centres(piece, layout) - size_in // 2
    frames = _scratch("frames", (2 * count - 1, size_in))
    cut_frames(piece, np.concatenate((starts, starts[1:] - layout.step)), _hann(size_in), frames.numpy())
    spectra = torch.fft.rfft(frames).numpy()  # not into a buffer of ours: torch would copy its own there
    locked = _scratch("locked", (count, size_out // 2 + 1), torch.complex64)
    bins = min(size_in, size_out) // 2  # those below both Nyquist frequencies
    peaks, power = _scratch("peaks", (bins,), torch.int32), _scratch("power", (bins + 4,))
    lock_phases(spectra[:count], spectra[count:], peaks.numpy(), power.numpy(), locked.numpy())
    grains = torch.fft.irfft(locked, n=size_out).numpy()
    # N_s / N_a, since the inverse divides by N_s what the forward transform summed over N_a
    gain = np.float32(layout.hop / layout.step / (OVERLAP * 0.375))
    output = np.empty(length, np.float32)
    overlap_add(grains, _hann(size_out), gain, output)
    return output


def _centres(piece: NDArray[np.float32], layout: _Layout) -> NDArray[np.int64]:
    """(frames,): the t_m, counted from the piece's first sample."""
    begin = layout.origin - layout.first
    outputs = (np.arange(layout.frames) - 0.5) * layout.hop  # (frames,): the output sample each frame is centred on
    centres = begin + outputs * layout.speed
    blocks = len(piece) // BLOCK
    onsets = _scratch("onsets", (blocks,), torch.int64).numpy()
    gap = math.ceil(OVERLAP * max(layout.step, layout.hop * layout.speed))  # so that no frame has two anchors
    for onset in onsets[: find_onsets(piece, gap, _scratch("energy", (blocks,)).numpy(), onsets)].tolist():
        _anchor(centres, outputs - (onset - begin) / layout.speed, onset, layout)
    return np.rint(centres).astype(np.int64)


def _anchor(centres: NDArray[np.floating], away: NDArray[np.floating], onset: int, layout: _Layout) -> None:
    """Move the frames around an onset in place. `away`: output samples from where the onset belongs to each centre.

    Frames that cover the onset play it at p * away from their centres: at the same output sample, all of them. Frames
    beyond stay where they are, or as far as it takes (N_a / 2) not to hear it.
    """
    half_in, half_out = OVERLAP * layout.step / 2, OVERLAP * layout.hop / 2
    distance = np.abs(away)
    covering = distance < half_out
    moved = np.where(covering, layout.step / layout.hop * distance, half_in)
    near = covering | (layout.speed * distance < half_in)
    centres[near] = onset + np.copysign(moved, away)[near]


def _read(waveform: NDArray[np.float32], first: int, last: int) -> NDArray[np.float32]:
    """Copy [first, last) into a reused buffer, silence where it sticks out. One layout and type for the kernels."""
    piece = _scratch("piece", (last - first,)).numpy()
    inside = waveform[min(max(first, 0), len(waveform)) : max(last, 0)]
    head = min(max(-first, 0), len(piece))
    tail = head + len(inside)
    piece[:head], piece[head:tail], piece[tail:] = 0, inside, 0
    return piece


_buffers = threading.local()


def _scratch(name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return this thread's buffer of that name, uninitialised: whoever asks writes all of it before reading."""
    size = math.prod(shape)
    buffer: torch.Tensor | None = getattr(_buffers, name, None)
    if buffer is None or len(buffer) < size:
        buffer = torch.empty(size, dtype=dtype)
        setattr(_buffers, name, buffer)
    return buffer[:size].view(shape)


@lru_cache(maxsize=256)
def _hann(size: int) -> NDArray[np.float32]:
    """(size,): the periodic Hann window, 1/2 - 1/2 cos(2 pi i / size)."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)).astype(np.float32)


def _is_friendly(number: int) -> bool:
    for prime in (2, 3, 5, 7, 11, 13):
        while number % prime == 0:
            number //= prime
    return number == 1


# Even, since half a frame must be whole
_FRIENDLY = tuple(number for number in range(HOP // 4, 6 * HOP, 2) if _is_friendly(number))


def _nearest_friendly(wanted: float) -> int:
    above = bisect.bisect_left(_FRIENDLY, wanted)
    return min(_FRIENDLY[max(0, above - 1) : above + 1], key=lambda number: abs(number - wanted))


@cache  # at most 4801 keys
def _hops(cents: int) -> tuple[int, int]:
    """Return (D, H): the cheapest pair of FFT-friendly hops whose ratio lies near `cents`, or the nearest pair.

    X_m keeps about HOP * OVERLAP points when the pitch falls, since it must tell the partials apart; when it rises,
    half the change goes to each side.
    """
    ratio = 2.0 ** (cents / 1200)
    nominal = HOP * max(1.0, math.sqrt(ratio))
    steps = [step for step in _FRIENDLY if 0.85 * nominal <= step <= 1.25 * nominal]
    pairs = [(step, _nearest_friendly(step / ratio)) for step in steps]

    def error(pair: tuple[int, int]) -> float:
        return abs(1200 * math.log2(pair[0] / pair[1]) - cents)

    def cost(pair: tuple[int, int]) -> float:
        # an FFT is the slower the larger the odd part of its size (1440: 1.1 of 1536, 1458: 1.8), and an output
        # sample takes 2 * D / H transformed at N_a and 1 at N_s
        odd_in, odd_out = (size // (size & -size) for size in pair)
        return 2 * ratio * odd_in + odd_out

    near = [pair for pair in pairs if error(pair) <= NEAR_CENTS]
    return min(near, key=cost) if near else min(pairs, key=error)


def _check_waveform(waveform: NDArray[np.float32]) -> None:
    if waveform.ndim != 1 or waveform.dtype != np.float32:
        found = f"{waveform.dtype} of shape {waveform.shape}"
        raise ValueError(
            f"waveform must be float32 of shape (time,), got {found}: take one channel, .astype(np.float32)"
        )


def _check_window(*, pitch_ratio: float, speed: float, start: float, length: int) -> None:
    low, high = RATIOS
    for name, value in (("pitch_ratio", pitch_ratio), ("speed", speed)):
        if not low <= value <= high:  # NaN too
            raise ValueError(f"{name} must be within {low}..{high}, got {value}: narrow the range it is drawn from")
    if not math.isfinite(start):
        raise ValueError(f"start must be a finite input position in samples, got {start}: 0.0 is the waveform's first")
    if length < 1:
        raise ValueError(f"length must be at least 1 output sample, got {length}: leave the window out instead")
