"""Labels: the same ids whether they're held at once or looked up shard by shard, and faults told either way.

Whole numbers can be labels too, and the pitch moves with the note.
"""

import pickle
from pathlib import Path

import numpy as np
import pytest

from shards.errors import DataError, UsageError
from shards.index import Pack, open_pack
from streaming import labels, pipeline
from streaming.augment import Augment
from streaming.balance import Balance
from streaming.evaluation import whole_notes
from streaming.labels import ShardLabels, find_labels, move_pitches
from streaming.loader import Loader
from streaming.mix import mix_classes
from streaming.select import select_rows
from streaming.world import World
from tests.streaming.made_up import make_pack

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
    with pytest.raises(UsageError, match="label 'nothing' is not a column of text or whole numbers of"):
        find_labels(pack, "nothing", classes=())
    with pytest.raises(DataError, match=r"rows of split 'train' have a instrument_family_str that train doesn't know"):
        found = find_labels(pack, FAMILY, classes=pack.classes[FAMILY][1:])
        assert (found.take(np.arange(61)) >= 0).all()


def test_no_shard_is_looked_ahead_for_where_none_is_fetched(pack: Pack, monkeypatch):
    monkeypatch.setattr(pipeline, "next_shards", lambda *_: pytest.fail("all shards were named, for no mirror"))
    assert batches(pack, readers=0)


MIDI = tuple(map(str, range(128)))
WHOLE = Augment(pitch_semitones=3, whole_semitones=True, speed=1.1, random_start=True)


@pytest.mark.parametrize("readers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("most", [0, 61])
def test_the_pitch_moves_with_the_note(pack: Pack, monkeypatch, readers: int, most: int):
    monkeypatch.setattr(labels, "MOST_ROWS", most)
    loader = Loader(pack, batch_size=20, label="pitch", crop_seconds=0.2, augment=WHOLE, readers=readers)
    assert loader.classes == MIDI
    stored = dict(zip(pack.read("key")["key"].to_pylist(), pack.read("pitch")["pitch"].to_pylist(), strict=True))
    moves = []
    for batch in loader:
        moves += [label - stored[key] for key, label in zip(batch.key, batch.label.tolist(), strict=True)]
        assert batch.semitones.round().tolist() == moves[-20:]
        assert (batch.semitones - batch.semitones.round()).abs().max() < 0.05
    loader.close()
    assert set(moves) == {-3, -2, -1, 0, 1, 2, 3}


def test_a_pitch_stays_in_midis_range():
    moved = move_pitches(np.array([0, 1, 60, 60, 127]), np.array([-3.0, 0.6, -0.4, 2.51, 1.0], np.float32))
    assert moved.tolist() == [0, 2, 60, 63, 127]
    assert moved.dtype == np.int64


def test_only_the_pitch_moves(pack: Pack):
    for label in ("velocity", "instrument", FAMILY):
        moved, still = (
            next(iter(Loader(pack, batch_size=30, label=label, crop_seconds=0.2, augment=augment, seed=1)))
            for augment in (WHOLE, None)
        )
        assert moved.label.tolist() == still.label.tolist()
        assert moved.semitones.any()


def test_whole_numbers_are_classes_in_numeric_order(tmp_path: Path):
    string = [-1, 10, 9, 100, 9, -1]
    made = make_pack(tmp_path, shard_rows=(4, 2), labels={"string": string, "level": [0.5] * 6, "name": list("abcabc")})
    classes = mix_classes([made], "string")
    assert classes == made.label_names("string") == ("-1", "9", "10", "100")
    assert [int(classes[at]) for at in made.label_ids("string", classes)] == string
    assert [int(classes[at]) for at in made.label_ids("string", classes, shard=1)] == string[4:]
    assert mix_classes([made], "name") == ("a", "b", "c")
    with pytest.raises(UsageError, match=r"label 'level' is not a column of .*: take one of name, string$"):
        mix_classes([made], "level")
    with pytest.raises(UsageError, match=r"label 'offset' is not a column of text or whole numbers"):
        mix_classes([made], "offset")
    with pytest.raises(
        DataError, match=r"2 rows of split 'train' have a string that train doesn't know \('10', '100'\)"
    ):
        made.label_ids("string", ("-1", "9"))


def test_whole_numbers_that_are_missing_or_too_many_are_told(tmp_path: Path, monkeypatch):
    made = make_pack(tmp_path, shard_rows=(4,), labels={"string": [1, None, 2, 3], "name": list("abcd")})
    assert made.label_names("string") == ("1", "2", "3")
    with pytest.raises(
        DataError, match=r"1 rows of split 'train' have a string that train doesn't know \(none at all\)"
    ):
        made.label_ids("string", made.label_names("string"))
    monkeypatch.setattr("shards.classes.MAX_CLASSES", 2)
    with pytest.raises(UsageError, match=r"label 'string' must have up to 2 values to be classes"):
        made.label_names("string")


def test_packs_agree_on_what_a_label_is(tmp_path: Path, pack: Pack):
    text = make_pack(tmp_path, shard_rows=(2,), labels={"pitch": ["low", "high"]})
    assert mix_classes([text], "pitch") == ("high", "low"), "text is text, whatever it's called"
    with pytest.raises(UsageError, match=r"label 'pitch' is text in .* and whole numbers in .*: pack one of them anew"):
        mix_classes([text, pack], "pitch")
    with pytest.raises(UsageError, match=r"classes of pitch must be MIDI's 0 to 127, got 100 names: leave classes out"):
        Loader(pack, batch_size=2, label="pitch", crop_seconds=0.1, classes=MIDI[:100])


def test_whole_numbers_can_be_balanced(pack: Pack):
    pitches = pack.read("pitch")["pitch"].to_numpy()
    chosen = select_rows(pack, seed=0, balance=Balance(label="pitch", power=1.0))
    assert chosen.rows == 2 * len(set(pitches)), "of 61 rows the first 21 pitches stand twice"


def test_evaluation_keeps_the_pitch(data: Path):
    valid = open_pack(data, split="valid")
    batches = list(whole_notes(valid, label="pitch", classes=MIDI, batch_size=5, world=World()))
    assert [label for batch in batches for label in batch.label.tolist()] == valid.read("pitch")["pitch"].to_pylist()
    assert not any(batch.semitones.any() for batch in batches)
