"""Claim: memory doesn't grow with the notes, but for the index; a pack opens at once, whatever its size.

Each measurement is a process of its own: its peak of memory, less what its imports took.
Run: python -m benchmarks.scale
"""

import gzip
import io
import json
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa

from benchmarks import harness
from benchmarks.harness import Section, figure
from shards import audio, index_writer
from shards.fields import FAMILIES, QUALITIES, SOURCES
from shards.index_file import PLACE, Shard
from shards.index_writer import write_index
from shards.listing import Shards

TRAIN = 289_205
FEW, MANY, MANY_SHARDS, NEEDED = 300_000, 1_000_000, 1000, 10
MILLION, TEN, BATCH = 1_000_000, 10, 256  # shards of ten rows each
ROWS_PER_SHARD = 1024
PLACES = harness.BENCH / "scale"


def example(i: int) -> tuple[str, dict]:
    """Make up what examples.json says of note i."""
    family, source, pitch, velocity = i % 11, i // 11 % 3, i % 88 + 21, (25, 50, 75, 100, 127)[i % 5]
    instrument = f"{FAMILIES[family]}_{SOURCES[source]}_{i // 287:04d}"
    key = f"{instrument}-{pitch:03d}-{i:06d}"
    return key, {
        "note": i, "note_str": key, "instrument": i // 287, "instrument_str": instrument, "pitch": pitch,
        "velocity": velocity, "sample_rate": 16_000, "qualities": [int(j == i % 13) for j in range(10)],
        "qualities_str": [QUALITIES[i % 13]] if i % 13 < 10 else [], "instrument_family": family,
        "instrument_family_str": FAMILIES[family], "instrument_source": source,
        "instrument_source_str": SOURCES[source],
    }  # fmt: skip


def make_archive() -> Path:
    """Write an archive of train's size, of notes of 64 samples, once."""
    out = PLACES / "tiny.tar.gz"
    if out.exists():
        return out
    PLACES.mkdir(parents=True, exist_ok=True)
    data = audio.encode(np.arange(64, dtype=np.int16) * 99, sample_rate=16_000, codec="wav")
    examples = dict(example(i) for i in range(TRAIN))
    text = json.dumps(examples, indent=4).replace(",\n", ", \n").encode()
    unfinished = out.with_suffix(".tmp")
    with gzip.open(unfinished, "wb", compresslevel=1) as plain, tarfile.open(fileobj=plain, mode="w|") as tar:
        for name, content in [("examples.json", text), *((f"audio/{key}.wav", data) for key in examples)]:
            info = tarfile.TarInfo(f"nsynth-train/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return unfinished.rename(out)


def make_index(rows: int, *, shards: int) -> Path:
    """Write an index over tars that are all hole, once."""
    folder = PLACES / f"index-{rows}"
    if (folder / "train" / "index.parquet").exists():
        return folder
    (folder / "train").mkdir(parents=True, exist_ok=True)
    each, size = rows // shards, 130_048
    names = [f"train-{number:06d}.tar" for number in range(shards)]
    for name in names:
        with (folder / "train" / name).open("wb") as file:
            file.truncate(each * size)
    tables = [_rows(range(n * each, (n + 1) * each), name=name, size=size) for n, name in enumerate(names)]
    told = [Shard(name=name, rows=each, bytes=each * size, hash=f"{n:032x}") for n, name in enumerate(names)]
    write_index(
        folder / "train", split="train", sample_rate=16_000, codec="wav", shards=told, tables=tables, options={}
    )
    return folder


def make_large_index() -> Path:
    """Write an index of a million shards of ten rows each, without tars, once: it opens as one of 10^9 rows does."""
    folder = PLACES / f"index-{MILLION}-shards"
    if (folder / "train" / "index.parquet").exists():
        return folder
    (folder / "train").mkdir(parents=True, exist_ok=True)
    names, draw = [f"train-{number:06d}.tar" for number in range(MILLION)], np.random.default_rng(0)
    shards = Shards(
        names=pa.array(names),
        rows=np.full(MILLION, TEN),
        bytes=TEN * 130_048 + 512 * draw.integers(0, 4096, MILLION),  # such as FLAC's
        hashes=draw.integers(0, 256, (MILLION, 16), np.uint8),
    )
    each = -(-MILLION // index_writer.MOST_GROUPS)
    alike = _rows(range(TEN), name="", size=130_048)

    class Groups:
        def __iter__(self) -> Iterator[pa.Table]:
            for first in range(0, MILLION, each):
                here = names[first : first + each]
                number = np.repeat(np.arange(len(here), dtype=np.int32), TEN)
                group = pa.concat_tables([alike] * len(here)).combine_chunks()
                yield group.set_column(0, "shard", pa.DictionaryArray.from_arrays(number, pa.array(here)))

    with mock.patch.object(index_writer, "MOST_GROUPS", MILLION):  # a table a shard would take ten minutes
        write_index(
            folder / "train", split="train", sample_rate=16_000, codec="wav", shards=shards, tables=Groups(), options={}
        )
    return folder


def _rows(numbers: range, *, name: str, size: int) -> pa.Table:
    notes = [example(i) for i in numbers]
    count = len(notes)
    places = [
        pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([name])),
        pa.array([key for key, _ in notes]), pa.array(range(1536, 1536 + count * size, size), pa.int64()),
        pa.array([128_044] * count, pa.int32()), pa.array(numbers, pa.uint32()),
        pa.array([64_000] * count, pa.int32()), pa.array([40_000] * count, pa.int32()),
    ]  # fmt: skip
    labels = pa.Table.from_pylist([note for _, note in notes])
    return pa.Table.from_arrays([*places, *labels.columns], names=[*PLACE.names, *labels.column_names])


def peak_mb() -> float:
    """Return the most memory that this process had, in MB. getrusage would count its parent's before exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1000


def child(name: str, place: str) -> None:
    """Measure one thing in this process, and print its seconds and memory."""
    from shards.index import open_pack, read_pack
    from shards.pack import pack
    from streaming.mix import make_order

    before, started = peak_mb(), time.perf_counter()
    if name == "pack":
        pack(place, PLACES / "out", split="train")
    elif name in ("global", "windows"):
        options = {"lanes": 8, "window": 100 * TEN} if name == "windows" else {}
        order = make_order([read_pack(place, split="train")], seed=1, **options)
        order.slots(order.span * 9 // 10 // 8 * 8, batch_size=BATCH, slots=range(BATCH))
        next(order.upcoming(order.span * 9 // 10 // 8 * 8))
    else:
        found = open_pack(place, split="train")
        for number in range(NEEDED if name == "read" else 0):
            found.part(number * len(found.shards) // NEEDED)
    print(json.dumps({"seconds": time.perf_counter() - started, "peak": peak_mb() - before, "imports": before}))


def ask(name: str, place: Path) -> dict[str, float]:
    """Run a child."""
    command = [sys.executable, "-m", "benchmarks.scale", name, str(place)]
    said = subprocess.run(command, cwd=harness.ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    shutil.rmtree(PLACES / "out", ignore_errors=True)
    return json.loads(said)


def run() -> list[Section]:
    """Measure memory and seconds at sizes that no test has time for."""
    few, many = make_index(FEW, shards=FEW // ROWS_PER_SHARD), make_index(MANY, shards=MANY_SHARDS)
    asked = {
        f"pack a tar.gz of {TRAIN:,} tiny notes": ask("pack", make_archive()),
        f"open a pack of {FEW:,} rows": min((ask("open", few) for _ in range(5)), key=lambda one: one["seconds"]),
        f"open one of {MANY:,} rows, read {NEEDED} of {MANY_SHARDS:,} shards' rows": ask("read", many),
    }
    opened = asked[f"open a pack of {FEW:,} rows"]
    packed, read = (one for name, one in asked.items() if name != f"open a pack of {FEW:,} rows")
    large = make_large_index()
    started = {
        f"start of a rank at {MILLION:,} shards, {what}": ask(name, large)
        for name, what in (("global", "one shuffle"), ("windows", "8 lanes of windows of 100 shards"))
    }
    slow, fat = (max(one[of] for one in started.values()) for of in ("seconds", "peak"))
    return [
        Section(
            title="Memory and opening",
            claim="Peak of memory above what imports take; the tars of the two opened packs are holes. A rank starts "
            "by reading the index, making the order and finding the first batch's rows at 90 % of an epoch; its "
            "shards have ten rows each and no tars: nothing of it goes by the rows, and a million stat calls are left "
            "out.",
            columns=("what", "seconds", "peak above imports, MB", "imports, MB"),
            rows=[
                (name, figure(one["seconds"]), figure(one["peak"]), figure(one["imports"]))
                for name, one in (asked | started).items()
            ],
            summary=f"NSynth's count of notes is packed in {packed['peak']:,.0f} MB; {FEW:,} rows open in "
            f"{1e3 * opened['seconds']:,.0f} ms; {NEEDED} of {MANY_SHARDS:,} shards take {read['peak']:,.0f} MB; at "
            f"{MILLION:,} shards a rank starts in {slow:.1f} s and {fat:,.0f} MB.",
        )
    ]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child(*sys.argv[1:])
    else:
        harness.show("Scale", run(), packages=("pyarrow", "numpy"))
