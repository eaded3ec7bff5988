"""stages: a batch's rows, filled in stage by stage. Each stage is a plain function of the source and the rows."""

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from shards import audio
from streaming.augment import Augment, View, apply_view, draw_view, input_range, valid_length
from streaming.batch import Batch
from streaming.plan import Plan
from streaming.store import Store

FIRST_PACK, FIRST_REPEAT = 0, 0  # places in the augmentation key for mixed packs and repeated rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """What readers need beside the plan: where bytes come from, ids of the labels, what to do with the sound."""

    store: Store
    labels: NDArray[np.int64]
    augment: Augment
    length: int
    seed: int


@dataclasses.dataclass(kw_only=True)
class Rows:
    """One rank's rows of the batch at `cursor`, in order; the stages fill in the rest, one item a row."""

    cursor: int
    rows: list[int]
    epochs: list[int]
    keys: list[str] = dataclasses.field(default_factory=list)
    lengths: list[int] = dataclasses.field(default_factory=list)
    views: list[View] = dataclasses.field(default_factory=list)
    waveform: NDArray[np.float32] | None = None


def plan_rows(plan: Plan, *, cursor: int, batch_size: int, slots: range) -> Rows:
    """Ask the plan for the rank's slots of the batch at `cursor`."""
    rows, epochs = plan.slots(cursor, batch_size=batch_size, slots=slots)
    return Rows(cursor=cursor, rows=rows.tolist(), epochs=epochs.tolist())


def draw_views(source: Source, batch: Rows) -> None:
    """Draw where each row's crop starts, its pitch and its speed, before anything is read."""
    batch.keys, places = source.store.pack.take(batch.rows)
    batch.lengths, sounding = places["length"].tolist(), places["sounding_length"].tolist()
    notes = zip(batch.epochs, batch.keys, batch.lengths, sounding, strict=True)
    for epoch, key, note_length, sounding_length in notes:
        view = draw_view(
            source.augment,
            length=source.length,
            note_length=note_length,
            sounding_length=sounding_length,
            key=(source.seed, epoch, FIRST_PACK, key, FIRST_REPEAT),
        )
        batch.views.append(view)


def render_rows(source: Source, batch: Rows) -> None:
    """Read, decode and render the rows, each into its place, one by one: a note stays in the core's cache all the way.

    Stage after stage over the whole batch took 2.5 times as long for whole notes.
    """
    batch.waveform = np.zeros((len(batch.rows), source.length), np.float32)
    for row, view, out in zip(batch.rows, batch.views, batch.waveform, strict=True):
        render_row(source, row, view, out=out)


def render_row(source: Source, row: int, view: View, *, out: NDArray[np.float32]) -> None:
    """Render one row's view into `out`, (source.length,); only what the view needs of the note is decoded."""
    data = source.store.read(row)
    header = audio.read_header(data, name=source.store.name(row))
    first, last = input_range(view)
    first, last = min(max(0, first), header.length), min(max(0, last), header.length)
    if view.is_plain:
        audio.decode(data, header=header, start=first, stop=last, out=out[: last - first])
    else:
        out[:] = apply_view(audio.decode(data, header=header, start=first, stop=last), view, first=first)


def collate(source: Source, batch: Rows) -> Batch:
    """Lay the rows into tensors; a rank's share may be empty."""
    valid = [valid_length(view, note_length=length) for length, view in zip(batch.lengths, batch.views, strict=True)]
    return Batch(
        waveform=torch.from_numpy(batch.waveform),
        label=torch.from_numpy(source.labels[batch.rows]),
        length=torch.tensor(valid, dtype=torch.int64),
        weight=torch.ones(len(batch.rows)),
        key=tuple(batch.keys),
        cursor=batch.cursor,
    )
