"""clips: lengths -> a pack of clips of these lengths, each with a sound of its own."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shards import audio
from shards.index import Pack, open_pack
from shards.pack import pack
from tests.conftest import write_notes

RATE = 16_000


def clip(number: int, *, length: int) -> np.ndarray:
    """Return a clip's samples, int16: noise that is named by its number."""
    return np.random.Generator(np.random.Philox(number)).integers(-9000, 9000, length).astype(np.int16)


def make_clips(folder: Path, *, split: str, lengths: Sequence[int], rows_per_shard: int = 4) -> Pack:
    """Pack clips; number i of the notes, in order of their keys, is lengths[i] long."""
    root = write_notes(folder, split=split, count=len(lengths), length=10)
    for i, path in enumerate(sorted((root / "audio").iterdir())):
        path.write_bytes(audio.encode(clip(i, length=lengths[i]), sample_rate=RATE, codec="wav"))
    pack(folder, folder / "pack", split=split, rows_per_shard=rows_per_shard)
    return open_pack(folder / "pack", split=split)
