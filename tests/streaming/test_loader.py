"""The loader: the same run at any world size and number of readers; resume is a seek; errors speak."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shards import audio
from shards.errors import DataError, UsageError
from shards.index import open_pack
from streaming import pipeline
from streaming.augment import Augment, preset
from streaming.balance import Balance
from streaming.batch import TENSORS, Batch
from streaming.device import choose_device
from streaming.evaluation import whole_notes
from streaming.loader import Loader
from streaming.mix import make_order
from streaming.view import draw_view, latest_start
from streaming.world import World

FAMILY = "instrument_family_str"
MOVED = Augment(pitch_semitones=3, speed=1.2, random_start=True)


def make(data: Path, **options) -> Loader:
    options = {"batch_size": 12, "seed": 4, "label": FAMILY, "crop_seconds": 0.5, "augment": MOVED} | options
    return Loader(open_pack(data, split="train"), **options)


def take(loader: Loader, steps: int) -> list[Batch]:
    found = []
    while len(found) < steps:
        found += [batch.clone() for _, batch in zip(range(steps - len(found)), loader, strict=False)]
    loader.close()
    return found


def same(left: Batch, right: Batch) -> bool:
    tensors = all(torch.equal(getattr(left, n), getattr(right, n)) for n in TENSORS)
    return tensors and left.key == right.key and left.cursor == right.cursor


def join(parts: list[Batch]) -> Batch:
    tensors = {n: torch.cat([getattr(p, n) for p in parts]) for n in TENSORS}
    return Batch(**tensors, key=sum((p.key for p in parts), ()), cursor=parts[0].cursor)


def test_an_epoch_covers_every_row_and_the_labels_fit(data: Path):
    loader = make(data)
    batches = [batch.clone() for batch in loader]
    assert len(batches) == 6  # 61 rows: steps at 0, 12, .. 60
    keys = [key for batch in batches for key in batch.key][:61]
    assert sorted(keys) == sorted(loader.packs[0].read("key")["key"].to_pylist())
    for batch in batches:
        assert batch.waveform.shape == (12, 8_000)
        assert [loader.classes[i] for i in batch.label] == [key.split("_")[0] for key in batch.key]
        assert batch.waveform.abs().max() <= 1.5
    assert len(loader) == 5  # the second epoch: 72 .. 120
    assert sum(1 for _ in loader) == 5


@pytest.mark.parametrize("world_size", [2, 3, 5, 12])
def test_no_world_size_changes_rows_order_or_augmentation(data: Path, world_size: int):
    whole = take(make(data), 8)
    ranks = [take(make(data, world=World(rank=r, world_size=world_size)), 8) for r in range(world_size)]
    for step in range(8):
        assert same(join([rank[step] for rank in ranks]), whole[step])


@pytest.mark.slow
@pytest.mark.parametrize("readers", [1, 3])
def test_no_number_of_readers_changes_anything(data: Path, readers: int):
    expected = take(make(data, cursor=24), 7)
    found = take(make(data, cursor=24, readers=readers), 7)
    assert all(same(left, right) for left, right in zip(found, expected, strict=True))


def test_packs_on_this_disk_look_for_no_shard_ahead(data: Path, monkeypatch: pytest.MonkeyPatch):
    """A global order of a million shards would be gone through until each was seen, before the first batch."""
    monkeypatch.setattr(pipeline, "next_shards", None)
    assert len(take(make(data), 1)) == 1


def test_resume_at_every_step_is_a_seek(data: Path):
    whole = take(make(data), 8)
    for step in range(8):
        loader, fresh = make(data), make(data)
        take(loader, step)
        fresh.load_state_dict(loader.state_dict())
        assert fresh.cursor == 12 * step
        rest = take(fresh, 8 - step)
        assert all(same(left, right) for left, right in zip(rest, whole[step:], strict=True))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"seed": 5}, "seed was 4 when this state was saved, but is 5 now"),
        ({"lanes": 2}, "lanes was 1"),
        ({"window": 20}, "window was None"),
        (
            {"where": "pitch > 50"},
            r"selection was \['all rows'\] when this state was saved, but is \['where pitch > 50'\]",
        ),
        ({"limit": 7}, "selection was"),
        ({"balance": Balance(label=FAMILY)}, "selection was"),
    ],
)
def test_a_state_of_another_order_is_refused_by_name(data: Path, change: dict[str, Any], name: str):
    order = make_order([open_pack(data, split="train")], **({"seed": 4} | change))
    with pytest.raises(UsageError, match=name):
        make(data, order=order).load_state_dict(make(data).state_dict())


def test_a_state_of_another_pack_or_mix_is_refused_by_name(data: Path):
    state, valid = make(data).state_dict(), open_pack(data, split="valid")
    with pytest.raises(UsageError, match="fingerprint was "):
        Loader(valid, batch_size=12, seed=4, label=FAMILY, crop_seconds=0.5).load_state_dict(state)
    packs = [open_pack(data, split="train"), valid]
    with pytest.raises(UsageError, match=r"weights was \[1\] when this state was saved, but is \[1, 1\] now"):
        Loader(packs, batch_size=12, seed=4, label=FAMILY, crop_seconds=0.5).load_state_dict(state)


def test_what_is_no_state_is_refused_by_what_it_lacks(data: Path):
    state = make(data).state_dict()
    with pytest.raises(UsageError, match="this state has no seed, fingerprint: give one that a loader's state_dict"):
        make(data).load_state_dict({name: state[name] for name in state if name not in ("seed", "fingerprint")})


def test_the_batch_size_changes_only_when_asked_to(data: Path):
    before, state = make(data, cursor=24), make(data, cursor=24).state_dict()
    after = make(data, batch_size=8)
    with pytest.raises(UsageError, match="batch_size was 12 when this state was saved, but is 8 now"):
        after.load_state_dict(state)
    after.load_state_dict(state, rebatch=True)
    assert same(join(take(after, 3)), join(take(before, 2)))


def test_the_same_note_is_augmented_anew_each_epoch(data: Path):
    loader = make(data, batch_size=61)
    first, second = take(loader, 2)
    by_key = dict(zip(second.key, second.waveform, strict=True))
    assert not any(torch.equal(w, by_key[key]) for key, w in zip(first.key, first.waveform, strict=True))


def test_without_augmentation_a_batch_is_the_crop_itself(data: Path):
    loader = make(data, augment=None, crop_seconds=0.25)
    batch = next(iter(loader))
    pack = loader.packs[0]
    for key, waveform in zip(batch.key, batch.waveform, strict=True):
        (row,) = (row for row in pack.read("key", "shard", "offset", "size").to_pylist() if row["key"] == key)
        stored = (pack.folder / row["shard"]).read_bytes()[row["offset"] :][: row["size"]]
        expected = audio.decode(stored, header=audio.read_header(stored, name=key), stop=4_000)
        np.testing.assert_array_equal(waveform.numpy(), expected)


def test_short_notes_are_padded_and_say_so(data: Path):
    batch = next(iter(make(data, augment=None, crop_seconds=1.5)))
    assert batch.waveform.shape == (12, 24_000)
    assert batch.length.tolist() == [16_000] * 12
    assert not batch.waveform[:, 16_000:].any()


def test_crops_never_lie_in_a_silent_tail():
    for i in range(200):
        view = draw_view(
            MOVED, length=40_000, note_length=64_000, sounding_length=30_000, key=(0, 0, 0, f"note-{i}", 0)
        )  # fmt: skip
        assert 0 <= view.start <= 30_000 - 40_000 * view.speed / 2 + 1
    assert latest_start(40_000, note_length=64_000, sounding_length=0) == 0
    assert latest_start(40_000, note_length=30_000, sounding_length=30_000) == 0


def test_draws_stay_in_their_ranges_and_can_be_left_out():
    views = [
        draw_view(preset("default"), length=9, note_length=99, sounding_length=99, key=(0, 1, 0, str(i), 0))
        for i in range(500)
    ]
    semitones = 12 * np.log2([view.pitch_ratio for view in views])
    assert -3 <= semitones.min() < -2.8
    assert 2.8 < semitones.max() <= 3
    speeds = np.array([view.speed for view in views])
    assert (speeds >= 1 / 1.25).all()
    assert (speeds <= 1.25).all()
    still = Augment(pitch_semitones=3, speed=1.2, pitch_probability=0.0, speed_probability=0.0)
    view = draw_view(still, length=9, note_length=99, sounding_length=99, key=(0, 1, 0, "x", 0))
    assert (view.pitch_ratio, view.speed, view.start) == (1.0, 1.0, 0)


def test_whole_notes_count_every_row_once_at_any_world_size(data: Path):
    pack = open_pack(data, split="valid")
    for world_size in (1, 2, 5, 17, 20):
        batches = [
            batch
            for rank in range(world_size)
            for batch in whole_notes(
                pack,
                label=FAMILY,
                classes=pack.classes[FAMILY],
                batch_size=4,
                world=World(rank=rank, world_size=world_size),
            )
        ]
        assert sum((batch.key for batch in batches), ()) == tuple(pack.read("key")["key"].to_pylist())
        assert all(batch.waveform.shape[1] == 16_000 for batch in batches)


@pytest.mark.slow
def test_damage_is_named_in_one_line_from_a_reader_too(data: Path, tmp_path: Path):
    shutil.copytree(data / "train", tmp_path / "train")
    pack = open_pack(tmp_path, split="train")
    path = tmp_path / "train/train-000002.tar"
    content = bytearray(path.read_bytes())
    (key,), places = pack.take([22])
    offset = int(places["offset"][0])
    content[offset + 1000] ^= 1
    path.write_bytes(content)
    for readers in (0, 2):
        with pytest.raises(
            DataError, match=rf"train-000002\.tar, {key}, offset {offset} doesn't match its crc32"
        ) as caught:
            list(make(tmp_path, readers=readers))
        assert "\n" not in str(caught.value)


def test_errors_speak(data: Path):
    with pytest.raises(UsageError, match=r"batch_size must be at least world_size \(13\), got 12"):
        make(data, world=World(rank=0, world_size=13))
    with pytest.raises(UsageError, match=r"stage test_errors_speak.<locals>.<lambda> can't be sent to a reader"):
        make(data, readers=1, stages=[lambda batch: batch])
    with pytest.raises(UsageError, match=r"crop_seconds must give at least one sample, got 0"):
        make(data, crop_seconds=0)
    with pytest.raises(UsageError, match=r"speed must lie in 1\.\.2, got 0\.5: 1\.25 means 0\.8 to 1\.25"):
        Augment(speed=0.5)
    with pytest.raises(UsageError, match=r"augment preset must be one of none, light, default, strong, got 'x'"):
        preset("x")
    with pytest.raises(UsageError, match=r"device 'tpu' is not usable here: take one of auto, cpu"):
        choose_device("tpu")


def halve(batch: Batch) -> Batch:
    return batch.map(lambda tensor: tensor / 2 if tensor.dtype == torch.float32 and tensor.ndim == 2 else tensor)


def test_stages_of_ones_own_run_last(data: Path):
    plain, halved = next(iter(make(data))), next(iter(make(data, stages=[halve])))
    assert torch.equal(plain.waveform / 2, halved.waveform)
