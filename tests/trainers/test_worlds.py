"""The world-size law: whatever the number of ranks, the same rows make the same weights, but for rounding."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

from shards.pack import pack
from streaming.augment import Augment
from tests.conftest import write_notes
from tests.trainers.runs import config, weights
from tests.trainers.worlds import gradients, open_ranks, train_at
from trainers.config import TrainConfig
from trainers.options import ModelConfig, OptimConfig
from trainers.run import Run

pytestmark = pytest.mark.slow
PLAIN = ModelConfig(name="tests.trainers.worlds:Tiny")


@pytest.fixture(scope="module")
def ranks() -> Iterator[ProcessPoolExecutor]:
    with open_ranks() as found:
        yield found


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack of 600 notes, 50 steps of twelve: an epoch's end costs more than its steps."""
    folder = tmp_path_factory.mktemp("more")
    for split, count in (("train", 600), ("valid", 5)):
        pack(write_notes(folder, split=split, count=count, length=4000).parent, folder / "pack", split=split)
    return folder / "pack"


def small(data: Path, runs: Path, **options) -> TrainConfig:
    augment = Augment(random_start=True, gain_db=6, gain_probability=1)
    given = {"augment": augment, "crop_seconds": 0.2, "batch_size": 12, "log_rows": False, "model": PLAIN}
    return config(data, runs, **(given | options))


def distance(run: Run, other: Run) -> float:
    """The largest difference of a weight, relative to the largest weight of its tensor."""
    ours, theirs = weights(run), weights(other)
    return max(float((ours[name] - theirs[name]).abs().max() / ours[name].abs().max()) for name in ours)


def test_300_steps_in_float64_are_the_same_at_any_world_size(more: Path, tmp_path: Path, ranks: ProcessPoolExecutor):
    """So are shares in pieces, of which ranks may have one more or less."""
    options = small(more, tmp_path, epochs=6, precision="float64", log_every=50)
    one = train_at(1, options, name="one", ranks=ranks)
    assert len(gradients(one)[0]) == 300
    for world_size in (2, 3, 4):
        other = train_at(world_size, options, name=f"{world_size}", ranks=ranks)
        assert distance(one, other) < 1e-9
        told = gradients(other)
        assert all(rank == told[0] for rank in told), "all ranks step by one gradient"
    pieces = small(more, tmp_path, epochs=6, precision="float64", log_every=50, micro_batch=3)
    assert distance(one, train_at(3, pieces, name="pieces", ranks=ranks)) < 1e-9
    assert weights(one)["head.weight"].dtype == torch.float64


def test_the_first_steps_in_float32_are_the_same_at_any_world_size(
    data: Path, tmp_path: Path, ranks: ProcessPoolExecutor
):
    options = small(data, tmp_path, epochs=2)
    one = train_at(1, options, name="one", ranks=ranks)
    assert len(gradients(one)[0]) == 11
    for world_size in (2, 3, 4):
        assert distance(one, train_at(world_size, options, name=f"{world_size}", ranks=ranks)) < 1e-5


def test_a_body_that_is_unfrozen_learns_from_all_ranks(data: Path, tmp_path: Path, ranks: ProcessPoolExecutor):
    optim = OptimConfig(frozen_epochs=1)
    options = small(data, tmp_path, epochs=3, precision="float64", optim=optim)
    one, three = (train_at(size, options, name=f"{size}", ranks=ranks) for size in (1, 3))
    told = gradients(three)
    assert len(set(told[0])) == len(told[0]) == 16
    assert all(rank == told[0] for rank in told), "before and after"
    assert distance(one, three) < 1e-9
