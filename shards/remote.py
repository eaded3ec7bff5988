"""remote: a path or a URL -> files to read and to write. s3://, gs://, file:// by pyarrow, http(s):// by fsspec.

On an object store a completed upload is what a rename is on a disk: a file appears whole or not at all. One flaw:
pyarrow has no way to give an upload up, and an upload that fails halfway in us is completed and then deleted. So what
must be known to be whole has something written after it: a pack its index, a shard its sidecar, a checkpoint its
manifest.
"""

import contextlib
import dataclasses
import re
import shutil
import threading
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit, urlunsplit

import pyarrow as pa
import pyarrow.fs as pafs

from shards import format
from shards.errors import DataError, NotestreamError, UsageError

PASSWORD = re.compile(r"(://[^/@:]*):[^/@]*@")
BLOCK_BYTES = 1 << 20  # of what is uploaded from a disk


@dataclasses.dataclass(frozen=True)
class Location:
    """A file or folder by its path or URL. Pickles as its text; connections are made where they're used."""

    text: str

    @property
    def is_url(self) -> bool:
        """Tell whether this is reached by a filesystem of pyarrow's rather than as a local path."""
        return "://" in self.text

    @property
    def is_web(self) -> bool:
        """Tell whether a web server has this: it can be neither listed nor written."""
        return self.text.startswith(("http://", "https://"))

    @property
    def path(self) -> Path:
        """The local path."""
        return Path(self.text)

    def local(self) -> Path | None:
        """Return the path of what lies on a disk, file:// too: there a rename is to be had."""
        if self.text.startswith("file://"):
            return Path(urlsplit(self.text).path)
        return None if self.is_url else self.path

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
        """Tell the place, without a password that its URL may hold."""
        return PASSWORD.sub(r"\1:***@", self.text)

    def __truediv__(self, name: str) -> "Location":
        if not self.is_url:
            return Location(str(self.path / name))
        parts = urlsplit(self.text)  # a query, such as an endpoint, stays at the end
        return Location(urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}")))

    def size(self) -> int | None:
        """Return a file's bytes, or None where there is no such file."""
        if not self.is_url:
            return self.path.stat().st_size if self.path.is_file() else None
        with reaching(self):
            filesystem, path = self.resolve()
            info = filesystem.get_file_info(path)
        return info.size if info.type == pafs.FileType.File else None

    def children(self) -> list[str]:
        """List the names in a folder; none where it isn't there, or over http, which can't list."""
        if not self.is_url:
            return sorted(path.name for path in self.path.iterdir()) if self.path.is_dir() else []
        if self.is_web:
            return []
        with reaching(self):
            filesystem, path = self.resolve()
            found = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
        return sorted(info.base_name for info in found)

    def read_bytes(self) -> bytes:
        """Read a whole file."""
        if not self.is_url:
            return self.path.read_bytes()
        with reaching(self), self.open() as file:
            return file.read()

    def write_bytes(self, content: bytes) -> None:
        """Write a small file whole, and the folders that it lies in; what stands there is replaced.

        Raises:
            UsageError: it is a web page's address, where nothing can be written.
            DataError: the store can't be reached or refuses. A disk's errors are OSErrors, as everywhere.
        """
        if (local := self.local()) is not None:
            local.parent.mkdir(parents=True, exist_ok=True)
            format.write_whole(local, content)
        else:
            self._put([content])

    def upload(self, file: Path) -> None:
        """Copy a local file here in blocks, whole or not at all (see write_bytes)."""
        if (local := self.local()) is not None:
            local.parent.mkdir(parents=True, exist_ok=True)
            temporary = local.with_name(f".{local.name}.tmp")
            try:
                shutil.copyfile(file, temporary)
                format.replace_file(temporary, local)
            finally:
                temporary.unlink(missing_ok=True)
        else:
            with file.open("rb") as blocks:
                self._put(iter(lambda: blocks.read(BLOCK_BYTES), b""))

    def copy_to(self, target: "Location") -> None:
        """Copy this file to another name in the same store, without bringing it here."""
        with reaching(target, what="written"):
            filesystem, path = self.resolve()
            _, there = target.resolve()
            filesystem.create_dir(there.rpartition("/")[0], recursive=True)
            filesystem.copy_file(path, there)

    def remove(self) -> None:
        """Delete a file, if it's there."""
        if (local := self.local()) is not None:
            local.unlink(missing_ok=True)
            return
        self._check_writable()
        if self.size() is not None:
            with reaching(self, what="removed"):
                filesystem, path = self.resolve()
                filesystem.delete_file(path)

    def remove_tree(self) -> None:
        """Delete a folder with all that is in it, if it's there."""
        if (local := self.local()) is not None:
            if local.is_dir():
                shutil.rmtree(local)
            return
        self._check_writable()
        with reaching(self, what="removed"):
            filesystem, path = self.resolve()
            if filesystem.get_file_info(path).type == pafs.FileType.Directory:
                filesystem.delete_dir(path)

    def open(self) -> pa.NativeFile:
        """Open a file for reads at any position.

        Raises:
            DataError: it isn't there, or can't be reached.
        """
        with reaching(self):
            filesystem, path = self.resolve() if self.is_url else (pafs.LocalFileSystem(), self.text)
            return filesystem.open_input_file(path)

    def resolve(self) -> tuple[pafs.FileSystem, str]:
        """Return the filesystem, and this file's path in it."""
        parts = urlsplit(self.text)
        if parts.scheme in ("http", "https"):
            return _http(parts.scheme, threading.get_ident()), self.text
        filesystem = _filesystem(urlunsplit(parts._replace(path="/")))
        root = parts.netloc.rpartition("@")[2] if parts.scheme not in ("file", "") else ""
        return filesystem, f"{root}{parts.path}"

    def _check_writable(self) -> None:
        if self.is_web:
            raise UsageError(f"{self} can't be written: give a folder, or a store such as s3:// or gs://")

    def _put(self, blocks: Iterable[bytes]) -> None:
        self._check_writable()
        with reaching(self, what="written"):
            filesystem, path = self.resolve()
            filesystem.create_dir(path.rpartition("/")[0], recursive=True)
            _stream(filesystem, path, blocks)


PathLike: TypeAlias = str | Path | Location


def locate(place: PathLike) -> Location:
    """Make a Location of a path, a URL, or a Location."""
    return place if isinstance(place, Location) else Location(str(place))


def _stream(filesystem: pafs.FileSystem, path: str, blocks: Iterable[bytes]) -> None:
    out = filesystem.open_output_stream(path, compression=None)  # it would compress what is named .gz
    try:
        for block in blocks:
            out.write(block)
    except BaseException:
        with contextlib.suppress(Exception):  # closing completes the upload; where it fails, what was there still is
            out.close()
            filesystem.delete_file(path)
        raise
    out.close()


@contextlib.contextmanager
def reaching(location: Location, *, what: str = "read") -> Iterator[None]:
    """Turn any backend's error inside the block into a DataError of one line: LOCATION can't be WHAT."""
    try:
        yield
    except NotestreamError:
        raise
    except Exception as error:  # every backend has errors of its own, and not all are OSError
        raise unreachable(location, error, what=what) from error


def unreachable(location: Location, error: Exception, *, what: str = "read") -> DataError:
    """Tell any backend's error in one line."""
    told = " ".join(str(error).split())
    return DataError(f"{location} can't be {what} ({told}): check the address, the credentials and the network")


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
