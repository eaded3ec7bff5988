"""attacks: a folder with a whole pack's split -> the same, attacked.

An attacker may write anything into an index, a tar and a sound, and crc32s and hashes that fit.
"""

import base64
import dataclasses
import io
import json
import os
import pickle
import struct
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from shards import audio
from shards.index import open_pack, read_pack
from shards.indexing import index_shards
from streaming.store import Store
from tests.streaming.attacked import FAMILY, SPLIT

ROW, RATE, TAR = 3, 16_000, f"{SPLIT}-000000.tar"
Change = Callable[[Path], Any]

ESCAPES = "\x1b[2J\x1b]0;owned\x07\r\n\u202e\x9b31m"
BAD_NAMES = (
    "../secret.tar", "../../outside/secret.tar", "/etc/passwd", "pipe:cat /etc/passwd", "pipe:touch x.tar", ".x.tar",
    "http://127.0.0.1:9/x.tar", "file:///etc/passwd.tar", "a/b.tar", "a\\b.tar", "-x.tar", "x y.tar", "x.tar\n",
    "x\0.tar", "valid-000000", "x.pkl", f"{ESCAPES}.tar", "valid-000000.tar::x", "$(id).tar",
)  # fmt: skip
BAD_BASES = (
    "file:///etc", "/etc", "/proc/self", "file:///proc/self/fd", "pipe:cat /etc/passwd", "pipe://x", "../outside",
    "ftp://127.0.0.1:9/x", "file:///etc\0", "github://a:b@c/x", "FILE:///etc", " file:///etc", ESCAPES,
)  # fmt: skip


# ---- the index


def claim(
    split: Path,
    /,
    *,
    columns: Mapping[str, Callable[[list], list]] | None = None,
    shards: Sequence[Mapping[str, Any]] | None = None,
    **about: Any,
) -> None:
    """Change what the index says: its metadata, its shards, and columns by their values."""
    path = split / "index.parquet"
    table = pq.read_table(path)
    told = json.loads(table.schema.metadata[b"notestream"]) | about
    for name, change in (columns or {}).items():
        at, kind = table.schema.get_field_index(name), table.schema.field(name).type
        table = table.set_column(at, name, pa.array(change(table[name].to_pylist()), kind))
    listing = table.schema.metadata[b"notestream.shards"] if shards is None else listed(shards)
    metadata = {b"notestream": json.dumps(told), b"notestream.shards": listing}
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=10)


def listed(shards: Sequence[Mapping[str, Any]]) -> bytes:
    """Spell shards out as an index does, whatever they are."""
    numbers = [shard[of].to_bytes(8, "little", signed=True) for of in ("rows", "bytes") for shard in shards]
    hashes, names = (bytes.fromhex(shard["hash"]) for shard in shards), [shard["name"].encode() for shard in shards]
    packed = zlib.compress(b"".join([*numbers, bytes(map(len, names)), *names]))
    return base64.b64encode(b"".join(hashes) + packed)


def first_shard(split: Path, **changes: Any) -> None:
    """Change what the index says of its first shard, in the metadata and, where it's the name, in the rows."""
    shards = [dataclasses.asdict(shard) for shard in read_pack(split.parent, split=SPLIT).shards]
    name = changes.get("name", shards[0]["name"])
    claim(split, columns={"shard": lambda old: [name] * 10 + old[10:]}, shards=[shards[0] | changes, *shards[1:]])


def place(split: Path, **values: int) -> None:
    """Change one row's place."""
    put = {name: lambda old, value=value: [*old[:ROW], value, *old[ROW + 1 :]] for name, value in values.items()}
    claim(split, columns=put)


def every_key(text: str) -> Change:
    """All keys have this in them, and are told, since no crc32 fits."""
    columns = {"key": lambda old: [f"{key}{text}" for key in old], "crc32": lambda old: [7] * len(old)}
    return lambda split: claim(split, columns=columns)


def many_rows(split: Path) -> None:
    """A small file of 100,000 rows, all alike: a row group's columns shrink to a few bytes."""
    table, rows = pq.read_table(split / "index.parquet").slice(ROW, 1), 100_000
    about = json.loads(table.schema.metadata[b"notestream"]) | {"shards": 1}
    first = dataclasses.asdict(read_pack(split.parent, split=SPLIT).shards[0])
    alike = {one.name: pa.repeat(table[one.name][0], rows).cast(one.type) for one in table.schema}
    metadata = {b"notestream": json.dumps(about), b"notestream.shards": listed([first | {"rows": rows}])}
    whole = pa.table(alike).replace_schema_metadata(metadata)
    pq.write_table(whole, split / "index.parquet", row_group_size=rows, compression="zstd")


# ---- files


def stored(split: Path) -> bytes:
    """The row's true bytes."""
    return Store(open_pack(split.parent, split=SPLIT)).read(ROW)


def put(split: Path, data: bytes) -> None:
    """Put other bytes in a row's place, at the end of the first tar, with their true crc32 and the tar's true hash."""
    whole = (split / TAR).read_bytes()
    offset, whole = len(whole), whole + data
    (split / TAR).write_bytes(whole)
    first_shard(split, bytes=len(whole), hash=xxhash.xxh3_128_hexdigest(whole))
    place(split, offset=offset, size=len(data), crc32=zlib.crc32(data))


def header_for_sound(split: Path) -> None:
    place(split, offset=0, size=512, crc32=zlib.crc32((split / TAR).read_bytes()[:512]))


def link(split: Path, name: str, target: Path) -> None:
    (split / name).unlink(missing_ok=True)
    (split / name).symlink_to(target)


def linked(split: Path) -> Path:
    """A file outside, as long as the first tar, that only links lead to."""
    there = split.parent.parent / f"linked-{split.parent.name}"
    there.write_bytes(b"SECRET".ljust((split / TAR).stat().st_size, b"!"))
    return there


def link_all(split: Path) -> None:
    """Lay a pack as Hugging Face's cache does: each file is a link to one that is named by its hash, elsewhere."""
    for file in [*split.iterdir()]:
        there = split.parent.parent / f"linked-{split.parent.name}-{file.name}"
        link(split, file.name, file.rename(there))


def pipe(split: Path) -> None:
    (split / TAR).unlink()
    os.mkfifo(split / TAR)


# ---- sounds


def wav(split: Path, **fields: int) -> None:
    """Change fields of a row's WAV header."""
    layout = {"fmt": ("<I", 16), "format": ("<H", 20), "channels": ("<H", 22), "rate": ("<I", 24), "bits": ("<H", 34),
              "data": ("<I", 40)}  # fmt: skip
    changed = bytearray(stored(split))
    for name, value in fields.items():
        struct.pack_into(layout[name][0], changed, layout[name][1], value)
    put(split, bytes(changed))


def flac(split: Path, *, total: int | None = None, rate: int | None = None, cut: int | None = None) -> None:
    """Make a row a FLAC whose header says another total (36 bits) or rate (20 bits), or that is cut."""
    samples = np.frombuffer(stored(split)[44:], "<i2")
    data = bytearray(audio.encode(samples, sample_rate=RATE, codec="flac"))
    packed = int.from_bytes(data[18:26], "big")  # rate 20, channels 3, bits 5, total 36
    packed = packed if total is None else packed >> 36 << 36 | total
    packed = packed if rate is None else packed & ((1 << 44) - 1) | rate << 44
    data[18:26] = packed.to_bytes(8, "big")
    put(split, bytes(data[:cut]))


# ---- code


def sentinel(split: Path) -> Path:
    """What stands there once any of the code has run."""
    return split.parent.parent / "sentinel"


class Bomb:
    """Writes the sentinel where it's unpickled."""

    def __init__(self, split: Path) -> None:
        self.split = split

    def __reduce__(self) -> Any:
        return os.system, (f"touch {sentinel(self.split)}",)


def npy(split: Path) -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([Bomb(split)], dtype=object), allow_pickle=True)
    return out.getvalue()


def pth(split: Path) -> bytes:
    import torch

    out = io.BytesIO()
    torch.save(Bomb(split), out)
    return out.getvalue()


def script(split: Path) -> bytes:
    return f"#!/bin/sh\ntouch {sentinel(split)}\n".encode()


def beside(split: Path) -> None:
    """A tar of a stranger's that has code of all kinds beside its sounds, indexed by us."""
    theirs, store = split.rename(split.parent / "theirs") / TAR, None
    pack = open_pack(split.parent.with_name("whole"), split=SPLIT)
    store, labels = Store(pack), pack.read("key", FAMILY).to_pylist()
    code = {"npy": npy(split), "pkl": pickle.dumps(Bomb(split)), "pth": pth(split)}
    code |= dict.fromkeys(("py", "pyd", "sh", "so"), script(split))
    with tarfile.open(theirs, "w") as tar:
        for row, said in enumerate(labels):
            for kind, data in ({"json": json.dumps(said).encode()} | code | {"wav": store.read(row)}).items():
                member = tarfile.TarInfo(f"{said['key']}.{kind}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    store.close()
    index_shards([str(theirs)], out=split.parent, split=SPLIT)
