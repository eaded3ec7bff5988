"""sources: SRC and how it is laid out -> a source of notes to pack."""

from pathlib import Path
from typing import Literal, TypeAlias

from shards.archive import open_archive
from shards.errors import UsageError
from shards.folders import open_audio
from shards.nsynth import Source, find_source, open_folder

Layout: TypeAlias = Literal["nsynth", "folders"]


def open_source(
    src: Path,
    *,
    split: str,
    work: Path,
    layout: Layout = "nsynth",
    table: Path | None = None,
    label_from: str | None = None,
    mono: bool = False,
    resample: int | None = None,
) -> Source:
    """Open an NSynth folder or tar.gz (unpacked into `work`), or any folder of audio (see shards.folders).

    Raises:
        UsageError: SRC isn't there, or an option is given that its layout doesn't take.
        DataError: what is there can't be packed.
    """
    if layout == "folders":
        return open_audio(src, table=table, label_from=label_from, mono=mono, resample=resample)
    folders = {"table": table, "label_from": label_from, "mono": mono, "resample": resample}
    if any(folders.values()):
        asked = next(name for name, value in folders.items() if value)
        raise UsageError(f"{asked} is not for NSynth, whose notes are packed as they are: say --layout folders")
    found = find_source(src, split=split)
    return open_archive(found, work=work) if found.is_file() else open_folder(found)
