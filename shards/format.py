"""format: what a pack is. Names, limits and the version that readers check before they trust an index.

DST/SPLIT/SPLIT-000000.tar ...   WebDataset tars: KEY.json (labels) beside KEY.wav or KEY.flac, ustar, mtime 0
DST/SPLIT/index.parquet          a row a sample, row groups of whole shards, written last: without it there is no pack
"""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from shards.errors import DataError, UsageError

VERSION = 1
INDEX_NAME = "index.parquet"
BLOCK = 512  # tar's unit: a header takes one, contents are padded to it
MAX_SHARDS = 1_000_000  # of a split
MAX_SAMPLE_RATE = 1_000_000
MAX_KEY_BYTES = 95  # a ustar name holds 100, and ".flac" takes 5
MAX_SAMPLE_BYTES = 1 << 30  # an index is foreign input: nobody gets us to allocate more
SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.tar")
SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
BAD_KEY = re.compile(r"[./\\\x00-\x1f\x7f]")


def padded(size: int) -> int:
    """Return the bytes that contents of `size` take in a tar: whole blocks."""
    return -(-size // BLOCK) * BLOCK


def shard_name(split: str, number: int) -> str:
    """Name shard `number` of a split so that braces expand over it: train-{000000..000012}.tar."""
    return f"{split}-{number:06d}.tar"


def check_split(split: str) -> None:
    """Refuse a split name that could leave the folder or break shard names."""
    if not SPLIT_NAME.fullmatch(split):
        raise UsageError(f"split must be letters, digits, - and _, got {split!r}: name it like 'train'")


def check_keys(keys: Sequence[str]) -> None:
    """Check all keys before the first byte is written, and name all kinds of bad ones in one message.

    Raises:
        DataError: a key holds a dot or slash (webdataset splits there), is too long, empty, or not unique.
    """
    faults = {
        "hold a dot, slash or control character": [key for key in keys if BAD_KEY.search(key)],
        f"are empty or over {MAX_KEY_BYTES} bytes": [k for k in keys if not 0 < len(k.encode()) <= MAX_KEY_BYTES],
        "stand there twice": [key for key, count in Counter(keys).items() if count > 1],
    }
    told = [f"{len(bad)} {what} ({', '.join(map(repr, bad[:3]))})" for what, bad in faults.items() if bad]
    if told:
        way = "rename those files, or pack with --rename-keys"
        raise DataError(f"keys must be unique and WebDataset-safe, but {'; '.join(told)}: {way}")


def replace_file(temporary: Path, target: Path) -> None:
    """Rename a written file into place, on disk before its name is: a reader sees the whole of it or nothing."""
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: a rename is on disk once the folder is."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_whole(target: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file by a temporary name and a rename; on any failure nothing stays behind.

    `durable` waits until the disk has it; without, a power cut may leave an empty file under the name.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        temporary.write_bytes(content)
        replace_file(temporary, target) if durable else temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
