"""folders: a folder of audio -> a source of notes to pack. Labels come from class folders, a table, or file names.

    SRC/CLASS/.../x.wav               column `class`, key CLASS--...--x
    SRC/x.wav or SRC/audio/x.wav      with a table: its columns, key x
    SRC/CLASS_TAKE.wav                with a pattern such as {class}_{take}: a column a field, key CLASS_TAKE

A key is the path beneath SRC without its extension, with -- for each slash. Names that begin with a dot, and
__MACOSX, are passed over. A shard holds 16-bit mono only: a WAV or FLAC file that is so is handed on byte for byte,
any other is decoded, and made a WAV, when its turn comes. Nothing is decoded before.
"""

import dataclasses
import importlib.util
import json
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import xxhash

from shards import audio, format
from shards.errors import DataError, UsageError
from shards.files import AudioFiles
from shards.keys import rename_column
from shards.manifest import Source
from shards.tables import read_names, read_rows

KINDS = "wav, wave, flac, ogg, oga, opus, mp3, aif, aiff, aifc, au, caf, w64, rf64, sph"  # what libsndfile decodes
AUDIO = frozenset(KINDS.split(", "))
UNREAD = frozenset(("aac", "ape", "m4a", "mp4", "webm", "wma", "wv"))  # refused: a class would be thinned in silence
SURROGATE = re.compile("[\ud800-\udfff]")  # what Python makes of bytes that aren't UTF-8


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioFolder:
    """A folder of audio whose files and labels are listed, and what tells it from another."""

    manifest: pa.Table
    sample_rate: int
    files: AudioFiles
    identity: str

    def open(self) -> Source:
        """Hand on the notes to pack."""
        return Source(manifest=self.manifest, sample_rate=self.sample_rate, files=self.files)


def open_audio(
    src: Path,
    *,
    table: Path | None = None,
    label_from: str | None = None,
    rename_keys: bool = False,
    mono: bool = False,
    resample: int | None = None,
) -> AudioFolder:
    """List SRC's audio and its labels: from a table, by a pattern on file names, or a class a folder.

    `mono` mixes channels down by their mean. The pack's rate is `resample`, or else that of the first file by key.

    Raises:
        UsageError: no such folder or table, options that don't fit, or soxr is missing.
        DataError: a file without labels or labels without a file, two files of one key, a name that can't be a key.
    """
    if not src.is_dir():
        raise UsageError(f"source {src} is not a folder: give one with audio files")
    if table is not None and label_from is not None:
        raise UsageError(f"labels come from a table or from names, got table {table} and label_from {label_from!r}")
    if resample is not None and not 1 <= resample <= format.MAX_SAMPLE_RATE:
        raise UsageError(f"resample must be 1 to 1000000 Hz, got {resample}")
    if resample and importlib.util.find_spec("soxr") is None:
        raise UsageError("soxr, which resamples audio, is not installed: pip install 'notestream[demo]'")
    sizes = list_audio(src)
    if table is not None:
        files, labels = read_rows(table if table.exists() else src / table, src=src, listed=sizes)
        keys = [key_of(file.removeprefix("audio/")) for file in files]
    else:
        files = sorted(sizes)
        labels = _by_folder(src, files) if label_from is None else read_names(files, pattern=label_from)
        keys = [key_of(file) for file in files]
    manifest = pa.table([pa.array(keys, pa.string()), *labels.columns], names=["key", *labels.column_names])
    if rename_keys:
        manifest, _ = rename_column(manifest, originals=files)
    keys = manifest["key"].to_pylist()
    paths = dict(zip(keys, files, strict=True))
    if len(paths) != len(files):
        key, other = next((key, file) for key, file in zip(keys, files, strict=True) if paths[key] != file)
        raise DataError(
            f"{paths[key]!r} and {other!r} in {src} both make the key {key!r}: rename one, or pack with --rename-keys"
        )
    format.check_keys(keys)
    if large := [file for file in files if sizes[file] > format.MAX_SAMPLE_BYTES]:
        raise DataError(
            f"{large[0]!r} in {src} has {sizes[large[0]]:,} bytes, over {format.MAX_SAMPLE_BYTES:,}: cut it up"
        )
    rate = resample or _rate(src / paths[min(keys)])
    named = {key: (paths[key], sizes[paths[key]]) for key in sorted(paths)}
    return AudioFolder(
        manifest=manifest, sample_rate=rate, identity=_identity(manifest, sizes=named, rate=rate, mono=mono),
        files=AudioFiles(src, paths, rate, mono, resample is not None),
    )  # fmt: skip


def list_audio(src: Path) -> dict[str, int]:
    """List the audio files beneath SRC at any depth: path -> bytes. No file is opened.

    Raises:
        UsageError: there are none.
        DataError: a link leads to a folder or out of SRC, a name isn't UTF-8, or what is so named is no file.
    """
    root, found, todo = os.path.realpath(src), {}, [""]
    while todo:
        folder = todo.pop()
        with os.scandir(src / folder) as entries:
            for entry in entries:
                path, kind = folder + entry.name, entry.name.rpartition(".")[2].lower()
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    continue
                if entry.is_dir():
                    if entry.is_symlink():
                        raise DataError(f"{path!r} in {src} is a link to a folder: put the folder itself there")
                    todo.append(f"{path}/")
                elif kind in UNREAD:
                    raise DataError(f"{path!r} in {src} is of a kind that can't be decoded here: make it FLAC or WAV")
                elif kind in AUDIO:
                    if not entry.is_file():
                        raise DataError(f"{path!r} in {src} is not a file, or a link to none: remove it")
                    if entry.is_symlink() and not os.path.realpath(entry.path).startswith(root.rstrip("/") + "/"):
                        raise DataError(f"{path!r} in {src} is a link that leads out of it: put the file itself there")
                    if SURROGATE.search(path):
                        raise DataError(f"{path!r} in {src} has a name that isn't UTF-8: rename it")
                    found[path] = entry.stat().st_size
    if not found:
        raise UsageError(f"source {src} holds no audio files ({KINDS}): give the folder that does")
    return found


def key_of(file: str) -> str:
    return posixpath.splitext(file)[0].replace("/", "--")


def _by_folder(src: Path, files: Sequence[str]) -> pa.Table:
    bare = [file for file in files if "/" not in file]
    if bare:
        raise DataError(
            f"{len(bare)} audio files lie in {src} itself ({bare[0]!r}), where a folder is a class: "
            "move them into one, or say where labels are, by --table or --label-from"
        )
    return pa.table({"class": pa.array([file.partition("/")[0] for file in files], pa.string())})


def _rate(path: Path) -> int:
    import soundfile

    try:
        return int(soundfile.info(os.fspath(path)).samplerate)
    except soundfile.LibsndfileError as error:
        raise audio.undecodable(path, error.error_string) from error


def _identity(manifest: pa.Table, *, sizes: Mapping[str, tuple[str, int]], rate: int, mono: bool) -> str:
    """Hash labels, files' names and sizes, and what is made of them. Blind to a file changed at the same size."""
    digest = xxhash.xxh3_128(
        json.dumps([rate, mono, *(f"{field.name} {field.type}" for field in manifest.schema)]).encode()
    )
    digest.update(json.dumps(sizes).encode())
    for column in manifest.columns:
        digest.update(json.dumps(column.to_pylist()).encode())
    return digest.hexdigest()
