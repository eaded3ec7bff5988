"""Whatever befalls the input of packing, it is refused in a line, or taken for what it is."""

import gzip
import io
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards import audio
from shards.errors import DataError
from shards.files import AudioFiles
from shards.findings import Finding
from shards.members import prepare
from shards.pack import pack
from shards.tables import read_table
from tests.shards.fuzz import RATE, World, all_cases, make_world, run_case

ROOT = Path(__file__).resolve().parents[2]
COUNTS = {
    "archive": 60, "nsynth": 60, "sound": 1500, "folders": 40, "table": 400, "pattern": 1500, "damage": 70,
    "index": 100, "tars": 60,
}  # fmt: skip


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with make_world() as made:
        yield made


# Cases without end: `make fuzz` goes on where these stop


@pytest.mark.parametrize("name", COUNTS)
def test_no_mutation_gives_more_or_less_than_it_justifies(world: World, name: str):
    taken = 0
    for seed in range(COUNTS[name]):
        try:
            taken += run_case(name, seed, world=world)
        except Exception as error:
            error.add_note(f"python -m tests.shards.fuzz --case {name} --seed {seed} --seconds 0")
            raise
    assert 0 < taken < COUNTS[name], "a case that always ends the same way tries nothing"


def test_a_case_is_the_same_each_time(world: World):
    assert COUNTS.keys() == all_cases().keys()
    assert len({tuple(run_case("sound", seed, world=world) for seed in range(40)) for _ in range(2)}) == 1


# What was found


@pytest.mark.parametrize("ending", ["flac", "ogg", "opus", "mp3", "aif", "au", "caf", "w64", "rf64", "sph"])
def test_a_sound_that_was_cut_is_refused_whatever_its_kind(world: World, tmp_path: Path, ending: str):
    whole, path = world.sounds[f"1-a.{ending}"], tmp_path / f"x.{ending}"
    files = AudioFiles(tmp_path, {"x": path.name}, RATE, False, False)

    def read() -> tuple[bytes, np.ndarray]:
        return prepare(files.read("x"), sample_rate=RATE, codec="wav", name=str(path))

    path.write_bytes(whole)
    assert len(read()[1]) >= 2000
    for share in (0.5, 0.7, 0.9, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(DataError, match=r"it is cut short|can't be decoded|is not a FLAC file|got 0 in 1"):
            read()


def test_an_extensible_wav_is_what_its_long_format_says(world: World):
    whole = world.sounds["1-extensible.wav"]
    assert audio.read_header(whole, name="x").length == 2000
    at = whole.index(audio.PCM_GUID)
    for other in (b"\x06\0", b"\x03\0"):  # A-law; float
        with pytest.raises(DataError, match="is a WAV with format 65534, 16 bits, not 16-bit PCM"):
            audio.read_header(whole[:at] + other + whole[at + 2 :], name="x")


def test_foreign_names_do_nothing_to_a_terminal():
    for told in (str(DataError("\x1b[2J\n\ud800ü: mend it")), str(Finding("a.tar", "\x1b[2J\n\ud800ü", 1, "b", "c"))):
        assert told.isprintable()
        assert r"\x1b[2J\n\ud800ü" in told


@pytest.mark.parametrize("records", [b"", b"18 path=ab/cd.wav\n", b"13 mtime=1.5\n"])
def test_an_archive_that_ends_where_a_member_was_announced_is_cut_short(world: World, tmp_path: Path, records: bytes):
    out, info = io.BytesIO(), tarfile.TarInfo("././@PaxHeader")
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.add(world.notes, arcname=world.notes.name)
        info.type, info.size = tarfile.XHDTYPE, len(records)
        tar.addfile(info, io.BytesIO(records))
    path = tmp_path / "nsynth-train.jsonwav.tar.gz"
    path.write_bytes(gzip.compress(out.getvalue(), 1))
    with pytest.raises(DataError, match="is cut short or damaged"):
        pack(path, tmp_path / "dst", split="train")
    assert not (tmp_path / "dst/train").exists()


def test_a_parquet_table_is_checked_before_it_is_believed(tmp_path: Path):
    text = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(struct.pack("<2i", 0, 1)), pa.py_buffer(b"\xff")])
    pq.write_table(pa.table({"filename": text}), tmp_path / "meta.parquet")
    with pytest.raises(DataError, match=r"meta\.parquet can't be read \(.*UTF8.*\): write it anew as UTF-8"):
        read_table(tmp_path / "meta.parquet")


@pytest.mark.parametrize("seed", [500_346, 100_472, 901_223], ids=["bytes as labels", "no shards", "no UTF-8"])
def test_an_index_that_once_gave_a_traceback(world: World, seed: int):
    run_case("index", seed, world=world)
