"""evaluation: every row of a split once, whole notes in index order, shared out over the ranks. No draws, no padding.

Runs in the rank's own process: reading and decoding a whole note takes 40 us, a fraction of its mel.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from shards import audio
from shards.index import Pack
from streaming.batch import Batch
from streaming.store import Store
from streaming.world import World


def whole_notes(pack: Pack, *, label: str, classes: Sequence[str], batch_size: int, world: World) -> Iterator[Batch]:
    """Yield this rank's rows in batches of up to `batch_size`, each padded to its longest note; a rank may have none.

    `cursor` of a batch is its first row in the index.
    """
    store, labels, share = Store(pack), pack.label_ids(label, classes), world.share(pack.rows)
    try:
        for first in range(share.start, share.stop, batch_size):
            rows = range(first, min(first + batch_size, share.stop))
            keys, places = pack.take(rows)
            lengths = places["length"].astype(np.int64)
            waveform = np.zeros((len(rows), int(lengths.max())), np.float32)
            for row, length, out in zip(rows, lengths.tolist(), waveform, strict=True):
                read_note(store, row, out=out[:length])
            yield Batch(
                waveform=torch.from_numpy(waveform),
                label=torch.from_numpy(labels[first : rows.stop]),
                length=torch.from_numpy(lengths),
                weight=torch.ones(len(rows)),
                key=tuple(keys),
                cursor=first,
            )
    finally:
        store.close()


def read_note(store: Store, row: int, *, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Read one whole note, (time,) float32, into `out` if given."""
    data = store.read(row)
    return audio.decode(data, header=audio.read_header(data, name=store.name(row)), out=out)
