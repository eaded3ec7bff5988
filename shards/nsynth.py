"""nsynth: a folder in NSynth's layout -> a manifest of notes, and where each is read from."""

import dataclasses
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import xxhash

from shards.errors import DataError
from shards.examples import read_examples
from shards.files import FolderFiles
from shards.keys import rename_column
from shards.manifest import Source

READ_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class NSynthFolder:
    """FOLDER/examples.json and FOLDER/audio/KEY.wav."""

    folder: Path
    rename_keys: bool

    @property
    def identity(self) -> str:
        """Hash examples.json: 200 MB for train, so nothing is parsed to see that there's nothing to do."""
        digest = xxhash.xxh3_128()
        for chunk in self._examples():
            digest.update(chunk)
        return digest.hexdigest()

    def open(self) -> Source:
        """Read examples.json and check that every note's file is there."""
        manifest = read_examples(self._examples(), name=str(self.folder / "examples.json"))
        there = {entry.name for entry in os.scandir(self.folder / "audio")}
        missing = [key for key in manifest["key"].to_pylist() if f"{key}.wav" not in there]
        check_present(missing, name=str(self.folder / "audio"))
        renamed: dict[str, str] = {}
        if self.rename_keys:
            manifest, renamed = rename_column(manifest, originals=manifest["key"].to_pylist())
        return Source(
            manifest=manifest, sample_rate=one_rate(manifest), files=FolderFiles(self.folder / "audio", renamed)
        )

    def _examples(self) -> Iterator[bytes]:
        with (self.folder / "examples.json").open("rb") as file:
            yield from iter(partial(file.read, READ_BYTES), b"")


def check_present(missing: list[str], *, name: str) -> None:
    """Refuse notes whose audio isn't there."""
    if missing:
        raise DataError(
            f"{len(missing)} notes of examples.json have no audio in {name} ({missing[0]}.wav): fetch or unpack it anew"
        )


def one_rate(manifest: pa.Table) -> int:
    """Check that one sample rate holds for all notes, and return it."""
    rates = manifest["sample_rate"].unique().to_pylist()
    if len(rates) != 1:
        raise DataError(f"sample_rate must be one for a pack, got {sorted(rates)}: pack them apart")
    return rates[0]
