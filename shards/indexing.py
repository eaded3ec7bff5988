"""indexing: any WebDataset tars -> index.parquet beside them. Labels come from json or cls members, no tar changes.

One pass over each tar by its headers; the audio is read to take its crc32 and to see where it falls silent.
"""

import itertools
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

from shards import audio, format
from shards.errors import DataError, NotestreamError, UsageError
from shards.index import Pack, Shard, open_pack, read_about, write_index
from shards.members import check_header, index_table, place_row
from shards.progress import meter
from shards.remote import locate

LABELS = ("json", "cls", "txt")


def index_folder(folder: Path) -> Pack:
    """Index the tars of FOLDER, which is DATA/SPLIT of the pack that it becomes.

    Raises:
        UsageError: there is no tar, or no such folder.
        DataError: a tar is damaged, a sample has no audio, or rates, codecs or labels differ.
    """
    format.check_split(folder.name)
    paths = sorted(folder.glob("*.tar"))
    if not paths:
        raise UsageError(f"{folder} holds no .tar: give the folder with a split's shards")
    for path in paths:
        if not format.SHARD_NAME.fullmatch(path.name):
            raise UsageError(f"{path} has a name that an index can't hold: use letters, digits, . _ and -")
    tables, shards, facts = [], [], {}
    with meter(f"indexing {folder.name}", total=len(paths), unit="shards") as progress:
        for path in paths:
            table = index_shard(path, facts=facts)
            tables.append(table)
            shards.append(
                Shard(name=path.name, rows=table.num_rows, bytes=path.stat().st_size, hash=file_hash(path))
            )  # fmt: skip
            progress.advance()
    tables = _make_alike(tables)
    format.check_keys([key for table in tables for key in table["key"].to_pylist()])
    write_index(folder, split=folder.name, shards=shards, tables=tables, options=_options(folder), **facts)
    return open_pack(folder.parent, split=folder.name)


def file_hash(path: Path) -> str:
    """Hash a whole file by xxh3-128."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def index_shard(path: Path, *, facts: dict[str, Any]) -> pa.Table:
    """Index one tar. The first sample ever seen sets sample_rate and codec in `facts`; all others must agree."""
    rows, labels = [], []
    for key, members in _samples(path):
        found = [codec for codec in audio.CODECS if codec in members]
        if len(found) != 1:
            raise DataError(
                f"{path}: sample {key} has {len(found)} audio members, not one of wav or flac: pack it anew"
            )
        offset, data = members[found[0]]
        name = f"{path}:{key}.{found[0]}"
        header = audio.read_header(data, name=name)
        facts.setdefault("sample_rate", header.sample_rate)
        if facts.setdefault("codec", found[0]) != found[0]:
            raise DataError(f"{name}: codec must be {facts['codec']} for this pack, got {found[0]}: pack it anew")
        check_header(header, sample_rate=facts["sample_rate"], name=name)
        samples = audio.decode_pcm16(data, header=header)
        rows.append(place_row(key, data, samples=samples, offset=offset))
        labels.append(_labels(members, name=f"{path}:{key}"))
    if not rows:
        raise DataError(f"{path} holds no sample: leave it out")
    return index_table(rows, shard=path.name, labels=_label_table(labels, name=str(path)))


def _samples(path: Path) -> Iterator[tuple[str, dict[str, tuple[int, bytes]]]]:
    """Yield each key with its members as (offset, bytes), grouped as webdataset groups: by the name up to its dot."""
    key, members = None, {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isreg() or member.name.startswith("__"):
                    continue
                stem, _, extension = re.sub(r"^\./", "", member.name).partition(".")
                if stem != key and key is not None:
                    yield key, members
                    members = {}
                key = stem
                file = tar.extractfile(member)
                members[extension.lower()] = (member.offset_data, file.read() if file else b"")
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{path} is cut short or damaged ({error}): fetch or pack it anew") from error
    if key is not None:
        yield key, members


def _labels(members: dict[str, tuple[int, bytes]], *, name: str) -> dict[str, Any]:
    labels: dict[str, Any] = {}
    try:
        for extension in LABELS:
            if extension in members:
                text = members[extension][1].decode()
                labels |= json.loads(text) if extension == "json" else {extension: text.strip()}
    except (ValueError, TypeError) as error:
        raise DataError(f"{name} has labels that can't be read ({error}): pack it anew") from error
    return labels


def _label_table(labels: list[dict[str, Any]], *, name: str) -> pa.Table:
    try:
        return pa.Table.from_pylist(labels) if any(labels) else pa.table({"row": list(range(len(labels)))})
    except pa.ArrowException as error:
        raise DataError(f"{name} has labels of different types under one name ({error}): pack it anew") from error


def _make_alike(tables: list[pa.Table]) -> list[pa.Table]:
    """Give all shards' tables one schema: a column that a shard lacks is null there, an int beside a float a float.

    Raises:
        DataError: a label is text in one shard and a number in another.
    """
    try:
        whole = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(f"labels of one name have types that don't fit each other ({error}): pack them anew") from error
    starts = [0, *itertools.accumulate(table.num_rows for table in tables)]
    return [whole.slice(start, table.num_rows) for start, table in zip(starts, tables, strict=False)]


def _options(folder: Path) -> dict[str, Any]:
    """Keep how the shards were packed, where an index says so: the packer knows its own folder by it."""
    try:
        return dict(read_about(locate(folder / format.INDEX_NAME))["options"])
    except (NotestreamError, KeyError):
        return {"indexed": True}
