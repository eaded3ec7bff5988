"""Model, optimiser, config, checkpoint: one seed, the same weights; what is saved is whole or not there."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from shards.errors import DataError, UsageError
from trainers import checkpoint
from trainers.config import PRESETS, TrainConfig, from_json, read_config, to_json
from trainers.model import build_model
from trainers.optim import make_optimizer, one_cycle
from trainers.options import ModelConfig, OptimConfig


def small(seed: int = 0) -> torch.nn.Module:
    return build_model(ModelConfig(name="test_resnet"), num_classes=3, seed=seed)


def test_the_same_seed_gives_the_same_weights_and_no_global_generator_moves():
    before = torch.get_rng_state()
    first, second, other = small().state_dict(), small().state_dict(), small(1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_an_unknown_model_is_named_with_near_ones():
    with pytest.raises(UsageError, match=r"model must be one of timm's, got 'resnet1': near are .*resnet"):
        build_model(ModelConfig(name="resnet1"), num_classes=3, seed=0)


def test_the_rate_is_a_pure_function_of_progress():
    rates = [one_cycle(i / 100, lr=1.0, warmup=0.25) for i in range(101)]
    assert rates[0] == pytest.approx(1 / 25)
    assert max(rates) == rates[25] == 1.0
    assert rates[-1] == pytest.approx(1e-4)
    assert rates[:26] == sorted(rates[:26])
    assert rates[25:] == sorted(rates[25:], reverse=True)
    assert one_cycle(2.0, lr=1.0, warmup=0.25) == rates[-1]


def test_one_cycle_is_torchs():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=201, pct_start=0.25, final_div_factor=400)
    for step in range(200):
        # torch counts its warm-up to step 0.25 * 201 - 1
        share = step / 49.25 * 0.25 if step <= 49.25 else 0.25 + 0.75 * (step - 49.25) / 150.75
        assert one_cycle(share, lr=0.3, warmup=0.25) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-4)
        optimizer.step()
        theirs.step()


def test_biases_and_norms_are_not_decayed():
    decayed, spared = make_optimizer(small(), OptimConfig()).param_groups
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert all(parameter.ndim <= 1 for parameter in spared["params"])
    assert spared["weight_decay"] == 0.0


@pytest.mark.parametrize("name", PRESETS)
def test_a_config_survives_json(name: str, tmp_path: Path):
    config = PRESETS[name]()
    (tmp_path / "config.json").write_text(json.dumps(to_json(config)))
    assert read_config(tmp_path / "config.json") == config
    assert config.preset == name


def test_config_errors_speak(tmp_path: Path):
    with pytest.raises(UsageError, match=r"c has an option 'lr' that OptimConfig doesn't know|MelConfig"):
        from_json({"mel": {"lr": 1}}, name="c")
    with pytest.raises(UsageError, match=r"config .*none\.json does not exist: give a run's config\.json"):
        read_config(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UsageError, match=r"bad\.json is not JSON"):
        read_config(tmp_path / "bad.json")
    with pytest.raises(UsageError, match=r"epochs must be at least 1, got 0"):
        TrainConfig(epochs=0)
    with pytest.raises(UsageError, match=r"optim lr must lie in 0\.\.10, got 11"):
        OptimConfig(lr=11)


def saved(folder: Path, *, cursor: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = small(cursor)
    optimizer = make_optimizer(model, OptimConfig())
    model(torch.randn(2, 1, 40, 40, generator=torch.Generator().manual_seed(0))).sum().backward()
    optimizer.step()
    checkpoint.save_checkpoint(folder, model=model, optimizer=optimizer, state={"cursor": cursor, "classes": ["a"]})
    return model, optimizer


def test_a_checkpoint_comes_back_to_the_bit(tmp_path: Path):
    model, optimizer = saved(tmp_path / "last", cursor=7)
    other = small(99)
    fresh = make_optimizer(other, OptimConfig())
    assert checkpoint.restore(checkpoint.read_files(tmp_path / "last"), model=other, optimizer=fresh)["cursor"] == 7
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    ours, theirs = optimizer.state_dict()["state"], fresh.state_dict()["state"]
    assert all(torch.equal(ours[i]["exp_avg_sq"], theirs[i]["exp_avg_sq"]) for i in ours)


def test_restore_takes_the_newest_whole_one_after_any_kill(tmp_path: Path):
    last = tmp_path / "last"
    assert checkpoint.newest(last) is None
    saved(last, cursor=1)
    shutil.copytree(last, tmp_path / "first")
    saved(last, cursor=2)
    shutil.copytree(last, tmp_path / "second")
    shutil.rmtree(last)

    def stands(**places: str) -> int:
        for name in (".last.new", "last", "last-before"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
        for name, what in places.items():
            place = tmp_path / {"new": ".last.new", "now": "last", "old": "last-before"}[name]
            shutil.copytree(tmp_path / what.removesuffix("-cut"), place)
            if what.endswith("-cut"):
                path = place / checkpoint.MODEL
                path.write_bytes(path.read_bytes()[:-1])
        found = checkpoint.newest(last)
        assert found is not None
        return checkpoint.read_state(found)["cursor"]

    assert stands(now="first", new="second-cut") == 1  # killed while writing
    assert stands(now="first", new="second") == 2  # before the first rename
    assert stands(old="first", new="second") == 2  # between the renames
    assert stands(now="second", old="first") == 2  # before the old one went
    assert stands(now="second-cut", old="first") == 1  # damaged later


def test_the_checkpoint_before_is_kept_for_when_the_last_is_damaged_later(tmp_path: Path):
    last = tmp_path / "last"
    for cursor in (1, 2, 3):
        saved(last, cursor=cursor)
    assert {path.name for path in tmp_path.iterdir()} == {"last", "last-before"}
    (last / checkpoint.MODEL).write_bytes(b"cut short")
    found = checkpoint.newest(last)
    assert found is not None
    assert checkpoint.read_state(found)["cursor"] == 2


def test_a_full_disk_keeps_the_checkpoint_before(small_disk: Path):
    model = torch.nn.Linear(100, 300)  # 120 KB, and twice that for AdamW
    optimizer = make_optimizer(model, OptimConfig())
    model(torch.ones(1, 100)).sum().backward()
    optimizer.step()
    save = lambda cursor: checkpoint.save_checkpoint(  # noqa: E731
        small_disk / "last", model=model, optimizer=optimizer, state={"cursor": cursor}
    )
    save(1)
    (small_disk / "ballast").write_bytes(bytes(500_000))
    with pytest.raises(OSError, match="No space left"):
        save(2)
    assert checkpoint.newest(small_disk / "last") == small_disk / "last"
    assert checkpoint.read_state(small_disk / "last")["cursor"] == 1
    assert not (small_disk / ".last.new").exists()


def test_damaged_or_foreign_checkpoints_are_refused(tmp_path: Path):
    saved(tmp_path / "last", cursor=1)
    other = build_model(ModelConfig(name="test_resnet"), num_classes=5, seed=0)
    with pytest.raises(UsageError, match=r"the checkpoint holds weights of another network"):
        checkpoint.restore_model(checkpoint.read_files(tmp_path / "last"), other)
    (tmp_path / "last" / checkpoint.STATE).write_text("{}")
    with pytest.raises(DataError, match=r"last is damaged or incomplete: take the other of last and best"):
        checkpoint.read_files(tmp_path / "last")


def test_options_are_frozen_values():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().epochs = 3  # pyright: ignore[reportAttributeAccessIssue]
