"""prepare: a config -> a run's folder, with all checked that can be checked before a rank is started."""

import dataclasses
import os
import sys

import torch

from shards import linux
from shards.errors import UsageError
from streaming.device import choose_device
from streaming.windows import Reach, find_reach, with_reach
from trainers.config import TrainConfig
from trainers.data import Data, open_data
from trainers.head import freeze_body
from trainers.loggers import check_loggers
from trainers.mel import LogMel
from trainers.model import build_model
from trainers.named import load_transforms
from trainers.resume import check_packs, resume_run
from trainers.run import Run, absolute_data, begin_run, check_name
from trainers.weights import init_from

MOST_READERS = 8
DRY_RUN = ".dry-run"  # what Ray keeps of it lies there, until it ends


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """What ranks can be spread over: GPUs and cores in all, and the device that a rank will use."""

    gpus: int
    cores: int
    device: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checked:
    """Options that hold: their data, opened, and the run to go on with, if any."""

    config: TrainConfig
    data: Data
    run: Run | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run that can begin: its folder, its own options, the rows of an epoch, and its steps in all."""

    run: Run
    config: TrainConfig
    rows: int
    steps: int


def this_machine(config: TrainConfig) -> Machine:
    """Tell what is here."""
    device = choose_device(config.device).type
    return Machine(gpus=torch.cuda.device_count() if device == "cuda" else 0, cores=linux.cores(), device=device)


def prepare(config: TrainConfig) -> Prepared:
    """Check all that can be checked from here, then make or open the run's folder; a dry run makes none."""
    checked = check(config)
    check_network(checked)
    return begin(checked)


def check(config: TrainConfig) -> Checked:
    """Check what takes no time."""
    found = resume_run(config) if config.resume else None
    config, run = (found[1], found[0]) if found else (config, None)
    data = open_data(config)
    if run:
        check_packs(run, data.fingerprints, data=config.data)
    elif not config.dry_run:
        check_name(config)
    load_transforms(config.transforms)
    check_loggers(config.loggers)
    if config.world_size is not None and config.batch_size < config.world_size:
        raise UsageError(f"batch_size must be at least world_size ({config.world_size}), got {config.batch_size}")
    return Checked(config=config, data=data, run=run)


def check_network(checked: Checked) -> None:
    """Build mel and network once from here: what is wrong with them is told before a rank is started.

    It takes seconds, nearly all of them timm's import.
    """
    config, data = checked.config, checked.data
    LogMel(config.mel, sample_rate=data.sample_rate)
    model = build_model(config.model, num_classes=len(data.classes), seed=config.seed)
    if config.optim.frozen_epochs:
        freeze_body(model)
    if config.init_from and not checked.run:
        init_from(config.init_from, model, config=config.model, classes=data.classes)


def begin(checked: Checked) -> Prepared:
    """Make the run's folder, or open that of the run to go on with."""
    config, data, run = checked.config, checked.data, checked.run
    order = data.order
    if not run and (reach := _reach(config, data)):
        config, order = dataclasses.replace(config, **vars(reach)), with_reach(order, reach)
    if config.dry_run:
        run, config = Run.at(config.runs, DRY_RUN), dataclasses.replace(config, data=absolute_data(config.data or ""))
    else:
        run, config = (run, config) if run else begin_run(config, fingerprints=data.fingerprints)
        run.forget_stop()
    return Prepared(run=run, config=config, rows=order.span, steps=-(-config.epochs * order.span // config.batch_size))


def _reach(config: TrainConfig, data: Data) -> Reach | None:
    """Tell how far a shuffle reaches that a node's mirror has room for; None where no mirror's budget bounds it."""
    if config.mirror_bytes is None or config.remote == "ranged" or (config.lanes, config.window) != (1, None):
        return None
    if all(pack.folder.local() is not None for pack in data.train.packs):
        return None
    packs, budget = data.train.packs, config.mirror_bytes
    reach = find_reach(data.order, packs, budget_bytes=budget, batch_size=config.batch_size)
    print(f"a mirror of {config.mirror_gb:g} GB a node: {reach}", file=sys.stderr)  # noqa: T201
    return reach


def fill_in(config: TrainConfig, machine: Machine) -> TrainConfig:
    """Choose ranks and readers from what there is, where the user didn't."""
    world_size = config.world_size or max(1, min(machine.gpus, config.batch_size))
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))  # ranks on this machine, where torchrun says so
    free = machine.cores - beside  # each rank needs a core of its own
    readers = min(MOST_READERS, max(1, free // beside)) if config.readers is None else config.readers
    return dataclasses.replace(config, world_size=world_size, readers=readers, device=machine.device)
