"""The order: coverage, evenness, independence of world size, resume anywhere."""

import json
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards import linux
from shards.errors import UsageError
from streaming.plan import Plan, make_plan, steps_in
from streaming.world import World

ROOT = Path(__file__).resolve().parents[2]
SHARDS = st.lists(st.integers(1, 9), min_size=1, max_size=8)
PLANS = [(1, None), (1, 16), (4, None), (4, 8), (8, 5)]


def sequence(plan: Plan, *, batch_size: int, steps: int, cursor: int = 0) -> list[tuple[int, int]]:
    found = []
    for step in range(steps):
        rows, epochs = plan.slots(cursor + step * batch_size, batch_size=batch_size, slots=range(batch_size))
        found += zip(rows.tolist(), epochs.tolist(), strict=True)
    return found


@given(SHARDS, st.integers(0, 2**40), st.integers(1, 7), st.one_of(st.none(), st.integers(1, 40)))
def test_every_row_exactly_once_an_epoch(shards, seed, batch_size, window):
    plan = make_plan(shards, seed=seed, window=window)
    seen = sequence(plan, batch_size=batch_size, steps=-(-3 * plan.rows // batch_size))
    for epoch in range(3):
        assert sorted(row for row, e in seen[: 3 * plan.rows] if e == epoch) == list(range(plan.rows))
    assert [e for _, e in seen] == [i // plan.rows for i in range(len(seen))]


@pytest.mark.parametrize(("lanes", "window"), PLANS)
@pytest.mark.parametrize("world_size", range(1, 25))
def test_no_world_size_changes_a_step(lanes, window, world_size):
    plan = make_plan([7, 1, 20, 13, 9, 30], seed=5, lanes=lanes, window=window)
    for step in (0, 1, 3, 4, 17, 100):
        cursor = step * 24
        whole = plan.slots(cursor, batch_size=24, slots=range(24))
        parts = [
            plan.slots(cursor, batch_size=24, slots=World(rank=rank, world_size=world_size).share(24))
            for rank in range(world_size)
        ]
        for i in range(2):
            assert np.concatenate([part[i] for part in parts]).tolist() == whole[i].tolist()
        sizes = [len(rows) for rows, _ in parts]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("lanes", "window"), PLANS)
def test_lanes_and_windows_read_no_row_twice(lanes, window):
    plan = make_plan([7, 1, 20, 13, 9, 30], seed=5, lanes=lanes, window=window)
    seen = sequence(plan, batch_size=24, steps=plan.span * 5 // 24)
    counts = Counter(seen)
    assert max(counts.values()) == 1
    # a lane leaves out rows % lanes rows of an epoch, never more
    by_epoch = Counter(epoch for _, epoch in seen)
    assert all(by_epoch[epoch] == plan.span for epoch in range(3))


@given(SHARDS, st.integers(1, 5), st.integers(0, 50))
@settings(max_examples=50)
def test_resume_anywhere_is_the_same_sequence(shards, batch_size, step):
    plan = make_plan(shards, seed=1)
    whole = sequence(plan, batch_size=batch_size, steps=60)
    assert whole[step * batch_size :] == sequence(
        plan, batch_size=batch_size, steps=60 - step, cursor=step * batch_size
    )


@pytest.mark.parametrize(("lanes", "window"), PLANS)
@pytest.mark.parametrize("readers", [1, 2, 5])
def test_world_size_readers_and_start_give_one_sequence(lanes, window, readers):
    plan = make_plan([7, 1, 20, 13, 9, 30], seed=5, lanes=lanes, window=window)
    whole = sequence(plan, batch_size=24, steps=9)
    for world_size, start in [(1, 0), (5, 1), (7, 4), (11, 8), (23, 2), (24, 3)]:
        found = {}
        for rank in range(world_size):
            slots = World(rank=rank, world_size=world_size).share(24)
            for reader in range(readers):
                for step in range(start + reader, 9, readers):
                    rows, epochs = plan.slots(step * 24, batch_size=24, slots=slots)
                    found[step, rank] = list(zip(rows.tolist(), epochs.tolist(), strict=True))
        assert [row for _, rows in sorted(found.items()) for row in rows] == whole[24 * start :]


def test_a_plan_travels_as_its_few_numbers():
    plan = make_plan([5] * 1000, seed=3, lanes=2, window=50)
    before = sequence(plan, batch_size=10, steps=5)
    assert plan.axis(0).order.shape == (1000,)
    carried = pickle.dumps(plan)
    assert len(carried) < 8 * 1000 + 500, "what was worked out stays here"
    assert sequence(pickle.loads(carried), batch_size=10, steps=5) == before


def test_packs_of_a_mix_have_orders_of_their_own():
    first, second = (make_plan([50], seed=3, pack=pack) for pack in (0, 1))
    assert sequence(first, batch_size=50, steps=1) == sequence(make_plan([50], seed=3), batch_size=50, steps=1)
    assert sequence(first, batch_size=50, steps=1) != sequence(second, batch_size=50, steps=1)
    assert [row for row, _ in sequence(second, batch_size=3, steps=1)] == [43, 20, 40], "golden"


SCALE = """
import json, time
from pathlib import Path
def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1000
import numpy as np
from streaming.plan import make_plan
from streaming.ahead import upcoming
from streaming.world import find_world
before, started = peak(), time.perf_counter()
find_world()
plan = make_plan(np.full(10**6, 1000), seed=1, lanes=8, window=10**6)
rows, _ = plan.slots(8 * 10**8, batch_size=256, slots=range(256))
next(upcoming(plan, 8 * 10**8))
print(json.dumps({"rows": len(set(rows.tolist())), "seconds": time.perf_counter() - started, "mb": peak() - before}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not linux.ON, reason="memory is asked of /proc")
def test_a_billion_rows_in_a_million_shards_start_in_seconds_and_little_memory():
    said = subprocess.run([sys.executable, "-c", SCALE], cwd=ROOT, capture_output=True, check=True).stdout
    told = json.loads(said)
    assert told["rows"] == 256
    assert told["seconds"] < 10
    assert told["mb"] < 200, "of the 300 that a rank may have before its first batch"


def test_epochs_and_seeds_differ():
    plan = make_plan([50], seed=0)
    first, second = (plan.slots(50 * e, batch_size=50, slots=range(50))[0].tolist() for e in (0, 1))
    other = make_plan([50], seed=1).slots(0, batch_size=50, slots=range(50))[0].tolist()
    assert first != second
    assert first != other


def test_windows_need_few_shards_at_a_time():
    plan = make_plan([10] * 20, seed=3, window=20)
    rows = [row for row, _ in sequence(plan, batch_size=10, steps=20)]
    assert sorted(rows) == list(range(200))
    for step in range(20):
        shards = {row // 10 for row in rows[step * 10 : step * 10 + 10]}
        assert len(shards) <= 4, "a window of 20 rows lies in 2 shards of 10, or in 3 cut at its ends"


@given(st.integers(1, 200), st.integers(1, 300), st.integers(0, 5))
def test_an_epoch_has_the_steps_whose_first_row_lies_in_it(rows, batch_size, epoch):
    plan = make_plan([rows], seed=0)
    starts = [plan.epoch(cursor) for cursor in range(0, (epoch + 1) * rows, batch_size)]
    assert steps_in(plan, epoch=epoch, batch_size=batch_size) == starts.count(epoch)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_batch_larger_than_the_epoch_goes_round(rows):
    plan = make_plan([rows], seed=0)
    seen, epochs = plan.slots(0, batch_size=8, slots=range(8))
    assert epochs.tolist() == [i // rows for i in range(8)]
    assert set(seen.tolist()) == set(range(rows))


def test_errors_speak():
    with pytest.raises(UsageError, match=r"lanes must lie in 1\.\.10 \(the rows\), got 11"):
        make_plan([10], seed=0, lanes=11)
    with pytest.raises(UsageError, match=r"batch_size must be a positive multiple of lanes \(4\), got 6"):
        make_plan([10], seed=0, lanes=4).check_batch(batch_size=6, cursor=0)
    with pytest.raises(UsageError, match=r"the data holds no row"):
        make_plan([0, 0], seed=0)
    with pytest.raises(ValueError, match=r"rank must lie in \[0, world_size\), got 2 of 2"):
        World(rank=2, world_size=2)
