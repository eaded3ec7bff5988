"""training: config, run folder, rank -> a run as it stands: packs, network, loader at its cursor, writers."""

import contextlib
import dataclasses
import time
from functools import partial

import torch

from shards.errors import DataError
from streaming.loader import Loader
from streaming.world import World
from trainers import checkpoint
from trainers.config import TrainConfig
from trainers.data import Data, open_data
from trainers.journal import Journal
from trainers.learner import make_learner, thaw
from trainers.named import load_transforms
from trainers.rowlog import RowLog
from trainers.run import Run
from trainers.session import Session
from trainers.step import Learner
from trainers.task import choose_monitor
from trainers.uploads import Uploads
from trainers.watchdog import Watchdog


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
    watchdog: Watchdog
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
    learner, state, said = make_learner(config, data=data, session=session, files=files)
    if state:
        loader.load_state_dict(state, rebatch=config.rebatch)
    step = loader.cursor // config.batch_size
    attempt = session.broadcast(run.next_attempt() if session.is_first else None)
    watchdog = Watchdog(run, limit=config.stall_seconds, rank=session.world.rank, attempt=attempt, loader=loader)
    learner.mel.register_forward_hook(watchdog.feed)
    training = Training(
        config=config,
        run=run,
        session=session,
        data=data,
        model=learner.model.model,
        learner=learner,
        loader=loader,
        journal=Journal(run, cursor=loader.cursor, step=step, loggers=config.loggers) if session.is_first else None,
        rows=RowLog(run.folder / "rows", rank=session.world.rank, attempt=attempt) if config.log_rows else None,
        uploads=Uploads(),
        watchdog=watchdog,
        best=state.get("best"),
    )
    if said:
        say(training, said)
    watchdog.start()
    return training


def unfreeze_if_due(training: Training) -> None:
    """Let the body learn too, once the frozen epochs are over."""
    learner, config = training.learner, training.config
    if learner.frozen and training.loader.cursor >= config.optim.frozen_epochs * training.loader.order.span:
        training.learner = dataclasses.replace(learner, network=learner.model)  # the last word of the old wrap
        del learner
        training.learner = thaw(training.learner, config, session=training.session)
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
    found = checkpoint.newest(run.last, run.best)
    return checkpoint.read_files(found) if found else None


def save(training: Training, *, best: bool = False) -> None:
    """Write checkpoints/last, and best where it is that: rank 0 writes, and uploads while training goes on."""
    session, run = training.session, training.run
    training.watchdog.bear()
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
        "sample_rate": training.data.sample_rate,
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
    run.push("metrics.jsonl", "log.txt", "tb", "loggers")


def close(training: Training) -> None:
    """Stop the readers and close what was being written, each of them whatever becomes of the others."""
    training.watchdog.stop()
    with contextlib.ExitStack() as last:
        for part in (training.journal, training.rows, training.uploads, training.loader):
            if part is not None:
                last.callback(part.close)


def say(training: Training, text: str) -> None:
    """Write a line for people; rank 0 only."""
    if training.journal is not None:
        training.journal.line(text)
