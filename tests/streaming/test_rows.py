"""Rows: bad ones are masked and change no batch's size; short ones are padded; long ones are evaluated in windows."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from shards import audio
from shards.errors import DataError, UsageError
from shards.index import open_pack
from shards.pack import pack
from streaming import decode
from streaming.augment import Augment
from streaming.batch import Batch
from streaming.clock import Clock
from streaming.evaluation import merge_windows, whole_notes
from streaming.loader import Loader
from streaming.measure import measure
from streaming.world import World
from tests.conftest import write_notes

FAMILY = "instrument_family_str"
DAMAGED = (3, 22, 40)


def make(data: Path, **options) -> Loader:
    options = {"batch_size": 12, "seed": 4, "label": FAMILY, "crop_seconds": 0.5} | options
    return Loader(open_pack(data, split="train"), **options)


def notes(data: Path, **options):
    found = open_pack(data, split="valid")
    options = {"label": FAMILY, "classes": found.classes[FAMILY], "batch_size": 4, "world": World()} | options
    return [batch.clone() for batch in whole_notes(found, **options)]


def damage(data: Path, folder: Path, *, rows, split: str = "train", at: int = 999) -> Path:
    shutil.copytree(data / split, folder / split)
    found = open_pack(folder, split=split)
    for row in rows:
        number, part, i = found.find(row)
        with (folder / split / found.shards[number].name).open("r+b") as tar:
            tar.seek(int(part.places["offset"][i]) + at)
            tar.write(b"\x5a\xa5\x5a\xa5")
    return folder


def test_a_bad_row_is_silence_of_weight_0_and_changes_nothing_else(data: Path, tmp_path: Path):
    broken = damage(data, tmp_path, rows=DAMAGED)
    whole, loader = make(data), make(broken, on_bad_row="mask")
    bad = set(open_pack(data, split="train").take(DAMAGED)[0])
    told = []
    for found, expected in zip(loader, whole, strict=True):
        assert (found.key, found.row, found.cursor) == (expected.key, expected.row, expected.cursor)
        for key, weight, mine, theirs in zip(
            found.key, found.weight.tolist(), found.waveform, expected.waveform, strict=True
        ):
            assert weight == (key not in bad)
            assert torch.equal(mine, torch.zeros_like(mine) if key in bad else theirs)
        told += found.masked
    assert {one.key for one in told} == bad
    assert loader.masked == len(told)
    number, part, at = open_pack(data, split="train").find(22)
    (one,) = {
        one for one in told if one.offset == int(part.places["offset"][at]) and one.shard[-6:-4] == f"{number:02d}"
    }
    assert f"{one.shard}, {one.key}, offset {one.offset} doesn't match its crc32" in one.what


def test_a_wholly_masked_batch_and_rank_work_until_too_many_rows_are_bad(data: Path, tmp_path: Path):
    broken = damage(data, tmp_path, rows=range(61))
    loader = make(broken, on_bad_row="mask", batch_size=10)
    batches = iter(loader)
    batch = next(batches)
    assert not batch.weight.any()
    assert not batch.waveform.any()
    with pytest.raises(DataError, match=r"20 of 20 rows can't be read, over the share of 0\.01 .*; the last: .*crc32"):
        next(batches)
    every = make(broken, on_bad_row="mask", bad_share=1.0, world=World(rank=1, world_size=3))
    assert sum(len(batch.key) for batch in every) == every.masked == 24


def test_masked_rows_of_an_evaluation_are_counted_too(data: Path, tmp_path: Path):
    broken = damage(data, tmp_path, rows=(2, 16), split="valid")
    found = notes(broken, on_bad_row="mask")
    assert sum(len(batch.key) for batch in found) == 17
    assert sum(float(batch.weight.sum()) for batch in found) == 15
    assert [one.key for batch in found for one in batch.masked] == open_pack(data, split="valid").take((2, 16))[0]
    with pytest.raises(DataError, match="doesn't match its crc32"):
        notes(broken)


def test_short_notes_are_repeated_where_asked(data: Path):
    for augment in (None, Augment(pitch_semitones=2)):
        batch = next(iter(make(data, crop_seconds=2.25, pad="repeat", augment=augment)))
        assert batch.length.tolist() == [36_000] * 12
        assert torch.equal(batch.waveform[:, 16_000:32_000], batch.waveform[:, :16_000])
        assert torch.equal(batch.waveform[:, 32_000:], batch.waveform[:, :4_000])


@pytest.mark.parametrize("augment", [Augment(), Augment(random_start=True), Augment(pitch_semitones=3, speed=1.2)])
def test_crop_only_reads_give_the_same_bits_and_no_crc32(data: Path, tmp_path: Path, augment: Augment):
    options = {"augment": augment, "crop_seconds": 0.25}
    for left, right in zip(make(data, **options), make(data, verify_reads=False, **options), strict=True):
        assert torch.equal(left.waveform, right.waveform)
    broken = damage(data, tmp_path, rows=DAMAGED, at=44 + 2 * 15_990)
    list(make(broken, verify_reads=False, crop_seconds=0.25))  # damage outside the crop isn't looked at
    with pytest.raises(DataError, match="crc32"):
        list(make(broken, crop_seconds=0.25))


def test_crop_only_reads_read_less(data: Path, monkeypatch: pytest.MonkeyPatch):
    counts = []
    real = __import__("os").pread
    monkeypatch.setattr("os.pread", lambda file, count, at: counts.append(count) or real(file, count, at))
    list(make(data, verify_reads=False, crop_seconds=0.25))
    assert sum(counts) == 72 * (512 + 2 * 4_000)


def test_a_header_that_lies_is_refused_without_crc32_too(data: Path, tmp_path: Path):
    broken = damage(data, tmp_path, rows=DAMAGED, at=40)
    with pytest.raises(DataError, match=r"train-00000\d\.tar, .*, offset \d+ "):
        list(make(broken, verify_reads=False))


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uneven")
    write_notes(folder, split="valid", count=9, length=20_000)
    return Path(str(pack(folder, folder / "pack", split="valid", rows_per_shard=4).folder)).parent


@pytest.mark.parametrize("world_size", [1, 2, 5, 12])
def test_long_clips_come_in_windows_that_add_up_to_each_row_once(uneven: Path, world_size: int):
    (whole,) = notes(uneven, batch_size=9)
    for rank in range(world_size):
        world = World(rank=rank, world_size=world_size)
        found = notes(uneven, window_seconds=0.5, world=world)
        share = world.share(9)
        assert [row for batch in found for row in batch.row] == [row for row in share for _ in range(3)]
        for batch in found:
            assert batch.waveform.shape[1] <= 8_000
        # an answer that is linear in the sound: the mean over a clip's windows is the whole clip's
        answers = [batch.waveform.double().sum(1, keepdim=True) / batch.length[:, None] for batch in found]
        merged = merge_windows(
            torch.cat(answers) if answers else torch.zeros(0, 1),
            rows=[row for batch in found for row in batch.row],
            weights=torch.cat([batch.weight for batch in found]) if found else torch.zeros(0),
            share=share,
        )
        expected = whole.waveform[share.start : share.stop].double().mean(1, keepdim=True)
        torch.testing.assert_close(merged, expected, rtol=1e-6, atol=1e-9)


def test_a_row_that_has_no_window_is_no_evaluation():
    with pytest.raises(DataError, match="evaluation counted 2 rows of 3"):
        merge_windows(torch.ones(2, 1), rows=[4, 6], weights=torch.ones(2), share=range(4, 7))


def test_decoding_is_the_plain_one_to_the_bit():
    samples = np.arange(-32768, 32768).astype(np.int16)
    data = audio.encode(samples, sample_rate=16_000, codec="wav")
    header = decode.find_header(data, name=lambda: "x")
    assert header == decode.find_header(data, name=lambda: "x") == audio.read_header(data, name="x")
    out = np.empty(65_000, np.float32)
    decode.decode_into(out, data, header=header, first=500)
    assert np.array_equal(out, audio.decode(data, header=header, start=500, stop=65_500))


def test_a_batch_that_is_kept_is_cloned(data: Path):
    batches = iter(make(data))
    first = next(batches)
    kept, before = first.clone(), first.waveform.sum()
    second = next(batches)
    assert kept.waveform.sum() == before
    assert first.waveform.data_ptr() == second.waveform.data_ptr()  # one memory, used again


def test_a_step_knows_where_its_time_went(data: Path):
    batch = next(iter(make(data, augment=Augment(pitch_semitones=2))))
    assert set(batch.seconds) == {"read", "decode", "augment", "wait"}
    assert all(seconds > 0 for seconds in batch.seconds.values())
    assert sum(batch.seconds[name] for name in ("read", "decode", "augment")) <= batch.seconds["wait"]
    clock = Clock()
    clock.add(batch.seconds)
    clock.add(batch.seconds)
    assert clock.read()["wait"] == pytest.approx(2 * batch.seconds["wait"])


def test_measuring_tells_the_ceiling_and_what_a_consumer_needs(data: Path):
    found = open_pack(data, split="train")
    told = measure(
        found, augment=Augment(), readers=0, consumer_rate=1000.0, seconds=0.6, batch_size=8, crop_seconds=0.5
    )
    assert told["ceiling_samples_per_second"] > 0
    assert told["delivered_samples_per_second"] <= 1000
    assert 0 < told["wait_share"] < 1
    assert told["cores_needed"] == pytest.approx(1000 / told["samples_per_second_a_core"])
    with pytest.raises(UsageError, match="consumer_rate must be positive, got 0"):
        measure(found, augment=Augment(), readers=0, consumer_rate=0, seconds=1)


def test_choices_are_checked(data: Path):
    with pytest.raises(UsageError, match="pad must be one of zero, repeat, got 'none'"):
        make(data, pad="none")
    with pytest.raises(UsageError, match="on_bad_row must be one of raise, mask, got 'skip'"):
        make(data, on_bad_row="skip")
    with pytest.raises(UsageError, match=r"bad_share must lie in 0\.\.1, got 2"):
        make(data, bad_share=2)


def test_a_batch_moves_as_one(data: Path):
    batch = next(iter(make(data)))
    moved = batch.to("meta")
    assert isinstance(moved, Batch)
    assert moved.waveform.device.type == moved.label.device.type == "meta"
    assert moved.key == batch.key
