"""weights: --init-from -> a model that begins with weights from elsewhere: timm's hub, a file, or a run of ours.

Weights of colour pictures are summed over their three channels, which is what they make of a grey one. A head for
other classes stays as it was drawn, and that is said.
"""

from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from shards.errors import DataError, UsageError
from trainers import checkpoint
from trainers.head import head_name
from trainers.options import ModelConfig
from trainers.run import open_run_at

HUB = "timm"
Weights = Mapping[str, torch.Tensor]


def init_from(place: str, model: torch.nn.Module, *, config: ModelConfig, classes: tuple[str, ...]) -> str:
    """Put the weights of `place` into a model, and return a line that says what was taken.

    Raises:
        UsageError: there are none there, or they're another network's; the first that doesn't fit is named.
    """
    given, theirs = _read(place, config)
    own, head = model.state_dict(), head_name(model)
    fits = theirs is None or theirs == classes
    new = {name for name in own if head is not None and name.startswith(f"{head}.")}
    kept = {name: _fitted(given.get(name), like=value) for name, value in own.items()}
    if fits and all(kept[name] is not None for name in new):
        new = set()
    for name in kept.keys() - new:
        if kept[name] is None:
            there = f"is {tuple(given[name].shape)}" if name in given else "isn't there"
            raise UsageError(
                f"init_from {place} doesn't fit {config.name}: {name} must be {tuple(own[name].shape)} and {there}: "
                "take weights of the same network"
            )
    model.load_state_dict({name: own[name] if name in new else value for name, value in kept.items()})
    said = f"weights from {place}"
    return f"{said}, but for a new head {head} of {len(classes)} classes" if new else said


def _fitted(value: torch.Tensor | None, *, like: torch.Tensor) -> torch.Tensor | None:
    """Return a weight in the shape of `like`, colour summed to grey; None where it doesn't fit."""
    if value is None or value.shape == like.shape:
        return value
    is_first = value.ndim == 4 and like.shape[1] == 1 and value.shape[1] == 3
    summed = value.sum(1, keepdim=True) if is_first else value
    return summed if summed.shape == like.shape else None


def _read(place: str, config: ModelConfig) -> tuple[Weights, tuple[str, ...] | None]:
    """Read weights, and the classes of their head where these are known."""
    if place == HUB:
        return _from_hub(config), None
    if place.endswith(".safetensors"):
        return _from_file(Path(place)), None
    run = open_run_at(place)
    found = checkpoint.newest(run.best, run.last)
    if found is None:
        raise DataError(f"init_from {place} has no whole checkpoint: take another run, or go on with it by --resume")
    files = checkpoint.read_files(found)
    return safetensors.torch.load(files[checkpoint.MODEL]), tuple(checkpoint.state_of(files)["classes"])


def _from_hub(config: ModelConfig) -> Weights:
    import timm

    if config.is_own:
        raise UsageError(f"init_from {HUB} is for timm's models, got {config.name!r}: give a .safetensors file")
    try:
        return timm.create_model(config.name, pretrained=True).state_dict()
    except Exception as error:  # hub, http and file errors have no common kind
        told = " ".join(str(error).split())[:200]
        raise UsageError(
            f"weights of {config.name} can't be had from timm's hub ({type(error).__name__}: {told}): "
            "give --init-from FILE.safetensors that was brought here, or leave it out"
        ) from error


def _from_file(path: Path) -> Weights:
    try:
        return safetensors.torch.load_file(path)
    except FileNotFoundError as error:
        raise UsageError(f"init_from {path} does not exist: give a .safetensors file, a run, or {HUB}") from error
    except (OSError, safetensors.SafetensorError) as error:
        raise UsageError(f"init_from {path} can't be read as safetensors ({error}): write it by safetensors") from error
