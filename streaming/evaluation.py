"""evaluation: every row of a split once, whole notes in index order, shared out over the ranks. No draws.

A clip that is longer than a window comes in windows that follow each other, so memory is bounded whatever a clip's
length. Windows weigh what they hold of their clip: the weights of a clip add up to 1, those of a split to its rows.
Where views are asked for, a clip comes as so many crops spread evenly over it instead, which weigh alike.
Reads in the rank's own process, or through the readers that training has.
"""

from collections.abc import Generator, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from shards.errors import DataError, UsageError
from shards.index import Pack
from streaming.batch import Batch
from streaming.clips import cut_up, read_clips, spread_out
from streaming.labels import find_labels
from streaming.readers import Readers
from streaming.stages import OnBadRow
from streaming.store import Remote, Store
from streaming.tensors import read_here
from streaming.world import World

ROUNDING = 1e-3  # of a clip's weights, float32 each
LONGEST_SECONDS = 30.0  # of a clip that comes whole: a batch of 64 of them takes 120 MB at 16 kHz


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
    job = partial(read_clips, store, labels=labels, windows=windows, batch_size=batch_size, on_bad_row=on_bad_row)
    firsts = range(0, len(windows.row), batch_size)
    samples = batch_size * int(windows.length.max(initial=1))
    if readers is None:
        return read_here(job, firsts, samples=samples, pinned=pinned)
    return readers.read(job, firsts, samples=samples, pinned=pinned)


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
