"""room: a node's mirror folder, a budget in bytes -> room for one more shard. What is needed last goes first.

FOLDER/lock           flock: held by who counts, deletes, reserves or renames, for milliseconds
FOLDER/HASH.tar       a whole shard, named by the xxh3-128 of its bytes; its time is that of its last use
FOLDER/HASH.part      a shard under way, as long as the whole will be: it counts from the start. flock: who fetches it

The folder is the only state: nothing is written about it, so a kill at any moment leaves nothing to mend. A lock dies
with its holder, and a .part that nobody holds is rubbish: the next count removes it. Not for network disks, where a
flock may be one process's rather than one open file's.
"""

import contextlib
import dataclasses
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

NO_LINK = os.O_CLOEXEC | os.O_NOFOLLOW  # the folder may lie where others can write
NEW = os.O_RDWR | os.O_CREAT | NO_LINK
WHOLE, UNDER_WAY = ".tar", ".part"
NEVER = 1 << 62  # after any place in an order


class NoRoomError(Exception):
    """What is needed as soon takes the whole budget."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Held:
    """A file of the mirror, whole or under way: its length, its bytes on the disk so far, when it was used last."""

    path: Path
    inode: int
    bytes: int
    written: int
    used_ns: int


def mirror_folder() -> Path:
    """Say where this node's mirror lies: $NOTESTREAM_MIRROR, or below the folder for temporary files."""
    told = os.environ.get("NOTESTREAM_MIRROR")
    return Path(told) if told else Path(tempfile.gettempdir()) / "notestream" / "mirror"


def prepare_folder(folder: Path) -> int:
    """Make the folder, remove what died under way, and count the bytes that it holds or could: the disk's free ones."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(folder):
        held = [file for file in _held(folder) if not _sweep(file)]
        return shutil.disk_usage(folder).free + sum(file.written for file in held)


def held_bytes(folder: Path) -> int:
    """Count the bytes that are in a mirror's files, whole or under way; none where there is no mirror."""
    return sum(file.written for file in _held(folder)) if folder.is_dir() else 0


@contextlib.contextmanager
def claim(path: Path, *, wait: bool) -> Iterator[int | None]:
    """Open and lock a file under way. None where who had it has finished meanwhile; without `wait`, where one has it.

    What still has the name afterwards is removed: it never became whole.
    """
    part = os.open(path, NEW, 0o600)
    try:
        held = _lock(part, wait=wait)
        try:
            yield part if held and lies_at(part, path) else None
        finally:
            if held and lies_at(part, path):
                path.unlink()
            if held:  # not by close alone: a descriptor made from this one would keep the lock
                fcntl.flock(part, fcntl.LOCK_UN)
    finally:
        os.close(part)


def make_room(
    part: int, *, folder: Path, size: int, budget: int, needed: Mapping[str, int], later: int | None = None
) -> None:
    """Reserve `size` bytes for a claimed file; delete whole ones where that is over the budget, or the disk is full.

    `needed` tells which names will be needed, the lower the sooner. Those not in it go first, least recently used
    first, then those needed last. With `later`, names needed as soon as that or sooner stay. Without, the file is
    needed now, and gets its room even where files under way take it all: over the budget by one file a fetcher.

    Raises:
        NoRoomError: with `later`, where too little would go.
    """
    with _locked(folder):
        mine = os.fstat(part).st_ino
        held = [file for file in _held(folder) if file.inode != mine and not _sweep(file)]
        # what is under way is yet to take its bytes from the free ones
        free = shutil.disk_usage(folder).free - sum(file.bytes - file.written for file in held)
        over = max(sum(file.bytes for file in held) + size - budget, size - free)
        places = {file.path: needed.get(file.path.name, NEVER) for file in held}
        victims = []
        for file in sorted(held, key=lambda file: (-places[file.path], file.used_ns)):
            if over > 0 and file.path.suffix == WHOLE and (later is None or places[file.path] > later):
                victims.append(file)
                over -= file.bytes
        if over > 0 and later is not None:
            raise NoRoomError
        for file in victims:
            delete(file.path)
        os.ftruncate(part, size)


def publish(part: Path, whole: Path) -> None:
    """Give a fetched file its name, while nobody counts: a count sees it once."""
    with _locked(whole.parent):
        part.rename(whole)


def delete(path: Path) -> None:
    """Delete a shard and its bytes: who holds it open reads it short from now on, and opens it anew.

    Without the truncation a file lasts on the disk until the last reader lets go of it, and no budget would hold.
    """
    with contextlib.suppress(FileNotFoundError):
        file = os.open(path, os.O_RDWR | NO_LINK)
        try:
            path.unlink()
            os.ftruncate(file, 0)
        finally:
            os.close(file)


def lies_at(file: int, path: Path) -> bool:
    """Tell whether an open file is the one that has this name now."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file), path.lstat())
    return False


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = os.open(folder / "lock", NEW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _lock(file: int, *, wait: bool) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _held(folder: Path) -> list[Held]:
    found = []
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):  # a file under way goes when its fetching fails
            if entry.name.endswith((WHOLE, UNDER_WAY)):
                told = entry.stat(follow_symlinks=False)
                # st_blocks counts 512 bytes whatever the disk's blocks are; they may be more than the file has
                written = min(told.st_size, told.st_blocks * 512)
                place = {"path": Path(entry.path), "inode": told.st_ino}
                found.append(Held(**place, bytes=told.st_size, written=written, used_ns=told.st_mtime_ns))
    return found


def _sweep(file: Held) -> bool:
    """Remove a file under way whose holder died; True where it is gone."""
    if file.path.suffix != UNDER_WAY:
        return False
    try:
        part = os.open(file.path, os.O_RDWR | NO_LINK)
    except FileNotFoundError:
        return True
    try:
        is_dead = _lock(part, wait=False)
        if is_dead and lies_at(part, file.path):
            file.path.unlink()
        return is_dead
    finally:
        os.close(part)
