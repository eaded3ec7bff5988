"""places: what a user names -> tars in one folder. Folders, globs, braces, single tars; on a disk or at URLs."""

import glob
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from braceexpand import braceexpand

from shards import format
from shards.errors import UsageError
from shards.remote import Location, locate

RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.-?\d+)?\}")
SUFFIX = ".tar"
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def find_tars(places: Sequence[str]) -> list[Location]:
    """List the tars that `places` name: as given, those of a folder or a glob sorted. Those at URLs may not be there.

    Raises:
        UsageError: nothing is found, a tar is named twice or can't be held by an index, or they lie in two folders.
    """
    found = [tar for place in places for text in _expand(place) for tar in _list(text)]
    if not found:
        raise UsageError("no shards are named: give a folder with tars, or tars by name, glob or braces")
    if len(found) > format.MAX_SHARDS:
        raise UsageError(f"{len(found):,} shards are named, over {format.MAX_SHARDS:,}: index them as several splits")
    names, folder = set(), found[0].parent
    for tar in found:
        _check_name(tar)
        if tar.parent != folder:
            raise UsageError(f"tars of a split must lie in one folder, got {found[0]} and {tar}: index each by itself")
        if tar.name in names:
            raise UsageError(f"{tar} is named twice: name each shard once")
        names.add(tar.name)
    return found


def _expand(place: str) -> Iterator[str]:
    """Expand braces as a shell does; what is there under that very name is that."""
    if "{" not in place or ("://" not in place and Path(place).exists()):
        return iter([place])
    for first, last in RANGE.findall(place):
        if abs(int(last) - int(first)) >= format.MAX_SHARDS:
            raise UsageError(f"{place} names over {format.MAX_SHARDS:,} shards: index them as several splits")
    try:
        return itertools.islice(braceexpand(place, escape=False), format.MAX_SHARDS + 1)
    except ValueError as error:
        raise UsageError(f"{place} has braces that don't close: write them as in {{000000..000012}}.tar") from error


def _list(text: str) -> list[Location]:
    """List the tars of a folder or a glob, sorted; a tar is itself."""
    # not resolve(), which would leave the name of a link to a tar for the file's own
    place = locate(text if "://" in text else os.path.abspath(text))  # noqa: PTH100
    is_pattern, is_folder = _kind(place)
    if not is_pattern and not is_folder:
        return [place]
    if place.is_web:
        raise UsageError(f"{text} can't be listed over http: name its tars, as in .../train-{{000000..000012}}.tar")
    if is_pattern and not place.is_url:
        found = [locate(path) for path in sorted(glob.glob(place.text))]  # noqa: PTH207, a pattern may begin at /
        found = [tar for tar in found if _is_shard(tar.name)]
    elif is_pattern:
        names = place.parent.children()
        found = [place.parent / name for name in names if _is_shard(name) and fnmatchcase(name, place.name)]
    else:
        found = [place / name for name in place.children() if _is_shard(name)]
    if not found:
        what = "fits no .tar" if is_pattern else "holds no .tar"
        raise UsageError(f"{text} {what}: give the folder with a split's shards, or tars by name, glob or braces")
    return found


def _kind(place: Location) -> tuple[bool, bool]:
    """Tell whether a place is a pattern, and whether it is a folder."""
    if place.is_url:  # a question mark begins a query there; what has no .tar at its end is a folder
        is_pattern = re.search(r"[*\[]", place.name) is not None
        return is_pattern, not is_pattern and not place.name.endswith((SUFFIX, *COMPRESSED))
    if place.path.exists():
        return False, place.path.is_dir()
    if not glob.has_magic(place.text):
        raise UsageError(f"{place} is not there: give a folder with tars, or tars by name, glob or braces")
    return True, False


def _is_shard(name: str) -> bool:
    return name.endswith(SUFFIX) and not name.startswith(".")


def _check_name(tar: Location) -> None:
    if tar.name.endswith(COMPRESSED):
        raise UsageError(f"{tar} is compressed, and nothing can be read from the middle of it: unpack it first")
    if not format.SHARD_NAME.fullmatch(tar.name):
        raise UsageError(f"{tar} has a name that an index can't hold: use letters, digits, . _ and -, and .tar")
