"""prepare: a config -> a run's folder, with all checked that can be checked before a rank is started."""

import dataclasses
import os

import torch

from shards import linux
from shards.errors import UsageError
from streaming.device import choose_device
from trainers.config import TrainConfig
from trainers.model import build_model
from trainers.run import Run, begin_run, resume_run
from trainers.training import open_packs

MOST_READERS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """What ranks can be spread over: GPUs and cores in all, and the device that a rank will use."""

    gpus: int
    cores: int
    device: str


def this_machine(config: TrainConfig) -> Machine:
    """Tell what is here."""
    device = choose_device(config.device).type
    return Machine(gpus=torch.cuda.device_count() if device == "cuda" else 0, cores=linux.cores(), device=device)


def prepare(config: TrainConfig) -> tuple[Run, TrainConfig]:
    """Check all that can be checked from here, then make or open the run's folder."""
    found = resume_run(config) if config.resume else None
    config = found[1] if found else config
    packs = open_packs(config)
    build_model(config.model, num_classes=2, seed=0)
    if config.world_size is not None and config.batch_size < config.world_size:
        raise UsageError(f"batch_size must be at least world_size ({config.world_size}), got {config.batch_size}")
    run, config = (found[0], config) if found else begin_run(config, packs=packs)
    run.forget_stop()
    return run, config


def fill_in(config: TrainConfig, machine: Machine) -> TrainConfig:
    """Choose ranks and readers from what there is, where the user didn't."""
    world_size = config.world_size or max(1, min(machine.gpus, config.batch_size))
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))  # ranks on this machine, where torchrun says so
    free = machine.cores - beside  # each rank needs a core of its own
    readers = min(MOST_READERS, max(1, free // beside)) if config.readers is None else config.readers
    return dataclasses.replace(config, world_size=world_size, readers=readers, device=machine.device)
