"""sync: a run's local folder <-> its URL. Rank 0 works on a disk; what it has done is uploaded at every checkpoint.

A checkpoint goes up beside its place, manifest last, and is copied into it: whichever upload a kill cuts short, one of
the two is whole, and `checkpoint.newest` finds it.
"""

import hashlib
import shutil
import tempfile
from pathlib import Path

import pyarrow.fs as pafs

from shards.errors import DataError
from shards.remote import Location
from trainers.checkpoint import MANIFEST


def staging(url: str) -> Path:
    """Name this machine's folder for the run at a URL."""
    return Path(tempfile.gettempdir()) / "notestream" / hashlib.blake2b(url.encode(), digest_size=8).hexdigest()


def pull(url: str, folder: Path) -> None:
    """Bring all files of a URL into a local folder; checkpoints there are replaced, not mixed."""
    filesystem, path = Location(url).resolve()
    try:
        if filesystem.get_file_info(path).type != pafs.FileType.Directory:
            return
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        pafs.copy_files(path, str(folder), source_filesystem=filesystem)
    except OSError as error:
        raise _failed(url, error, "read") from error


def push(url: str, folder: Path, names: tuple[str, ...]) -> None:
    """Upload files and folders of a local folder, by their names in it; what isn't there is left out."""
    filesystem, path = Location(url).resolve()
    try:
        for name in names:
            local = folder / name
            files = [local] if local.is_file() else sorted(part for part in local.rglob("*") if part.is_file())
            files.sort(key=lambda file: file.name == MANIFEST)
            for file in files:
                _upload(filesystem, file, f"{path}/{file.relative_to(folder)}")
    except OSError as error:
        raise _failed(url, error, "written") from error


def push_checkpoint(url: str, checkpoint: Path) -> None:
    """Upload a checkpoint (FOLDER/checkpoints/NAME) so that it or the one before stays whole at any moment."""
    filesystem, path = Location(url).resolve()
    place, fresh = f"{path}/checkpoints/{checkpoint.name}", f"{path}/checkpoints/.{checkpoint.name}.new"
    files = sorted((file.name for file in checkpoint.iterdir()), key=lambda name: name == MANIFEST)
    try:
        for name in files:
            _upload(filesystem, checkpoint / name, f"{fresh}/{name}")
        for name in files:
            filesystem.create_dir(place)
            filesystem.copy_file(f"{fresh}/{name}", f"{place}/{name}")
        filesystem.delete_dir(fresh)
    except OSError as error:
        raise _failed(url, error, "written") from error


def exists(url: str, name: str) -> bool:
    """Tell whether a file is there."""
    return (Location(url) / name).size() is not None


def remove(url: str, name: str) -> None:
    """Delete a file, if it's there."""
    if exists(url, name):
        filesystem, path = (Location(url) / name).resolve()
        filesystem.delete_file(path)


def _upload(filesystem: pafs.FileSystem, file: Path, target: str) -> None:
    filesystem.create_dir(target.rsplit("/", 1)[0], recursive=True)
    with filesystem.open_output_stream(target) as out:
        out.write(file.read_bytes())


def _failed(url: str, error: OSError, what: str) -> DataError:
    told = " ".join(str(error).split())
    return DataError(f"run {url} can't be {what} ({told}): check the address, the credentials and the network")
