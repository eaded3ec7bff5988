"""listing: a split's shards <-> the text that an index tells of them. Columns, so that a million cost 50 MB.

    xxh3-128, 16 bytes each | rows, bytes: int64 each | names' lengths, a byte each | names
                            └──────────────────────── zlib ───────────────────────────────┘    then base64

An index is foreign input: no more is unpacked than so many shards can take. shards.claims judges what it says.
"""

import base64
import dataclasses
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, overload

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from shards.errors import DataError
from shards.index_file import Shard

HASH = re.compile(r"[0-9a-f]{32}")
HASH_BYTES = 16
MAX_NAME_BYTES = 255
BLOCK_SHARDS = 4096  # made Python's objects together


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Shards(Sequence[Shard]):
    """A split's tars in order, as columns: (shards,) each, `hashes` (shards, 16). A Shard is made when asked for."""

    names: pa.StringArray
    rows: NDArray[np.int64]
    bytes: NDArray[np.int64]
    hashes: NDArray[np.uint8]

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, at: int) -> Shard: ...
    @overload
    def __getitem__(self, at: slice) -> "Shards": ...
    def __getitem__(self, at: int | slice) -> "Shard | Shards":
        name, rows, size, digest = self.names[at], self.rows[at], self.bytes[at], self.hashes[at]
        if isinstance(at, slice):
            return Shards(names=name, rows=rows, bytes=size, hashes=digest)
        return Shard(name=name.as_py(), rows=int(rows), bytes=int(size), hash=digest.tobytes().hex())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Shards) or len(other) != len(self):
            return False
        numbers = all(np.array_equal(getattr(self, of), getattr(other, of)) for of in ("rows", "bytes", "hashes"))
        return numbers and self.names.equals(other.names)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Number the first row of each shard, and the row past the last: (shards + 1,)."""
        return np.concatenate([[0], np.cumsum(self.rows)])

    def blocks(self) -> Iterator["Shards"]:
        """Cut them up, so that a loop over the columns as lists holds few of Python's objects."""
        return (self[first : first + BLOCK_SHARDS] for first in range(0, len(self), BLOCK_SHARDS))


def gather(shards: Iterable[Shard]) -> Shards:
    """Lay shards into columns.

    Raises:
        DataError: a hash is none, or a name is too long.
    """
    if isinstance(shards, Shards):
        return shards
    listed = list(shards)
    for shard in listed:
        if not HASH.fullmatch(shard.hash):
            raise DataError(f"shard {shard.name} has hash {shard.hash!r}, no xxh3-128: index again")
        if len(shard.name.encode()) > MAX_NAME_BYTES:
            raise DataError(f"shard {shard.name} has a name of over {MAX_NAME_BYTES} bytes: rename it")
    hashes = np.frombuffer(bytes.fromhex("".join(shard.hash for shard in listed)), np.uint8)
    return Shards(
        names=pa.array([shard.name for shard in listed], pa.string()),
        rows=np.array([shard.rows for shard in listed], np.int64),
        bytes=np.array([shard.bytes for shard in listed], np.int64),
        hashes=hashes.reshape(-1, HASH_BYTES),
    )


def fingerprint(shards: Shards) -> str:
    """Hash `[["train-000000.tar", 1024, "f033..."], ...]`: names, rows and hashes, as json.dumps writes them."""
    state = xxhash.xxh3_128(b"[")
    for number, block in enumerate(shards.blocks()):
        told = zip(block.names.to_pylist(), block.rows.tolist(), map(bytes.hex, map(bytes, block.hashes)), strict=True)
        state.update(((", " if number else "") + json.dumps(list(told))[1:-1]).encode())
    state.update(b"]")
    return state.hexdigest()


def encode_shards(shards: Shards) -> bytes:
    """Write shards as the text of an index."""
    numbers = [column.astype("<i8").tobytes() for column in (shards.rows, shards.bytes)]
    names = [name.encode() for name in shards.names.to_pylist()]
    packed = zlib.compress(b"".join([*numbers, bytes(map(len, names)), *names]))
    return base64.b64encode(shards.hashes.tobytes() + packed)


def decode_shards(text: bytes, *, count: int) -> Shards | None:
    """Read the text that an index tells of `count` shards; None where it isn't such a text."""
    unpacker, hash_bytes, number_bytes = zlib.decompressobj(), HASH_BYTES * count, 2 * 8 * count
    try:
        packed = base64.b64decode(text, validate=True)
        hashes = np.frombuffer(packed, np.uint8, hash_bytes).reshape(count, HASH_BYTES)
        numbers = unpacker.decompress(packed[hash_bytes:], number_bytes + count)
        rows, sizes = np.frombuffer(numbers, "<i8", 2 * count).reshape(2, count)
        edges = np.cumsum(np.frombuffer(numbers, np.uint8, count, offset=number_bytes), dtype=np.int32)
        names = unpacker.decompress(unpacker.unconsumed_tail, int(edges[-1]) + 1)
    except (ValueError, zlib.error):
        return None
    if not unpacker.eof or unpacker.unused_data or len(names) != edges[-1]:
        return None
    named = pa.StringArray.from_buffers(count, pa.py_buffer(np.append(np.int32(0), edges)), pa.py_buffer(names))
    return Shards(names=named, rows=rows, bytes=sizes, hashes=hashes)
