"""nsynth: the NSynth layout -> a manifest of notes, with a way to read each. The folder, or the official tar.gz."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import xxhash

from shards import format
from shards.errors import DataError, UsageError

FAMILIES = (
    "bass", "brass", "flute", "guitar", "keyboard", "mallet", "organ", "reed", "string", "synth_lead", "vocal",
)  # fmt: skip
SOURCES = ("acoustic", "electronic", "synthetic")
QUALITIES = (
    "bright", "dark", "distortion", "fast_decay", "long_release", "multiphonic", "nonlinear_env", "percussive",
    "reverb", "tempo-synced",
)  # fmt: skip
VELOCITIES = (25, 50, 75, 100, 127)
SAMPLE_RATE = 16_000
LENGTH = 64_000

# the types are fixed: inferred ones would differ where every note of a split has an empty qualities_str
FIELDS = pa.schema(
    [
        ("note", pa.int64()),
        ("note_str", pa.string()),
        ("instrument", pa.int64()),
        ("instrument_str", pa.string()),
        ("pitch", pa.int64()),
        ("velocity", pa.int64()),
        ("sample_rate", pa.int64()),
        ("qualities", pa.list_(pa.int8())),
        ("qualities_str", pa.list_(pa.string())),
        ("instrument_family", pa.int64()),
        ("instrument_family_str", pa.string()),
        ("instrument_source", pa.int64()),
        ("instrument_source_str", pa.string()),
    ]
)


class Files(Protocol):
    """Where the audio of a source is read from; crosses to packing processes."""

    def read(self, key: str) -> bytes:
        """Read one note's file."""
        ...

    def name(self, key: str) -> str:
        """Say where that file is, for messages."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Notes to pack: a manifest sorted by key (column `key`, then labels) and the files it speaks of."""

    manifest: pa.Table
    sample_rate: int
    identity: str
    files: Files


@dataclasses.dataclass(frozen=True)
class FolderFiles:
    """Notes as files of a folder: AUDIO/KEY.wav."""

    folder: Path

    def read(self, key: str) -> bytes:
        """Read one note's file."""
        return (self.folder / f"{key}.wav").read_bytes()

    def name(self, key: str) -> str:
        """Say where that file is."""
        return str(self.folder / f"{key}.wav")


def find_source(src: Path, *, split: str) -> Path:
    """Find the NSynth folder or tar.gz of a split: SRC itself, or nsynth-SPLIT beneath it.

    Raises:
        UsageError: there is nothing of the kind.
    """
    if not src.exists():
        raise UsageError(f"source {src} does not exist: give an NSynth folder or nsynth-{split}.jsonwav.tar.gz")
    if src.is_file() or (src / "examples.json").is_file():
        return src
    for found in (src / f"nsynth-{split}", src / f"nsynth-{split}.jsonwav.tar.gz"):
        if found.is_file() or (found / "examples.json").is_file():
            return found
    raise UsageError(f"source {src} holds no examples.json and no nsynth-{split}: give an NSynth folder or its tar.gz")


def open_folder(folder: Path) -> Source:
    """Read examples.json of an NSynth folder and check that every note's file is there."""
    text = (folder / "examples.json").read_bytes()
    manifest = read_examples(text, name=str(folder / "examples.json"))
    there = {path.name for path in (folder / "audio").glob("*.wav")}
    check_present([key for key in manifest["key"].to_pylist() if f"{key}.wav" not in there], name=str(folder / "audio"))
    return make_source(manifest, files=FolderFiles(folder / "audio"), identity=xxhash.xxh3_128_hexdigest(text))


def check_present(missing: list[str], *, name: str) -> None:
    """Refuse notes whose audio isn't there."""
    if missing:
        raise DataError(
            f"{len(missing)} notes of examples.json have no audio in {name} ({missing[0]}.wav): fetch or unpack it anew"
        )


def make_source(manifest: pa.Table, *, files: Files, identity: str) -> Source:
    """Check that one sample rate holds for all notes."""
    rates = manifest["sample_rate"].unique().to_pylist()
    if len(rates) != 1:
        raise DataError(f"sample_rate must be one for a pack, got {sorted(rates)}: pack them apart")
    return Source(manifest=manifest, sample_rate=rates[0], identity=identity, files=files)


def read_examples(text: bytes, *, name: str) -> pa.Table:
    """Parse examples.json into a table sorted by key; all 13 fields are wanted, keys are checked.

    Raises:
        DataError: it isn't JSON, holds a note twice, lacks a field, or has a value of another type.
    """
    try:
        examples = json.loads(text, object_pairs_hook=lambda pairs: _unique(pairs, name=name))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{name} is not whole JSON ({error}): fetch or unpack it anew") from error
    if not isinstance(examples, dict) or not examples:
        raise DataError(f"{name} holds no notes: give an NSynth split with an examples.json like NSynth's")
    keys = sorted(examples)
    format.check_keys(keys)
    for key in keys:
        _check_note(key, examples[key], name=name)
    try:
        notes = pa.Table.from_pylist([examples[key] for key in keys], schema=FIELDS)
    except pa.ArrowException as error:
        raise DataError(f"{name} has a field of another type than NSynth's ({error}): mend it") from error
    return notes.add_column(0, pa.field("key", pa.string()), pa.array(keys, pa.string()))


def _unique(pairs: list[tuple[str, Any]], *, name: str) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise DataError(f"{name} holds {twice!r} twice: remove one")
    return found


def _check_note(key: str, note: Any, *, name: str) -> None:
    lacks = [field for field in FIELDS.names if not isinstance(note, dict) or note.get(field) is None]
    if lacks:
        raise DataError(f"{name}: note {key} lacks {', '.join(lacks)}: NSynth's 13 fields are needed")
    if note["note_str"] != key:
        raise DataError(f"{name}: note {key} calls itself {note['note_str']!r}: key and note_str must be equal")
