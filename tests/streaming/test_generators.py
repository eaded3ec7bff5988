"""No global generator, no hash seed and no way to start readers decides anything, and the loader moves no generator.

The one exception, streaming.adapter, lends them out and puts them back: see test_adapter.py.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from streaming.batch import Batch
from tests.streaming.sequences import BATCH, CASES, endless, make, rows_of, take

ROOT = Path(__file__).resolve().parents[2]
CASE = CASES["mix, balance, windows"]
STEPS = 6
kept: list[str] = []  # of this process, reader or rank: what its generators stood at


def stand() -> str:
    """Tell where the global generators of this process stand."""
    return f"{random.getstate()} {np.random.get_state()} {torch.get_rng_state().tolist()}"


def stir(batch: Batch | None = None) -> Batch | None:
    """Seed the global generators by what no two processes and moments share: a stage."""
    seed = int.from_bytes(os.urandom(4), "big")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return batch


def watch(batch: Batch) -> Batch:
    """See that making this batch has moved no generator since the last one was made here: a stage."""
    if batch.cursor < 2 * BATCH:  # the first that this one of two readers makes
        kept.clear()
    assert not kept or kept[-1] == stand(), "a generator was moved"
    kept.append(stand())
    return batch


def test_global_generators_decide_nothing_in_the_rank(tiny):
    expected = take(make(tiny, CASE), STEPS)
    batches = endless(make(tiny, CASE, stages=[stir]))
    for step in range(STEPS):
        stir()
        assert rows_of(next(batches)) == expected[step]


@pytest.mark.slow
def test_global_generators_decide_nothing_in_readers(tiny, pools):
    expected = take(make(tiny, CASE), STEPS)
    assert take(make(tiny, CASE, stages=[stir], readers=pools(2)), STEPS) == expected


@pytest.mark.slow
@pytest.mark.parametrize("readers", [0, 2])
def test_the_loader_moves_no_generator(tiny, pools, readers: int):
    kept.clear()
    stir()
    before = stand()
    loader = make(tiny, CASE, stages=[watch], readers=pools(readers))
    for _ in zip(endless(loader), range(STEPS), strict=False):
        assert stand() == before
    loader.load_state_dict(loader.state_dict())
    assert stand() == before
    assert bool(kept) == (readers == 0), "the stage runs where batches are made"


RUN = """
import json, sys
from shards.index import open_pack
from streaming.readers import reader_context
from tests.streaming.sequences import make, take
from tests.streaming.test_generators import CASE, STEPS, stir
stir()
packs = [open_pack(place, split="train") for place in sys.argv[2:]]
loader = make(packs, CASE, stages=[stir], cursor=48)
loader.readers = int(sys.argv[1])
print(json.dumps([reader_context().get_start_method(), take(loader, STEPS - 2)]))
loader.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("hash_seed", "portable", "readers", "method"), [(1, 0, 2, "forkserver"), (2, 1, 1, "spawn")])
def test_hash_seeds_and_ways_to_start_readers_change_nothing(tiny, hash_seed, portable, readers, method):
    command = [sys.executable, "-c", RUN, str(readers), *(str(pack.home.parent) for pack in tiny)]
    env = os.environ | {"PYTHONHASHSEED": str(hash_seed), "NOTESTREAM_PORTABLE": str(portable)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    started, found = json.loads(done.stdout)
    assert started == method
    assert [[tuple(row) for row in step] for step in found] == take(make(tiny, CASE, cursor=2 * BATCH), STEPS - 2)
