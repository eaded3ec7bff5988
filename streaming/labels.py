"""labels: row -> the id of its label. All rows' at once where they fit, else a shard's when it's needed.

A label that is the pitch moves with it.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shards.classes import MIDI, MIDI_CLASSES
from shards.errors import UsageError
from shards.index import Pack

MOST_ROWS = 50_000_000  # whose ids are held at once, 8 bytes each in every reader
HELD_ROWS = 4_000_000  # of more: as many as a reader holds places of


class Labels(Protocol):
    """Gives ids by the number of the row in its pack."""

    def take(self, rows: NDArray[np.int64], /) -> NDArray[np.int64]:
        """Return ids of rows, (rows,)."""
        ...


class ShardLabels:
    """The ids of a pack's rows, loaded shard by shard; those used least recently go first. Pickles without them."""

    def __init__(self, pack: Pack, label: str, *, classes: Sequence[str]) -> None:
        self.pack, self.label, self.classes = pack, label, tuple(classes)
        self._begin()

    def __getstate__(self) -> dict[str, object]:
        return {"pack": self.pack, "label": self.label, "classes": self.classes}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._begin()

    def _begin(self) -> None:
        most = max(1, HELD_ROWS * len(self.pack.shards) // self.pack.rows)
        self._shard = lru_cache(most)(self._load)

    def _load(self, number: int) -> NDArray:
        return self.pack.label_ids(self.label, self.classes, shard=number)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return ids of rows, (rows,)."""
        places = map(self.pack.locate, rows.tolist())
        return np.array([self._shard(number)[at] for number, at in places], np.int64)


def find_labels(pack: Pack, label: str, *, classes: Sequence[str]) -> Labels:
    """Return the ids of a pack's rows in `classes`.

    Raises:
        UsageError: there is no such column of text or whole numbers.
        DataError: a row's value is none of the classes; in a pack of over MOST_ROWS, when its shard is read.
    """
    if pack.rows <= MOST_ROWS:
        return pack.label_ids(label, classes)
    pack.label_ids(label, classes, shard=0)  # so that a wrong column is told at once
    return ShardLabels(pack, label, classes=classes)


def is_pitch(packs: Sequence[Pack], label: str, *, classes: Sequence[str]) -> bool:
    """Tell whether a label is MIDI's pitch, so that its ids move when the note's pitch does.

    Raises:
        UsageError: it is, and classes are not MIDI's.
    """
    if label != MIDI or any(label in pack.classes for pack in packs):
        return False
    if tuple(classes) != MIDI_CLASSES:
        raise UsageError(f"classes of {MIDI} must be MIDI's 0 to 127, got {len(classes)} names: leave classes out")
    return True


def move_pitches(ids: NDArray[np.int64], semitones: NDArray[np.float32]) -> NDArray[np.int64]:
    """Move MIDI pitches (rows,) by what was applied to each row, to the nearest that MIDI has."""
    return np.clip(ids + np.rint(semitones).astype(np.int64), 0, len(MIDI_CLASSES) - 1)
