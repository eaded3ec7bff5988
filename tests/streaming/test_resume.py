"""Restore at every step, as google/grain tests it: on any other group of ranks, the rest is the same."""

import json
from itertools import pairwise

import pytest

from streaming import readers as module
from streaming.world import World
from tests.streaming.sequences import BATCH, CASES, endless, join, make, rows_of, take

STEPS = 8  # over two borders of epochs
SIZES = (3, 1, 7, 2, 24, 5, 11, 23, 1)  # before and after step k: the k-th and the next one


def states(packs, case, *, world_size: int, **options) -> tuple[list[dict], list[list]]:
    """Return the state before each step and after the last, and the steps; all ranks tell the same states."""
    ranks = [make(packs, case, world=World(rank=rank, world_size=world_size), **options) for rank in range(world_size)]
    told, found = [], []
    for loader in ranks:
        mine, steps = [json.dumps(loader.state_dict())], []
        for batch, _ in zip(endless(loader), range(STEPS), strict=False):
            steps.append(rows_of(batch))
            mine.append(json.dumps(loader.state_dict()))  # while the next ones are being made
        loader._leave()
        told.append(mine)
        found.append(steps)
    assert all(mine == told[0] for mine in told)
    return [json.loads(state) for state in told[0]], join(found)


def rest_after(packs, case, state: dict, *, world_size: int, steps: int, **options) -> list[list]:
    """Load a state into fresh loaders, and take the rest."""
    ranks = [make(packs, case, world=World(rank=rank, world_size=world_size), **options) for rank in range(world_size)]
    for loader in ranks:
        loader.load_state_dict(state)
        assert loader.state_dict() == state
    return join([take(loader, steps) for loader in ranks])


@pytest.mark.parametrize("name", CASES)
def test_after_every_step_any_other_group_of_ranks_hands_out_the_rest(tiny, name: str):
    for k, (before, after) in enumerate(pairwise(SIZES)):
        saved, whole = states(tiny, CASES[name], world_size=before)
        assert [state["cursor"] for state in saved] == [BATCH * step for step in range(STEPS + 1)]
        assert rest_after(tiny, CASES[name], saved[k], world_size=after, steps=STEPS - k) == whole[k:], f"{k = }"


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (1, 5), (5, 1), (2, 5)])
def test_after_every_step_any_other_number_of_readers_hands_out_the_rest(tiny, pools, monkeypatch, before, after):
    monkeypatch.setattr(module, "MOST_SLOTS", 4)
    case = CASES["mix, balance, windows"]
    saved, whole = states(tiny, case, world_size=2, readers=pools(before))
    for k, state in enumerate(saved[:-1]):
        world_size = 1 + k % 3
        found = rest_after(tiny, case, state, world_size=world_size, steps=STEPS - k, readers=pools(after))
        assert found == whole[k:], f"{k = } {world_size = }"


def test_one_loader_goes_back_and_forth(tiny):
    loader = make(tiny)
    saved, whole = states(tiny, CASES["all rows"], world_size=1)
    for k in (5, 0, 7, 3, 3):
        loader.load_state_dict(saved[k])
        (found,) = take(loader, 1)
        assert found == whole[k]
    batches = endless(loader)
    next(batches)
    loader.load_state_dict(saved[0])
    assert rows_of(next(batches)) == whole[0], "an iterator that was begun before goes on there"
