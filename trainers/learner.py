"""learner: config, a checkpoint's files -> what learns, on this rank's device: network, mel, optimizer, task."""

import dataclasses
import gc
from collections.abc import Mapping
from typing import Any

import torch

from shards.errors import UsageError
from trainers import checkpoint
from trainers.config import TrainConfig
from trainers.data import Data
from trainers.head import freeze_body, unfreeze
from trainers.mel import LogMel
from trainers.model import build_model
from trainers.network import Pooled
from trainers.optim import make_optimizer
from trainers.session import Session
from trainers.step import Learner
from trainers.task import make_task
from trainers.weights import init_from

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def make_learner(
    config: TrainConfig, *, data: Data, session: Session, files: Mapping[str, bytes] | None
) -> tuple[Learner, dict[str, Any], str]:
    """Build what learns, as `files` of a checkpoint left it; return its state, and what is to be told of its start.

    Raises:
        UsageError: the checkpoint or the first weights are another network's, or the device lacks the precision.
    """
    dtype = choose_dtype(config.precision, session.device)
    kept = torch.float64 if dtype == torch.float64 else torch.float32
    model, said = build_model(config.model, num_classes=len(data.classes), seed=config.seed), ""
    if config.init_from and not files and session.is_first:  # DDP hands rank 0's weights to all
        said = init_from(config.init_from, model, config=config.model, classes=data.classes)
    model.to(session.device, kept)
    if session.device.type == "cuda":
        model.to(memory_format=torch.channels_last)
    frozen = checkpoint.state_of(files).get("frozen", False) if files else config.optim.frozen_epochs > 0
    if frozen:
        freeze_body(model)
    optimizer = make_optimizer(model, config.optim)
    state = checkpoint.restore(files, model=model, optimizer=optimizer) if files else {}
    pooled = Pooled(model)
    learner = Learner(
        mel=LogMel(config.mel, sample_rate=data.sample_rate).to(session.device, kept),
        masks=config.masks,
        model=pooled,
        network=_wrap(pooled, config=config, session=session),
        optimizer=optimizer,
        config=config.optim,
        task=make_task(config, data.train.packs, classes=data.classes, order=data.order, device=session.device),
        dtype=dtype,
        micro_batch=config.micro_batch,
        frozen=frozen,
    )
    return learner, state, said


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return what a network computes in on a device.

    Raises:
        UsageError: the device can't compute in that.
    """
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "mps" and precision == "float64":
        raise UsageError("precision float64 isn't there on mps: take float32, or --device cpu")
    return DTYPES[precision]


def _wrap(pooled: Pooled, *, config: TrainConfig, session: Session) -> torch.nn.Module:
    """Return a model as it is called: compiled where asked for, and averaged over ranks where there are several."""
    return session.wrap(torch.compile(pooled) if config.compile else pooled)  # pyright: ignore[reportArgumentType]


def thaw(learner: Learner, config: TrainConfig, *, session: Session) -> Learner:
    """Return the learner with a body that learns too; none but its own `network` may still hold the old wrap."""
    optimizer = unfreeze(learner.model.model, learner.optimizer, config.optim)
    gc.collect()  # the old wrap takes its hooks off the head's gradients when it goes, and it holds itself in a ring
    network = _wrap(learner.model, config=config, session=session)
    return dataclasses.replace(learner, network=network, optimizer=optimizer, frozen=False)
