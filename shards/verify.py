"""verify: a pack -> findings. Every tar is read once, front to back, and held against the index.

    tar ── header ── contents ── header ── contents ... end        hashed on the way, memory: one sample
            │name, size  │crc32, rate, channels, length, labels
            └────────────┴── the index's row at that offset

After a header that can't be read it goes on at the next row's place, so one damage doesn't hide the rest. What a
shard's findings mean together is told at its end: swapped, of another packing, cut, zeroed, or single bytes.
"""

import bisect
import dataclasses
import json
import time
from collections.abc import Iterator

from isal import isal_zlib

from shards import audio, format
from shards.errors import DataError, UsageError
from shards.findings import Finding, Report
from shards.index import Pack, open_pack, read_pack, splits_of
from shards.index_file import PLACE, Shard
from shards.progress import Meter, meter
from shards.remote import PathLike
from shards.samples import split_name
from shards.walk import Tar, members


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Row:
    key: str
    offset: int
    size: int
    crc32: int
    length: int
    labels: bytes | None


@dataclasses.dataclass(kw_only=True)
class _Seen:
    """What reading one shard showed, before anything is concluded."""

    rows: dict[int, _Row]
    headers: list[Finding] = dataclasses.field(default_factory=list)
    places: list[Finding] = dataclasses.field(default_factory=list)
    contents: list[Finding] = dataclasses.field(default_factory=list)
    labels: list[Finding] = dataclasses.field(default_factory=list)
    strangers: int = 0


def verify(data: PathLike, *, split: str | None = None) -> Iterator[Report]:
    """Read every byte of a pack, or of one split, and yield a report a split.

    Raises:
        UsageError: there is no such split.
        DataError: an index can't be read, so there is nothing to hold the tars against.
    """
    splits = [split] if split else splits_of(data)
    if not splits:
        raise UsageError(f"{data} holds no finished split: `python -m shards pack SRC {data} --split train` makes one")
    for name in splits:
        yield verify_split(data, split=name)


def verify_split(data: PathLike, *, split: str) -> Report:
    """Read every byte of one split (see verify)."""
    started, pack = time.monotonic(), read_pack(data, split=split)
    findings, damaged, past = [], [], 0
    with meter(f"verifying {split}", total=pack.rows, unit="samples") as progress:
        for number, shard in enumerate(pack.shards):
            found, same = _check_shard(pack, number, progress=progress)
            findings += found
            damaged += [] if same else [shard.name]
            past += shard.rows
            progress.advance(past - progress.done)  # rows that couldn't be read
    if not findings:  # what passes here can be opened and read: the index's own checks
        try:
            checked = open_pack(data, split=split)
            for number in range(len(checked.shards)):
                checked.part(number)
        except DataError as error:
            what, _, way = str(error).rpartition(": ")
            findings.append(Finding(format.INDEX_NAME, None, None, what, way))
    known = set(pack.shards.names.to_pylist())
    strange = [name for name in pack.folder.children() if name.endswith(".tar") and name not in known]
    return Report(
        split=split,
        shards=len(pack.shards),
        rows=pack.rows,
        bytes=int(pack.shards.bytes.sum()),
        seconds=time.monotonic() - started,
        findings=tuple(findings),
        damaged=tuple(damaged),
        notes=tuple(f"{name} is not in the index: we don't read it, a glob over *.tar does" for name in strange),
    )


def _check_shard(pack: Pack, number: int, *, progress: Meter) -> tuple[list[Finding], bool]:
    """Read one shard; return what is wrong with it, and whether its bytes are the index's."""
    shard = pack.shards[number]
    file, way = pack.folder / shard.name, _way_out(pack)
    size = file.size()
    if size is None:
        return [Finding(shard.name, None, None, f"is missing, with {shard.rows} samples", way)], False
    seen = _Seen(rows=_rows(pack, number))
    try:
        with file.open() as opened:
            tar = Tar(opened, size=size)
            _read_members(tar, pack, shard, seen=seen, progress=progress)
            tar.skip_to(size)
    except (OSError, DataError) as error:  # a bad sector, no permission: the other shards are still read
        return [Finding(shard.name, None, None, f"can't be read ({' '.join(str(error).split())})", way)], False
    digest = tar.hash.hexdigest()
    return _conclude(tar, pack, shard, seen=seen, digest=digest), digest == shard.hash


def _way_out(pack: Pack) -> str:
    if "source" in pack.options:
        return f"rewrite it with `python -m shards verify {pack.home.parent} --split {pack.split} --repair SRC`"
    return "bring the tar again from where it came"


def _rows(pack: Pack, number: int) -> dict[int, _Row]:
    """Read a shard's rows as the index says, out of the shard or not: each is held against the tar."""
    part = pack.parts.table(number)
    labels: list[bytes | None] = [None] * part.num_rows
    if "source" in pack.options:  # then a json member's bytes follow from the row; tars of others may hold anything
        notes = part.select(part.column_names[len(PLACE) :]).to_pylist()
        # bytes, which no json holds, are spelt somehow: the tar's labels then differ, which is a finding
        labels = [json.dumps(note, separators=(",", ":"), default=repr).encode() for note in notes]
    columns = [part[name].to_pylist() for name in ("key", "offset", "size", "crc32", "length")]
    return {
        offset: _Row(key=key, offset=offset, size=size, crc32=crc32, length=length, labels=label)
        for key, offset, size, crc32, length, label in zip(*columns, labels, strict=True)
    }


def _read_members(tar: Tar, pack: Pack, shard: Shard, *, seen: _Seen, progress: Meter) -> None:
    way, offsets = _way_out(pack), sorted(seen.rows)
    labels = {row.key: row.labels for row in seen.rows.values()}
    left = dict(seen.rows)
    for name, offset, size in members(tar, offsets):
        row = left.pop(offset, None)
        stem, extension = split_name(name or "")
        if name is None:
            owner = row or _neighbour(seen.rows, offsets, offset, following=pack.codec > "json")
            what = "has a damaged tar header, where stock readers stop without a word"
            seen.headers.append(Finding(shard.name, owner and owner.key, offset - format.BLOCK, what, way))
        if row is not None:
            progress.advance()
            if name is not None and (stem, extension, size) != (row.key, pack.codec, row.size):
                what = f"the tar has {name!r} of {size:,} bytes there, not {row.key}.{pack.codec} of {row.size:,}"
                seen.places.append(Finding(shard.name, row.key, offset, what, way))
                continue
            contents = tar.take(row.size)
            what = _content_fault(contents, row, pack) if len(contents) == row.size else None
            if what is not None:
                seen.contents.append(Finding(shard.name, row.key, offset, what, way))
        elif extension == pack.codec:
            seen.strangers += 1
        elif extension == "json" and labels.get(stem) is not None:
            wanted = labels[stem] or b""
            if size != len(wanted) or (tar.take(size) != wanted and tar.at == offset + size):
                seen.labels.append(Finding(shard.name, stem, offset, "has labels that are not the index's", way))
    if len(seen.rows) < shard.rows:
        seen.places.append(Finding(shard.name, None, None, "has rows of the index at one and the same place", way))
    for row in left.values():
        if not (tar.cut and row.offset + row.size > tar.size):
            what = f"no member of the tar begins there, where the index has {row.key}.{pack.codec}"
            seen.places.append(Finding(shard.name, row.key, row.offset, what, way))


def _neighbour(rows: dict[int, _Row], offsets: list[int], at: int, *, following: bool) -> _Row | None:
    """Guess whose json a lost header was: it stands before a WAV and after a FLAC, since members are sorted."""
    near = bisect.bisect_left(offsets, at) - (0 if following else 1)
    return rows[offsets[near]] if 0 <= near < len(offsets) else None


def _content_fault(contents: bytes, row: _Row, pack: Pack) -> str | None:
    """Hold a sample's bytes against its row: checksum first, then what the file says of itself."""
    found = isal_zlib.crc32(contents)
    if found != row.crc32:
        return f"has damaged contents (crc32 {found:08x}, not {row.crc32:08x})"
    try:
        header = audio.read_header(contents, name=row.key)
    except DataError as error:
        return f"has contents that are no sound ({error})"
    said = {
        "codec": header.codec, "sample_rate": header.sample_rate, "channels": header.channels, "length": header.length
    }  # fmt: skip
    wanted = {"codec": pack.codec, "sample_rate": pack.sample_rate, "channels": 1, "length": row.length}
    differ = [f"{name} {said[name]}, not {wanted[name]}" for name in said if said[name] != wanted[name]]
    return f"says {'; '.join(differ)}" if differ else None


def _conclude(tar: Tar, pack: Pack, shard: Shard, *, seen: _Seen, digest: str) -> list[Finding]:
    """Tell what happened to a shard from all that was seen in it."""
    way, size = _way_out(pack), f"{tar.size:,} bytes, {shard.bytes:,} in the index"
    ours, border = digest == shard.hash, tar.size if tar.zeros_from is None else tar.zeros_from
    beyond = [row for row in seen.rows.values() if row.offset + row.size > border]
    lost = beyond if tar.cut else [row for row in beyond if row.offset < tar.size]
    # what was met in the zeros at the end is told once, as that
    headers, places, contents, labels = (
        [one for one in found if not border <= (one.offset or 0) < tar.size]
        for found in (seen.headers, seen.places, seen.contents, seen.labels)
    )
    found = [*headers, *places, *contents, *labels]
    if not ours:
        other = next((one.name for one in pack.shards if one.hash == digest), None)
        if other is not None:
            return [Finding(shard.name, None, None, f"holds {other}, byte for byte", "rename the tars back")]
        # no accident makes a header whose checksum is right and whose name is another's
        every = len(seen.rows) > 1 and len(contents) == len(seen.rows)
        if not tar.cut and not headers and (places or every or seen.strangers):
            what = f"is a whole tar, but not the one that was indexed ({size}): the index is stale, or the tar replaced"
            return [Finding(shard.name, None, None, what, f"{way}, or index the folder anew if the tars are right")]
    if lost and (tar.cut or tar.zeros_from is not None):
        how = f"is cut {tar.cut}" if tar.cut else "holds only zeros from there on"
        what = f"{how} ({size}): {len(lost)} samples are lost from this one on"
        found.append(Finding(shard.name, lost[0].key, border, what, way))
    elif tar.cut and not ours:
        found.append(Finding(shard.name, None, tar.size, f"is cut {tar.cut} ({size}), after its last sample", way))
    if ours:
        again = "the tar is the one that was indexed, so mend or remake it and pack or index again"
        return [dataclasses.replace(one, way=again) for one in found]
    if not found:
        what = f"differs in bytes that no row speaks of, such as padding (xxh3-128 {digest}, not {shard.hash}; {size})"
        found.append(Finding(shard.name, None, None, what, way))
    return sorted(found, key=lambda one: one.offset or 0)
