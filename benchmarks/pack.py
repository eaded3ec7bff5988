"""Claim: packing, which checks, hashes, indexes and syncs, stays within a small factor of `tar -cf` of the same files.

Run: python -m benchmarks.pack
"""

import contextlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

import xxhash
from isal import isal_zlib
from webdataset.writer import ShardWriter, TarWriter

from benchmarks import harness
from benchmarks.harness import Method, Section, figure, spread_rate
from shards import audio
from shards.nsynth import Source, open_folder
from shards.pack import WRITE_BYTES, pack

OURS, TAR, SYNCED, STOCK = "shards.pack", "tar -cf", "tar -cf, then fsync", "webdataset.ShardWriter"
LACKS = {
    OURS: "nothing: notes checked and shuffled, crc32 and xxh3-128, index, fsync, rename",
    TAR: "fsync, checksums, index, labels beside notes, shuffle",
    SYNCED: "checksums, index, labels beside notes, shuffle",
    STOCK: "fsync, checksums, index, checks, shuffle, rename",
}
ROUNDS = 7
OUT = harness.BENCH / "out"


def ours(notes: Path) -> None:
    """Pack in this process."""
    with contextlib.redirect_stderr(io.StringIO()):
        pack(notes, OUT, split="train")


def tar(notes: Path, *, sync: bool) -> None:
    """Archive the folder as it is."""
    subprocess.run(["tar", "-cf", OUT / "train.tar", "-C", notes / "nsynth-train", "."], check=True)
    if sync:
        subprocess.run(["sync", OUT / "train.tar"], check=True)


def stock(notes: Path) -> None:
    """Write the members that we write, as webdataset's documentation has it."""
    folder = notes / "nsynth-train"
    examples = json.loads((folder / "examples.json").read_bytes())
    with ShardWriter(str(OUT / "train-%06d.tar"), maxcount=1024, verbose=0, encoder=False) as writer:
        for key, labels in examples.items():
            wav = (folder / "audio" / f"{key}.wav").read_bytes()
            writer.write({"__key__": key, "json": json.dumps(labels, separators=(",", ":")).encode(), "wav": wav})


def wall(work) -> Method:
    """Time what waits for disks and other processes."""
    return harness.stopwatch(work, clock=time.perf_counter)


def fresh(work) -> Method:
    """Time `work` with an empty output folder, which is removed outside the clock."""

    def timed() -> float:
        OUT.mkdir(parents=True)
        try:
            return wall(work)()
        finally:
            shutil.rmtree(OUT)

    return timed


class Null(io.RawIOBase):
    """A file that takes everything and keeps nothing."""

    def write(self, data, /) -> int:
        """Count."""
        return len(data)


def parts(source: Source) -> dict[str, Method]:
    """Return the parts of packing, each alone, over the same notes."""
    labels = source.manifest.to_pylist()
    keys = [note["key"] for note in labels]
    files = [source.files.read(key) for key in keys]
    whole = memoryview(b"".join(files))

    def check() -> None:
        for data in files:
            header = audio.read_header(data, name="")
            audio.sounding_length(audio.decode_pcm16(data, header=header))

    def hash_all() -> None:
        stream = xxhash.xxh3_128()
        for data in files:
            isal_zlib.crc32(data)
            stream.update(data)

    def write_tar() -> None:
        with TarWriter(Null(), encoder=False, mtime=0) as writer:
            for key, data in zip(keys, files, strict=True):
                writer.write({"__key__": key, "json": b"{}", "wav": data})

    def to_disk() -> None:
        with (OUT / "file").open("wb", buffering=WRITE_BYTES) as file:
            for at in range(0, len(whole), tarfile.RECORDSIZE):  # as TarWriter hands it on
                file.write(whole[at : at + tarfile.RECORDSIZE])
            os.fsync(file.fileno())

    works = {
        "examples.json to manifest": lambda: open_folder(source.files.folder.parent),
        "read files": lambda: [source.files.read(key) for key in keys],
        "decode, sounding_length": check,
        "json of labels": lambda: [json.dumps(note, separators=(",", ":")).encode() for note in labels],
        "crc32 and xxh3-128": hash_all,
        "TarWriter, to nowhere": write_tar,
    }
    return {name: wall(work) for name, work in works.items()} | {"write, fsync": fresh(to_disk)}


def run() -> list[Section]:
    """Measure packing against its peers, and its parts."""
    notes = harness.notes()
    source = open_folder(notes / "nsynth-train")
    peers = {
        OURS: fresh(lambda: ours(notes)),
        TAR: fresh(lambda: tar(notes, sync=False)),
        SYNCED: fresh(lambda: tar(notes, sync=True)),
        STOCK: fresh(lambda: stock(notes)),
    }
    pieces = parts(source)
    found = harness.measure(peers | pieces, rounds=ROUNDS)
    count, size = len(source.manifest), sum(path.stat().st_size for path in source.files.folder.iterdir())
    return [_compare({name: found[name] for name in peers}, count=count, size=size), _share(found, pieces, count)]


def _compare(found, *, count: int, size: int) -> Section:
    middle = harness.medians(found)
    return Section(
        title="shards.pack against tar and ShardWriter",
        claim=f"{count:,} notes of 4 s ({size / 1e6:,.0f} MB of WAV files in a folder), one process, {ROUNDS} rounds.",
        columns=("method", "notes/s", "in all rounds", "MB/s", "time against tar", "lacks"),
        rows=[
            (
                name, figure(count / middle[name]), spread_rate(values, count=count),
                figure(size / 1e6 / middle[name]), f"{middle[name] / middle[TAR]:.2f}x", LACKS[name],
            )
            for name, values in found.items()
        ],
        summary=f"shards.pack takes {middle[OURS] / middle[SYNCED]:.2f}x the time of tar with fsync and "
        f"{middle[OURS] / middle[STOCK]:.2f}x that of ShardWriter without it.",
    )  # fmt: skip


def _share(found, pieces, count: int) -> Section:
    middle = harness.medians(found)
    total = middle[OURS]
    rest = total - sum(middle[name] for name in pieces)
    shares = {**{name: middle[name] for name in pieces}, "rest (index, rename, opening the pack, cold caches)": rest}
    largest = max(shares, key=lambda name: shares[name])
    return Section(
        title="Where packing's time goes",
        claim="Each part alone over the same notes, in the same rounds; the rest is what they don't add up to.",
        columns=("part", "us a note", "share"),
        rows=[(name, figure(1e6 * one / count), f"{100 * one / total:.0f} %") for name, one in shares.items()],
        summary=f"Of {1e6 * total / count:,.0f} us a note, {100 * shares[largest] / total:.0f} % is {largest}.",
    )


if __name__ == "__main__":
    harness.show("Packing", run(), packages=("webdataset", "numpy", "pyarrow", "isal", "xxhash"))
