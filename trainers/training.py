"""training: config, run folder, rank -> a run as it stands: packs, network, loader at its cursor, writers."""

import dataclasses
import time

import torch

from streaming.loader import Loader
from streaming.world import World
from trainers import checkpoint
from trainers.config import TrainConfig
from trainers.data import Data, open_data
from trainers.journal import Journal
from trainers.mel import LogMel
from trainers.model import build_model
from trainers.named import load_transforms
from trainers.optim import make_optimizer
from trainers.rowlog import RowLog
from trainers.run import Run
from trainers.session import Session
from trainers.step import Learner


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
    best: float | None = None
    saved: float = dataclasses.field(default_factory=time.monotonic)
    stopped: bool = False
    masked: int = 0

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
    model = build_model(config.model, num_classes=len(data.classes), seed=config.seed).to(session.device)
    optimizer = make_optimizer(model, config.optim)
    mel = LogMel(config.mel, sample_rate=data.sample_rate).to(session.device)
    loader = make_loader(config, data, world=session.world, readers=config.readers or 0, device=session.device)
    files = session.broadcast(_newest_files(run) if session.is_first else None)
    state = checkpoint.restore(files, model=model, optimizer=optimizer) if files else {}
    if state:
        loader.load_state_dict(state, rebatch=config.rebatch)
    step = loader.cursor // config.batch_size
    attempt = session.broadcast(run.next_attempt() if session.is_first else None)
    return Training(
        config=config,
        run=run,
        session=session,
        data=data,
        model=model,
        learner=Learner(
            mel=mel,
            masks=config.masks,
            silence=config.mel.lowest,
            model=session.wrap(model),
            optimizer=optimizer,
            config=config.optim,
        ),
        loader=loader,
        journal=Journal(run, cursor=loader.cursor, step=step) if session.is_first else None,
        rows=RowLog(run.folder / "rows", rank=session.world.rank, attempt=attempt) if config.log_rows else None,
        best=state.get("best"),
    )


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
    found = checkpoint.newest(run.last)
    return checkpoint.read_files(found) if found else None


def save(training: Training, *, best: bool = False) -> None:
    """Write checkpoints/last, and best where it is that; rank 0 writes, all wait."""
    training.session.share_buffers(training.model)
    if training.rows is not None:  # before the checkpoint: a step behind it is never done again, nor logged again
        training.run.push(f"rows/{training.rows.name}")
        training.session.barrier()
    if training.session.is_first:
        state = {
            **training.loader.state_dict(),
            "epochs": training.config.epochs,
            "label": training.config.label,
            "classes": training.loader.classes,
            "best": training.best,
            "finished": training.loader.cursor >= training.total,
        }
        checkpoint.save_checkpoint(
            training.run.last, model=training.model, optimizer=training.learner.optimizer, state=state
        )
        if best:
            checkpoint.copy_checkpoint(training.run.last, training.run.best)
        training.run.push_checkpoints(best=best)
        training.run.push("metrics.jsonl", "log.txt", "tb")
    training.saved = time.monotonic()
    training.session.barrier()


def close(training: Training) -> None:
    """Stop the readers and close what was being written."""
    training.loader.close()
    for writer in (training.journal, training.rows):
        if writer is not None:
            writer.close()


def say(training: Training, text: str) -> None:
    """Write a line for people; rank 0 only."""
    if training.journal is not None:
        training.journal.line(text)
