"""soundfont: an .sf2 file -> presets of bank 0, the recordings each note sounds, and its sound.

A font is foreign input: counts, indices and ranges are checked before they are used, and a zone that can't be is left
out. It is played here, by SoundFont 2.04's rules, since symusic 0.5.9 ignores the root key that a zone sets (2 of 3
notes of TimGM6mb then sound at another pitch than their name says), velocity, decay and release. Left out: modulators
but the default ones of velocity, panning, reverb and chorus.

    preset -> zones (keys x velocities) -> sample -> interpolated, looped -> low-pass -> envelope -> summed to mono
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import DataError

RATE = 48_000
BLOCK = 64  # points between two values of an envelope: 1.3 ms
MAX_ZONES = 200_000

PRESET = np.dtype([("name", "S20"), ("program", "<u2"), ("bank", "<u2"), ("bag", "<u2"), ("unused", "<u4", 3)])
BAG = np.dtype([("generator", "<u2"), ("modulator", "<u2")])
GENERATOR = np.dtype([("operator", "<u2"), ("amount", "<i2")])
INSTRUMENT = np.dtype([("name", "S20"), ("bag", "<u2")])
SAMPLE = np.dtype(
    [("name", "S20"), ("start", "<u4"), ("end", "<u4"), ("loop_start", "<u4"), ("loop_end", "<u4"), ("rate", "<u4")]
    + [("pitch", "u1"), ("correction", "i1"), ("link", "<u2"), ("type", "<u2")]
)
RECORDS = {b"phdr": PRESET, b"pbag": BAG, b"pgen": GENERATOR, b"inst": INSTRUMENT, b"ibag": BAG, b"igen": GENERATOR}
RECORDS |= {b"shdr": SAMPLE}

# Generator numbers of the specification, section 8.1.2.
MOD_LFO_PITCH, VIB_LFO_PITCH, MOD_ENV_PITCH, CUTOFF, RESONANCE, MOD_LFO_CUTOFF, MOD_ENV_CUTOFF = range(5, 12)
MOD_LFO_VOLUME, MOD_LFO, VIB_LFO, MOD_ENV, VOL_ENV = 13, 21, 23, 25, 33
INSTRUMENT_INDEX, KEYS, VELOCITIES, FIXED_KEY, FIXED_VELOCITY, ATTENUATION = 41, 43, 44, 46, 47, 48
COARSE_TUNE, FINE_TUNE, SAMPLE_INDEX, LOOP_MODE, CENTS_A_KEY, ROOT_KEY = 51, 52, 53, 54, 56, 58
OFFSETS = {"start": (0, 4), "end": (1, 12), "loop_start": (2, 45), "loop_end": (3, 50)}
DEFAULTS = dict.fromkeys((21, 23, 25, 26, 27, 28, 30, 33, 34, 35, 36, 38), -12_000)
DEFAULTS |= {CUTOFF: 13_500, FIXED_KEY: -1, FIXED_VELOCITY: -1, CENTS_A_KEY: 100, ROOT_KEY: -1}
INSTRUMENT_ONLY = {0, 1, 2, 3, 4, 12, 45, 46, 47, 50, 54, 57, 58}
EVERYTHING = 127 << 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Zone:
    """One sample over a rectangle of keys x velocities (both ends in), and how it is played.

    `recording` is one number for all samples that hold the same sound, wherever they lie and whatever they're called.
    """

    keys: tuple[int, int]
    velocities: tuple[int, int]
    recording: int
    sample: Mapping[str, int]
    amounts: Mapping[int, int]

    def get(self, generator: int) -> int:
        """Return a generator's amount, or the specification's default."""
        return self.amounts.get(generator, DEFAULTS.get(generator, 0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoundFont:
    """A font in memory: its points (int16) and the zones of bank 0's presets by General MIDI program (0..127)."""

    name: str
    sha256: str
    points: NDArray[np.int16]
    presets: Mapping[int, tuple[Zone, ...]]


def read(path: Path) -> SoundFont:
    """Read an .sf2 file. Raise DataError, one line, for a file that isn't one, is cut short or is compressed (SF3)."""
    data = path.read_bytes()
    tables, points = _tables(data, name=path.name)
    samples = tables[b"shdr"][:-1]
    loose = (samples["type"] & 0x8000 == 0) & (samples["start"] < samples["end"]) & (samples["end"] <= len(points))
    usable = loose & (samples["rate"] >= 400) & (samples["rate"] <= 192_000)
    recordings = _recordings(samples, usable=usable, points=points)
    presets = _presets(tables, recordings=recordings, name=path.name)
    return SoundFont(name=path.name, sha256=hashlib.sha256(data).hexdigest(), points=points, presets=presets)


def group(items: Sequence[Any], *, links: Iterable[tuple[Hashable, Hashable]]) -> list[tuple[Any, ...]]:
    """Join items along links (union-find) into groups, both in the order of `items`."""
    parent = {item: item for item in items}

    def root(item: Hashable) -> Hashable:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for a, b in links:
        parent[root(b)] = root(a)
    groups: dict[Hashable, list[Any]] = {}
    for item in items:
        groups.setdefault(root(item), []).append(item)
    return [tuple(members) for members in groups.values()]


def sounding(zones: Iterable[Zone], *, pitch: int, velocity: int) -> Iterator[Zone]:
    """Yield the zones that a note of this MIDI pitch and velocity sounds."""
    for zone in zones:
        if zone.keys[0] <= pitch <= zone.keys[1] and zone.velocities[0] <= velocity <= zone.velocities[1]:
            yield zone


def key_range(zones: Sequence[Zone]) -> tuple[int, int]:
    """Return the lowest and the highest MIDI pitch that any of the zones (one or more) plays."""
    return min(zone.keys[0] for zone in zones), max(zone.keys[1] for zone in zones)


def sound(font: SoundFont, *, program: int, pitch: int, velocity: int, hold: float, seconds: float) -> NDArray:
    """Play one note, held for `hold` seconds, as mono float32 (seconds * RATE,) without DC; zeros if nothing sounds."""
    out = np.zeros(round(seconds * RATE), np.float64)
    for zone in sounding(font.presets.get(program, ()), pitch=pitch, velocity=velocity):
        _add_voice(out, zone, points=font.points, pitch=pitch, velocity=velocity, hold=hold)
    _kernels()[1](out)
    return out.astype(np.float32)


# --- the file


def _tables(data: bytes, *, name: str) -> tuple[dict[bytes, NDArray], NDArray[np.int16]]:
    if data[:4] != b"RIFF" or data[8:12] != b"sfbk":
        raise DataError(f"{name} starts with {data[:4]!r}, which is no SoundFont: give a file in .sf2 format")
    chunks = dict(_chunks(data, start=12, stop=len(data), name=name))
    missing = [tag.decode() for tag in (b"ifil", b"smpl", *RECORDS) if tag not in chunks]
    if missing:
        raise DataError(f"{name} has no {', '.join(missing)}, so it is no whole SoundFont: fetch it anew")
    if chunks[b"ifil"][:2] != b"\x02\x00":
        major = int.from_bytes(chunks[b"ifil"][:2], "little")
        raise DataError(f"{name} is a SoundFont of version {major}, and 2 is read: convert it to .sf2")
    tables = {}
    for tag, dtype in RECORDS.items():
        count, rest = divmod(len(chunks[tag]), dtype.itemsize)
        if rest or count < 2:
            raise DataError(f"{name} has {len(chunks[tag])} bytes in {tag.decode()}, not whole records: fetch it anew")
        tables[tag] = np.frombuffer(chunks[tag], dtype)
    for tag, field in ((b"phdr", "bag"), (b"inst", "bag"), (b"pbag", "generator"), (b"ibag", "generator")):
        target = {b"phdr": b"pbag", b"inst": b"ibag", b"pbag": b"pgen", b"ibag": b"igen"}[tag]
        index = tables[tag][field].astype(np.int64)
        if (np.diff(index) < 0).any() or index[-1] >= len(tables[target]) + (field == "generator"):
            raise DataError(f"{name} has a {tag.decode()} that points past {target.decode()}: fetch it anew")
    return tables, np.frombuffer(chunks[b"smpl"], "<i2", count=len(chunks[b"smpl"]) // 2)


def _chunks(data: bytes, *, start: int, stop: int, name: str) -> Iterator[tuple[bytes, memoryview]]:
    at = start
    while at + 8 <= stop:
        tag, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 + size > stop:
            raise DataError(f"{name} ends inside its {tag!r}, {size} bytes long: it is cut short, fetch it anew")
        if tag == b"LIST" and start == 12:
            yield from _chunks(data, start=at + 12, stop=at + 8 + size, name=name)
        else:
            yield tag, memoryview(data)[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def _recordings(samples: NDArray, *, usable: NDArray[np.bool_], points: NDArray[np.int16]) -> dict[int, tuple]:
    """Number the usable samples' sounds: equal content and overlapping ranges are one recording."""
    rows = [index for index in np.argsort(samples["start"], kind="stable").tolist() if usable[index]]
    links: list[tuple[int, int]] = []
    first: dict[bytes, int] = {}
    reach, last = 0, -1
    for index in rows:
        start, end = int(samples["start"][index]), int(samples["end"][index])
        content = hashlib.blake2b(points[start:end].tobytes(), digest_size=16).digest()
        links.append((first.setdefault(content, index), index))
        if start < reach:
            links.append((last, index))
        if end > reach:
            reach, last = end, index
    fields = [field for field in SAMPLE.names or () if field != "name"]
    return {
        index: (number, {field: int(samples[field][index]) for field in fields})
        for number, members in enumerate(group(rows, links=links))
        for index in members
    }


def _presets(tables: dict[bytes, NDArray], *, recordings: dict[int, tuple], name: str) -> dict[int, tuple[Zone, ...]]:
    presets, instruments = tables[b"phdr"], tables[b"inst"]["bag"].tolist()
    preset_zones = functools.partial(_zones, tables[b"pbag"], tables[b"pgen"], INSTRUMENT_INDEX)
    instrument_zones = functools.cache(functools.partial(_zones, tables[b"ibag"], tables[b"igen"], SAMPLE_INDEX))
    found: dict[int, tuple[Zone, ...]] = {}
    total = 0
    for at in range(len(presets) - 1):
        program = int(presets["program"][at])
        if presets["bank"][at] or program > 127 or program in found:
            continue
        zones: list[Zone] = []
        for outer in preset_zones(int(presets["bag"][at]), int(presets["bag"][at + 1])):
            index = outer[INSTRUMENT_INDEX] & 0xFFFF
            inner = instrument_zones(*instruments[index : index + 2]) if index + 1 < len(instruments) else []
            total += len(inner)
            if total > MAX_ZONES:
                raise DataError(f"{name} has more than {MAX_ZONES} zones, too many for a font: give another")
            zones += [zone for amounts in inner if (zone := _zone(outer, amounts, recordings)) is not None]
        if zones:
            found[program] = tuple(zones)
    return found


def _zones(bags: NDArray, generators: NDArray, last: int, low: int, high: int) -> list[dict[int, int]]:
    """Read zones [low, high) as {generator: amount}; a first one without `last` holds the defaults of the others."""
    shared: dict[int, int] = {}
    zones = []
    for at in range(low, high):
        amounts = {}
        for operator, amount in generators[bags["generator"][at] : bags["generator"][at + 1]].tolist():
            amounts[operator] = amount
            if operator == last:
                zones.append({**shared, **amounts})
                break
        else:
            shared = amounts if at == low else shared
    return zones


def _zone(outer: Mapping[int, int], inner: Mapping[int, int], recordings: dict[int, tuple]) -> Zone | None:
    """Lay a preset's zone over an instrument's: ranges meet, amounts add up. None where nothing can sound."""
    keys, velocities = (
        (max(a & 0xFF, b & 0xFF), min(a >> 8 & 0xFF, b >> 8 & 0xFF, 127))
        for a, b in ((outer.get(which, EVERYTHING), inner.get(which, EVERYTHING)) for which in (KEYS, VELOCITIES))
    )
    known = recordings.get(inner[SAMPLE_INDEX] & 0xFFFF)
    if known is None or keys[0] > keys[1] or velocities[0] > velocities[1]:
        return None
    amounts = dict(inner)
    for generator in set(outer) - INSTRUMENT_ONLY - {KEYS, VELOCITIES, INSTRUMENT_INDEX}:
        amounts[generator] = inner.get(generator, DEFAULTS.get(generator, 0)) + outer[generator]
    number, sample = known
    shifted = {edge: sample[edge] + inner.get(a, 0) + 32_768 * inner.get(b, 0) for edge, (a, b) in OFFSETS.items()}
    if not sample["start"] <= shifted["start"] < shifted["end"] <= sample["end"]:
        return None
    return Zone(keys=keys, velocities=velocities, recording=number, sample={**sample, **shifted}, amounts=amounts)


# --- the sound


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

    start, end, low, high = (zone.sample[edge] for edge in ("start", "end", "loop_start", "loop_end"))
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

    The filter is Zavalishin's (The Art of VA Filter Design, 2012, chapter 4), which stays stable while its cutoff moves.
    """
    at, first, second = float(start), 0.0, 0.0
    for i in range(len(out)):
        block, part = i // BLOCK, (i % BLOCK) / BLOCK
        if i < loops and at >= high:
            at = low + (at - low) % (high - low)
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
