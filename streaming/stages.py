"""stages: a batch's rows, filled in stage by stage. Each stage is a plain function of the source and the rows."""

import dataclasses
import math
import time
from collections.abc import Iterator
from itertools import repeat
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shards.bijection import uniforms
from shards.errors import DataError
from streaming.augment import Augment
from streaming.batch import Batch, Masked
from streaming.draws import Key
from streaming.effects import apply_effects
from streaming.labels import Labels, move_pitches
from streaming.order import Order
from streaming.rendering import play_again, render_row
from streaming.store import Store
from streaming.transforms import Transform, run_transforms
from streaming.view import View, draw_view, valid_length

Pad = Literal["zero", "repeat"]
OnBadRow = Literal["raise", "mask"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """What readers need beside the order: for each pack where bytes come from and its rows' targets.

    And what to do with the sound. Where `label_moves`, labels are pitches and move with it. `draws` uniforms
    a row go along, for what is drawn on the device.
    """

    stores: tuple[Store, ...]
    labels: tuple[Labels, ...]
    augment: Augment
    length: int
    seed: int
    transforms: tuple[Transform, ...] = ()
    label_moves: bool = False
    draws: int = 0
    pad: Pad = "zero"
    on_bad_row: OnBadRow = "raise"
    verify_reads: bool = True


@dataclasses.dataclass(kw_only=True)
class Rows:
    """One rank's rows of the batch at `cursor`, in order; the stages fill in the rest, one item a row.

    `out` is where the waveforms go, flat and large enough; made where there is none.
    """

    cursor: int
    packs: list[int]
    rows: list[int]
    repeats: list[int]
    epochs: list[int]
    out: NDArray[np.float32] | None = None
    keys: list[str] = dataclasses.field(default_factory=list)
    lengths: list[int] = dataclasses.field(default_factory=list)
    views: list[View] = dataclasses.field(default_factory=list)
    valid: list[int] = dataclasses.field(default_factory=list)
    semitones: list[float] = dataclasses.field(default_factory=list)
    waveform: NDArray[np.float32] | None = None
    masked: dict[int, Masked] = dataclasses.field(default_factory=dict)
    seconds: dict[str, float] = dataclasses.field(default_factory=lambda: {"read": 0.0, "decode": 0.0, "augment": 0.0})


def plan_rows(
    order: Order, *, cursor: int, batch_size: int, slots: range, out: NDArray[np.float32] | None = None
) -> Rows:
    """Ask the order for the rank's slots of the batch at `cursor`."""
    found = order.slots(cursor, batch_size=batch_size, slots=slots)
    return Rows(
        cursor=cursor, packs=found.pack.tolist(), rows=found.row.tolist(), repeats=found.repeat.tolist(),
        epochs=found.epoch.tolist(), out=out,
    )  # fmt: skip


def draw_views(source: Source, batch: Rows) -> None:
    """Draw what happens to each row, before anything is read."""
    places = _look_up(source, batch)
    batch.lengths, sounding = places["length"].tolist(), places["sounding_length"].tolist()
    if source.augment.is_nothing:  # draws are named, not taken in turn: leaving them out changes no other
        batch.views = [View(start=0, pitch_ratio=1.0, speed=1.0, length=source.length)] * len(batch.rows)
        return
    for name, note_length, sounding_length in zip(_names(source, batch), batch.lengths, sounding, strict=True):
        view = draw_view(
            source.augment,
            length=source.length,
            note_length=note_length,
            sounding_length=sounding_length,
            key=name,
        )
        batch.views.append(view)


def _names(source: Source, batch: Rows) -> Iterator[Key]:
    """Name what is drawn for each row."""
    return zip(repeat(source.seed), batch.epochs, batch.packs, batch.keys, batch.repeats, strict=False)


def _look_up(source: Source, batch: Rows) -> NDArray[np.void]:
    """Fill in the keys, and return the places, (rows,)."""
    if len(source.stores) == 1:
        batch.keys, places = source.stores[0].pack.take(batch.rows)
        return places
    found = [source.stores[pack].pack.take([row]) for pack, row in zip(batch.packs, batch.rows, strict=True)]
    batch.keys = [keys[0] for keys, _ in found]
    return np.concatenate([places for _, places in found])


def render_rows(source: Source, batch: Rows) -> None:
    """Read, decode, render and change the rows, each into its place, one by one: a note stays in the core's cache.

    Stage after stage over the whole batch took 2.5 times as long for whole notes.
    """
    shape = len(batch.rows), source.length
    batch.waveform = (
        np.empty(shape, np.float32) if batch.out is None else batch.out[: shape[0] * shape[1]].reshape(shape)
    )
    batch.semitones = [0.0] * len(batch.rows)
    rows = zip(batch.rows, batch.views, batch.lengths, batch.waveform, strict=True)
    for i, (row, view, length, out) in enumerate(rows):
        # what is repeated is sound too
        batch.valid.append(len(out) if source.pad == "repeat" else valid_length(view, note_length=length))
        store = source.stores[batch.packs[i]]
        try:
            ratio = render_row(store, row, view, out=out, verify=source.verify_reads, seconds=batch.seconds)
        except DataError as error:
            if source.on_bad_row == "raise":
                raise
            out[:] = 0
            batch.masked[i] = describe(store, row, what=str(error))
            continue
        if ratio != 1:
            batch.semitones[i] = 12 * math.log2(ratio)
        if source.transforms or source.pad == "repeat" or not view.is_plain:
            change_row(source, batch, i)


def change_row(source: Source, batch: Rows, i: int) -> None:
    """Repeat a rendered row if it is to be, then run effects and the user's transforms on it, in place."""
    assert batch.waveform is not None, "it is rendered"
    started, out, view = time.perf_counter(), batch.waveform[i], batch.views[i]
    if source.pad == "repeat":
        play_again(out, valid_length(view, note_length=batch.lengths[i]))
    apply_effects(out, view, valid=batch.valid[i])
    if source.transforms:
        name = (source.seed, batch.epochs[i], batch.packs[i], batch.keys[i], batch.repeats[i])
        sample_rate = source.stores[batch.packs[i]].pack.sample_rate
        run_transforms(source.transforms, out, name=name, sample_rate=sample_rate)
    batch.seconds["augment"] += time.perf_counter() - started


def describe(store: Store, row: int, *, what: str) -> Masked:
    """Say which row can't be read, and why."""
    number, part, at = store.pack.find(row)
    place = part.places[at]
    return Masked(
        shard=store.pack.shards[number].name, key=part.keys[at].as_py(), offset=int(place["offset"]), what=what
    )


def collate(source: Source, batch: Rows) -> Batch[NDArray[Any]]:
    """Lay the rows into arrays; a rank's share may be empty."""
    assert batch.waveform is not None, "they are rendered"
    weight = np.ones(len(batch.rows), np.float32)
    weight[list(batch.masked)] = 0
    labels = _targets(source, batch)
    semitones = np.array(batch.semitones, np.float32)
    return Batch(
        waveform=batch.waveform,
        label=move_pitches(labels, semitones) if source.label_moves else labels,
        length=np.array(batch.valid, np.int64),
        weight=weight,
        semitones=semitones,
        draws=_draw(source, batch),
        key=tuple(batch.keys),
        cursor=batch.cursor,
        is_padded=min(batch.valid, default=source.length) < source.length,
        row=tuple(batch.rows),
        pack=tuple(batch.packs),
        seconds=batch.seconds,
        masked=tuple(batch.masked.values()),
    )


def _targets(source: Source, batch: Rows) -> NDArray[Any]:
    """Look up the rows' targets: (rows,) ids, or (rows, classes) of 0 and 1."""
    rows = np.array(batch.rows, np.int64)
    if len(source.labels) == 1:
        return source.labels[0].take(rows)
    places = [np.flatnonzero(np.equal(batch.packs, pack)) for pack in range(len(source.labels))]
    taken = [labels.take(rows[here]) for labels, here in zip(source.labels, places, strict=True)]
    targets = np.empty((len(rows), *taken[0].shape[1:]), taken[0].dtype)
    for here, own in zip(places, taken, strict=True):
        targets[here] = own
    return targets


def _draw(source: Source, batch: Rows) -> NDArray[np.float32]:
    """Draw each row's own uniforms, (rows, source.draws), of 24 bits: more would be rounded, up to 1 too."""
    drawn = np.empty((len(batch.rows), source.draws), np.float32)
    if source.draws:
        for row, name in zip(drawn, _names(source, batch), strict=False):
            row[:] = np.floor(uniforms(source.draws, *name, "device") * 2**24) / 2**24
    return drawn
