"""The world-size law: whatever the number of ranks, the same rows make the same weights, but for rounding."""

from pathlib import Path

import pytest
import torch

from streaming.augment import Augment
from tests.trainers.runs import config, weights
from tests.trainers.worlds import gradients, train_at
from trainers.config import TrainConfig
from trainers.model import ModelConfig
from trainers.optim import OptimConfig
from trainers.run import Run

pytestmark = pytest.mark.slow
PLAIN = ModelConfig(name="test_resnet", norm="group1")  # no BatchNorm, no dropout


def small(data: Path, runs: Path, **options) -> TrainConfig:
    augment = Augment(random_start=True, gain_db=6, gain_probability=1)
    given = {"augment": augment, "crop_seconds": 0.2, "batch_size": 12, "log_rows": False, "model": PLAIN}
    return config(data, runs, **(given | options))


def distance(run: Run, other: Run) -> float:
    """The largest difference of a weight, relative to the largest weight of its tensor."""
    ours, theirs = weights(run), weights(other)
    return max(float((ours[name] - theirs[name]).abs().max() / ours[name].abs().max()) for name in ours)


def test_300_steps_in_float64_are_the_same_at_any_world_size(data: Path, tmp_path: Path):
    """Uneven shares (12 rows over 5 would be too), and shares in pieces, are the same too."""
    options = small(data, tmp_path, epochs=59, precision="float64", log_every=50)
    one = train_at(1, options, name="one")
    assert len(gradients(one)[0]) == 300
    for world_size in (2, 3, 4):
        other = train_at(world_size, options, name=f"{world_size}")
        assert distance(one, other) < 1e-9
        ranks = gradients(other)
        assert all(rank == ranks[0] for rank in ranks), "all ranks step by one gradient"
    pieces = small(data, tmp_path, epochs=59, precision="float64", log_every=50, micro_batch=2, batch_size=12)
    assert distance(one, train_at(2, pieces, name="pieces")) < 1e-9
    assert weights(one)["fc.weight"].dtype == torch.float64


def test_the_first_steps_in_float32_are_the_same_at_any_world_size(data: Path, tmp_path: Path):
    options = small(data, tmp_path, epochs=2)
    one = train_at(1, options, name="one")
    assert len(gradients(one)[0]) == 11
    for world_size in (2, 3, 4, 5):
        assert distance(one, train_at(world_size, options, name=f"{world_size}")) < 1e-5


def test_a_body_that_is_unfrozen_learns_from_all_ranks(data: Path, tmp_path: Path):
    optim = OptimConfig(frozen_epochs=1)
    options = small(data, tmp_path, epochs=3, precision="float64", optim=optim)
    one, three = (train_at(size, options, name=f"{size}") for size in (1, 3))
    ranks = gradients(three)
    assert len(set(ranks[0])) == len(ranks[0]) == 16
    assert all(rank == ranks[0] for rank in ranks), "before and after"
    assert distance(one, three) < 1e-9
