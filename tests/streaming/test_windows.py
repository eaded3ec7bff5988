"""A disk's budget: what is open fits it, what is needed is told before, and the shuffle stays good."""

from collections.abc import Iterator
from itertools import islice, takewhile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.bijection import permute
from shards.errors import UsageError
from streaming.ahead import upcoming
from streaming.balance import Balance
from streaming.mix import make_order
from streaming.order import next_shards
from streaming.plan import Plan, make_plan
from streaming.windows import Reach, Sizes, derive_reach, find_reach, with_reach, working_bytes
from tests.streaming.made_up import BYTES, make_pack

SHARDS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 50)), min_size=4, max_size=30).filter(
    lambda shards: sum(rows for rows, _ in shards) > 20
)
PLANS = [(1, None), (1, 16), (4, None), (4, 8), (8, 5)]


def open_shards(plan: Plan, position: int) -> set[int]:
    """Tell which shards the windows at `position` of each lane lie in, by going through all their rows."""
    found = set()
    for lane in range(plan.lanes):
        epoch, place = divmod(position, plan.length)
        _, (start,), (size,) = plan.windows(np.array([lane]), np.array([place]))
        positions = epoch * plan.length + np.arange(start, start + size)
        rows, _ = plan.find(np.full(size, lane), positions)
        found |= set((np.searchsorted(plan.first_rows, rows, side="right") - 1).tolist())
    return found


@given(SHARDS, st.floats(0.3, 0.95), st.sampled_from([1, 6, 8, 64]), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_what_is_open_fits_the_budget(shards, share, batch_size, seed):
    rows, sizes = [rows for rows, _ in shards], [rows * each + 7 for rows, each in shards]
    budget = int(share * sum(sizes))
    try:
        reach = derive_reach([Sizes(shard_bytes=sizes, rows=rows)], budget_bytes=budget, batch_size=batch_size)
    except UsageError:
        assert budget < 4 * max(sizes) + 2 * max(size / n for size, n in zip(sizes, rows, strict=True) if n)
        return
    assert batch_size % reach.lanes == 0
    plan = make_plan(rows, seed=seed, lanes=reach.lanes, window=reach.window)
    for position in range(0, 2 * plan.length, max(1, plan.length // 7)):
        assert sum(sizes[shard] for shard in open_shards(plan, position)) <= budget


def test_a_pack_that_fits_is_shuffled_whole_and_one_that_does_not_uses_the_budget():
    sizes = Sizes(shard_bytes=[100] * 300, rows=[10] * 300)
    assert derive_reach([sizes], budget_bytes=30_000, batch_size=256) == Reach()
    reach = derive_reach([sizes], budget_bytes=29_999, batch_size=256)
    assert (reach.lanes, str(reach)) == (8, f"rows are shuffled in 8 windows at a time of {reach.window} rows each")
    assert 0.8 < reach.lanes * (reach.window or 0) * 10 / 29_999 < 1
    assert derive_reach([sizes], budget_bytes=20_000, batch_size=101).lanes == 1
    assert derive_reach([sizes, sizes], budget_bytes=59_999, batch_size=256).window == reach.window
    with pytest.raises(UsageError, match=r"budget of 3e-07 GB is too small .* at least 4\.2e-07 GB, or pack smaller"):
        derive_reach([sizes], budget_bytes=300, batch_size=256)


def test_the_fullest_shards_may_all_be_open_together():
    sizes = Sizes(shard_bytes=[10] * 100 + [1000] * 100, rows=[10] * 200)
    reach = derive_reach([sizes], budget_bytes=60_000, batch_size=8)
    assert (reach.lanes + 1) * (reach.window or 0) * 100 + 2 * (reach.lanes + 1) * 1000 <= 60_000


@pytest.mark.parametrize(("lanes", "window"), PLANS)
@pytest.mark.parametrize("cursor", [0, 24, 216])
def test_every_shard_is_announced_before_its_rows(lanes, window, cursor):
    plan = make_plan([7, 0, 1, 20, 13, 0, 9, 30], seed=5, lanes=lanes, window=window)
    needs = upcoming(plan, cursor)
    seen, held = [], None
    for at in range(cursor, cursor + 24 * 12, 24):
        due, held = split_at(needs, held, at + 24)
        seen += due
        rows, _ = plan.slots(at, batch_size=24, slots=range(24))
        for shard in set((np.searchsorted(plan.first_rows, rows, side="right") - 1).tolist()):
            assert shard in {number for _, number in seen}
    assert [at for at, _ in seen] == sorted(at for at, _ in seen)
    assert all(plan.shard_rows[number] for _, number in seen)


def split_at(needs: Iterator, held, cursor: int):
    found = [held] if held is not None and held[0] < cursor else []
    if held is not None and held[0] >= cursor:
        return [], held
    last = None
    for need in needs:
        if need[0] >= cursor:
            last = need
            break
        found.append(need)
    return found, last


@pytest.mark.parametrize(("lanes", "window"), [(1, 16), (4, 8), (8, 5), (4, None)])
def test_what_is_announced_is_just_the_open_windows_then_those_after(lanes, window):
    plan = make_plan([7, 0, 1, 20, 13, 0, 9, 30], seed=5, lanes=lanes, window=window)
    for position in (0, 3, 9, 18, 21, 44):
        cursor = position * lanes
        now = takewhile(lambda need, cursor=cursor: need[0] == cursor, upcoming(plan, cursor))
        assert {shard for _, shard in now} == open_shards(plan, position)


def test_a_global_order_names_each_shard_once_in_the_order_of_its_first_row():
    plan = make_plan([3, 0, 40, 1, 9], seed=1)
    named = list(upcoming(plan, 20))
    assert sorted(shard for _, shard in named) == [0, 2, 3, 4]
    rows, _ = plan.slots(20, batch_size=200, slots=range(200))
    shards = (np.searchsorted(plan.first_rows, rows, side="right") - 1).tolist()
    assert [(20 + shards.index(shard), shard) for _, shard in named] == named == sorted(named)


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_mix_announces_each_packs_shards_in_one_order(tmp_path: Path, lanes: int):
    packs = [make_pack(tmp_path / n, shard_rows=[6] * 9, labels={"family": ["x"] * 54}) for n in ("a", "b")]
    order = with_reach(make_order(packs, seed=1, weights=[3, 1]), Reach(lanes=lanes, window=5))
    for cursor in (0, 3, 50, 299):
        needs = list(islice(order.upcoming(cursor), 60))
        assert [need.cursor for need in needs] == sorted(need.cursor for need in needs)
        assert {need.pack for need in needs} == {0, 1}
        for at in range(cursor, needs[-1].cursor - 10, 10):
            found, due = order.slots(at, batch_size=10, slots=range(10)), [n for n in needs if n.cursor < at + 10]
            assert set(zip(found.pack.tolist(), (found.row // 6).tolist(), strict=True)) <= {
                (need.pack, need.shard) for need in due
            }
        expected = next_shards(order, cursor, most=60)
        assert [len(set(shards)) for shards in expected] == [len(shards) for shards in expected]
        assert expected[0][0] == next(need.shard for need in needs if need.pack == 0)


def test_an_order_is_fitted_to_a_disk(tmp_path: Path):
    packs = [make_pack(tmp_path / n, shard_rows=[6] * 50, labels={"family": ["x"] * 300}) for n in ("a", "b")]
    order = make_order(packs, seed=1, limit=200)
    total = sum(working_bytes(order, packs))
    assert total == 600 * BYTES
    assert all(
        plan.window is None
        for plan in with_reach(order, find_reach(order, packs, budget_bytes=total, batch_size=8)).plans
    )
    fitted = with_reach(order, find_reach(order, packs, budget_bytes=total * 9 // 10, batch_size=8))
    assert len({plan.window for plan in fitted.plans}) == 1
    assert total // 2 < sum(working_bytes(fitted, packs)) <= total * 9 // 10
    assert fitted.fingerprint == order.fingerprint


def mix_distance(rows: np.ndarray, *, classes: np.ndarray, count: int) -> float:
    """Return the mean total variation between batches' class mixes and that of all rows; rows (batches, batch_size)."""
    mixes = np.stack([np.bincount(classes[batch], minlength=count) / len(batch) for batch in rows])
    return float(np.abs(mixes - np.bincount(classes, minlength=count) / len(classes)).sum(1).mean() / 2)


@pytest.mark.parametrize(("lanes", "window"), [(1, None), (8, None), (8, 1000), (1, 8000)])
def test_class_sorted_shards_are_mixed_like_independent_draws(lanes, window):
    """8,000 open rows lie in 400 shards of one class each: six times the batch's rows."""
    count, batch_size, shards = 11, 64, [20] * 1100
    classes = np.repeat(np.arange(count), 2000)
    plan = make_plan(shards, seed=6, lanes=lanes, window=window)
    rows = [plan.slots(at, batch_size=batch_size, slots=range(batch_size))[0] for at in range(0, 44_000, batch_size)]
    draws = np.random.Generator(np.random.Philox(1)).integers(0, len(classes), (4000, batch_size))
    ours = mix_distance(np.stack(rows), classes=classes, count=count)
    assert abs(ours / mix_distance(draws, classes=classes, count=count) - 1) < 0.1


@pytest.mark.parametrize(("lanes", "window"), [(1, 64), (1, 700), (4, 100), (8, 16)])
def test_narrow_windows_mix_well_what_was_shuffled_when_it_was_packed(lanes, window):
    """Rows that lie in a keyed order, as `shards pack` lays them, need no wide window."""
    count, batch_size, rows = 11, 64, 22_000
    classes = np.repeat(np.arange(count), rows // count)[permute(np.arange(rows), rows, 0, "pack")]
    plan = make_plan([20] * (rows // 20), seed=6, lanes=lanes, window=window)
    taken = [plan.slots(at, batch_size=batch_size, slots=range(batch_size))[0] for at in range(0, 2 * rows, batch_size)]
    assert within_a_tenth_of_draws(np.stack(taken), classes=classes, shares=np.full(count, 1 / count))


@pytest.mark.parametrize("power", [0.5, 1.0])
@pytest.mark.parametrize("is_sorted", [True, False])
def test_balanced_batches_are_mixed_like_independent_draws_too(tmp_path, power, is_sorted):
    """Shards of one class each need the default order; a pack that was shuffled when it was packed may have windows."""
    rows = {"bass": 4000, "flute": 1000, "organ": 500, "vocal": 100}
    classes = np.repeat(np.arange(4), list(rows.values()))
    if not is_sorted:
        classes = classes[permute(np.arange(len(classes)), len(classes), 0, "pack")]
    pack = make_pack(tmp_path, shard_rows=[20] * 280, labels={"family": [list(rows)[i] for i in classes]})
    reach = Reach() if is_sorted else Reach(lanes=8, window=1000)
    order = with_reach(make_order([pack], seed=6, balance=Balance(label="family", power=power)), reach)
    taken = [order.slots(at, batch_size=64, slots=range(64)).row for at in range(0, 4 * order.span, 64)]
    places = np.array([count ** (1 - power) * 4000**power for count in rows.values()])
    assert within_a_tenth_of_draws(np.stack(taken), classes=classes, shares=places / places.sum())


def within_a_tenth_of_draws(rows: np.ndarray, *, classes: np.ndarray, shares: np.ndarray) -> bool:
    """Tell whether batches' class mixes, (batches, batch_size) rows, are as far from `shares` as independent draws'."""
    generator = np.random.Generator(np.random.Philox(1))
    draws = generator.choice(len(shares), (4000, rows.shape[1]), p=shares)
    ours, theirs = (
        np.mean([np.abs(np.bincount(one, minlength=len(shares)) / len(one) - shares).sum() / 2 for one in of])
        for of in (classes[rows], draws)
    )
    return abs(ours / theirs - 1) < 0.1
