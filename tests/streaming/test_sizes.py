"""The same run at any size: world size, readers, prefetch and start change no row, no place, no sound."""

from collections import Counter

import pytest

from streaming import readers as module
from streaming.augment import Augment
from streaming.world import World
from tests.streaming.sequences import BATCH, CASES, Case, handed_out, make, take

STEPS = 6
HARD = (1, 2, 5, 7, 11, 23, 24)  # those that share a batch of 24 unevenly among them


@pytest.fixture(scope="module")
def wholes(tiny):
    """What one rank that reads by itself hands out, for each case."""
    return {name: handed_out(tiny, case, world_size=1, steps=STEPS) for name, case in CASES.items()}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("world_size", range(1, 25))
def test_no_world_size_changes_a_row_its_place_or_its_sound(tiny, wholes, name: str, world_size: int):
    start = world_size % 4
    found = handed_out(tiny, CASES[name], world_size=world_size, steps=STEPS - start, cursor=BATCH * start)
    assert found == wholes[name][start:]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("readers", [1, 2, 5])
def test_no_readers_and_no_prefetch_change_a_row_its_place_or_its_sound(
    tiny, wholes, pools, monkeypatch, name: str, readers: int
):
    for world_size, start, prefetch in ((1, 0, 16), (2, 3, 3), (5, 1, 3)):
        monkeypatch.setattr(module, "MOST_SLOTS", prefetch)
        found = handed_out(
            tiny, CASES[name], world_size=world_size, steps=STEPS - start, cursor=BATCH * start, readers=pools(readers)
        )
        assert found == wholes[name][start:], f"{world_size = } {start = } {prefetch = }"


@pytest.mark.slow
@pytest.mark.parametrize("world_size", HARD)
def test_hard_world_sizes_with_readers_of_each_number(tiny, wholes, pools, monkeypatch, world_size: int):
    monkeypatch.setattr(module, "MOST_SLOTS", 3)
    case = "mix, balance, windows"
    readers = (0, 1, 2, 5)[world_size % 4]
    found = handed_out(tiny, CASES[case], world_size=world_size, steps=3, cursor=3 * BATCH, readers=pools(readers))
    assert found == wholes[case][3:]


def test_cases_are_what_they_are_called(tiny, wholes):
    keys = {name: [row[0] for step in steps for row in step] for name, steps in wholes.items()}
    assert len({tuple(one) for one in keys.values()}) == len(CASES), "each an order of its own"
    everything = tiny[0].read("key")["key"].to_pylist()
    assert sorted(keys["all rows"][:61]) == sorted(everything)
    assert set(keys["where"]) < set(everything)
    assert max(Counter(keys["balance"]).values()) > max(Counter(keys["where"]).values()), "rows are repeated"
    uneven = handed_out(tiny, Case(options={"where": CASES["balance"].options["where"]}), world_size=1, steps=STEPS)
    counts = [Counter(row[2] for step in steps for row in step).values() for steps in (uneven, wholes["balance"])]
    assert max(counts[0]) / min(counts[0]) > 1.5 > 1.15 > max(counts[1]) / min(counts[1])


def test_each_repeat_of_a_row_is_augmented_on_its_own(tiny):
    balanced = Case(options=CASES["balance"].options)
    loader = make(tiny, balanced, augment=Augment(pitch_semitones=3, random_start=True))
    span = loader.order.span
    rows = [row for step in take(loader, -(-span // BATCH)) for row in step][:span]
    sounds = {}
    for key, sound, *_ in rows:
        sounds.setdefault(key, []).append(sound)
    repeated = [of for of in sounds.values() if len(of) > 1]
    assert len(repeated) > 5
    assert all(len(set(of)) == len(of) for of in repeated)


@pytest.mark.parametrize(("limit", "batch_size"), [(1, 1), (1, 24), (5, 24), (5, 3), (23, 24), (24, 24), (25, 24)])
def test_all_ranks_take_as_many_steps_however_few_rows_and_shards_there_are(tiny, limit: int, batch_size: int):
    case = Case(options={"limit": limit})
    for world_size in {1, 2, 3, batch_size} - set(range(batch_size + 1, 25)):
        counts = []
        for rank in range(world_size):
            loader = make(tiny, case, batch_size=batch_size, world=World(rank=rank, world_size=world_size))
            told, taken = [], []
            for _ in range(3):
                told.append(len(loader))
                taken.append(sum(1 for _ in loader))
            assert taken == told
            counts.append((taken, loader.cursor))
        assert len(set(map(str, counts))) == 1
        assert min(counts[0][0]) >= 1


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("readers", [0, 1, 5])
def test_one_row_feeds_24_ranks(lone, pools, monkeypatch, readers: int):
    monkeypatch.setattr(module, "MOST_SLOTS", 3)
    whole = handed_out([lone], Case(), world_size=1, steps=3)
    assert {row[0] for step in whole for row in step} == set(lone.read("key")["key"].to_pylist())
    assert handed_out([lone], Case(), world_size=24, steps=3, readers=pools(readers)) == whole
    assert len({row[1] for step in whole for row in step}) > 10, "each of its epochs is augmented anew"
