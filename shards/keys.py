"""keys: names that a shard can't hold -> names that it can. Each new one depends on its own old name alone."""

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import xxhash

from shards.errors import UsageError
from shards.format import BAD_KEY, MAX_KEY_BYTES

COLUMN = "original_key"


def rename_keys(keys: Sequence[str], originals: Sequence[str]) -> list[str]:
    """Make all keys fit for a shard: `_` for each bad character, a hash of the original where else two would be one.

    `originals` are unique: what a key was made of, such as a path with its extension.
    """
    mended = [_mend(key, original) for key, original in zip(keys, originals, strict=True)]
    taken, meant = Counter(mended), Counter(keys)
    return [
        # a key that was right, and the only one of its name, stays
        _with_hash(new, original) if taken[new] > 1 and (new != old or meant[old] > 1) else new
        for new, old, original in zip(mended, keys, originals, strict=True)
    ]


def rename_column(manifest: pa.Table, *, originals: Sequence[str]) -> tuple[pa.Table, dict[str, str]]:
    """Rename a manifest's keys; return it with the originals as a column, and those that changed, new -> original.

    Raises:
        UsageError: the manifest has a column of that name already.
    """
    if COLUMN in manifest.column_names:
        raise UsageError(f"rename_keys would add a column {COLUMN!r}, and the source has one: rename that first")
    keys = manifest["key"].to_pylist()
    fresh = rename_keys(keys, originals)
    told = manifest.set_column(0, pa.field("key", pa.string()), pa.array(fresh, pa.string()))
    told = told.append_column(pa.field(COLUMN, pa.string()), pa.array(originals, pa.string()))
    return told, {new: old for new, old in zip(fresh, originals, strict=True) if new != old}


def _mend(key: str, original: str) -> str:
    new = BAD_KEY.sub("_", key)
    return new if 0 < len(new.encode()) <= MAX_KEY_BYTES else _with_hash(new, original)


def _with_hash(key: str, original: str) -> str:
    digest = xxhash.xxh3_64_hexdigest(original.encode())
    room = MAX_KEY_BYTES - len(digest) - 1
    return f"{key.encode()[:room].decode(errors='ignore')}-{digest}"
