"""prepare: a config -> a run's folder, with all checked that can be checked before a rank is started."""

import dataclasses

import torch

from shards import linux
from shards.errors import UsageError
from streaming.device import choose_device
from trainers.config import TrainConfig
from trainers.model import build_model
from trainers.run import Run, begin_run, resume_run
from trainers.training import open_packs


def prepare(config: TrainConfig) -> tuple[Run, TrainConfig]:
    """Check all that can be checked from here, then make or open the run's folder."""
    found = resume_run(config, name=config.resume) if config.resume else None
    config = fill_in(found[1] if found else config)
    packs = open_packs(config)
    build_model(config.model, num_classes=2, seed=0)
    run, config = (found[0], config) if found else begin_run(config, packs=packs)
    run.stop.unlink(missing_ok=True)
    return run, config


def fill_in(config: TrainConfig) -> TrainConfig:
    """Choose ranks and readers from what this machine has, where the user didn't."""
    gpus = torch.cuda.device_count() if choose_device(config.device).type == "cuda" else 0
    world_size = config.world_size or max(1, gpus)
    free = linux.cores() - world_size  # each rank needs a core of its own
    readers = min(8, max(1, free // world_size)) if config.readers is None else config.readers
    if config.batch_size < world_size:
        raise UsageError(f"batch_size must be at least world_size ({world_size}), got {config.batch_size}: raise it")
    return dataclasses.replace(config, world_size=world_size, readers=readers)
