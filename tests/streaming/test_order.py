"""Mixed packs: each its share, its own epochs, every row once in them; one sequence at any size, from any start."""

import functools
import itertools
import json
import pickle
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.door import run_door
from shards.errors import DataError, UsageError
from shards.index import Pack
from streaming.__main__ import VERBS
from streaming.balance import Balance
from streaming.mix import make_order, mix_classes, parse_data
from streaming.order import Order, Slots, make_table
from streaming.plan import steps_in
from streaming.world import World, find_world
from tests.streaming.made_up import make_pack

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = [{}, {"window": 5}, {"lanes": 3, "window": 4}, {"balance": Balance(label="family")}, {"where": "pitch != 3"}]


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pack, ...]:
    found = []
    for name, shards in (("a", [7, 1, 20]), ("b", [5, 6]), ("c", [4] * 10)):
        rows = sum(shards)
        family = ["bass" if i % 4 else f"only {name}" for i in range(rows)]
        labels = {"family": family, "pitch": list(range(rows)), name: ["x"] * rows}
        found.append(make_pack(tmp_path_factory.mktemp("made") / name, shard_rows=shards, labels=labels))
    return tuple(found)


def flat(found: Slots) -> list[tuple[int, int, int, int]]:
    columns = (found.pack, found.row, found.repeat, found.epoch)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def sequence(order: Order, *, count: int, batch_size: int, cursor: int = 0) -> list[tuple[int, int, int, int]]:
    found = []
    for at in range(cursor, cursor + count, batch_size):
        found += flat(order.slots(at, batch_size=batch_size, slots=range(batch_size)))
    return found[:count]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=7))
@settings(deadline=None)
def test_any_first_slots_hold_each_packs_share_to_within_one(weights):
    table, total = make_table(weights).tolist(), sum(weights)
    assert Counter(table) == Counter(dict(enumerate(weights)))
    taken = Counter()
    for slot, pack in enumerate(table, start=1):
        taken[pack] += 1
        assert all(abs(taken[i] - Fraction(slot * weight, total)) < 1 for i, weight in enumerate(weights))


def test_golden_tables():
    assert make_table([7, 3]).tolist() == [0, 0, 1, 0, 0, 1, 0, 0, 0, 1]
    assert make_table([3, 2]).tolist() == [0, 1, 0, 0, 1]
    assert make_table([1, 1, 1]).tolist() == [0, 1, 2]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_pack_alone_has_its_plans_order(packs, options):
    order = make_order(packs[:1], seed=4, weights=[5], **options)
    assert order.weights == (1,)
    numbers, epochs = order.plans[0].slots(36, batch_size=24, slots=range(3, 20))
    found = order.slots(36, batch_size=24, slots=range(3, 20))
    rows, repeats = order.selections[0].find(numbers)
    assert flat(found) == list(zip([0] * 17, rows.tolist(), repeats.tolist(), epochs.tolist(), strict=True))
    assert (order.span, order.fingerprint) == (order.plans[0].span, order.selections[0].fingerprint)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("weights", [[7, 3, 2], [1, 1, 5], [2, 4, 6]])
def test_every_row_of_every_pack_exactly_once_in_each_of_its_epochs(packs, weights, options):
    order = make_order(packs, seed=9, weights=weights, **options)
    seen = sequence(order, count=3 * order.span, batch_size=17)
    for number, (plan, selection) in enumerate(zip(order.plans, order.selections, strict=True)):
        own = [one for one in seen if one[0] == number]
        assert [epoch for *_, epoch in own] == [i // plan.span for i in range(len(own))], "its epochs follow each other"
        rows, repeats = selection.find(np.arange(selection.rows))
        places = set(zip(rows.tolist(), repeats.tolist(), strict=True))
        for epoch in range(len(own) // plan.span):
            of_epoch = [(row, repeat) for _, row, repeat, e in own if e == epoch]
            assert len(set(of_epoch)) == len(of_epoch) == plan.span
            assert set(of_epoch) <= places
            assert len(places) - plan.span < plan.lanes


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_one_sequence_at_any_world_size_readers_batch_and_start(packs, options):
    order = make_order(packs, seed=2, weights=[7, 3, 2], **options)
    whole = sequence(order, count=24 * 7, batch_size=24)
    for batch_size in (1, 5, 7, 48):
        assert sequence(order, count=24 * 7, batch_size=batch_size) == whole
    for world_size in range(1, 25):
        shares = [World(rank=rank, world_size=world_size).share(24) for rank in range(world_size)]
        made = functools.cache(lambda step, rank: flat(order.slots(24 * step, batch_size=24, slots=shares[rank])))  # noqa: B023
        for start, readers in itertools.product(range(7), (1, 2, 5)):
            found = {}
            for rank, reader in itertools.product(range(world_size), range(readers)):
                for step in range(start + reader, 7, readers):  # reader k makes steps k, k + n, ...
                    found[step, rank] = made(step, rank)
            assert [row for _, rows in sorted(found.items()) for row in rows] == whole[24 * start :]


@given(st.integers(1, 80), st.integers(0, 6))
def test_the_runs_epoch_is_the_first_packs_in_slots(packs, batch_size, epoch):
    order = make_order(packs, seed=0, weights=[3, 2, 2])
    assert order.span == -(-28 * 7 // 3)
    starts = [order.epoch(cursor) for cursor in range(0, (epoch + 1) * order.span, batch_size)]
    assert steps_in(order, epoch=epoch, batch_size=batch_size) == starts.count(epoch)
    seen = sequence(order, count=order.span, batch_size=batch_size)
    assert sum(pack == 0 for pack, *_ in seen) in (28, 29)


def test_packs_of_one_size_do_not_go_in_step(packs):
    order = make_order([packs[0], packs[0]], seed=0)
    rows = [[row for pack, row, *_ in sequence(order, count=56, batch_size=8) if pack == number] for number in (0, 1)]
    assert sorted(rows[0]) == sorted(rows[1])
    assert sum(a == b for a, b in zip(*rows, strict=True)) < 6


def test_golden_mix(packs):
    order = make_order(packs, seed=3, weights=[3, 2, 1], balance=Balance(label="family"), window=6)
    assert flat(order.slots(60, batch_size=9, slots=range(9))) == [
        (0, 25, 0, 0), (1, 8, 1, 1), (0, 26, 0, 0), (1, 5, 0, 1), (0, 27, 0, 0),
        (2, 24, 0, 0), (0, 9, 0, 1), (1, 8, 0, 1), (0, 11, 0, 1),
    ]  # fmt: skip


def test_an_order_travels_small_and_is_the_same_there(packs):
    order = make_order(packs, seed=3, weights=[3, 2, 1], lanes=2, window=4)
    before = sequence(order, count=99, batch_size=9)
    carried = pickle.dumps(order)
    assert len(carried) < 3000
    assert sequence(pickle.loads(carried), count=99, batch_size=9) == before


@pytest.mark.slow
def test_hash_seeds_change_nothing(packs, capsys):
    data = ",".join(f"{pack.home.parent}={weight}" for pack, weight in zip(packs, (3, 2, 1), strict=True))
    flags = ["--batch-size=20", "--limit=9", "--balance=family", "--where=family in ('bass', 'only a', 'only b')"]
    command = [sys.executable, "-m", "streaming", "plan", data, *flags, "--lanes=2", "--window=3", "--json"]
    said = [
        subprocess.run(command, cwd=ROOT, env={"PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1] != b""


def test_the_plan_door_tells_packs_and_repeats_where_there_are_some(packs, capsys):
    data = ",".join(f"{pack.home.parent}={weight}" for pack, weight in zip(packs, (7, 3, 2), strict=True))
    flags = ["--batch-size=24", "--seed=5", "--cursor=48", "--steps=2", "--where=pitch < 20", "--json"]
    assert run_door("streaming", VERBS, ["plan", data, *flags, "--balance=family=1", "--world-size=2", "--rank=1"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    order = make_order(
        packs, seed=5, weights=[7, 3, 2], where="pitch < 20", balance=Balance(label="family", power=1.0)
    )  # fmt: skip
    for one, cursor in zip(told, (48, 72), strict=True):
        found = order.slots(cursor, batch_size=24, slots=range(12, 24))
        assert (one["packs"], one["repeats"], one["epochs"]) == (
            found.pack.tolist(), found.repeat.tolist(), found.epoch.tolist(),
        )  # fmt: skip
        assert one["keys"] == [f"note-{row:06d}" for row in found.row]
    assert run_door("streaming", VERBS, ["plan", str(packs[0].home.parent), "--batch-size=4", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out.splitlines()[0])) == {"step", "cursor", "reader", "keys", "epochs"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A", [("A", 1)]),
        ("A=7,B=3", [("A", 7), ("B", 3)]),
        ("/data/nsynth, s3://bucket/x=2", [("/data/nsynth", 1), ("s3://bucket/x", 2)]),
        ("runs/lr=3=1", [("runs/lr=3", 1)]),
        ("by=me/x", [("by=me/x", 1)]),
        ("s3://b/x?region=a&timeout=30", [("s3://b/x?region=a&timeout=30", 1)]),
        ("s3://b/x?timeout=30=4,B", [("s3://b/x?timeout=30", 4), ("B", 1)]),
    ],
)
def test_data_is_places_and_weights(text, found):
    assert list(parse_data(text)) == found


@pytest.mark.parametrize("text", ["", "A,", "=3", "A=0", "A=0.5", "A=-1", "A=", "A=7,A=3", "A=.5"])
def test_data_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match=r"data (must|names)"):
        parse_data(text)


def test_classes_are_those_of_all_packs_by_name(packs):
    assert mix_classes(packs, "family") == ("bass", "only a", "only b", "only c")
    with pytest.raises(
        UsageError,
        match=r"label 'a' is not a column of text .* of .*/b/train, or of lists of them: take one of family, b",
    ):
        mix_classes(packs, "a")


def test_errors_speak(packs, tmp_path):
    with pytest.raises(UsageError, match=r"weights that add up to at most 10,000, got 10,008: round them"):
        make_order(packs[:2], seed=0, weights=[10_007, 1])
    with pytest.raises(UsageError, match=r"batch_size must be positive and cursor not negative, got 0 and 0"):
        make_order(packs, seed=0).check_batch(batch_size=0, cursor=0)
    other = make_pack(tmp_path, shard_rows=[3], labels={"family": ["bass"] * 3}, sample_rate=44_100)
    with pytest.raises(DataError, match=r"sample_rate must be that of .*/a/train, 16000, in every pack, got 44100"):
        make_order([packs[0], other], seed=0)


def test_another_mix_is_another_fingerprint(packs):
    asked = [(packs, [7, 3, 2]), (packs, [7, 2, 3]), (packs[::-1], [7, 3, 2]), (packs[:2], [7, 3])]
    assert len({make_order(given, seed=0, weights=weights).fingerprint for given, weights in asked}) == 4
    same = [make_order(packs, seed=0, weights=[k * 7, k * 3, k * 2]).fingerprint for k in (1, 5)]
    assert same[0] == same[1]


def test_a_world_comes_from_the_environment_or_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert find_world() == World(rank=2, world_size=3)
    for rank in ("3", "x"):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(UsageError, match=rf"RANK must lie in \[0, WORLD_SIZE\), got '{rank}' of '3': set both"):
            find_world()
