"""Keyed permutations and draws: bijective, pinned by golden vectors, blind to hash seeds and global generators."""

import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.bijection import permute, permute_groups, uniforms


@given(st.integers(1, 3000), st.integers(-(2**63), 2**63 - 1), st.text(max_size=5))
def test_every_position_goes_somewhere_else(n, seed, name):
    assert sorted(permute(np.arange(n), n, seed, name).tolist()) == list(range(n))


@given(st.integers(2, 10**15), st.data())
def test_a_part_is_the_part_of_the_whole(n, data):
    picks = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20))
    together = permute(np.array(picks), n, 7).tolist()
    assert together == [int(permute(np.array([pick]), n, 7)[0]) for pick in picks]
    assert all(0 <= value < n for value in together)
    assert len(set(together)) == len(set(picks))


@given(st.lists(st.integers(1, 10**6) | st.integers(1, 5), min_size=1, max_size=6), st.data())
def test_groups_together_are_as_each_alone(sizes, data):
    group = np.array(data.draw(st.lists(st.integers(0, len(sizes) - 1), min_size=2, max_size=30)))
    picks = np.array([data.draw(st.integers(0, sizes[g] - 1)) for g in group])
    keys = [(g, "name") for g in range(len(sizes))]
    alone = [int(permute([pick], sizes[g], *keys[g])[0]) for pick, g in zip(picks, group, strict=True)]
    assert permute_groups(picks, group, sizes=sizes, keys=keys).tolist() == alone


def test_golden_vectors_pin_the_order_for_ever():
    assert permute(np.arange(10), 10, 0).tolist() == GOLDEN_TEN
    assert permute(np.arange(5), 289_205, 3, 1, "rows").tolist() == GOLDEN_NSYNTH
    assert permute(np.array([0, 10**12 - 1]), 10**12, -1, "é").tolist() == GOLDEN_LARGE
    assert uniforms(3, 0, 1, 0, "bass_synthetic_068-049-025", 0).tolist() == GOLDEN_UNIFORMS


GOLDEN_TEN = [5, 8, 6, 1, 0, 7, 3, 4, 2, 9]
GOLDEN_NSYNTH = [91440, 150978, 69717, 71483, 161805]
GOLDEN_LARGE = [517783054306, 13784085378]
GOLDEN_UNIFORMS = [0.7874908769195627, 0.6652697792133221, 0.5759606089146632]


def test_keys_cannot_run_into_each_other():
    keys = [(1, 2), (12,), ("1", "2"), ("12",), (1, "2"), ("", "12"), (-1,), (255,)]
    assert len({tuple(permute(np.arange(50), 50, *key).tolist()) for key in keys}) == len(keys)
    assert uniforms(9, 1)[:8].tolist() == uniforms(8, 1).tolist()


def test_all_permutations_of_four_are_about_equally_likely():
    counts = Counter(tuple(permute(np.arange(4), 4, seed).tolist()) for seed in range(4800))
    assert len(counts) == 24
    chi_squared = sum((count - 200) ** 2 / 200 for count in counts.values())
    assert chi_squared < 49.7  # 23 degrees of freedom, p = 0.001


def test_neighbours_part():
    order = permute(np.arange(20_000), 20_000, 5).astype(float)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.03


def test_uniforms_are_uniform():
    draws = np.array([uniforms(4, 0, epoch, 0, f"note-{i}", 0) for epoch in range(10) for i in range(200)])
    assert draws.min() >= 0
    assert draws.max() < 1
    assert np.abs(draws.mean(0) - 0.5).max() < 0.03
    assert np.abs(np.corrcoef(draws.T) - np.eye(4)).max() < 0.08


@pytest.mark.slow
@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_nothing_depends_on_the_hash_seed_or_a_global_generator(hash_seed):
    code = "import random; random.seed(); from shards.bijection import *; import numpy as np; " + (
        "np.random.seed(None); print(permute(np.arange(10), 10, 0).tolist())"
    )
    env = os.environ | {"PYTHONHASHSEED": hash_seed}
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert said.strip() == str(GOLDEN_TEN)
