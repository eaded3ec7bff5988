"""labels: row -> its label's target. All rows' at once where they fit, else a shard's when it's needed.

A target is the id of the row's class, or where a row has any number of classes, 0 or 1 for each (see shards.classes).
A label that is the pitch moves with it.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shards.classes import MANY, MIDI, MIDI_CLASSES
from shards.errors import UsageError
from shards.index import Pack

MOST_ROWS = 50_000_000  # whose targets are held at once, up to 8 bytes each in every reader
HELD_ROWS = 4_000_000  # of more: as many as a reader holds places of
TOLD_BYTES = 8  # of a row's target, that these bounds count with


class Labels(Protocol):
    """Gives targets by the number of the row in its pack."""

    def take(self, rows: NDArray[np.int64], /) -> NDArray[Any]:
        """Return ids of rows, (rows,) int64, or 0 and 1 for each class, (rows, classes) float32."""
        ...


class HeldLabels:
    """The targets of all rows of a pack, in as few bytes as hold them."""

    def __init__(self, pack: Pack, label: str, *, classes: Sequence[str]) -> None:
        self._held = pack.label_targets(label, classes)

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return targets of rows (see Labels)."""
        return _widen(self._held[rows])


class ShardLabels:
    """The targets of a pack's rows, loaded shard by shard; those used least recently go first. Pickles without them."""

    def __init__(self, pack: Pack, label: str, *, classes: Sequence[str]) -> None:
        self.pack, self.label, self.classes = pack, label, tuple(classes)
        self._begin()

    def __getstate__(self) -> dict[str, object]:
        return {"pack": self.pack, "label": self.label, "classes": self.classes}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._begin()

    def _begin(self) -> None:
        self._width = (len(self.classes),) if has_many(self.pack, self.label) else ()
        held = HELD_ROWS * TOLD_BYTES // _row_bytes(self.pack, self.label, self.classes)
        self._shard = lru_cache(max(1, held * len(self.pack.shards) // self.pack.rows))(self._load)

    def _load(self, number: int) -> NDArray[Any]:
        return self.pack.label_targets(self.label, self.classes, shard=number)

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return targets of rows (see Labels)."""
        places = map(self.pack.locate, rows.tolist())
        found = np.array([self._shard(number)[at] for number, at in places])
        return _widen(found.reshape(len(rows), *self._width))


def has_many(pack: Pack, label: str) -> bool:
    """Tell whether a row has any number of the label's classes, not one.

    Raises:
        UsageError: the column is no label.
    """
    return pack.label_kind(label) in MANY


def find_labels(pack: Pack, label: str, *, classes: Sequence[str]) -> Labels:
    """Return the targets of a pack's rows in `classes`.

    Raises:
        UsageError: the column is no label.
        DataError: a row's value is none of the classes; in a pack of over MOST_ROWS, when its shard is read.
    """
    if _fits(pack, label, classes):
        return HeldLabels(pack, label, classes=classes)
    check_labels(pack, label, classes=classes)
    return ShardLabels(pack, label, classes=classes)


def check_labels(pack: Pack, label: str, *, classes: Sequence[str]) -> None:
    """Refuse a pack with a label that is none of the classes; its rows are gone through, never held.

    One whose targets wouldn't fit is told by its first shard, so that a wrong column doesn't go far.

    Raises:
        UsageError: the column is no label, or its vectors are of other classes.
        DataError: a row's value is none of the classes.
    """
    if pack.label_kind(label) == "flags" and (own := pack.label_names(label)) != tuple(classes):
        told = f"of {len(own)} places in {pack.home}, which aren't the {len(classes)} classes of train"
        raise UsageError(f"label {label!r} has vectors {told}: pack it anew with these")
    for _ in pack.label_blocks(label, classes, shard=None if _fits(pack, label, classes) else 0):
        pass


def count_classes(
    pack: Pack,
    label: str,
    *,
    classes: Sequence[str],
    kept: NDArray[np.int64] | None = None,
    ends: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Count the rows of each class, (classes,), of those kept and with their repeats (see select.Selection).

    The rows are gone through, never held.
    """
    counts, at = np.zeros(len(classes), np.int64), 0
    for block in pack.label_blocks(label, classes):
        past = at + len(block)
        first, last = (at, past) if kept is None else np.searchsorted(kept, (at, past)).tolist()
        here = block if kept is None else block[kept[first:last] - at]
        times = np.ones(len(here), np.int64) if ends is None else np.diff(ends[first:last], prepend=_end(ends, first))
        counts += times @ here if here.ndim == 2 else _tally(here, times, len(classes))
        at = past
    return counts


def _end(ends: NDArray[np.int64], first: int) -> int:
    return int(ends[first - 1]) if first else 0


def _tally(ids: NDArray[Any], times: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    # floats count exactly up to 2 ** 53
    return np.bincount(ids, weights=times, minlength=num_classes).astype(np.int64)


def _widen(targets: NDArray[Any]) -> NDArray[Any]:
    """Return targets as a batch has them."""
    return targets.astype(np.int64 if targets.ndim == 1 else np.float32)


def _row_bytes(pack: Pack, label: str, classes: Sequence[str]) -> int:
    return max(TOLD_BYTES, len(classes)) if has_many(pack, label) else TOLD_BYTES


def _fits(pack: Pack, label: str, classes: Sequence[str]) -> bool:
    return pack.rows * _row_bytes(pack, label, classes) <= MOST_ROWS * TOLD_BYTES


def is_pitch(packs: Sequence[Pack], label: str, *, classes: Sequence[str]) -> bool:
    """Tell whether a label is MIDI's pitch, so that its ids move when the note's pitch does.

    Raises:
        UsageError: it is, and classes are not MIDI's.
    """
    if label != MIDI or any(pack.label_kind(label) != "numbers" for pack in packs):
        return False
    if tuple(classes) != MIDI_CLASSES:
        raise UsageError(f"classes of {MIDI} must be MIDI's 0 to 127, got {len(classes)} names: leave classes out")
    return True


def move_pitches(ids: NDArray[np.int64], semitones: NDArray[np.float32]) -> NDArray[np.int64]:
    """Move MIDI pitches (rows,) by what was applied to each row, to the nearest that MIDI has."""
    return np.clip(ids + np.rint(semitones).astype(np.int64), 0, len(MIDI_CLASSES) - 1)
