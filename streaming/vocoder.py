"""vocoder: decoded waveform, draw -> the window asked for, at another pitch and speed. One pass over what it needs.

Two engines lay frames as `streaming.layout` says. The phase vocoder, for any material, makes output frame Y_m from the
input frame X_m and from a second one, X'_m, D samples before it. A partial of w radians a sample turns by w * D from
X' to X, and as p * w by p * w * H = w * D from Y_{m-1} to Y_m: by the same angle. So Y_m is X_m turned by the angle
from X'_m to Y_{m-1}, which is a product of complex numbers: no unwrapping, no arc tangent, no sine
(`phases.lock_phases`). That holds wherever t_m lies, so t_m can be rounded to a whole sample, and any speed costs the
same. X_m has N_a / 2 bins and Y_m is inverted at N_s: cutting or padding the spectrum resamples and band-limits at
once, so any pitch, and any low-pass, costs the same too.

Its loop is `streaming.phase_vocoder`; the other engine, for single notes, is `streaming.wsola`. Where numba can't be
had, `streaming.plain` serves for both.
"""

from typing import get_args

import numpy as np
from numpy.typing import NDArray

from streaming.compiled import HAS_NUMBA, warn_slow
from streaming.frames import is_finite
from streaming.layout import Engine, check_waveform, lay_out
from streaming.scratch import cut_piece

if HAS_NUMBA:
    from streaming import phase_vocoder, wsola

    RENDER = {"vocoder": phase_vocoder.render_piece, "wsola": wsola.render_piece}
else:
    from streaming import plain

    RENDER = dict.fromkeys(get_args(Engine), plain.render)


def render(
    waveform: NDArray[np.float32],
    *,
    pitch_ratio: float,
    speed: float,
    start: float,
    length: int,
    band: float = 1.0,
    engine: Engine = "vocoder",
    out: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], float]:
    """Return (length,) float32 and the pitch ratio really applied: within 5 cents of pitch_ratio up to 6 semitones.

    Output sample n sounds like input sample start + n * speed (start rounded to a whole sample), its pitch multiplied
    by the ratio; above `band`, a share of the output's band, nothing is left. Outside (time,) is silence. At speed 1,
    an applied ratio of 1 and all of the band the result is that slice, unchanged. It is written to `out` if given.
    The same input gives the same bits, and so does the slice that `reach` names.

    Raises:
        ValueError: an argument out of its range, or a waveform that isn't finite.
    """
    check_waveform(waveform)
    layout = lay_out(pitch_ratio=pitch_ratio, speed=speed, start=start, length=length, band=band, engine=engine)
    output = np.empty(length, np.float32) if out is None else out
    piece = cut_piece(waveform, layout.first, layout.last)
    if not layout.frames:
        output[:] = piece
    else:
        if not HAS_NUMBA:
            warn_slow()
        RENDER[engine](piece, layout, output)
    if not (is_finite(output) if HAS_NUMBA else np.isfinite(output).all()):
        found = f"NaN or inf between samples {layout.first} and {layout.last}"
        raise ValueError(f"waveform must be finite, got {found}: repair or leave out this sample")
    return output, layout.ratio


def reach(
    *, pitch_ratio: float, speed: float, start: float, length: int, band: float = 1.0, engine: Engine = "vocoder"
) -> tuple[int, int]:
    """Return the input range [first, last) that render() reads for this window; it may stick out on both sides.

    render(waveform[first:last], start=start - first) gives the same bits as render(waveform, start=start): decode no
    more than that. Cut at the waveform's ends, not below 0, as slices want it.
    """
    layout = lay_out(pitch_ratio=pitch_ratio, speed=speed, start=start, length=length, band=band, engine=engine)
    return layout.first, layout.last


def warm_up() -> None:
    """Compile every loop for the types used, or load it from numba's cache, so that no first note has to wait."""
    for engine in get_args(Engine) if HAS_NUMBA else ():
        render(np.zeros(512, np.float32), pitch_ratio=1.25, speed=1.0, start=0.0, length=512, engine=engine)
