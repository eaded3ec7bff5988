"""soundfont: an .sf2 file -> the zones of bank 0's presets, and the recordings that each note sounds.

A font is foreign input: counts, indices and ranges are checked before they are used, and a zone that can't be is left
out.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import DataError

MAX_ZONES = 200_000

PRESET = np.dtype([("name", "S20"), ("program", "<u2"), ("bank", "<u2"), ("bag", "<u2"), ("unused", "<u4", 3)])
BAG = np.dtype([("generator", "<u2"), ("modulator", "<u2")])
GENERATOR = np.dtype([("operator", "<u2"), ("amount", "<i2")])
INSTRUMENT = np.dtype([("name", "S20"), ("bag", "<u2")])
EDGES = ("start", "end", "loop_start", "loop_end")
SAMPLE = np.dtype(
    [("name", "S20"), *((edge, "<u4") for edge in EDGES), ("rate", "<u4"), ("pitch", "u1"), ("correction", "i1"),
     ("link", "<u2"), ("type", "<u2")]
)  # fmt: skip
RECORDS = {b"phdr": PRESET, b"pbag": BAG, b"pgen": GENERATOR, b"inst": INSTRUMENT, b"ibag": BAG, b"igen": GENERATOR}
RECORDS |= {b"shdr": SAMPLE}

# Generator numbers of the specification, section 8.1.2.
MOD_LFO_PITCH, VIB_LFO_PITCH, MOD_ENV_PITCH, CUTOFF, RESONANCE, MOD_LFO_CUTOFF, MOD_ENV_CUTOFF = range(5, 12)
MOD_LFO_VOLUME, MOD_LFO, VIB_LFO, MOD_ENV, VOL_ENV = 13, 21, 23, 25, 33
INSTRUMENT_INDEX, KEYS, VELOCITIES, FIXED_KEY, FIXED_VELOCITY, ATTENUATION = 41, 43, 44, 46, 47, 48
COARSE_TUNE, FINE_TUNE, SAMPLE_INDEX, LOOP_MODE, CENTS_A_KEY, ROOT_KEY = 51, 52, 53, 54, 56, 58
OFFSETS = {"start": (0, 4), "end": (1, 12), "loop_start": (2, 45), "loop_end": (3, 50)}
DEFAULTS: dict[int, int] = dict.fromkeys((21, 23, 25, 26, 27, 28, 30, 33, 34, 35, 36, 38), -12_000)
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
    return SoundFont(name=path.name, points=points, presets=presets)


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
