"""Labels: the same ids whether they're held at once or looked up shard by shard, and faults told either way."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from shards.errors import DataError, UsageError
from shards.index import Pack, open_pack
from streaming import labels, pipeline
from streaming.labels import ShardLabels, find_labels
from streaming.loader import Loader
from streaming.world import World

FAMILY = "instrument_family_str"


@pytest.fixture
def pack(data: Path) -> Pack:
    return open_pack(data, split="train")


def batches(pack: Pack, *, readers: int) -> list[tuple[tuple[str, ...], list[int]]]:
    loader = Loader(
        pack, batch_size=8, label=FAMILY, crop_seconds=0.1, world=World(rank=0, world_size=1), readers=readers
    )
    try:
        return [(batch.key, batch.label.tolist()) for batch in loader]
    finally:
        loader.close()


@pytest.mark.parametrize("readers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_batches_are_the_same_however_labels_are_looked_up(pack: Pack, monkeypatch, readers: int):
    expected = batches(pack, readers=0)
    monkeypatch.setattr(labels, "MOST_ROWS", 60)
    assert isinstance(find_labels(pack, FAMILY, classes=pack.classes[FAMILY]), ShardLabels)
    assert batches(pack, readers=readers) == expected


def test_every_rows_id_is_its_own_and_few_shards_are_held(pack: Pack, monkeypatch):
    classes = pack.classes[FAMILY]
    whole = pack.label_ids(FAMILY, classes)
    monkeypatch.setattr(labels, "MOST_ROWS", 0)
    monkeypatch.setattr(labels, "HELD_ROWS", 20)
    loaded, load = [], ShardLabels._load

    def counting(found: ShardLabels, number: int) -> np.ndarray:
        loaded.append(number)
        return load(found, number)

    monkeypatch.setattr(ShardLabels, "_load", counting)
    found = pickle.loads(pickle.dumps(find_labels(pack, FAMILY, classes=classes)))
    assert found.take(np.arange(61)).tolist() == whole.tolist()
    assert found.take(np.array([60, 59, 0, 58])).tolist() == whole[[60, 59, 0, 58]].tolist()
    assert loaded == [*range(7), 0]  # two shards' worth of rows is held: 6 and 5 are, then 6 goes for 0
    for row in (-1, 61):
        with pytest.raises(IndexError):
            found.take(np.array([row]))


@pytest.mark.parametrize("most", [0, 61])
def test_a_label_that_cannot_be_learnt_is_told(pack: Pack, monkeypatch, most: int):
    monkeypatch.setattr(labels, "MOST_ROWS", most)
    with pytest.raises(UsageError, match="label 'nothing' is not a text column of"):
        find_labels(pack, "nothing", classes=())
    with pytest.raises(DataError, match=r"rows of split 'train' have a instrument_family_str that train doesn't know"):
        found = find_labels(pack, FAMILY, classes=pack.classes[FAMILY][1:])
        assert (found.take(np.arange(61)) >= 0).all()


def test_no_shard_is_looked_ahead_for_where_none_is_fetched(pack: Pack, monkeypatch):
    monkeypatch.setattr(pipeline, "next_shards", lambda *_: pytest.fail("all shards were named, for no mirror"))
    assert batches(pack, readers=0)
