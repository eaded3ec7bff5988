"""layout: pitch ratio, speed, window -> where an engine's frames lie, and the input that they can touch.

An engine writes output frames of N_s = overlap * H samples at hop H. Each is made from an input frame of
N_a = overlap * D samples, with D / H = N_a / N_s = the pitch ratio p, resampled by its spectrum:

    input    ......[ X_{m-1}     ].........        output   ....[ Y_{m-1}     ]......
             ............[ X_m          ]..                 ........[ Y_m          ]..
    centred at t_m = start + (m + 1 - overlap / 2) * H * speed       <H >

Only ratios D / H of FFT-friendly sizes exist: a near and cheap one is taken, and told.
"""

import bisect
import dataclasses
import math
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Engine = Literal["vocoder", "wsola"]

# squared Hann windows add up to 3 * 3/8 at three-fold overlap, plain ones to 1 at two-fold
OVERLAPS: dict[str, int] = {"vocoder": 3, "wsola": 2}
SEARCH = 192  # samples that wsola may move a frame by, either way: together over a period of 42 Hz at 16 kHz
# 1536 points: at 16 kHz the partials of a note of 42 Hz and up lie a whole main lobe (4 bins) apart; 832 points of a
# waveform hold two periods of 39 Hz, and longer ones smear what changes
HOPS: dict[str, int] = {"vocoder": 512, "wsola": 416}
RATIOS = (0.25, 4.0)  # of pitch and of speed
NEAR_CENTS = 4.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the frames lie: D, H, speed, how many frames, and the input range [first, last) they can touch.

    `origin` is the input sample of output sample 0; `bins` those of a spectrum that are kept. No frames: the window is
    a plain slice of the input.
    """

    overlap: int
    step: int
    hop: int
    speed: float
    frames: int
    bins: int
    origin: int
    first: int
    last: int

    @property
    def ratio(self) -> float:
        """The pitch ratio that comes out."""
        return self.step / self.hop


def lay_out(*, pitch_ratio: float, speed: float, start: float, length: int, band: float, engine: Engine) -> Layout:
    """Place the window. All is relative to one rounded origin, so a slice of the input is laid out as the whole is.

    Raises:
        ValueError: an argument lies outside of its range.
    """
    check_window(pitch_ratio=pitch_ratio, speed=speed, start=start, length=length, band=band, engine=engine)
    overlap = OVERLAPS[engine]
    step, hop = _hops(round(1200 * math.log2(pitch_ratio)), engine)
    origin = math.floor(start + 0.5)  # round() goes to even: an odd shift would move ties
    first, last, frames = origin, origin + length, 0
    bins = min(overlap * step // 2, overlap * hop // 2, math.ceil(band * overlap * hop / 2))
    if step != hop or speed != 1 or band < 1:
        frames = math.ceil(length / hop) + overlap - 1
        # half a frame, what an anchor may move a frame by, and a sample for rounding; before it, one step more
        margin = overlap * step // 2 + math.ceil(abs(step - hop * speed) * overlap / 2) + 1
        margin += SEARCH if engine == "wsola" else 0
        first = origin - math.ceil((overlap / 2 - 1) * hop * speed) - margin - step
        last = origin + math.ceil((frames - overlap / 2) * hop * speed) + margin
    return Layout(
        overlap=overlap, step=step, hop=hop, speed=speed, frames=frames, bins=bins, origin=origin,
        first=first, last=last,
    )  # fmt: skip


# of a point, by what its transform's size is made of, in parts of what any costs (streaming.fourier, 95 sizes measured)
COSTS = {4: 0.08, 2: 0.09, 3: 0.12, 5: 0.28, 7: 0.34, 11: 0.55, 13: 0.62}


def factor(size: int) -> list[int] | None:
    """Return the radices that a transform of this size is made with; None where it can't be had."""
    rest, radices = size // 4, []  # four columns, see streaming.fourier
    for radix in COSTS:
        while rest % radix == 0:
            rest //= radix
            radices.append(radix)
    return radices if rest == 1 and size % 4 == 0 else None


@cache
def _cost(size: int) -> float:
    """Tell what a point of a transform of this size costs."""
    radices = factor(size)
    return math.inf if radices is None else 1.0 + sum(COSTS[radix] for radix in radices)


@cache
def _friendly(overlap: int) -> list[int]:
    # even, since half a frame must be whole
    return [number for number in range(128, 3072, 2) if math.isfinite(_cost(overlap * number))]


def _nearest_friendly(wanted: float, overlap: int) -> int:
    friendly = _friendly(overlap)
    above = bisect.bisect_left(friendly, wanted)
    return min(friendly[max(0, above - 1) : above + 1], key=lambda number: abs(number - wanted))


@cache  # at most 4801 keys an engine
def _hops(cents: int, engine: Engine) -> tuple[int, int]:
    """Return (D, H): the cheapest pair of FFT-friendly hops whose ratio lies near `cents`, or the nearest pair.

    X_m keeps about the engine's points when the pitch falls, since it must tell the partials apart; when it rises,
    half the change goes to each side.
    """
    ratio, overlap = 2.0 ** (cents / 1200), OVERLAPS[engine]
    nominal = HOPS[engine] * max(1.0, math.sqrt(ratio))
    steps = [step for step in _friendly(overlap) if 0.85 * nominal <= step <= 1.25 * nominal]
    pairs = [(step, _nearest_friendly(step / ratio, overlap)) for step in steps]

    def error(pair: tuple[int, int]) -> float:
        return abs(1200 * math.log2(pair[0] / pair[1]) - cents)

    def cost(pair: tuple[int, int]) -> float:
        # an output sample takes D / H points for each input frame that is transformed, and 1 for the output's
        return (overlap - 1) * ratio * _cost(overlap * pair[0]) + _cost(overlap * pair[1])

    near = [pair for pair in pairs if error(pair) <= NEAR_CENTS]
    return min(near, key=cost) if near else min(pairs, key=error)


def check_waveform(waveform: NDArray[np.float32]) -> None:
    """Raise ValueError unless it is float32 of shape (time,)."""
    if waveform.ndim != 1 or waveform.dtype != np.float32:
        found = f"{waveform.dtype} of shape {waveform.shape}"
        raise ValueError(
            f"waveform must be float32 of shape (time,), got {found}: take one channel, .astype(np.float32)"
        )


def check_window(*, pitch_ratio: float, speed: float, start: float, length: int, band: float, engine: str) -> None:
    """Raise ValueError if an argument lies outside of its range."""
    low, high = RATIOS
    for name, value in (("pitch_ratio", pitch_ratio), ("speed", speed)):
        if not low <= value <= high:  # NaN too
            raise ValueError(f"{name} must be within {low}..{high}, got {value}: narrow the range it is drawn from")
    if not math.isfinite(start):
        raise ValueError(f"start must be a finite input position in samples, got {start}: 0.0 is the waveform's first")
    if length < 1:
        raise ValueError(f"length must be at least 1 output sample, got {length}: leave the window out instead")
    if not 0.01 <= band <= 1:
        raise ValueError(f"band must be within 0.01..1, got {band}: 1 keeps all of it")
    if engine not in OVERLAPS:
        raise ValueError(f"engine must be one of {', '.join(OVERLAPS)}, got {engine!r}")
