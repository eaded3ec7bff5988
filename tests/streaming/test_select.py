"""What is chosen: true of the index, fair, the same everywhere, part of the fingerprint; balance holds exact shares."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import UsageError
from shards.index import Pack, open_pack
from streaming.balance import Balance, class_places, parse_balance
from streaming.order import Order
from streaming.plan import make_plan
from streaming.select import Selection, draw_rows, select_rows
from tests.streaming.made_up import make_pack

SHARDS = [7, 1, 20, 13, 9, 30]
FAMILIES = ["bass"] * 48 + ["organ"] * 20 + ["reed"] * 9 + ["flute"] * 3


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    labels = {"family": FAMILIES, "pitch": list(range(80)), "level": [None, 1.5] * 40}
    return make_pack(tmp_path_factory.mktemp("made"), shard_rows=SHARDS, labels=labels)


def places(selection: Selection) -> list[tuple[int, int]]:
    rows, repeats = selection.find(np.arange(selection.rows))
    return list(zip(rows.tolist(), repeats.tolist(), strict=True))


def test_all_rows_cost_nothing_and_are_the_pack_itself(pack: Pack):
    every = select_rows(pack, seed=0)
    assert every.kept is None
    assert every.ends is None
    assert every.fingerprint == pack.fingerprint
    assert every.shard_rows.tolist() == SHARDS
    assert select_rows(pack, seed=0, where="pitch >= 0", limit=500).fingerprint == pack.fingerprint


IN_ONE = "shard == 'train-000002.tar' or key == 'note-000079'"


@pytest.mark.parametrize("where", [IN_ONE, "pitch < 31", "family in ('reed', 'flute')", "level == null", None])
@pytest.mark.parametrize("limit", [None, 1, 11, 79])
def test_rows_chosen_are_numbered_in_index_order_and_counted_by_shard(pack: Pack, where, limit):
    chosen = select_rows(pack, seed=0, where=where, limit=limit)
    rows = [row for row, repeat in places(chosen) if repeat == 0]
    assert rows == sorted(set(rows))
    assert len(rows) == chosen.rows == min(chosen.rows, limit or 80)
    in_shards = [sum(first <= row < past for row in rows) for first, past in pairwise(pack.starts)]
    assert chosen.shard_rows.tolist() == in_shards


def test_where_is_true_of_the_index(pack: Pack):
    assert [row for row, _ in places(select_rows(pack, seed=0, where="pitch >= 60 and level > 1"))] == [
        *range(61, 80, 2)
    ]
    in_shard = select_rows(pack, seed=0, where="shard == 'train-000002.tar'")
    assert in_shard.shard_rows.tolist() == [0, 0, 20, 0, 0, 0]


def test_a_real_pack_is_chosen_from_by_its_labels(data: Path):
    pack = open_pack(data, split="train")
    chosen = select_rows(pack, seed=0, where="instrument_family_str in ('bass', 'brass') and velocity == 100")
    table = pack.read("instrument_family_str").to_pydict()["instrument_family_str"]
    assert [row for row, _ in places(chosen)] == [i for i, name in enumerate(table) if name in ("bass", "brass")]


def test_a_limit_is_a_fair_draw_of_which_smaller_ones_are_part():
    assert set(draw_rows(50, rows=1000).tolist()) < set(draw_rows(200, rows=1000).tolist())
    counts = np.histogram(draw_rows(2000, rows=20_000), 10, range=(0, 20_000))[0]
    assert (np.abs(counts - 200) < 4 * np.sqrt(200)).all()
    assert draw_rows(6, rows=100).tolist() == [52, 65, 66, 82, 85, 92], "golden: a selection never changes"


def test_the_seed_chooses_no_rows_only_repeats(pack: Pack):
    balance = Balance(label="family", power=0.5)
    ones, others = (select_rows(pack, seed=seed, limit=40, balance=balance) for seed in (1, 2))
    assert ones.kept.tolist() == others.kept.tolist()
    assert ones.rows == others.rows
    assert ones.ends.tolist() != others.ends.tolist()
    again = select_rows(pack, seed=1, limit=40, balance=balance)
    assert again.fingerprint == ones.fingerprint
    assert len({ones.fingerprint, others.fingerprint, select_rows(pack, seed=1, limit=40).fingerprint}) == 3


def test_the_fingerprint_is_of_the_rows_not_of_the_words(pack: Pack):
    told = {select_rows(pack, seed=0, where=where).fingerprint for where in ("pitch < 9", "not (pitch >= 9)")}
    assert len(told) == 1
    assert told != {select_rows(pack, seed=0, where="pitch < 10").fingerprint}


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=9).filter(any), st.sampled_from([0.1, 0.5, 0.75, 1.0]))
def test_places_follow_the_power(counts, power):
    found = class_places(np.array(counts), power=power)
    for count, place in zip(counts, found.tolist(), strict=True):
        assert place >= count
        assert abs(place - count * (max(counts) / max(count, 1)) ** power) <= 0.5 + 1e-6
    if power == 1:
        assert set(found.tolist()) <= {0, max(counts)}


@pytest.mark.parametrize("power", [0.5, 1.0])
@pytest.mark.parametrize("where", [None, "pitch >= 30"])
def test_each_class_has_its_places_and_its_rows_differ_by_one_at_most(pack: Pack, power, where):
    chosen = select_rows(pack, seed=3, where=where, balance=Balance(label="family", power=power))
    seen = places(chosen)
    assert seen == sorted(set(seen))
    repeats = Counter(row for row, _ in seen)
    rows = [row for row in range(80) if where is None or row >= 30]
    assert sorted(repeats) == rows
    counts = Counter(FAMILIES[row] for row in rows)
    for family, count in counts.items():
        times = [repeats[row] for row in rows if FAMILIES[row] == family]
        assert sum(times) == round(count * (max(counts.values()) / count) ** power)
        assert max(times) - min(times) <= 1
    assert all(repeat < repeats[row] for row, repeat in seen)
    assert int(chosen.shard_rows.sum()) == len(seen)


@given(st.integers(0, 2**40), st.integers(1, 50), st.one_of(st.none(), st.integers(1, 60)))
@settings(max_examples=25, deadline=None)
def test_every_place_exactly_once_an_epoch(pack: Pack, seed, batch_size, window):
    chosen = select_rows(pack, seed=seed, where="pitch >= 10", balance=Balance(label="family"))
    order = Order(
        plans=(make_plan(chosen.shard_rows, seed=seed, window=window),), selections=(chosen,), weights=(1,)
    )  # fmt: skip
    seen = []
    for cursor in range(0, 2 * chosen.rows, batch_size):
        found = order.slots(cursor, batch_size=batch_size, slots=range(batch_size))
        seen += zip(found.epoch.tolist(), found.row.tolist(), found.repeat.tolist(), strict=True)
    for epoch in (0, 1):
        assert sorted(seen[epoch * chosen.rows :][: chosen.rows]) == [(epoch, *place) for place in places(chosen)]


def test_golden_repeats(pack: Pack):
    chosen = select_rows(pack, seed=7, where="family in ('reed', 'flute')", balance=Balance(label="family"))
    assert [row for row, repeat in places(chosen) if repeat] == [77, 78]


def test_errors_speak(pack: Pack):
    with pytest.raises(UsageError, match=r"where leaves no row of .*'pitch > 900'; `python -m shards show`"):
        select_rows(pack, seed=0, where="pitch > 900")
    with pytest.raises(UsageError, match=r"limit must be at least 1 row, got 0"):
        select_rows(pack, seed=0, limit=0)
    with pytest.raises(UsageError, match=r"label 'level' is not a column of text or whole numbers"):
        select_rows(pack, seed=0, balance=Balance(label="level"))
    for text in ("family=x", "family=", "family=2", "family=0", "family=nan", "family=-1"):
        with pytest.raises(UsageError, match=r"balance must"):
            parse_balance(text)
    assert parse_balance("family") == Balance(label="family", power=0.5)
    assert parse_balance("a=b=0.25") == Balance(label="a=b", power=0.25)
