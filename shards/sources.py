"""sources: SRC and how it is laid out -> where notes come from. What it is made of is known before it is read."""

import dataclasses
from pathlib import Path
from typing import Literal, TypeAlias

from shards.body import identity_of
from shards.errors import UsageError
from shards.folders import AudioFolder, open_audio
from shards.nsynth import NSynthFolder
from shards.remote import Location, PathLike, locate

Layout: TypeAlias = Literal["auto", "nsynth", "folders"]
EXAMPLES = "examples.json"
ENDINGS = (".tar.gz", ".tgz")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Archive:
    """An archive in NSynth's layout, at a path or URL."""

    place: Location
    rename_keys: bool

    @property
    def identity(self) -> str:
        """Tell archives apart without reading 24 GB: by their size, head and tail."""
        return identity_of(self.place)


Origin: TypeAlias = NSynthFolder | Archive | AudioFolder


def find_origin(
    src: PathLike,
    *,
    split: str,
    layout: Layout = "auto",
    table: Path | None = None,
    label_from: str | None = None,
    rename_keys: bool = False,
    mono: bool = False,
    resample: int | None = None,
) -> Origin:
    """Find an NSynth folder or tar.gz (SRC itself, or nsynth-SPLIT beneath it), or open any folder of audio.

    Raises:
        UsageError: SRC isn't there, or an option is given that its layout doesn't take.
        DataError: a folder of audio that can't be packed (see shards.folders).
    """
    place, asked = locate(src), {"table": table, "label_from": label_from, "mono": mono, "resample": resample}
    if not place.is_url and not place.path.exists():
        raise UsageError(f"source {src} does not exist: give an NSynth folder or archive, or a folder of audio")
    found = find_nsynth(place, split=split)
    if layout == "folders" or (layout == "auto" and (found is None or any(asked.values())) and not place.is_url):
        return open_audio(
            place.path, table=table, label_from=label_from, rename_keys=rename_keys, mono=mono, resample=resample
        )
    if any(asked.values()):
        option = next(name for name, value in asked.items() if value)
        raise UsageError(f"{option} is not for NSynth, whose notes are packed as they are: say --layout folders")
    if found is None:
        told = f"holds no examples.json and no nsynth-{split}"
        raise UsageError(f"source {src} {told}: give an NSynth folder or its tar.gz")
    if found.is_url or found.path.is_file():
        return Archive(place=found, rename_keys=rename_keys)
    return NSynthFolder(folder=found.path, rename_keys=rename_keys)


def find_nsynth(place: Location, *, split: str) -> Location | None:
    """Find the NSynth folder or archive of a split: the place itself, or nsynth-SPLIT beneath it."""
    if place.is_url:
        return place if place.name.endswith(ENDINGS) else place / f"nsynth-{split}.jsonwav.tar.gz"
    folder, archive = place / f"nsynth-{split}", place / f"nsynth-{split}.jsonwav.tar.gz"
    for found in (place, folder):
        if (found / EXAMPLES).path.is_file():
            return found
    return next((found for found in (place, archive) if found.path.is_file()), None)
