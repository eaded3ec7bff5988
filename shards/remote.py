"""remote: a path or a URL -> files to read and to write. s3://, gs://, file:// by pyarrow, http(s):// by fsspec.

On an object store a completed upload is what a rename is on a disk: a file appears whole or not at all.
"""

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit, urlunsplit

import pyarrow as pa
import pyarrow.fs as pafs

from shards.errors import DataError, NotestreamError, UsageError

PathLike: TypeAlias = "str | Path | Location"


@dataclasses.dataclass(frozen=True)
class Location:
    """A file or folder by its path or URL. Pickles as its text; connections are made where they're used."""

    text: str

    @property
    def is_url(self) -> bool:
        """Tell whether this is reached by a filesystem of pyarrow's rather than as a local path."""
        return "://" in self.text

    @property
    def path(self) -> Path:
        """The local path."""
        return Path(self.text)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return Path(urlsplit(self.text).path if self.is_url else self.text).name

    @property
    def parent(self) -> "Location":
        """The folder that this lies in."""
        if not self.is_url:
            return Location(str(self.path.parent))
        parts = urlsplit(self.text)
        return Location(urlunsplit(parts._replace(path=parts.path.rstrip("/").rpartition("/")[0])))

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, name: str) -> "Location":
        if not self.is_url:
            return Location(str(self.path / name))
        parts = urlsplit(self.text)  # a query, such as an endpoint, stays at the end
        return Location(urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}")))

    def size(self) -> int | None:
        """Return a file's bytes, or None where there is no such file."""
        if not self.is_url:
            return self.path.stat().st_size if self.path.is_file() else None
        with _reaching(self):
            filesystem, path = self.resolve()
            info = filesystem.get_file_info(path)
        return info.size if info.type == pafs.FileType.File else None

    def children(self) -> list[str]:
        """List the names in a folder; none where it isn't there, or over http, which can't list."""
        if not self.is_url:
            return sorted(path.name for path in self.path.iterdir()) if self.path.is_dir() else []
        if self.text.startswith("http"):
            return []
        with _reaching(self):
            filesystem, path = self.resolve()
            found = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
        return sorted(info.base_name for info in found)

    def read_bytes(self) -> bytes:
        """Read a whole file."""
        if not self.is_url:
            return self.path.read_bytes()
        with self.open() as file:
            return file.read()

    def open(self) -> pa.NativeFile:
        """Open a file for reads at any position.

        Raises:
            DataError: it isn't there, or can't be reached.
        """
        with _reaching(self):
            filesystem, path = self.resolve() if self.is_url else (pafs.LocalFileSystem(), self.text)
            return filesystem.open_input_file(path)

    def resolve(self) -> tuple[pafs.FileSystem, str]:
        """Return the filesystem, and this file's path in it."""
        parts = urlsplit(self.text)
        if parts.scheme in ("http", "https"):
            return _http(parts.scheme, threading.get_ident()), self.text
        filesystem = _filesystem(urlunsplit(parts._replace(path="/")))
        root = parts.netloc if parts.scheme not in ("file", "") else ""
        return filesystem, f"{root}{parts.path}"


def locate(place: PathLike) -> Location:
    """Make a Location of a path, a URL, or a Location."""
    return place if isinstance(place, Location) else Location(str(place))


@contextlib.contextmanager
def _reaching(location: Location) -> Iterator[None]:
    try:
        yield
    except NotestreamError:
        raise
    except Exception as error:  # every backend has errors of its own, and not all are OSError
        told = " ".join(str(error).split())
        way = "check the address, the credentials and the network"
        raise DataError(f"{location} can't be read ({told}): {way}") from error


@lru_cache(16)
def _filesystem(root: str) -> pafs.FileSystem:
    try:
        return pafs.FileSystem.from_uri(root)[0]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        told = " ".join(str(error).split())
        raise UsageError(f"{root} can't be used ({told}): take a path, s3://, gs://, file:// or http(s)://") from error


@lru_cache(16)
def _http(scheme: str, thread: int) -> pafs.FileSystem:
    """Open fsspec's http client; each thread has its own, since its event loop is."""
    del thread
    import fsspec

    return pafs.PyFileSystem(pafs.FSSpecHandler(fsspec.filesystem(scheme)))
