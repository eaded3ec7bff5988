"""programs: a font's presets -> instruments, each with its NSynth family, source, split and notes.

97 of the 128 General MIDI programs are an NSynth family; timpani, orchestra hit, pads but the choir, effects and
percussion are not. Pitches are the ranges that General MIDI 2 recommends, cut to 21..108 and to what the font plays:
most fonts stretch a preset over 0..127, where a piccolo's recording drones at 8 Hz.

Splits share no instrument and no recording. Two presets are linked, and so stay together, where at least a tenth of
the notes of each sound recordings of the other: a smaller share, such as one sample borrowed for the top of the range,
would chain half of a font into one group. What such a share leaves in two splits is taken out: the preset that shares
the smaller part of its notes loses them.
"""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from shards.bijection import uniforms
from shards.errors import UsageError
from shards.fields import VELOCITIES
from shards.soundfont import SoundFont, Zone, group

SPLITS = ("train", "valid", "test")
SHARES = {"train": 0.70, "valid": 0.15, "test": 0.15}
BINDING_SHARE = 0.1
ATTEMPTS = 64

Note = tuple[int, int]  # MIDI pitch, velocity
Uses = Mapping[Note, frozenset[int]]  # the recordings that a note sounds

# Family -> source -> {program: (lowest, highest MIDI pitch)}, both in. Programs are counted from 0.
TABLE: dict[str, dict[str, dict[int, tuple[int, int]]]] = {
    "bass": {"acoustic": {32: (28, 55)}, "electronic": dict.fromkeys(range(33, 38), (28, 55)),
             "synthetic": {38: (28, 55), 39: (28, 55)}},
    "brass": {"acoustic": {56: (58, 94), 57: (34, 75), 58: (29, 55), 59: (58, 82), 60: (41, 77), 61: (36, 96)},
              "synthetic": {62: (36, 96), 63: (36, 96)}},
    "flute": {"acoustic": {72: (74, 108), 73: (60, 96), 74: (60, 96), 75: (60, 96), 76: (60, 96), 77: (55, 84),
                           78: (60, 96), 79: (60, 84)}},
    "guitar": {"acoustic": {24: (40, 84), 25: (40, 84), 104: (48, 77), 105: (48, 84), 106: (50, 79), 107: (55, 84)},
               "electronic": dict.fromkeys(range(26, 32), (40, 86))},
    "keyboard": {"acoustic": {0: (21, 108), 1: (21, 108), 3: (21, 108), 6: (41, 89)},
                 "electronic": {2: (21, 108), 4: (28, 103), 5: (28, 103), 7: (36, 96)}},
    "mallet": {"acoustic": {8: (60, 108), 9: (72, 108), 10: (60, 84), 11: (53, 89), 12: (48, 84), 13: (65, 96),
                            14: (60, 77), 15: (60, 84), 108: (48, 79), 112: (72, 84), 114: (52, 76)}},
    "organ": {"acoustic": {19: (21, 108), 20: (36, 96)}, "electronic": dict.fromkeys((16, 17, 18), (36, 96))},
    "reed": {"acoustic": {21: (53, 89), 22: (60, 84), 23: (53, 89), 64: (54, 87), 65: (49, 80), 66: (42, 75),
                          67: (37, 68), 68: (58, 91), 69: (52, 81), 70: (34, 72), 71: (50, 91), 109: (36, 77),
                          111: (48, 72)}},
    "string": {"acoustic": {40: (55, 96), 41: (48, 84), 42: (36, 72), 43: (28, 55), 44: (28, 96), 45: (28, 96),
                            46: (23, 103), 48: (28, 96), 49: (28, 96), 110: (55, 96)},
               "synthetic": {50: (36, 96), 51: (36, 96)}},
    "synth_lead": {"synthetic": {80: (21, 108), 81: (21, 108), 82: (36, 96), 83: (36, 96), 84: (36, 96),
                                 86: (36, 96), 87: (21, 108)}},
    "vocal": {"acoustic": {52: (48, 79), 53: (48, 79)}, "synthetic": {54: (48, 84), 85: (36, 96), 91: (36, 96)}},
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """What a General MIDI program is to NSynth, and the MIDI pitches, both in, that it is played at."""

    family: str
    source: str
    pitches: tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instrument:
    """One preset as NSynth would list it. `number` is its id over all splits; `notes` are in no special order."""

    number: int
    name: str
    program: int
    family: str
    source: str
    split: str
    notes: tuple[Note, ...]


PROGRAMS = {
    program: Program(family=family, source=source, pitches=pitches)
    for family, sources in TABLE.items()
    for source, programs in sources.items()
    for program, pitches in programs.items()
}


def draw(seed: int, *parts: int | str) -> float:
    """Draw the uniform in [0, 1) that belongs to `seed` and `parts`: the same on every machine, in any order."""
    return float(uniforms(1, seed, *parts)[0])


def instruments(font: SoundFont, *, seed: int) -> list[Instrument]:
    """List the font's instruments in the order of their programs, with splits keyed by `seed`.

    Raises:
        UsageError: fewer than three groups of presets share no recordings, so three splits can't be made.
    """
    uses = {
        program: _uses(font.presets[program], program=program) for program in sorted(PROGRAMS.keys() & font.presets)
    }
    uses = {program: notes for program, notes in uses.items() if notes}
    shared = _shared(uses)
    links = [
        (a, b) for (a, b), (of_a, of_b) in shared.items()
        if min(len(of_a) / len(uses[a]), len(of_b) / len(uses[b])) >= BINDING_SHARE
    ]  # fmt: skip
    groups = group(list(uses), links=links)
    if len(groups) < len(SPLITS):
        raise UsageError(
            f"{font.name} has {len(groups)} groups of instruments that share no recordings, and three splits need 3: "
            "take another font, such as TimGM6mb.sf2"
        )
    splits = assign(groups, seed=seed)
    kept = {program: set(notes) for program, notes in uses.items()}
    for (a, b), (of_a, of_b) in shared.items():
        if splits[a] != splits[b]:
            loses_a = len(of_a) / len(uses[a]) <= len(of_b) / len(uses[b])
            kept[a if loses_a else b] -= of_a if loses_a else of_b
    return _listed({program: tuple(sorted(notes)) for program, notes in kept.items() if notes}, splits=splits)


def assign(groups: Sequence[tuple[int, ...]], *, seed: int) -> dict[int, str]:
    """Give each group of programs a split: near 70/15/15 in every family, no family missing if that can be had."""
    count = Counter(PROGRAMS[program].family for members in groups for program in members)
    wanted = {(split, family): SHARES[split] * count[family] for split in SPLITS for family in count}
    tries = [_attempt(groups, wanted=wanted, seed=seed, attempt=attempt) for attempt in range(ATTEMPTS)]

    def badness(splits: dict[int, str]) -> tuple[int, float]:
        have = Counter((split, PROGRAMS[program].family) for program, split in splits.items())
        missed = sum((have[cell] - want) ** 2 / want for cell, want in wanted.items())
        return sum(not have[cell] for cell in wanted), missed

    return min(tries, key=badness)


def candidates(instruments: Sequence[Instrument], *, seed: int) -> Iterator[tuple[Instrument, int, int]]:
    """Yield (instrument, pitch, velocity) in the order in which notes are taken until there are enough.

    Each round takes one note of every instrument, so that counts stay even; in a round, splits take turns and each
    split's families come first, so that few notes hold them all. How many are taken changes nothing in the order.
    """
    lines = [_families_first([one for one in instruments if one.split == split], seed=seed) for split in SPLITS]
    ordered = [one for turn in itertools.zip_longest(*lines) for one in turn if one is not None]
    notes = {one.number: sorted(one.notes, key=lambda note: draw(seed, "note", one.program, *note)) for one in ordered}
    for turn in range(max(map(len, notes.values()))):
        for one in ordered:
            if turn < len(notes[one.number]):
                yield one, *notes[one.number][turn]


def _families_first(instruments: Sequence[Instrument], *, seed: int) -> list[Instrument]:
    """Order instruments by draw, but the first of every family before the second of any."""
    seen: Counter[str] = Counter()
    places = []
    for one in sorted(instruments, key=lambda one: draw(seed, "instrument", one.program)):
        places.append((seen[one.family], one))
        seen[one.family] += 1
    return [one for _, one in sorted(places, key=lambda place: place[0])]


def _attempt(
    groups: Sequence[tuple[int, ...]], *, wanted: Mapping[tuple[str, str], float], seed: int, attempt: int
) -> dict[int, str]:
    """Place groups, the largest first and else in keyed order, each where the squared misses grow least.

    How eagerly an attempt fills a split's first place for a family is drawn: how much helps depends on the font.
    """
    eager = {family: 3 * draw(seed, "eager", attempt, family) for family in TABLE}
    have: Counter[tuple[str, str]] = Counter()
    splits: dict[int, str] = {}
    for members in sorted(groups, key=lambda members: (-len(members), draw(seed, "order", attempt, members[0]))):
        added = Counter(PROGRAMS[program].family for program in members)

        def cost(split: str, added: Counter[str] = added, first: int = members[0]) -> tuple[float, float]:
            cells = [(have[split, family], n, wanted[split, family], family) for family, n in added.items()]
            growth = sum(((held + n - want) ** 2 - (held - want) ** 2) / want for held, n, want, _ in cells)
            growth -= sum(eager[family] for held, *_, family in cells if not held)
            return growth, draw(seed, "tie", attempt, first, split)

        chosen = min(SPLITS, key=cost)
        splits |= dict.fromkeys(members, chosen)
        have.update((chosen, PROGRAMS[program].family) for program in members)
    return splits


def _uses(zones: Sequence[Zone], *, program: int) -> Uses:
    low, high = PROGRAMS[program].pitches
    found: dict[Note, set[int]] = {}
    for zone in zones:
        heard = [velocity for velocity in VELOCITIES if zone.velocities[0] <= velocity <= zone.velocities[1]]
        for note in itertools.product(range(max(low, zone.keys[0]), min(high, zone.keys[1]) + 1), heard):
            found.setdefault(note, set()).add(zone.recording)
    return {note: frozenset(recordings) for note, recordings in found.items()}


def _shared(uses: Mapping[int, Uses]) -> dict[tuple[int, int], tuple[set[Note], set[Note]]]:
    """Find, for each pair of programs, the notes of either that sound a recording of the other."""
    recordings = {program: frozenset().union(*notes.values()) for program, notes in uses.items()}
    shared = {}
    for a, b in itertools.combinations(uses, 2):
        if common := recordings[a] & recordings[b]:
            of_a, of_b = ({note for note, used in uses[program].items() if used & common} for program in (a, b))
            shared[a, b] = (of_a, of_b)
    return shared


def _listed(notes: Mapping[int, tuple[Note, ...]], *, splits: Mapping[int, str]) -> list[Instrument]:
    made: Counter[tuple[str, str]] = Counter()
    listed = []
    for number, program in enumerate(sorted(notes)):
        known = PROGRAMS[program]
        place = made[known.family, known.source]
        made[known.family, known.source] += 1
        name = f"{known.family}_{known.source}_{place:03d}"
        listed.append(
            Instrument(number=number, name=name, program=program, family=known.family, source=known.source,
                       split=splits[program], notes=notes[program])
        )  # fmt: skip
    return listed
