"""samples: a tar -> its samples' rows of the index and their labels, grouped as webdataset groups.

A member is looked at when it passes, and what is kept of a sample is its row: memory holds one member at a time.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from shards import audio, format, labels
from shards.errors import DataError
from shards.labels import read_labels
from shards.members import check_header, place_row
from shards.walk import Member, Tar, sound_members

NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")  # webdataset's: the key ends at the first dot of the last part
META = re.compile(r"__[^/]*__($|/)")  # webdataset's: members that are about the tar, not of a sample
MAX_KEY_BYTES = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """A row of the index, its labels, and the bytes that the labels took in the tar."""

    row: dict[str, Any]
    labels: dict[str, Any]
    label_bytes: int


def read_samples(tar: Tar, *, name: str, facts: dict[str, Any]) -> Iterator[Sample]:
    """Yield the samples of a tar. The first one ever seen sets sample_rate and codec in `facts`; all others must agree.

    Raises:
        DataError: the tar is damaged, or a sample has no audio, audio of another kind, or labels that can't be read.
    """
    group: _Group | None = None
    for member in sound_members(tar, name=name):
        key, extension = split_name(member.name) if member.is_file else ("", "")
        if not key:
            continue
        if group is None or group.key != key:
            if group is not None:
                yield group.sample()
            group = _Group(key, name=name)
        group.add(member, extension, tar=tar, facts=facts)
    if group is not None:
        yield group.sample()


def split_name(member: str) -> tuple[str, str]:
    """Split a member's name into key and extension, in small letters; two empty texts where webdataset skips it."""
    member = member.removeprefix("./")
    found = None if META.match(member) else NAME.fullmatch(member)
    return (found[1], found[2].lower()) if found else ("", "")


class _Group:
    """The members of one sample, as they come."""

    def __init__(self, key: str, *, name: str) -> None:
        self.key, self.name = key, f"{name}:{key}"
        self.row: dict[str, Any] | None = None
        self.extensions: set[str] = set()
        self.labels: dict[str, dict[str, Any]] = {}
        self.label_bytes = 0
        _check_key(key, name=name)

    def add(self, member: Member, extension: str, *, tar: Tar, facts: dict[str, Any]) -> None:
        name = f"{self.name}.{extension}"
        if extension in self.extensions:
            raise DataError(f"{self.name} has two members {extension!r}, at byte {member.offset:,} too: pack it anew")
        self.extensions.add(extension)
        if extension in audio.CODECS:
            if self.row is not None:
                raise DataError(f"{self.name} has audio twice, as wav and flac: pack it anew with one of them")
            data = _take(tar, member, most=format.MAX_SAMPLE_BYTES, name=name)
            self.row = _row(self.key, data, offset=member.offset, codec=extension, name=name, facts=facts)
        elif extension in labels.EXTENSIONS:
            data = _take(tar, member, most=labels.MAX_BYTES, name=name)
            self.labels[extension] = read_labels(extension, data, name=name)
            self.label_bytes += len(data)

    def sample(self) -> Sample:
        if self.row is None:
            told = ", ".join(one if one.isprintable() else repr(one) for one in sorted(self.extensions)[:9])
            raise DataError(f"{self.name} has no wav or flac (it has {told}): unpack the tars and pack the files anew")
        merged: dict[str, Any] = {}
        for extension in labels.EXTENSIONS:
            merged |= self.labels.get(extension, {})
        return Sample(row=self.row, labels=merged, label_bytes=self.label_bytes)


def _check_key(key: str, *, name: str) -> None:
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise DataError(f"{name} has a member {key[:99]!r} whose name is no UTF-8: rename it and pack anew") from None
    if size > MAX_KEY_BYTES:
        raise DataError(f"{name} has a key {key[:40]!r}... of {size:,} bytes, over {MAX_KEY_BYTES:,}: rename it")
    if not key.isprintable():
        raise DataError(f"{name} has a key {key!r} with control characters: rename it and pack anew")
    if key.startswith("/") or ".." in key.split("/"):
        raise DataError(f"{name} has a member {key!r} that leads out of its folder: pack it anew under a plain name")


def _take(tar: Tar, member: Member, *, most: int, name: str) -> bytes:
    if member.size > most:
        raise DataError(f"{name} has {member.size:,} bytes, over {most:,}: cut it up, or leave it out")
    data = tar.take(member.size)
    if len(data) < member.size:
        raise DataError(f"{name} is cut short at byte {tar.at:,}, while it was read: index again")
    return data


def _row(key: str, data: bytes, *, offset: int, codec: str, name: str, facts: dict[str, Any]) -> dict[str, Any]:
    header = audio.read_header(data, name=name)
    if header.codec != codec:
        raise DataError(f"{name} holds {header.codec}, whatever its name says: pack it anew")
    if not 1 <= header.sample_rate <= format.MAX_SAMPLE_RATE:
        raise DataError(f"{name} says sample_rate {header.sample_rate:,}: pack it anew")
    if header.length > audio.MAX_POINTS:
        raise DataError(f"{name} holds {header.length:,} samples, over {audio.MAX_POINTS:,}: cut it up")
    check_header(header, sample_rate=facts.setdefault("sample_rate", header.sample_rate), name=name)
    if facts.setdefault("codec", codec) != codec:
        raise DataError(f"{name}: codec must be {facts['codec']} for this pack, got {codec}: pack it anew")
    return place_row(key, data, samples=audio.decode_pcm16(data, header=header, name=name), offset=offset)
