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

Only ratios D / H of FFT-friendly sizes exist: a near and cheap one is taken, and returned.
"""

import dataclasses
import math
import threading
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from streaming.phases import cut_frames, lock_phases, overlap_add

OVERLAP = 3  # squared Hann windows add up to 3 * 3/8 everywhere; two never add up, four cost a third more
HOP = 512  # 1536 points: at 16 kHz the partials of a note of 42 Hz and up lie a whole main lobe (4 bins) apart
RATIOS = (0.25, 4.0)  # of pitch and of speed
NEAR_CENTS = 4.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Layout:
    """Where the frames lie: D, H, the first input sample of each X_m, and the input range [first, last) they touch."""

    step: int
    hop: int
    starts: NDArray[np.int64]
    first: int
    last: int

    @property
    def is_copy(self) -> bool:
        return len(self.starts) == 0


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
    output = piece.copy() if layout.is_copy else _render(piece, layout, length)
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
    """Place the frames. Everything is relative to one rounded origin, so a shifted input gives shifted frames."""
    _check_window(pitch_ratio=pitch_ratio, speed=speed, start=start, length=length)
    step, hop = _hops(round(1200 * math.log2(pitch_ratio)))
    origin = math.floor(start + 0.5)  # round() goes to even: an odd shift would move ties
    if step == hop and speed == 1:
        return _Layout(step=step, hop=hop, starts=np.empty(0, np.int64), first=origin, last=origin + length)
    frames = math.ceil(length / hop) + OVERLAP - 1
    centres = np.rint((np.arange(frames) - 0.5) * (hop * speed)).astype(np.int64)
    size = OVERLAP * step
    starts = centres + (origin - size // 2)
    first = min(int(starts[0]), int(starts[1]) - step)
    return _Layout(step=step, hop=hop, starts=starts, first=first, last=int(starts[-1]) + size)


def _render(piece: NDArray[np.float32], layout: _Layout, length: int) -> NDArray[np.float32]:
    """Cut, transform, lock, invert, overlap: (last - first,) -> (length,)."""
    count, size_in, size_out = len(layout.starts), OVERLAP * layout.step, OVERLAP * layout.hop
    starts = layout.starts - layout.first
    frames = _scratch("frames", (2 * count - 1, size_in))
    cut_frames(piece, np.concatenate((starts, starts[1:] - layout.step)), _hann(size_in), frames.numpy())
    spectra = torch.fft.rfft(frames).numpy()
    locked = _scratch("locked", (count, size_out // 2 + 1), torch.complex64)
    bins = min(size_in, size_out) // 2  # those below both Nyquist frequencies
    peaks, power = _scratch("peaks", (bins,), torch.int32), _scratch("power", (bins + 4,))
    lock_phases(spectra[:count], spectra[count:], peaks.numpy(), power.numpy(), locked.numpy())
    grains = torch.fft.irfft(locked, n=size_out).numpy()
    output = np.empty(length, np.float32)
    # N_s / N_a, since the inverse divides by N_s what the forward transform summed over N_a
    gain = np.float32(layout.hop / layout.step / (OVERLAP * 0.375))
    overlap_add(grains, _hann(size_out), gain, output)
    return output


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


@lru_cache(maxsize=None)  # at most 4801 keys
def _hops(cents: int) -> tuple[int, int]:
    """Return (D, H): the cheapest pair of FFT-friendly hops whose ratio lies near `cents`, or the nearest pair.

    X_m keeps about HOP * OVERLAP points when the pitch falls, since it must tell the partials apart; when it rises,
    half the change goes to each side.
    """
    ratio = 2.0 ** (cents / 1200)
    nominal = HOP * max(1.0, math.sqrt(ratio))
    steps = [step for step in _FRIENDLY if 0.85 * nominal <= step <= 1.25 * nominal]
    pairs = [(step, min(_FRIENDLY, key=lambda hop, want=step / ratio: abs(hop - want))) for step in steps]

    def error(pair: tuple[int, int]) -> float:
        return abs(1200 * math.log2(pair[0] / pair[1]) - cents)

    def cost(pair: tuple[int, int]) -> float:
        # an FFT is the slower the larger the odd part of its size (1440: 1.1 of 1536, 1458: 1.8), and an output
        # sample takes 2 * D / H transformed at N_a and 1 at N_s
        return 2 * ratio * _odd_part(pair[0]) + _odd_part(pair[1])

    near = [pair for pair in pairs if error(pair) <= NEAR_CENTS]
    return min(near, key=cost) if near else min(pairs, key=error)


def _odd_part(number: int) -> int:
    return number // (number & -number)


def _check_waveform(waveform: NDArray[np.float32]) -> None:
    if waveform.ndim != 1 or waveform.dtype != np.float32:
        found = f"{waveform.dtype} of shape {waveform.shape}"
        raise ValueError(f"waveform must be float32 of shape (time,), got {found}: take one channel, .astype(np.float32)")


def _check_window(*, pitch_ratio: float, speed: float, start: float, length: int) -> None:
    low, high = RATIOS
    for name, value in (("pitch_ratio", pitch_ratio), ("speed", speed)):
        if not low <= value <= high:  # NaN too
            raise ValueError(f"{name} must be within {low}..{high}, got {value}: narrow the range it is drawn from")
    if not math.isfinite(start):
        raise ValueError(f"start must be a finite input position in samples, got {start}: 0.0 is the waveform's first")
    if length < 1:
        raise ValueError(f"length must be at least 1 output sample, got {length}: leave the window out instead")
