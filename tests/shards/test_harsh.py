"""Memory goes by what an input is, not by what it says or unpacks to; it's refused in a line, and nothing stays."""

import os
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from isal import isal_zlib

from tests.shards.fuzz import World, make_world

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with make_world() as made:
        yield made


# A child runs a door, and tells its peak above what the imports took.
PEAK = """
import resource, sys
import pyarrow.parquet, soundfile, shards.card, shards.pack, shards.repair, shards.show
from shards.__main__ import VERBS
from shards.door import run_door
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
code = run_door("shards", VERBS, sys.argv[1:])
print(code, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
BOMB_NOTES, NOTE = 40, 60 << 20


def gzip_bomb(src: Path, world: World) -> list[str]:
    """2.4 GB of silence in 2 MB, before examples.json comes."""
    info, gz = tarfile.TarInfo("nsynth-train/audio/0.wav"), isal_zlib.compressobj(1, wbits=31)
    info.size = NOTE
    with (src / "nsynth-train.jsonwav.tar.gz").open("wb") as file:
        for number in range(BOMB_NOTES):
            info.name = f"nsynth-train/audio/{number}.wav"
            file.write(gz.compress(info.tobuf()) + gz.compress(bytes(NOTE)))
        file.write(gz.flush())
    return []


def pax_bomb(src: Path, world: World) -> list[str]:
    """A header of 4 GB that speaks of the next."""
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 8**11 - 1
    packed = isal_zlib.compressobj(1, wbits=31)
    data = packed.compress(info.tobuf() + b"30 path=" + bytes(100 << 20)) + packed.flush()
    (src / "nsynth-train.jsonwav.tar.gz").write_bytes(data)
    return []


def wav_of_4_gb(src: Path, world: World) -> list[str]:
    data = bytearray(world.sounds["1-pcm16.wav"])
    data[40:44] = b"\xfe\xff\xff\xff"
    (src / "c/x.wav").write_bytes(data)
    return []


def flac_of(length: int) -> Callable[[Path, World], list[str]]:
    def make(src: Path, world: World) -> list[str]:
        data = bytearray(world.sounds["1-a.flac"])
        data[21:26] = bytes([data[21] & 0xF0 | length >> 32]) + struct.pack(">I", length & 0xFFFFFFFF)
        (src / "c/x.flac").write_bytes(data)
        return []

    return make


def brackets(src: Path, world: World) -> list[str]:
    (src / "examples.json").write_bytes(b'{"a": ' + b"[" * (50 << 20))
    return []


def blanks(src: Path, world: World) -> list[str]:
    with (src / "examples.json").open("wb") as file:
        for _ in range(1 << 10):
            file.write(b" " * (1 << 20))
    return []


def sparse_table(src: Path, world: World) -> list[str]:
    (src / "c/x.wav").write_bytes(world.sounds["1-pcm16.wav"])
    with (src / "meta.csv").open("wb") as file:
        file.truncate(1 << 30)
    return ["--table", str(src / "meta.csv")]


def rows_without_end(src: Path, world: World) -> list[str]:
    """A hundred million rows in a few kilobytes."""
    (src / "c/x.wav").write_bytes(world.sounds["1-pcm16.wav"])
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1_000_000, np.int8)), pa.array(["c/x.wav"]))
    batch = pa.table({"filename": column})
    with pq.ParquetWriter(src / "meta.parquet", batch.schema) as file:
        for _ in range(100):
            file.write_table(batch)
    return ["--table", str(src / "meta.parquet")]


HARSH: dict[str, tuple[Callable[[Path, World], list[str]], str]] = {
    "gzip bomb": (gzip_bomb, "which no sound does"),
    "pax bomb": (pax_bomb, "has a header of 8,589,934,591 bytes"),
    "a WAV of 4 GB": (wav_of_4_gb, "it is cut short"),
    "a FLAC of 2^36 samples": (flac_of(2**36 - 1), "can't be decoded|over 134,217,728|length must be"),
    "a FLAC of as many as may be": (flac_of(2**27), "cut short|can't be decoded"),
    "brackets": (brackets, "examples.json"),
    "1 GB of blanks": (blanks, "examples.json"),
    "a table of 1 GB": (sparse_table, "has 1,073,741,824 bytes"),
    "rows without end": (rows_without_end, "unpacks to 100,000,000 rows"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", HARSH)
def test_no_input_takes_memory_by_what_it_says(world: World, tmp_path: Path, what: str):
    make, told = HARSH[what]
    src = tmp_path / "src"
    (src / "c").mkdir(parents=True)
    options = make(src, world)
    command = [sys.executable, "-c", PEAK, "pack", str(src), str(tmp_path / "dst"), "--split", "train", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"TMPDIR": str(tmp_path)})
    last = done.stderr.splitlines()[-1]
    assert last.startswith("notestream: "), done.stderr[-3000:]
    assert any(part in last for part in told.split("|")), last
    code, peak_mb = map(int, done.stdout.split())
    assert code == 1
    assert peak_mb < 300, f"{peak_mb} MB"
    assert not (tmp_path / "dst/train").exists()
