"""parts: an index's rows -> one shard's keys and places at a time, checked before they're used.

What a reader doesn't need is never loaded; what it needed last stays, up to MOST_ROWS.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shards import audio, format
from shards.errors import DataError
from shards.index_file import PLACE, IndexFile, Shard
from shards.listing import Shards

MOST_ROWS = 4_000_000  # held in a process, 24 bytes and a key each: about 240 MB
MAX_KEY_BYTES = 4096  # in tars of others too: a key is told in errors, logs and pages
NUMBERS = tuple(field for field in PLACE if field.name not in ("shard", "key"))
PLACES = np.dtype([(field.name, field.type.to_pandas_dtype()) for field in NUMBERS])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One shard's rows: keys (rows,), and places (rows,) with the fields of PLACES: offset, size, crc32, lengths."""

    keys: pa.StringArray
    places: NDArray[np.void]


class Parts:
    """The shards' rows, loaded when they're asked for; those used least recently go first. Pickles without them."""

    def __init__(self, file: IndexFile, shards: Shards) -> None:
        self.file, self.shards = file, shards
        self._held: OrderedDict[int, Part] = OrderedDict()
        self._rows = 0

    def __getstate__(self) -> dict[str, object]:
        return {"file": self.file, "shards": self.shards, "_held": OrderedDict(), "_rows": 0}

    def __getitem__(self, number: int) -> Part:
        """Return one shard's rows.

        Raises:
            DataError: they can't be read, aren't this shard's, or point outside it.
        """
        part = self._held.get(number)
        if part is not None:
            self._held.move_to_end(number)
            return part
        shard = self.shards[number]
        part = check_part(self.table(number, columns=PLACE.names), shard=shard, file=self.file)
        self._held[number] = part
        self._rows += shard.rows
        while self._rows > MOST_ROWS and len(self._held) > 1:
            self._rows -= len(self._held.popitem(last=False)[1].keys)
        return part

    def table(self, number: int, *, columns: Sequence[str] | None = None) -> pa.Table:
        """Read columns of one shard's rows, all unless given: as the index says, unchecked but for text and nulls.

        Raises:
            DataError: they can't be read.
        """
        first, past = self.shards.starts[number : number + 2].tolist()
        return self.file.rows(first, past - first, columns=columns)


def check_part(table: pa.Table, *, shard: Shard, file: IndexFile) -> Part:
    """Refuse rows that could make a reader leave their shard, over-read or over-allocate."""
    again = "pack or index again"
    keys, places = table["key"].combine_chunks(), np.empty(table.num_rows, PLACES)
    for name in (field.name for field in NUMBERS if len(keys)):
        column = table[name].combine_chunks()
        # not to_numpy, which imports pandas where there is one: 45 MB and 0.3 s in every reader
        places[name] = np.frombuffer(column.buffers()[1], PLACES[name])[column.offset :][: len(keys)]
    offset, size, length, sounding = (places[name] for name in ("offset", "size", "length", "sounding_length"))
    longest = pc.max(pc.binary_length(keys)).as_py() or 0  # pyright: ignore[reportAttributeAccessIssue]
    if longest > MAX_KEY_BYTES:
        raise DataError(f"{file.place} has a key of {longest:,} bytes, over {MAX_KEY_BYTES:,}: {again}")
    outside = (offset < 0) | (size < 1) | (size > format.MAX_SAMPLE_BYTES) | (offset > shard.bytes - size.astype("i8"))
    for bad, what in (
        (outside, "outside its shard"),
        ((length < 1) | (length > audio.MAX_POINTS), f"as a sound of no samples or over {audio.MAX_POINTS:,}"),
        ((sounding < 0) | (sounding > length), "as a sound that is shorter than what sounds of it"),
    ):
        if bad.any():
            raise DataError(f"{file.place} places {keys[int(bad.argmax())]} {what}: {again}")
    if table["shard"].unique().to_pylist() != [shard.name] * bool(shard.rows):
        raise DataError(f"{file.place} has rows that are not in the order of its shards: {again}")
    return Part(keys=keys, places=places)
