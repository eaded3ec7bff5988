"""clips: rows of a split, whole or in windows -> batches, made in any process. No draws."""

import dataclasses
import time
from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from shards import audio
from shards.errors import DataError, NotestreamError
from shards.index import Pack
from streaming import hand
from streaming.batch import Batch, Masked
from streaming.decode import header_of
from streaming.labels import Labels
from streaming.pipeline import Made, Task
from streaming.rendering import cut
from streaming.stages import OnBadRow, describe
from streaming.store import Store


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows:
    """What one rank evaluates, in order, (windows,) each: the row, where in it, samples, their share of the clip."""

    row: NDArray[np.int64]
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    weight: NDArray[np.float32]


def cut_up(pack: Pack, *, rows: NDArray[np.int64], length: int) -> Windows:
    """Cut rows into windows of up to `length` samples."""
    lengths = _lengths(pack, rows)
    each, turn = _repeat(-(-lengths // length))
    start = turn * length
    held = np.minimum(lengths[each] - start, length)
    return Windows(row=rows[each], start=start, length=held, weight=(held / lengths[each]).astype(np.float32))


def spread_out(pack: Pack, *, rows: NDArray[np.int64], length: int, views: int) -> Windows:
    """Take `views` windows of `length` samples of each row, from its first sample to its last, evenly apart.

    A lone view lies in the middle. A row of up to `length` samples comes once and whole: more would be the same.
    """
    lengths = _lengths(pack, rows)
    counts = np.where(lengths > length, views, 1)
    each, turn = _repeat(counts)
    room = np.maximum(lengths[each] - length, 0)
    start = room // 2 if views == 1 else turn * room // (views - 1)
    held = np.minimum(lengths[each], length)
    return Windows(row=rows[each], start=start, length=held, weight=(1 / counts[each]).astype(np.float32))


def _lengths(pack: Pack, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return pack.read("length")["length"].to_numpy()[rows].astype(np.int64)


def _repeat(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number things that come `counts` times each: which it is, and which time."""
    each = np.repeat(np.arange(len(counts)), counts)
    return each, np.arange(len(each)) - np.repeat(np.cumsum(counts) - counts, counts)


def read_clips(
    store: Store,
    tasks: Iterator[Task],
    *,
    labels: Labels,
    windows: Windows,
    batch_size: int,
    on_bad_row: OnBadRow,
) -> Iterator[Made | NotestreamError]:
    """Make batches; a task's number is its first window."""
    try:
        for task in tasks:
            here = slice(task.number, task.number + batch_size)
            part = Windows(**{name: column[here] for name, column in vars(windows).items()})
            try:
                yield _make(store, part, labels=labels, out=task.out, on_bad_row=on_bad_row)
            except NotestreamError as error:
                yield error
    finally:
        store.close()


def _make(store: Store, windows: Windows, *, labels: Labels, out: NDArray[np.float32], on_bad_row: OnBadRow) -> Made:
    started, rows, weight = time.perf_counter(), windows.row.tolist(), windows.weight.copy()
    keys, _ = store.pack.take(rows)
    waveform = out[: len(rows) * int(windows.length.max())].reshape(len(rows), -1)
    masked: list[Masked] = []
    held: tuple[int, bytes] = -1, b""  # the windows of a long clip follow each other: it is read once a batch
    for i, (row, first, sound) in enumerate(zip(rows, windows.start.tolist(), waveform, strict=True)):
        hand.take(store, row)
        try:
            held = held if held[0] == row else (row, store.read(row))
            header = header_of(store, row, held[1])
            cut(held[1], header=header, first=first, out=sound, name=partial(store.name, row))
        except DataError as error:
            if on_bad_row == "raise":
                raise
            sound[:], weight[i] = 0, 0
            masked.append(describe(store, row, what=str(error)))
    return Batch(
        waveform=waveform,
        label=labels.take(windows.row),
        length=windows.length.copy(),
        weight=weight,
        semitones=np.zeros(len(rows), np.float32),
        draws=np.zeros((len(rows), 0), np.float32),
        key=tuple(keys),
        cursor=rows[0],
        row=tuple(rows),
        seconds={"read": time.perf_counter() - started},
        masked=tuple(masked),
    )


def read_note(store: Store, row: int) -> NDArray[np.float32]:
    """Read one whole note, (time,) float32."""
    data = store.read(row)
    return audio.decode(data, header=header_of(store, row, data), name=store.name(row))
