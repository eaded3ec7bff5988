"""Claim: packing, which checks, shuffles, hashes, indexes and syncs, is about as fast as `tar -cf` of the same files.

The peers are driven over a pipe by benchmarks/writers.py, in .venv-peers. Run: python -m benchmarks.pack
"""

import contextlib
import io
import json
import os
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xxhash
from isal import isal_zlib

from benchmarks import harness
from benchmarks.harness import Method, Section, figure, spread_rate
from shards import audio
from shards.manifest import Source
from shards.members import label_json
from shards.nsynth import NSynthFolder
from shards.pack import pack
from shards.tar import Tarball

NOTES, ROUNDS, MORE, MORE_ROUNDS = 8192, 5, 32768, 3
OURS, TWO, TAR, SYNCED = "shards.pack", "shards.pack --jobs 2", "tar -cf", "tar -cf, then fsync"
STOCK, STOCK_SYNCED = "webdataset ShardWriter", "webdataset ShardWriter, then fsync"
MDS, LIT = "mosaicml MDSWriter", "litdata optimize"
LACKS = {
    OURS: "nothing: notes checked and shuffled, crc32 and xxh3-128, index, fsync, rename",
    TWO: "nothing; the start of two processes included",
    TAR: "fsync, checksums, index, labels beside notes, shuffle",
    SYNCED: "checksums, index, labels beside notes, shuffle",
    STOCK: "fsync, checksums, index, checks, shuffle, rename",
    STOCK_SYNCED: "checksums, index, checks, shuffle, rename",
    MDS: "fsync, checksums, labels in the index, checks, shuffle, rename",
    LIT: "fsync, checksums, labels in the index, checks, shuffle, rename; the start of its worker included",
}
OUT = harness.BENCH / "out"


def ours(folder: Path, *, jobs: int) -> None:
    """Pack, showing nothing."""
    with contextlib.redirect_stderr(io.StringIO()):
        pack(folder, OUT, split="train", jobs=jobs)


def tar(folder: Path) -> None:
    """Archive the folder as it is."""
    subprocess.run(["tar", "-cf", OUT / "train.tar", "-C", folder, "."], check=True)


def stock(folder: Path) -> None:
    """Write the members that we write, as webdataset's documentation has it."""
    from webdataset.writer import ShardWriter  # here, or each process of --jobs 2 would import torch with this module

    examples = json.loads((folder / "examples.json").read_bytes())
    with ShardWriter(str(OUT / "train-%06d.tar"), maxcount=1024, verbose=0, encoder=False) as writer:
        for key, labels in examples.items():
            wav = (folder / "audio" / f"{key}.wav").read_bytes()
            writer.write({"__key__": key, "json": json.dumps(labels, separators=(",", ":")).encode(), "wav": wav})


def sync() -> None:
    """Wait until the disk has all that was written."""
    for path in OUT.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def wall(work: Callable[[], object]) -> Method:
    """Time what waits for disks and other processes."""
    return harness.stopwatch(work, clock=time.perf_counter)


def fresh(*works: Callable[[], object]) -> Method:
    """Time works with an empty output folder, which is removed outside the clock."""

    def timed() -> float:
        OUT.mkdir(parents=True)
        try:
            return wall(lambda: [work() for work in works])()
        finally:
            shutil.rmtree(OUT)

    return timed


def parts(source: Source) -> dict[str, Method]:
    """Return the parts of packing, each alone, over the same notes."""
    labels = source.manifest.to_pylist()
    keys = [note["key"] for note in labels]
    shuffled = np.random.default_rng(0).permutation(keys).tolist()
    files = [source.files.read(key) for key in keys]
    folder = Path(source.files.name("")).parent.parent

    def check() -> None:
        for data in files:
            header = audio.read_header(data, name="")
            audio.sounding_length(audio.decode_pcm16(data, header=header))

    def write() -> None:
        with Tarball(OUT / "x.tar") as out:
            for key, data in zip(keys, files, strict=True):
                out.add(key, {"json": b"{}", "wav": data})

    works = {
        "examples.json to manifest": lambda: NSynthFolder(folder=folder, rename_keys=False).open(),
        "read files": lambda: deque(map(source.files.read, shuffled), maxlen=0),
        "decode, sounding_length": check,
        "json of labels": lambda: [label_json(note) for note in labels],
        "crc32 of rows": lambda: [isal_zlib.crc32(data) for data in files],
        "xxh3-128 of shards": lambda: [xxhash.xxh3_128(data) for data in files],
    }
    return {name: wall(work) for name, work in works.items()} | {"tar to disk, hashed, no fsync": fresh(write)}


def run() -> list[Section]:
    """Measure packing against its peers, and its parts."""
    folder = harness.many(NOTES)
    with harness.peers("writers.py", folder, "out") as ask:
        methods = {
            OURS: fresh(lambda: ours(folder, jobs=1)), TWO: fresh(lambda: ours(folder, jobs=2)),
            TAR: fresh(lambda: tar(folder)), SYNCED: fresh(lambda: tar(folder), sync),
            STOCK: fresh(lambda: stock(folder)), STOCK_SYNCED: fresh(lambda: stock(folder), sync),
            **{name: lambda name=name: ask(name) for name in (MDS, LIT)},
        }  # fmt: skip
        found = harness.measure(methods, rounds=ROUNDS)
    pieces = harness.measure(parts(NSynthFolder(folder=folder, rename_keys=False).open()), rounds=ROUNDS)
    size = sum(path.stat().st_size for path in (folder / "audio").iterdir())
    return [_compare(found, size=size), _share(found, pieces), larger()]


def larger() -> Section:
    """Measure two processes where their start is a small part: 4 GB of notes."""
    folder = harness.many(MORE)
    methods = {
        OURS: fresh(lambda: ours(folder, jobs=1)), TWO: fresh(lambda: ours(folder, jobs=2)),
        TAR: fresh(lambda: tar(folder)),
    }  # fmt: skip
    found = harness.measure(methods, rounds=MORE_ROUNDS)
    middle = harness.medians(found)
    return Section(
        title="Two processes, more notes",
        claim=f"As above with {MORE:,} notes, {MORE_ROUNDS} rounds: the start of two processes is a smaller part.",
        columns=("method", "notes/s", "in all rounds", "speed against tar"),
        rows=[
            (name, figure(MORE / middle[name]), spread_rate(values, count=MORE), f"{middle[TAR] / middle[name]:.2f}x")
            for name, values in found.items()
        ],
        summary=f"Two have {middle[OURS] / middle[TWO]:.2f}x the speed of one.",
    )


def _compare(found, *, size: int) -> Section:
    middle = harness.medians(found)

    def ratio(name: str) -> float:
        return middle[name] / middle[OURS]

    return Section(
        title="A folder into shards, against tar and other writers",
        claim=f"{NOTES:,} notes of 4 s ({size / 1e6:,.0f} MB of WAV files, cached), {ROUNDS} rounds.",
        columns=("method", "notes/s", "in all rounds", "MB/s", "speed against tar", "lacks"),
        rows=[
            (
                name, figure(NOTES / middle[name]), spread_rate(values, count=NOTES),
                figure(size / 1e6 / middle[name]), f"{middle[TAR] / middle[name]:.2f}x", LACKS[name],
            )
            for name, values in found.items()
        ],
        summary=f"One process has {ratio(TAR):.2f} of tar's speed, {ratio(SYNCED):.2f} of tar's with fsync, "
        f"{ratio(STOCK):.1f}x ShardWriter's, {ratio(MDS):.1f}x MDSWriter's and {ratio(LIT):.1f}x litdata's; two have "
        f"{middle[OURS] / middle[TWO]:.2f}x of one.",
    )  # fmt: skip


def _share(found, pieces) -> Section:
    middle, parts = harness.medians(found), harness.medians(pieces)
    total = middle[OURS]
    shares = {**parts, "rest (index, card, waiting for the disk, cold caches)": total - sum(parts.values())}
    largest = max(parts, key=lambda name: parts[name])
    return Section(
        title="Where packing's time goes",
        claim="Each part alone over the same notes, in rounds of their own; the rest is what they don't add up to.",
        columns=("part", "us a note", "share"),
        rows=[(name, figure(1e6 * one / NOTES), f"{100 * one / total:.0f} %") for name, one in shares.items()],
        summary=f"Of {1e6 * total / NOTES:,.0f} us a note, {100 * parts[largest] / total:.0f} % is {largest}.",
    )


if __name__ == "__main__":
    harness.show("Packing a folder", run(), packages=("webdataset", "numpy", "pyarrow", "isal", "xxhash"))
