"""Packing processes: tars come in order, a few shards are under way at a time, what fails in one is told."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from shards import audio
from shards.contents import Contents
from shards.errors import DataError
from shards.files import FolderFiles
from shards.pack import pack
from shards.packers import open_packers
from tests.conftest import write_notes
from tests.shards.fuzz import contents as bytes_of


def shards_of(folder: Path, *, count: int, asked: list[int]) -> Iterator[Contents]:
    (folder / "k.wav").write_bytes(audio.encode(np.ones(100, np.int16), sample_rate=8000, codec="wav"))
    for number in range(count):
        asked.append(number)
        yield Contents(
            path=folder / f"{number}.tar", notes=[{"key": "k", "note": number}], files=FolderFiles(folder, {}),
            sample_rate=8000, codec="wav",
        )  # fmt: skip


@pytest.mark.parametrize(("jobs", "ahead"), [(1, 1), (2, 4)])
def test_tars_come_in_order_and_a_few_shards_are_under_way(tmp_path: Path, jobs: int, ahead: int):
    asked, told = [], []
    with open_packers(jobs) as packers:
        for number, facts in enumerate(packers(shards_of(tmp_path, count=20, asked=asked), told.append)):
            assert (tmp_path / f"{number}.tar").stat().st_size == facts.bytes
            assert b'{"note":%d}' % number in (tmp_path / f"{number}.tar").read_bytes()
            assert len(asked) <= number + ahead
    assert number == 19
    assert told == [1] * 20


def test_what_fails_in_a_packing_process_is_told_and_leaves_nothing(tmp_path: Path):
    notes = write_notes(tmp_path, split="train", count=40)
    path = sorted((notes / "audio").iterdir())[25]
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=rf"{path.name} says it holds 32000 bytes of sound but 31990 are there"):
        pack(notes, tmp_path / "out", split="train", rows_per_shard=40, jobs=2)
    assert not (tmp_path / "out/train").exists()


def test_a_source_that_cannot_be_read_ends_the_packing_processes(tmp_path: Path):
    notes = write_notes(tmp_path, split="train", count=4)
    (notes / "examples.json").write_text("{")
    with pytest.raises(DataError, match="is not whole JSON"):
        pack(notes, tmp_path / "out", split="train", jobs=2)
    assert not (tmp_path / "out/train").exists()


def test_files_that_are_converted_do_not_depend_on_jobs(tmp_path: Path):
    draw = np.random.default_rng(0)
    for number in range(12):
        (tmp_path / f"src/{number % 3}").mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / f"src/{number % 3}/{number}.flac", draw.uniform(-1, 1, (4000, 2)), 8000)
    for jobs in (1, 2):
        pack(tmp_path / "src", tmp_path / f"{jobs}", split="train", mono=True, resample=11_025, rows_per_shard=3,
             rename_keys=True, jobs=jobs)  # fmt: skip
    assert bytes_of(tmp_path / "2/train") == bytes_of(tmp_path / "1/train")
    assert len(bytes_of(tmp_path / "1/train")) == 5
