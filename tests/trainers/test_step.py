"""A step: pieces add up to the whole, padding is told to the network, what is not finite is told and never saved."""

import dataclasses
from pathlib import Path

import pytest
import torch

from shards.errors import DataError, UsageError
from streaming.augment import Augment
from streaming.batch import Batch
from tests.trainers.runs import config, launch_until, rows_of, weights
from tests.trainers.worlds import Tiny
from trainers.launch import launch
from trainers.learner import choose_dtype
from trainers.mel import LogMel
from trainers.network import Pooled
from trainers.optim import make_optimizer
from trainers.options import MaskConfig, ModelConfig, OptimConfig
from trainers.run import Run
from trainers.step import Learner, train_step


def learner(**options) -> Learner:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Pooled(Tiny(num_classes=3)).double()
    optimizer = make_optimizer(model, OptimConfig())
    mel = LogMel(sample_rate=16_000).double()
    given = {"mel": mel, "masks": MaskConfig(), "model": model, "network": model, "optimizer": optimizer}
    return Learner(**(given | {"config": OptimConfig(), "dtype": torch.float64} | options))


def batch(rows: int = 7) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        waveform=torch.rand(rows, 4_000, generator=generator) - 0.5,
        label=torch.arange(rows) % 3,
        length=torch.full((rows,), 4_000),
        weight=torch.ones(rows),
        semitones=torch.zeros(rows),
        draws=torch.zeros(rows, 0),
        key=tuple(map(str, range(rows))),
        cursor=0,
    )


@pytest.mark.parametrize("rows", [1, 2, 3, 6, 7, 100])
def test_a_share_in_pieces_is_the_share(rows: int):
    whole, pieces = learner(), learner(micro_batch=rows)
    for _ in range(3):
        one, other = (train_step(x, batch(), batch_size=7, world_size=1, lr=1e-2) for x in (whole, pieces))
        torch.testing.assert_close(one.loss, other.loss)
        torch.testing.assert_close(one.grad_norm, other.grad_norm)
        assert one.correct == other.correct
    for ours, theirs in zip(whole.model.parameters(), pieces.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_masked_rows_teach_nothing():
    with_bad, without = learner(), learner()
    seven = batch()
    bad = dataclasses.replace(seven, weight=torch.tensor([1.0, 1, 1, 1, 1, 1, 0]))
    six = seven.map(lambda tensor: tensor[:6])
    one = train_step(with_bad, bad, batch_size=7, world_size=1, lr=1e-2)
    other = train_step(without, dataclasses.replace(six, key=seven.key[:6]), batch_size=7, world_size=1, lr=1e-2)
    torch.testing.assert_close(one.grad_norm, other.grad_norm)
    nothing = dataclasses.replace(seven, weight=torch.zeros(7))
    assert train_step(with_bad, nothing, batch_size=7, world_size=1, lr=1e-2).grad_norm == 0


def test_bfloat16_is_near_float32_and_keeps_its_weights():
    near = learner(dtype=torch.bfloat16)
    near.model.float(), near.mel.float()
    one = train_step(near, batch(), batch_size=7, world_size=1, lr=1e-2)
    other = train_step(learner(), batch(), batch_size=7, world_size=1, lr=1e-2)
    assert one.loss.item() == pytest.approx(other.loss.item(), rel=2e-2)
    assert one.loss.item() != other.loss.float().item()
    assert all(parameter.dtype == torch.float32 for parameter in near.model.parameters())


def test_precision_is_chosen_by_the_device():
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32
    assert choose_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
    with pytest.raises(UsageError, match=r"precision float64 isn't there on mps"):
        choose_dtype("float64", torch.device("mps"))


def test_short_notes_are_trained_on_without_their_padding(data: Path, tmp_path: Path):
    """Crops of 5 s of notes of 4 s teach what crops of 4 s do."""
    model = ModelConfig(name="tests.trainers.worlds:Pointwise")
    options = config(data, tmp_path, epochs=1, crop_seconds=5.0, augment=Augment(), model=model, name="padded")
    padded = launch(options)
    whole = launch(dataclasses.replace(options, crop_seconds=4.0, name="whole"))
    assert [keys for _, keys, _ in rows_of(padded)] == [keys for _, keys, _ in rows_of(whole)]
    for name, value in weights(padded).items():
        torch.testing.assert_close(value, weights(whole)[name], rtol=0, atol=1e-4)


def test_what_is_not_finite_ends_the_run_before_it_is_saved(data: Path, tmp_path: Path):
    options = config(data, tmp_path, log_every=4, optim=OptimConfig(clip_norm=float("nan"), lr=1e-3))
    with pytest.raises(
        DataError, match=r"train/\w+ is (nan|inf) at step \d+ \(from row \d+\): lower --optim\.lr and --res"
    ):
        launch(options)
    assert not Run(tmp_path / "run").last.exists()


@pytest.mark.slow
def test_torch_compile_takes_the_same_rows(data: Path, tmp_path: Path, whole: Run):
    compiled = launch(config(data, tmp_path, compile=True, model=ModelConfig(name="tests.trainers.worlds:Tiny")))
    assert rows_of(compiled) == rows_of(whole)
    assert set(weights(compiled)) == set(Tiny(3).state_dict()), "saved under the model's own names"


def test_a_resume_on_either_side_of_the_thaw_equals_uninterrupted(data: Path, tmp_path: Path):
    options = config(data, tmp_path, epochs=3, optim=OptimConfig(frozen_epochs=1), name="whole")
    run = launch(options)
    again = dataclasses.replace(options, name="cut")
    resumed = dataclasses.replace(options, name=None, resume="cut")
    launch_until(again, records=3)
    launch_until(resumed, records=8)
    launch_until(resumed, records=14)
    launch(resumed)
    cut = Run(tmp_path / "cut")
    assert "the body learns too, from row 64 on" in run.log.read_text()
    assert rows_of(cut) == rows_of(run)
    assert all(torch.equal(value, weights(run)[name]) for name, value in weights(cut).items())
