"""training: config, run folder, rank -> a run as it stands: packs, network, loader at its cursor, writers."""

import contextlib
import dataclasses
import gc
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from shards.errors import DataError, UsageError
from streaming.loader import Loader
from streaming.world import World
from trainers import checkpoint
from trainers.config import TrainConfig
from trainers.data import Data, open_data
from trainers.head import freeze_body, unfreeze
from trainers.journal import Journal
from trainers.mel import LogMel
from trainers.model import build_model
from trainers.named import load_transforms
from trainers.network import Pooled
from trainers.optim import make_optimizer
from trainers.rowlog import RowLog
from trainers.run import Run
from trainers.session import Session
from trainers.step import Learner
from trainers.task import choose_monitor, make_task
from trainers.uploads import Uploads
from trainers.weights import init_from

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclasses.dataclass(kw_only=True)
class Training:
    """A run on one rank: what it was given, and what changes as it goes."""

    config: TrainConfig
    run: Run
    session: Session
    data: Data
    model: torch.nn.Module
    learner: Learner
    loader: Loader
    journal: Journal | None
    rows: RowLog | None
    uploads: Uploads
    best: float | None = None
    saved: float = dataclasses.field(default_factory=time.monotonic)
    stopped: bool = False
    masked: int = 0

    @property
    def monitor(self) -> str:
        """The metric by which the best checkpoint is kept."""
        return choose_monitor(self.config, many=self.data.many)

    @property
    def total(self) -> int:
        """Rows at which the run ends."""
        return self.config.epochs * self.loader.order.span

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return -(-self.total // self.config.batch_size)


def set_up(config: TrainConfig, *, run: Run, session: Session) -> Training:
    """Build the run on this rank, or restore it from its newest checkpoint."""
    data = open_data(config)
    loader = make_loader(config, data, world=session.world, readers=config.readers or 0, device=session.device)
    files = session.broadcast(_newest_files(run) if session.is_first else None)
    learner, state, said = _make_learner(config, data=data, session=session, files=files)
    if state:
        loader.load_state_dict(state, rebatch=config.rebatch)
    step = loader.cursor // config.batch_size
    attempt = session.broadcast(run.next_attempt() if session.is_first else None)
    training = Training(
        config=config,
        run=run,
        session=session,
        data=data,
        model=learner.model.model,
        learner=learner,
        loader=loader,
        journal=Journal(run, cursor=loader.cursor, step=step) if session.is_first else None,
        rows=RowLog(run.folder / "rows", rank=session.world.rank, attempt=attempt) if config.log_rows else None,
        uploads=Uploads(),
        best=state.get("best"),
    )
    if said:
        say(training, said)
    return training


def _make_learner(
    config: TrainConfig, *, data: Data, session: Session, files: Mapping[str, bytes] | None
) -> tuple[Learner, dict[str, Any], str]:
    """Build what learns, as `files` of a checkpoint left it; return its state, and what is to be told of its start."""
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


def unfreeze_if_due(training: Training) -> None:
    """Let the body learn too, once the frozen epochs are over."""
    learner, config = training.learner, training.config
    if not learner.frozen or training.loader.cursor < config.optim.frozen_epochs * training.loader.order.span:
        return
    optimizer = unfreeze(training.model, learner.optimizer, config.optim)
    training.learner = dataclasses.replace(learner, network=learner.model, optimizer=optimizer, frozen=False)
    del learner
    gc.collect()  # the old wrap takes its hooks off the head's gradients when it goes, and it holds itself in a ring
    network = _wrap(training.learner.model, config=config, session=training.session)
    training.learner = dataclasses.replace(training.learner, network=network)
    say(training, f"the body learns too, from row {training.loader.cursor:,} on")


def make_loader(
    config: TrainConfig, data: Data, *, world: World, readers: int, device: torch.device | str, cursor: int = 0
) -> Loader:
    """Make the loader of a run's training rows."""
    return Loader(
        data.train.packs,
        batch_size=config.batch_size,
        label=config.label,
        crop_seconds=config.crop_seconds,
        order=data.order,
        classes=data.classes,
        augment=config.augment,
        transforms=load_transforms(config.transforms),
        world=world,
        readers=readers,
        cursor=cursor,
        device=device,
        pad=config.pad,
        on_bad_row=config.on_bad_row,
        verify_reads=config.verify_reads,
        remote=config.remote,
        mirror_bytes=config.mirror_bytes,
        draws=config.masks.draws,
    )


def _newest_files(run: Run) -> dict[str, bytes] | None:
    """Read the newest checkpoint; rank 0 alone picks it, so that all ranks begin from one, and needs the disk."""
    run.pull()
    found = checkpoint.newest(run.last) or checkpoint.newest(run.best)
    return checkpoint.read_files(found) if found else None


def save(training: Training, *, best: bool = False) -> None:
    """Write checkpoints/last, and best where it is that: rank 0 writes, and uploads while training goes on."""
    session, run = training.session, training.run
    session.share_buffers(training.model)
    if training.rows is not None:
        run.push(f"rows/{training.rows.name}")
    session.barrier()  # a checkpoint whose rows aren't all told would leave a hole in the row log
    training.saved = time.monotonic()
    if not session.is_first:
        return
    state = {
        **training.loader.state_dict(),
        "epochs": training.config.epochs,
        "label": training.config.label,
        "classes": training.loader.classes,
        "many": training.data.many,
        "best": training.best,
        "frozen": training.learner.frozen,
        "finished": training.loader.cursor >= training.total,
    }
    try:
        training.uploads.wait()  # its files are about to be renamed
        checkpoint.save_checkpoint(run.last, model=training.model, optimizer=training.learner.optimizer, state=state)
        if best:
            checkpoint.copy_checkpoint(run.last, run.best)
    except OSError as error:
        raise DataError(
            f"checkpoint of row {training.loader.cursor:,} can't be written to {run.place} ({error}): "
            f"the one before is kept; mend that, then go on with --resume {run.name}"
        ) from error
    if run.url is not None:
        training.uploads.start(partial(_upload, run, best=best))


def _upload(run: Run, *, best: bool) -> None:
    run.push_checkpoints(best=best)
    run.push("metrics.jsonl", "log.txt", "tb")


def close(training: Training) -> None:
    """Stop the readers and close what was being written, each of them whatever becomes of the others."""
    with contextlib.ExitStack() as last:
        for part in (training.journal, training.rows, training.uploads, training.loader):
            if part is not None:
                last.callback(part.close)


def say(training: Training, text: str) -> None:
    """Write a line for people; rank 0 only."""
    if training.journal is not None:
        training.journal.line(text)
