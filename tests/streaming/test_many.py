"""Labels with any number of classes a row: lists of names, and vectors of 0 and 1, wherever batches come from."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from shards.errors import DataError, UsageError
from shards.fields import QUALITIES
from shards.index import Pack, open_pack
from streaming import labels
from streaming.balance import Balance
from streaming.evaluation import whole_notes
from streaming.labels import ShardLabels, check_labels, count_classes, find_labels
from streaming.loader import Loader
from streaming.mix import mix_classes
from streaming.select import select_rows
from streaming.world import World
from tests.streaming.made_up import make_pack

NAMES = [["b", "a"], [], ["c"], ["a", "a"], ["c", "b", "a"], ["b"]]
VECTORS = [[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0]]


@pytest.fixture(scope="module")
def pack(data: Path) -> Pack:
    return open_pack(data, split="train")


def stored(pack: Pack) -> dict[str, list[float]]:
    return {row["key"]: [float(flag) for flag in row["qualities"]] for row in pack.read("key", "qualities").to_pylist()}


@pytest.mark.parametrize("readers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("most", [0, 61])
@pytest.mark.parametrize("label", ["qualities", "qualities_str"])
def test_a_batch_holds_its_rows_own_vectors(pack: Pack, monkeypatch, label: str, most: int, readers: int):
    monkeypatch.setattr(labels, "MOST_ROWS", most * 10 // 8 + 1 if most else 0)
    loader = Loader(pack, batch_size=10, label=label, crop_seconds=0.1, world=World(), readers=readers)
    assert isinstance(loader._source.labels[0], ShardLabels) == (not most)
    own, columns = stored(pack), [QUALITIES.index(name) for name in loader.classes]
    assert sorted(columns) == list(range(10))
    seen = 0
    for batch in loader:
        assert batch.label.dtype == torch.float32
        assert batch.label[:, np.argsort(columns)].tolist() == [own[key] for key in batch.key]
        seen += len(batch.key)
    loader.close()
    assert seen >= 61


def test_evaluation_gives_vectors_too(pack: Pack):
    own = stored(pack)
    for batch in whole_notes(pack, label="qualities", classes=QUALITIES, batch_size=7, world=World()):
        assert batch.label.dtype == torch.float32
        assert batch.label.tolist() == [own[key] for key in batch.key]


def test_a_share_of_no_rows_has_a_label_of_no_rows(pack: Pack):
    found = find_labels(pack, "qualities", classes=QUALITIES)
    assert found.take(np.zeros(0, np.int64)).shape == (0, 10)
    shard = ShardLabels(pack, "qualities", classes=QUALITIES)
    assert shard.take(np.zeros(0, np.int64)).shape == (0, 10)


def test_vectors_of_several_packs_go_by_name(tmp_path: Path):
    one, two = (
        make_pack(tmp_path / name, shard_rows=(4, 2), labels={"tags": tags})
        for name, tags in (("a", NAMES), ("b", [["z", *row] for row in NAMES]))
    )
    assert mix_classes([one, two], "tags") == ("a", "b", "c", "z")
    assert one.label_targets("tags", ("c", "a", "b")).tolist() == [
        [0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1],
    ]  # fmt: skip
    assert two.label_targets("tags", ("a", "b", "c", "z"), shard=1).tolist() == [[1, 1, 1, 1], [0, 1, 0, 1]]


def test_truths_are_vectors_too(tmp_path: Path):
    made = make_pack(tmp_path, shard_rows=(6,), labels={"v": [[bool(flag) for flag in row] for row in VECTORS]})
    assert made.label_kind("v") == "flags"
    assert made.label_names("v") == ("0", "1", "2")
    assert made.label_targets("v", ("0", "1", "2")).tolist() == VECTORS


def test_classes_are_counted_as_they_are_chosen_and_repeated(tmp_path: Path):
    made = make_pack(tmp_path, shard_rows=(4, 2), labels={"tags": NAMES, "one": list("aabbbb")})
    assert count_classes(made, "tags", classes=("a", "b", "c")).tolist() == [3, 3, 2]
    assert count_classes(made, "one", classes=("a", "b", "c")).tolist() == [2, 4, 0]
    kept, ends = np.array([0, 2, 5]), np.array([1, 4, 6])  # once, three times, twice
    assert count_classes(made, "tags", classes=("a", "b", "c"), kept=kept).tolist() == [1, 2, 1]
    assert count_classes(made, "tags", classes=("a", "b", "c"), kept=kept, ends=ends).tolist() == [1, 3, 3]
    assert count_classes(made, "one", classes=("a", "b"), kept=kept, ends=ends).tolist() == [1, 5]
    chosen = select_rows(made, seed=0, balance=Balance(label="one", power=1.0))
    assert count_classes(made, "one", classes=("a", "b"), ends=chosen.ends).tolist() == [4, 4]


def test_lists_that_cannot_be_learnt_are_told(tmp_path: Path, monkeypatch):
    made = make_pack(
        tmp_path / "a", shard_rows=(4, 2),
        labels={
            "tags": [*NAMES[:5], None], "flags": [*VECTORS[:4], [0, 2, 0], [0, 1]], "void": [[]] * 6,
            "none": pa.array([[]] * 6, pa.list_(pa.string())), "levels": [[0.5]] * 6,
        },
    )  # fmt: skip
    with pytest.raises(DataError, match=r"1 rows of split 'train' have a tags that train doesn't know \(none at all\)"):
        check_labels(made, "tags", classes=("a", "b", "c"))
    with pytest.raises(DataError, match=r"4 rows of split 'train' have a tags that train doesn't know \('a'\)"):
        check_labels(made, "tags", classes=("b", "c"))
    with pytest.raises(
        DataError, match=r"2 rows of split 'train' have a flags that is no vector of 3 zeros and ones: take another"
    ):
        check_labels(made, "flags", classes=made.label_names("flags"))
    with pytest.raises(UsageError, match=r"label 'none' names no class in any row: take another"):
        made.label_names("none")
    with pytest.raises(UsageError, match=r"label 'levels' is not a column of text .*: take one of tags, none, flags$"):
        made.label_names("levels")
    with pytest.raises(UsageError, match=r"label 'tags' has lists in .*, not one class a row: take another"):
        select_rows(made, seed=0, balance=Balance(label="tags"))
    other = make_pack(tmp_path / "b", shard_rows=(1,), labels={"flags": [[0, 1]], "tags": ["a"]})
    with pytest.raises(UsageError, match=r"label 'flags' has vectors of length 3 in .*a/train and 2 in .*b/train"):
        mix_classes([made, other], "flags")
    with pytest.raises(UsageError, match=r"label 'tags' is lists of text in .* and text in .*: pack one of them anew"):
        mix_classes([made, other], "tags")
    monkeypatch.setattr("shards.classes.MAX_CLASSES", 2)
    for label in ("tags", "flags"):
        with pytest.raises(UsageError, match=rf"label '{label}' must have up to 2 values to be classes"):
            made.label_names(label)
