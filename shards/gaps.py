"""gaps: tars with a gap for each note -> tars. Headers and labels are laid down first; notes come in any order.

Where a note's file goes follows from the labels and from its size. One size is taken for all files, the first one's;
a note of another size waits in the spool, and its tar is written anew at the end.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import xxhash

from shards.contents import Facts, write_tar
from shards.index_file import PLACE
from shards.members import label_json, place_row, prepare
from shards.nsynth import check_present
from shards.progress import meter
from shards.shard import Job
from shards.spool import Spool
from shards.tar import end_of, parts
from shards.target import UNDER_WAY

READ_BYTES = 1 << 18  # stays in the cache
PLACES = {field.name: np.dtype(str(field.type)) for field in PLACE if field.name not in ("shard", "key")}


class Gaps:
    """A job's tars as their notes come in. `names` are what the archive calls the notes of the manifest, (rows,)."""

    def __init__(self, job: Job, *, names: Sequence[str], spool: Spool, archive: str) -> None:
        self.job, self.spool, self.archive, self.todo = job, spool, archive, job.todo()
        rows = len(names)
        self._paths = {number: job.target.work / f"{job.name(number)}.gaps{UNDER_WAY}" for number in self.todo}
        self._shard = np.full(rows, -1, np.int32)
        for number in self.todo:
            self._shard[job.arrangement.rows(number)] = number
        self._row = {name: row for row, name in enumerate(names) if self._shard[row] >= 0}
        keys = job.arrangement.manifest["key"].to_pylist()
        self._renamed = {key: name for key, name in zip(keys, names, strict=True) if key != name}
        self._size: int | None = None
        self._facts = {name: np.zeros(rows, kind) for name, kind in PLACES.items()}

    def take(self, name: str, data: bytes) -> None:
        """Put a note where it belongs; one that isn't asked for, or is in a tar that is whole, is passed over."""
        row = self._row.get(name)
        if row is None:
            return
        if self.job.codec != "wav":  # a FLAC file's size follows from its contents
            self.spool.add(name, data)
            return
        data, samples = prepare(data, sample_rate=self.job.sample_rate, codec="wav", name=f"{self.archive}:{name}.wav")
        if self._size is None:
            self._lay(len(data))
        if len(data) != self._size:
            self.spool.add(name, data)
            return
        offset = int(self._facts["offset"][row])
        self._write(int(self._shard[row]), data, at=offset)
        found = place_row(name, data, samples=samples, offset=offset)
        for fact, values in self._facts.items():
            values[row] = found[fact]

    def finish(self, *, jobs: int) -> None:
        """Put every tar in its place.

        Raises:
            DataError: the archive lacks notes of its examples.json.
        """
        filled = self._facts["size"] > 0
        missing = [name for name, row in self._row.items() if not filled[row] and name not in self.spool]
        check_present(missing, name=self.archive)
        told = meter(f"finishing {self.job.split}", total=len(self.todo), unit="shards")
        with told as progress, ThreadPoolExecutor(jobs + 1) as pool:  # while the disk takes one in, one is hashed
            for _ in pool.map(self._close, self.todo):
                progress.advance()

    def read(self, key: str) -> bytes:
        """Read a note back from the spool or its gap, for a tar that is written anew."""
        name = self._renamed.get(key, key)
        if name in self.spool:
            return self.spool.read(name)
        row = self._row[name]
        with self._paths[int(self._shard[row])].open("rb") as file:
            file.seek(self._facts["offset"][row])
            return file.read(self._facts["size"][row])

    def name(self, key: str) -> str:
        """Say where a note came from."""
        return f"{self.archive}:{self._renamed.get(key, key)}.wav"

    def _write(self, number: int, data: bytes, *, at: int) -> None:
        descriptor = os.open(self._paths[number], os.O_WRONLY)
        try:
            view = memoryview(data)
            while view:
                written = os.pwrite(descriptor, view, at)
                view, at = view[written:], at + written
        finally:
            os.close(descriptor)

    def _lay(self, size: int) -> None:
        """Write headers and labels of all tars, and how long each will be."""
        self._size, blank = size, bytes(size)
        for number in self.todo:
            at = 0
            with self._paths[number].open("wb") as file:
                for row, labels in zip(
                    self.job.arrangement.rows(number), self.job.arrangement.notes(number).to_pylist(), strict=True
                ):
                    key = labels.pop("key")
                    *before, _, _ = pieces = parts(key, {"json": label_json(labels), "wav": blank})
                    file.seek(at)
                    file.write(b"".join(before))
                    self._facts["offset"][row] = at + sum(map(len, before))
                    at += sum(map(len, pieces))
                file.truncate(end_of(at))

    def _close(self, number: int) -> None:
        rows, path = self.job.arrangement.rows(number), self._paths[number]
        if not (self._facts["size"][rows] > 0).all():
            anew = self.job.contents(number, self)
            self.job.publish(number, anew.path, write_tar(anew))
            path.unlink(missing_ok=True)
            return
        digest, block = xxhash.xxh3_128(), memoryview(bytearray(READ_BYTES))
        with path.open("rb", buffering=0) as file:
            while size := file.readinto(block):
                digest.update(block[:size])
        places = [
            {"key": key} | {name: values[row].item() for name, values in self._facts.items()}
            for key, row in zip(self.job.arrangement.keys(number), rows, strict=True)
        ]
        self.job.publish(number, path, Facts(places=places, bytes=path.stat().st_size, hash=digest.hexdigest()))
