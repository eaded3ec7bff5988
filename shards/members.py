"""members: one note's file and labels -> a shard's members and its row of the index."""

import json
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from shards import audio
from shards.errors import DataError

_encoder = json.JSONEncoder(separators=(",", ":"))  # json.dumps would make one for each note


def prepare(data: bytes, *, sample_rate: int, codec: str, name: str) -> tuple[bytes, NDArray[np.int16]]:
    """Check a note's file, bring it to the pack's codec, and return it with its samples, (length,).

    Raises:
        DataError: the file can't be decoded, is not mono, or has another sample rate than the pack.
    """
    header = audio.read_header(data, name=name)
    check_header(header, sample_rate=sample_rate, name=name)
    samples = audio.decode_pcm16(data, header=header, name=name)
    if header.codec != codec:
        data = audio.encode(samples, sample_rate=sample_rate, codec=codec)
    return data, samples


def label_json(labels: dict[str, Any]) -> bytes:
    """Make the json member of a note: one object without blanks, the same names in every row."""
    return _encoder.encode(labels).encode()


def place_row(key: str, data: bytes, *, samples: NDArray[np.int16], offset: int) -> dict[str, Any]:
    """Make a row of the index: `data` are the member's bytes at `offset`, `samples` what they decode to."""
    return {
        "key": key,
        "offset": offset,
        "size": len(data),
        "crc32": isal_zlib.crc32(data),
        "length": len(samples),
        "sounding_length": audio.sounding_length(samples),
    }


def check_header(header: audio.Header, *, sample_rate: int, name: str) -> None:
    """Refuse what the pack can't hold: another rate, stereo, nothing at all."""
    if header.sample_rate != sample_rate:
        raise DataError(
            f"sample_rate must be {sample_rate} for this pack, got {header.sample_rate} ({name}): "
            f"resample it first, for example with `sox IN -r {sample_rate} OUT`"
        )
    if header.channels != 1:
        raise DataError(f"channels must be 1, got {header.channels} ({name}): mix it down, as with `sox IN -c 1 OUT`")
    if header.length < 1:
        raise DataError(f"length must be at least 1 sample, got {header.length} ({name}): leave the file out")
