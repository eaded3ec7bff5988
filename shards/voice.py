"""voice: a SoundFont's zones -> the sound of one note, by SoundFont 2.04's rules.

The renderers that pip can fetch don't serve here. symusic 0.5.9 ignores root keys, velocity, decay and release: 57 of
100 notes of TimGM6mb sound over 35 cents off their names (7 here, bells and organ stops mostly). midirenderer 0.1.3
writes 16 bits, of which a soft note uses 7, and a note's sound depends on those rendered before it. Left out here:
modulators but the default ones of velocity, panning, reverb and chorus.

    zone -> sample -> interpolated, looped -> low-pass -> envelope -> summed to mono
"""

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from shards.soundfont import (
    ATTENUATION,
    CENTS_A_KEY,
    COARSE_TUNE,
    CUTOFF,
    EDGES,
    FINE_TUNE,
    FIXED_KEY,
    FIXED_VELOCITY,
    LOOP_MODE,
    MOD_ENV,
    MOD_ENV_CUTOFF,
    MOD_ENV_PITCH,
    MOD_LFO,
    MOD_LFO_CUTOFF,
    MOD_LFO_PITCH,
    MOD_LFO_VOLUME,
    RESONANCE,
    ROOT_KEY,
    VIB_LFO,
    VIB_LFO_PITCH,
    VOL_ENV,
    SoundFont,
    Zone,
    sounding,
)  # fmt: skip

RATE = 48_000
BLOCK = 64  # points between two values of an envelope: 1.3 ms


def sound(font: SoundFont, *, program: int, pitch: int, velocity: int, hold: float, seconds: float) -> NDArray:
    """Play one note, held for `hold` seconds, as mono float32 (seconds * RATE,) without DC; zeros if nothing sounds."""
    out = np.zeros(round(seconds * RATE), np.float64)
    for zone in sounding(font.presets.get(program, ()), pitch=pitch, velocity=velocity):
        _add_voice(out, zone, points=font.points, pitch=pitch, velocity=velocity, hold=hold)
    _kernels()[1](out)
    return out.astype(np.float32)


def _add_voice(out: NDArray, zone: Zone, *, points: NDArray, pitch: int, velocity: int, hold: float) -> None:
    key = zone.get(FIXED_KEY) if 0 <= zone.get(FIXED_KEY) <= 127 else pitch
    speed = zone.get(FIXED_VELOCITY) if 0 < zone.get(FIXED_VELOCITY) <= 127 else velocity
    times = np.arange(-(-len(out) // BLOCK) + 1) * (BLOCK / RATE)
    rise, fall, release = _stages(zone, VOL_ENV, key=key, times=times, hold=hold)
    bend = _bend(*_stages(zone, MOD_ENV, key=key, times=times, hold=hold))
    mod, vibrato = _lfo(zone, MOD_LFO, times=times), _lfo(zone, VIB_LFO, times=times)

    root = zone.get(ROOT_KEY) if 0 <= zone.get(ROOT_KEY) <= 127 else zone.sample["pitch"]
    cents = (key - (root if root <= 127 else 60)) * zone.get(CENTS_A_KEY) + zone.sample["correction"]
    cents += 100 * zone.get(COARSE_TUNE) + zone.get(FINE_TUNE) + zone.get(MOD_ENV_PITCH) * bend
    cents += zone.get(MOD_LFO_PITCH) * mod + zone.get(VIB_LFO_PITCH) * vibrato
    step = zone.sample["rate"] / RATE * np.exp2(np.clip(cents, -9600, 9600) / 1200)

    # The specification's default modulator: -2400 cents at velocity 0. It is what makes a soft note dull.
    tone = (
        zone.get(CUTOFF) - 2400 * (1 - speed / 127) + zone.get(MOD_ENV_CUTOFF) * bend + zone.get(MOD_LFO_CUTOFF) * mod
    )
    cutoff = np.clip(8.176 * np.exp2(np.clip(tone, 0, 14_000) / 1200), 20, 0.45 * RATE)
    damping = 10 ** (-(np.clip(zone.get(RESONANCE), 0, 960) / 10 - 3.01) / 20)

    # 40 log10(velocity / 127) is its other one; E-mu's players take 0.4 of an attenuation, and fonts are tuned to that.
    level = 40 * np.log10(speed / 127) - 0.04 * max(zone.get(ATTENUATION), 0) - zone.get(MOD_LFO_VOLUME) / 10 * mod
    envelope = np.maximum(1 - fall - release, 0)
    gain = np.where(envelope > 0, rise * 10 ** (5 * (envelope - 1) + level / 20), 0)

    start, end, low, high = (zone.sample[edge] for edge in EDGES)
    mode = zone.get(LOOP_MODE) & 3 if start <= low < high <= end else 0
    loops = {1: len(out), 3: round(hold * RATE)}.get(mode, 0)
    _kernels()[0](out, points, start, end, low, high, loops, step, np.tan(np.pi * cutoff / RATE), damping, gain)


def _stages(zone: Zone, first: int, *, key: int, times: NDArray, hold: float) -> tuple[NDArray, NDArray, NDArray]:
    """Return how far attack, decay and release have come at each time: 0..1, 0..sustain, 0 and up."""
    delay, attack, held, decay, release = (
        2.0 ** (np.clip(zone.get(first + offset), -12_000, 8_000) / 1200) for offset in (0, 1, 2, 3, 5)
    )
    held, decay = (seconds * 2.0 ** ((60 - key) * np.clip(zone.get(first + offset), -1200, 1200) / 1200)
                   for seconds, offset in ((held, 6), (decay, 7)))  # fmt: skip
    until = np.minimum(times, hold)
    sustain = np.clip(zone.get(first + 4), 0, 1000) / 1000  # of 100 dB for the volume, of all for the modulation
    rise = np.clip((until - delay) / attack, 0, 1)
    fall = np.clip((until - delay - attack - held) / decay, 0, sustain)
    return rise, fall, np.maximum(times - hold, 0) / release


def _bend(rise: NDArray, fall: NDArray, release: NDArray) -> NDArray:
    """Return the modulation envelope, 0..1."""
    return rise * np.maximum(1 - fall - release, 0)


def _lfo(zone: Zone, first: int, *, times: NDArray) -> NDArray:
    """Return a triangle in -1..1 that starts at 0 after its delay."""
    delay = 2.0 ** (np.clip(zone.get(first), -12_000, 5_000) / 1200)
    turns = 8.176 * 2.0 ** (np.clip(zone.get(first + 1), -16_000, 4_500) / 1200) * np.maximum(times - delay, 0)
    return 2 * np.abs(2 * ((turns + 0.75) % 1) - 1) - 1


@functools.cache
def _kernels() -> tuple[Callable[..., None], Callable[..., None]]:
    """Compile the two loops over points, at the first note: importing numba costs half a second."""
    import numba

    return numba.njit(_play), numba.njit(_block_dc)


def _play(out, points, start, end, low, high, loops, step, warped, damping, gain) -> None:  # noqa: ANN001
    """Add points [start, end) to out: 4-point Hermite at `step`, state-variable low-pass, `gain`; one value a BLOCK.

    The filter is Zavalishin's (The Art of VA Filter Design, 2012, chapter 4), stable while its cutoff moves.
    """
    at, first, second = float(start), 0.0, 0.0
    for i in range(len(out)):
        block, part = i // BLOCK, (i % BLOCK) / BLOCK
        if i < loops and at >= high:
            at = low + (at - low) % (high - low)
            at = at if at < high else float(low)  # the sum may round up to the end
        k = int(at)
        if k >= end:
            break
        x0, x1 = points[max(k - 1, start)], points[k]
        if i < loops:
            x2 = points[k + 1 if k + 1 < high else low + (k + 1 - high) % (high - low)]
            x3 = points[k + 2 if k + 2 < high else low + (k + 2 - high) % (high - low)]
        else:
            x2, x3 = points[min(k + 1, end - 1)], points[min(k + 2, end - 1)]
        f = at - k
        a = 0.5 * (3.0 * (x1 - float(x2)) - x0 + x3)
        x = (((a * f + (x0 - 2.5 * x1 + 2.0 * x2 - 0.5 * x3)) * f + 0.5 * (float(x2) - x0)) * f + x1) / 32768.0
        g = warped[block]
        band = (first + g * (x - second)) / (1.0 + g * (g + damping))
        lowpass = second + g * band
        first, second = 2.0 * band - first, 2.0 * lowpass - second
        out[i] += lowpass * (gain[block] + part * (gain[block + 1] - gain[block]))
        at += step[block]


def _block_dc(out) -> None:  # noqa: ANN001
    """High-pass in place at 10 Hz, one pole: an offset of the recording would click where the note is cut."""
    keep = 1.0 - 2.0 * np.pi * 10.0 / RATE
    before, y = 0.0, 0.0
    for i in range(len(out)):
        y = out[i] - before + keep * y
        before = out[i]
        out[i] = y
