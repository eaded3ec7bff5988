"""Evaluation: every row once at any world size, whole, whatever its length; through readers; bad rows counted."""

from pathlib import Path

import numpy as np
import pytest
import torch

from shards import audio
from shards.errors import DataError, UsageError
from shards.index import Pack
from streaming.batch import Batch
from streaming.evaluation import merge_windows, whole_notes
from streaming.world import World
from tests.streaming.clips import make_clips
from tests.streaming.sequences import FAMILY

LENGTHS = [1, 799, 800, 801, 1600, 1601, 2399, 4000, 12_345, 5, 800, 640, 2000, 1, 3200, 3201, 77, 9000, 801]
WINDOW_SECONDS, WINDOW = 0.05, 800
ROWS = np.array([0, 1, 3, 4, 5, 8, 9, 10, 11, 12, 13, 15, 17, 18])  # what `where` may leave


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return make_clips(tmp_path_factory.mktemp("clips"), split="valid", lengths=LENGTHS)


def hear(pack: Pack, *, world_size: int = 1, **options) -> list[list[Batch]]:
    """Return what each rank of a group evaluates."""
    given = {"label": FAMILY, "classes": pack.classes[FAMILY], "batch_size": 4, "window_seconds": WINDOW_SECONDS}
    return [
        [batch.clone() for batch in whole_notes(pack, **(given | options), world=World(rank=r, world_size=world_size))]
        for r in range(world_size)
    ]


def stored(pack: Pack, row: int) -> np.ndarray:
    number, part, at = pack.find(row)
    shard = (pack.folder / pack.shards[number].name).read_bytes()
    offset, size = int(part.places["offset"][at]), int(part.places["size"][at])
    data = shard[offset : offset + size]
    return audio.decode(data, header=audio.read_header(data, name="x"))


def pieces(batches: list[Batch]) -> list[tuple[int, str, np.ndarray, float]]:
    """Return each window: its row, key, sound without padding, and weight."""
    found = []
    for batch in batches:
        assert batch.waveform.shape[1] == max(batch.length.tolist())
        for row, key, sound, length, weight in zip(
            batch.row, batch.key, batch.waveform, batch.length.tolist(), batch.weight.tolist(), strict=True
        ):
            assert not sound[length:].any(), "padding is silence"
            found.append((row, key, sound[:length].numpy(), weight))
    return found


@pytest.mark.parametrize("rows", [None, ROWS, ROWS[:1], ROWS[:0]], ids=["all", "where", "one", "none"])
@pytest.mark.parametrize("world_size", range(1, 25))
def test_every_chosen_row_is_heard_whole_and_once_at_any_world_size(clips: Pack, world_size: int, rows):
    chosen = list(range(clips.rows)) if rows is None else rows.tolist()
    ranks = [pieces(batches) for batches in hear(clips, world_size=world_size, rows=rows)]
    for rank, found in enumerate(ranks):
        share = World(rank=rank, world_size=world_size).share(len(chosen))
        assert list(dict.fromkeys(row for row, *_ in found)) == chosen[share.start : share.stop], f"{rank = }"
    heard = [one for rank in ranks for one in rank]
    keys, _ = clips.take(range(clips.rows))
    for row in chosen:
        windows = [one for one in heard if one[0] == row]
        assert {key for _, key, _, _ in windows} == {keys[row]}
        assert all(len(sound) <= WINDOW for _, _, sound, _ in windows)
        np.testing.assert_array_equal(np.concatenate([sound for _, _, sound, _ in windows]), stored(clips, row))
        assert sum(weight for *_, weight in windows) == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 5, 24])
def test_readers_hear_the_same(clips: Pack, pools, world_size: int):
    here, there = (hear(clips, world_size=world_size, rows=ROWS, readers=readers) for readers in (None, pools(2)))
    for mine, theirs in zip(here, there, strict=True):
        assert [batch.row for batch in mine] == [batch.row for batch in theirs]
        for left, right in zip(mine, theirs, strict=True):
            assert all(
                torch.equal(getattr(left, n), getattr(right, n)) for n in ("waveform", "label", "length", "weight")
            )


@pytest.mark.slow
@pytest.mark.parametrize("readers", [0, 2])
def test_bad_rows_are_counted_where_they_are(tmp_path, pools, readers: int):
    broken = make_clips(tmp_path, split="valid", lengths=LENGTHS)
    bad = (4, 8, 13)
    for row in bad:
        number, part, at = broken.find(row)
        with Path(str(broken.folder), broken.shards[number].name).open("r+b") as tar:
            tar.seek(int(part.places["offset"][at]) + 44)
            tar.write(b"\x5a")
    for world_size in (1, 3, 19, 24):
        ranks = hear(broken, world_size=world_size, on_bad_row="mask", readers=pools(readers))
        batches = [batch for rank in ranks for batch in rank]
        heard = [one for rank in ranks for one in pieces(rank)]
        assert {row for row, _, _, weight in heard if weight == 0} == set(bad)
        assert all(not sound.any() for row, _, sound, _ in heard if row in bad)
        assert sum(weight for *_, weight in heard) == pytest.approx(len(LENGTHS) - len(bad))
        assert {one.key for batch in batches for one in batch.masked} == set(broken.take(bad)[0])
        merged = [merge_rank(rank, number, world_size) for number, rank in enumerate(ranks)]
        assert torch.cat(merged).isnan().flatten().nonzero().flatten().tolist() == list(bad)


def merge_rank(batches: list[Batch], rank: int, world_size: int) -> torch.Tensor:
    """Merge an answer that is each window's row number."""
    rows = [row for batch in batches for row in batch.row]
    weights = torch.cat([batch.weight for batch in batches]) if batches else torch.zeros(0)
    share = World(rank=rank, world_size=world_size).share(len(LENGTHS))
    return merge_windows(torch.tensor(rows)[:, None], rows=rows, weights=weights, share=share)


@pytest.mark.parametrize("rows", [[3, 4, 5, 6], [4, 5, 6, 7], [4, 6, 6]], ids=str)
def test_rows_of_another_share_and_rows_left_out_are_no_evaluation(rows):
    with pytest.raises(DataError, match=r"evaluation counted \d rows of 3, or others: report this"):
        merge_windows(torch.ones(len(rows), 1), rows=rows, weights=torch.ones(len(rows)), share=range(4, 7))


def test_a_row_that_is_counted_twice_is_no_evaluation():
    with pytest.raises(DataError, match=r"evaluation counted row 5 2 times: report this"):
        merge_windows(torch.ones(4, 1), rows=[4, 5, 5, 6], weights=torch.ones(4), share=range(4, 7))


@pytest.mark.parametrize("views", [1, 2, 3, 7])
@pytest.mark.parametrize("world_size", [1, 2, 3, 24])
def test_views_are_spread_evenly_over_each_row_and_weigh_alike(clips: Pack, world_size: int, views: int):
    ranks = [pieces(batches) for batches in hear(clips, world_size=world_size, views=views)]
    heard = [one for rank in ranks for one in rank]
    for row, length in enumerate(clips.read("length")["length"].to_pylist()):
        windows, sound = [one for one in heard if one[0] == row], stored(clips, row)
        assert sum(weight for *_, weight in windows) == pytest.approx(1)
        if length <= WINDOW:
            assert [len(part) for _, _, part, _ in windows] == [length]
            continue
        starts = [(length - WINDOW) // 2] if views == 1 else np.linspace(0, length - WINDOW, views).astype(int)
        assert len(windows) == views
        for start, (_, _, part, weight) in zip(starts, windows, strict=True):
            np.testing.assert_array_equal(part, sound[start : start + WINDOW])
            assert weight == pytest.approx(1 / views)


def test_a_window_of_no_sample_is_refused(clips: Pack):
    with pytest.raises(UsageError, match=r"window_seconds must give at least one sample, got 1e-05: 30 is usual"):
        hear(clips, window_seconds=1e-5)
