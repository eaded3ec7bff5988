"""sync: a run's local folder <-> its URL. Rank 0 works on a disk; what it has done is uploaded at every checkpoint.

A checkpoint goes up beside its place, manifest last, and is copied into it: whichever upload a kill cuts short, one of
the two is whole, and `checkpoint.newest` finds it.
"""

import hashlib
import shutil
import tempfile
from pathlib import Path

import pyarrow.fs as pafs

from shards.remote import Location, reaching

MANIFEST = "manifest.json"  # of a checkpoint, moved last: where it is, all of it is


def staging(url: str) -> Path:
    """Name this machine's folder for the run at a URL."""
    return Path(tempfile.gettempdir()) / "notestream" / hashlib.blake2b(url.encode(), digest_size=8).hexdigest()


def pull(url: str, folder: Path) -> None:
    """Bring all files of a URL into a local folder; checkpoints there are replaced, not mixed."""
    with reaching(Location(url)):
        filesystem, path = Location(url).resolve()
        if filesystem.get_file_info(path).type != pafs.FileType.Directory:
            return
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        pafs.copy_files(path, str(folder), source_filesystem=filesystem)


def push(url: str, folder: Path, names: tuple[str, ...]) -> None:
    """Upload files and folders of a local folder, by their names in it; what isn't there is left out."""
    for name in names:
        local = folder / name
        files = [local] if local.is_file() else sorted(part for part in local.rglob("*") if part.is_file())
        for file in sorted(files, key=lambda file: file.name == MANIFEST):
            (Location(url) / file.relative_to(folder).as_posix()).upload(file)


def push_checkpoint(url: str, checkpoint: Path) -> None:
    """Upload a checkpoint (FOLDER/checkpoints/NAME) so that it or the one before stays whole at any moment."""
    checkpoints = Location(url) / "checkpoints"
    place, fresh = checkpoints / checkpoint.name, checkpoints / f".{checkpoint.name}.new"
    files = sorted((file.name for file in checkpoint.iterdir()), key=lambda name: name == MANIFEST)
    for name in files:
        (fresh / name).upload(checkpoint / name)
    for name in files:
        (fresh / name).copy_to(place / name)
    fresh.remove_tree()


def exists(url: str, name: str) -> bool:
    """Tell whether a file is there."""
    return (Location(url) / name).size() is not None


def remove(url: str, name: str) -> None:
    """Delete a file, if it's there."""
    (Location(url) / name).remove()
