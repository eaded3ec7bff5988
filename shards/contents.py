"""contents: what goes into one tar -> the tar, written to its temporary place. Its bytes follow from the notes alone.

Packing processes import this: no pyarrow (see packers).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shards.files import Files
from shards.members import label_json, place_row, prepare
from shards.tar import Tarball


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contents:
    """All that it takes to write one tar at `path`; `notes` are `key` and labels, (rows,)."""

    path: Path
    notes: Sequence[Mapping[str, Any]]
    files: Files
    sample_rate: int
    codec: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """A tar that was written: the places of its samples, (rows,), its bytes, and its xxh3-128."""

    places: Sequence[Mapping[str, Any]]
    bytes: int
    hash: str


def write_tar(contents: Contents, *, advance: Callable[[], Any] = int) -> Facts:  # int() does nothing, anywhere
    """Write a tar, note after note; `advance` is called after each.

    Raises:
        DataError: a note that can't be packed; nothing of the tar stays behind.
    """
    places, files, codec = [], contents.files, contents.codec
    try:
        with Tarball(contents.path) as tar:
            for note in contents.notes:
                key = note["key"]
                data, samples = prepare(
                    files.read(key), sample_rate=contents.sample_rate, codec=codec, name=files.name(key)
                )
                labels = {name: value for name, value in note.items() if name != "key"}
                offsets = tar.add(key, {"json": label_json(labels), codec: data})
                places.append(place_row(key, data, samples=samples, offset=offsets[codec]))
                advance()
    except BaseException:
        contents.path.unlink(missing_ok=True)
        raise
    return Facts(places=places, bytes=tar.size, hash=tar.hash)
