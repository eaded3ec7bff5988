"""evaluation: every row of a split once, whole notes in index order, shared out over the ranks. No draws.

A clip that is longer than a window comes in windows that follow each other, so memory is bounded whatever a clip's
length. Windows weigh what they hold of their clip: the weights of a clip add up to 1, those of a split to its rows.
Where views are asked for, a clip comes as so many crops spread evenly over it instead, which weigh alike.
Reads in the rank's own process, or through the readers that training has.
"""

import dataclasses
import time
from collections.abc import Generator, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from shards import audio
from shards.errors import DataError, NotestreamError, UsageError
from shards.index import Pack
from streaming import hand
from streaming.batch import Batch, Masked
from streaming.decode import header_of
from streaming.labels import Labels, find_labels
from streaming.pipeline import Task, read_here
from streaming.readers import Readers
from streaming.rendering import cut
from streaming.stages import OnBadRow, describe
from streaming.store import Remote, Store
from streaming.world import World

ROUNDING = 1e-3  # of a clip's weights, float32 each
LONGEST_SECONDS = 30.0  # of a clip that comes whole: a batch of 64 of them takes 120 MB at 16 kHz


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows:
    """What one rank evaluates, in order, (windows,) each: the row, where in it, samples, their share of the clip."""

    row: NDArray[np.int64]
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    weight: NDArray[np.float32]


def whole_notes(
    pack: Pack,
    *,
    label: str,
    classes: Sequence[str],
    batch_size: int,
    rows: NDArray[np.int64] | range | None = None,
    world: World,
    window_seconds: float = LONGEST_SECONDS,
    views: int = 0,
    on_bad_row: OnBadRow = "raise",
    remote: Remote | None = None,
    mirror_bytes: int | None = None,
    readers: Readers | None = None,
    pinned: bool = False,
) -> Generator[Batch]:
    """Yield this rank's share in batches of up to `batch_size`, each padded to its longest note; a rank may have none.

    `rows`, (rows,) in order, are all that there are to share, instead of the whole pack. `remote` and `mirror_bytes`:
    see Store.

    Clips longer than `window_seconds` come as several windows of it, which bear the same key and row; with `views`, as
    so many of them, spread evenly over the clip. `cursor` of a batch is its first row in the index. A batch is valid
    until the next is asked for.

    Raises:
        UsageError: `window_seconds` gives no sample.
        DataError: a row can't be read (and isn't to be masked).
    """
    length = round(window_seconds * pack.sample_rate)
    if length < 1:
        raise UsageError(f"window_seconds must give at least one sample, got {window_seconds:g}: 30 is usual")
    rows = range(pack.rows) if rows is None else rows
    share = world.share(len(rows))
    own = np.asarray(rows[share.start : share.stop], np.int64)
    windows = spread_out(pack, rows=own, length=length, views=views) if views else cut_up(pack, rows=own, length=length)
    labels = find_labels(pack, label, classes=classes)
    # in index order a shard at a time is enough of a remote pack
    store = Store(pack, remote=remote, mirror_bytes=mirror_bytes, working_bytes=0)
    job = partial(_read, store, labels=labels, windows=windows, batch_size=batch_size, on_bad_row=on_bad_row)
    firsts = range(0, len(windows.row), batch_size)
    samples = batch_size * int(windows.length.max(initial=1))
    if readers is None:
        return read_here(job, firsts, samples=samples, pinned=pinned)
    return readers.read(job, firsts, samples=samples, pinned=pinned)


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


def merge_windows(answers: torch.Tensor, *, rows: Sequence[int], weights: torch.Tensor, share: range) -> torch.Tensor:
    """Average a rank's answers over each clip's windows: (windows, n) -> (rows of the share, n), float64.

    A masked window counts for nothing; a row that is wholly masked gets NaN.

    Raises:
        DataError: a row has no window, or one of another share, or more than all of itself.
    """
    at = torch.tensor(rows, dtype=torch.int64) - share.start
    found = set(at.tolist())
    if found != set(range(len(share))):
        raise DataError(f"evaluation counted {len(found)} rows of {len(share)}, or others: report this")
    weights = weights.double()
    held = torch.zeros(len(share), dtype=torch.float64).index_add_(0, at, weights)
    if (held > 1 + ROUNDING).any():
        twice = int(held.argmax())
        raise DataError(f"evaluation counted row {share[twice]} {held[twice]:.3g} times: report this")
    sums = torch.zeros(len(share), answers.shape[1], dtype=torch.float64)
    sums.index_add_(0, at, answers.double() * weights[:, None])
    return sums / held[:, None]


def _read(
    store: Store,
    tasks: Iterator[Task],
    *,
    labels: Labels,
    windows: Windows,
    batch_size: int,
    on_bad_row: OnBadRow,
) -> Iterator[Batch | NotestreamError]:
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


def _make(store: Store, windows: Windows, *, labels: Labels, out: NDArray[np.float32], on_bad_row: OnBadRow) -> Batch:
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
        waveform=torch.from_numpy(waveform),
        label=torch.from_numpy(labels.take(windows.row)),
        length=torch.from_numpy(windows.length.copy()),
        weight=torch.from_numpy(weight),
        semitones=torch.zeros(len(rows)),
        draws=torch.zeros(len(rows), 0),
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
