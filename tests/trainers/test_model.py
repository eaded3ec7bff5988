"""Models by name, of the user's own, and with weights from elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from shards.errors import UsageError
from tests.trainers.runs import ROOT, config, weights
from tests.trainers.worlds import Tiny
from trainers.head import freeze_body, head_name
from trainers.launch import launch
from trainers.model import build_model
from trainers.options import ModelConfig, OptimConfig
from trainers.run import Run
from trainers.weights import init_from

CLASSES = ("bass", "brass", "flute")


def small(num_classes: int = 3, **options) -> torch.nn.Module:
    return build_model(ModelConfig(name="test_resnet", **options), num_classes=num_classes, seed=0)


def test_a_norm_of_groups_replaces_every_batch_norm():
    for norm, name in (("group", "resnet18"), ("group1", "test_resnet")):
        model = build_model(ModelConfig(name=name, norm=norm), num_classes=3, seed=0)
        kinds = [type(part).__mro__ for part in model.modules()]
        assert not any(torch.nn.BatchNorm2d in kind for kind in kinds)
        assert any(torch.nn.GroupNorm in kind for kind in kinds)


def test_a_function_of_ones_own_makes_the_model_the_same_for_the_same_seed():
    given = ModelConfig(name="tests.trainers.worlds:Tiny")
    first, second = (build_model(given, num_classes=4, seed=1) for _ in range(2))
    assert isinstance(first, Tiny)
    assert first(torch.zeros(2, 1, 40, 40)).shape == (2, 4)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_errors_of_models_speak():
    for name, norm, told in (
        (
            "test_resnet",
            "group",
            r"model test_resnet can't be had with norm group \(.*\): take the other of group and group1",
        ),
        (
            "no.module:f",
            None,
            r"model 'no\.module:f' can't be imported \(ModuleNotFoundError: .*\): name it package\.mod",
        ),
        ("tests.trainers.worlds:MOST_RANKS", None, r"must be a callable \(num_classes=\) -> module, got int"),
        ("builtins:dict", None, r"model 'builtins:dict' must return a torch\.nn\.Module, got dict"),
    ):
        with pytest.raises(UsageError, match=told):
            build_model(ModelConfig(name=name, norm=norm), num_classes=3, seed=0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match=r"model norm must be group or group1, got 'batch'"):
        ModelConfig(norm="batch")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match=r"model norm 'group' is for timm's models, got 'a:b'"):
        ModelConfig(name="a:b", norm="group")


def saved(model: torch.nn.Module, path: Path) -> str:
    safetensors.torch.save_file(model.state_dict(), path)
    return str(path)


def test_weights_of_colour_pictures_are_summed_over_their_channels(tmp_path: Path):
    theirs, ours = timm.create_model("test_resnet", num_classes=10), small()
    drawn = ours.state_dict()["fc.weight"].clone()
    said = init_from(
        saved(theirs, tmp_path / "w.safetensors"), ours, config=ModelConfig(name="test_resnet"), classes=CLASSES
    )
    assert said.endswith("w.safetensors, but for a new head fc of 3 classes")
    grey = torch.rand(2, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    theirs.eval(), ours.eval()
    torch.testing.assert_close(ours.forward_features(grey), theirs.forward_features(grey.expand(-1, 3, -1, -1)))
    assert torch.equal(ours.state_dict()["fc.weight"], drawn)


def test_a_head_is_kept_where_it_fits_and_its_classes_are_ours(tmp_path: Path, whole: Run):
    given, other = ModelConfig(name="test_resnet"), small()
    assert init_from(str(whole.folder), other, config=given, classes=CLASSES) == f"weights from {whole.folder}"
    name = "fc.weight"
    best = safetensors.torch.load_file(whole.best / "model.safetensors")
    assert all(torch.equal(value, best[key]) for key, value in other.state_dict().items())
    again = small()
    drawn = again.state_dict()[name].clone()
    said = init_from(str(whole.folder), again, config=given, classes=("harp", "lute", "oud"))
    assert said.endswith("but for a new head fc of 3 classes"), "as many, but others"
    assert torch.equal(again.state_dict()[name], drawn)
    assert torch.equal(again.state_dict()["conv1.0.weight"], best["conv1.0.weight"])


def test_weights_that_are_not_there_or_of_another_network_are_named(tmp_path: Path):
    model, given = small(), ModelConfig(name="test_resnet")
    (tmp_path / "bad.safetensors").write_bytes(b"junk")
    other = saved(build_model(ModelConfig(name="resnet18"), num_classes=3, seed=0), tmp_path / "o.safetensors")
    for place, told in (
        (
            str(tmp_path / "none.safetensors"),
            r"init_from .*none\.safetensors does not exist: give a \.safetensors file",
        ),
        (str(tmp_path / "bad.safetensors"), r"init_from .*bad\.safetensors can't be read as safetensors"),
        (other, r"init_from .*o\.safetensors doesn't fit test_resnet: .* must be .*: take weights of the same network"),
        (str(tmp_path / "norun"), r"run .*norun does not exist"),
    ):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(UsageError, match=told):
            init_from(place, model, config=given, classes=CLASSES)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(UsageError, match=r"init_from timm is for timm's models, got 'a:b'"):
        init_from("timm", model, config=ModelConfig(name="a:b"), classes=CLASSES)


@pytest.mark.slow
def test_a_hub_out_of_reach_is_one_line(data: Path, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "trainers", "train", "--local", "--data", str(data), "--runs", str(tmp_path), "--name",
         "x", "--model.name", "test_resnet", "--init-from", "timm", "--device", "cpu"],
        cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")},
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("notestream: weights of test_resnet can't be had from timm's hub (")
    assert line.endswith("give --init-from FILE.safetensors that was brought here, or leave it out")
    assert not (tmp_path / "x").exists()


def test_a_frozen_body_stands_still_while_head_and_norms_learn(data: Path, tmp_path: Path):
    options = config(data, tmp_path, epochs=1, optim=OptimConfig(frozen_epochs=1), log_rows=False)
    run = launch(options)
    drawn = build_model(options.model, num_classes=3, seed=0).state_dict()
    learnt = weights(run)
    moved = {name for name in drawn if not torch.equal(drawn[name], learnt[name])}
    still = set(drawn) - moved
    assert {"fc.weight", "fc.bias", "bn1.weight", "bn1.running_mean"} <= moved
    assert {name for name in drawn if "conv" in name and drawn[name].ndim == 4} <= still


def test_freezing_needs_to_know_the_head():
    with pytest.raises(UsageError, match=r"frozen_epochs needs a model with get_classifier\(\), .* got Linear"):
        freeze_body(torch.nn.Linear(2, 2))
    assert head_name(small()) == "fc"
