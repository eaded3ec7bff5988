"""training: config, run folder, rank -> a run as it stands: packs, network, loader at its cursor, writers."""

import dataclasses
import time
from collections.abc import Mapping

import torch

from shards.errors import DataError, UsageError
from shards.format import INDEX_NAME
from shards.index import Pack, open_pack
from shards.remote import locate
from streaming.loader import Loader
from trainers import checkpoint
from trainers.config import TrainConfig
from trainers.journal import Journal
from trainers.mel import LogMel
from trainers.model import build_model
from trainers.optim import make_optimizer
from trainers.rowlog import RowLog
from trainers.run import Run
from trainers.session import Session
from trainers.step import Learner

SPLITS = ("train", "valid", "test")


@dataclasses.dataclass(kw_only=True)
class Training:
    """A run on one rank: what it was given, and what changes as it goes."""

    config: TrainConfig
    run: Run
    session: Session
    packs: Mapping[str, Pack]
    model: torch.nn.Module
    learner: Learner
    loader: Loader
    journal: Journal | None
    rows: RowLog | None
    best: float | None = None
    saved: float = dataclasses.field(default_factory=time.monotonic)
    stopped: bool = False

    @property
    def total(self) -> int:
        """Rows at which the run ends."""
        return self.config.epochs * self.loader.plan.span

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return -(-self.total // self.config.batch_size)


def open_packs(config: TrainConfig) -> dict[str, Pack]:
    """Open the splits that DATA has and check that their labels fit train's classes.

    Raises:
        UsageError: no data was named, it isn't there, it has no train split, or the label is no text column.
        DataError: an index is damaged, or a split holds a class that train doesn't know.
    """
    if config.data is None:
        raise UsageError("data must be named: --data DST, a pack made by `python -m shards pack SRC DST --split train`")
    packs = {"train": open_pack(config.data, split="train")}
    for split in SPLITS[1:]:
        if (locate(config.data) / split / INDEX_NAME).size() is not None:
            packs[split] = open_pack(config.data, split=split)
    for pack in packs.values():
        pack.label_ids(config.label, packs["train"].classes.get(config.label, ()))
        if pack.sample_rate != packs["train"].sample_rate:
            rates = (packs["train"].sample_rate, pack.sample_rate)
            raise DataError(f"sample_rate must be train's {rates[0]} in every split, got {rates[1]} in {pack.split}")
    return packs


def set_up(config: TrainConfig, *, run: Run, session: Session) -> Training:
    """Build the run on this rank, or restore it from its newest checkpoint."""
    packs = open_packs(config)
    pack = packs["train"]
    classes = pack.classes[config.label]
    model = build_model(config.model, num_classes=len(classes), seed=config.seed).to(session.device)
    optimizer = make_optimizer(model, config.optim)
    mel = LogMel(config.mel, sample_rate=pack.sample_rate).to(session.device)
    loader = Loader(
        pack,
        batch_size=config.batch_size,
        seed=config.seed,
        label=config.label,
        crop_seconds=config.crop_seconds,
        augment=config.augment,
        world=session.world,
        readers=config.readers or 0,
        device=session.device,
    )
    files = session.broadcast(_newest_files(run) if session.is_first else None)
    state = checkpoint.restore(files, model=model, optimizer=optimizer) if files else {}
    if state:
        loader.load_state_dict(state)
    step = loader.cursor // config.batch_size
    attempt = session.broadcast(run.next_attempt() if session.is_first else None)
    return Training(
        config=config,
        run=run,
        session=session,
        packs=packs,
        model=model,
        learner=Learner(mel=mel, model=session.wrap(model), optimizer=optimizer, config=config.optim),
        loader=loader,
        journal=Journal(run, cursor=loader.cursor, step=step) if session.is_first else None,
        rows=RowLog(run.folder / "rows", rank=session.world.rank, attempt=attempt) if config.log_rows else None,
        best=state.get("best"),
    )


def _newest_files(run: Run) -> dict[str, bytes] | None:
    """Read the newest checkpoint; rank 0 alone picks it, so that all ranks begin from one, and needs the disk."""
    run.pull()
    found = checkpoint.newest(run.last)
    return checkpoint.read_files(found) if found else None


def save(training: Training, *, best: bool = False) -> None:
    """Write checkpoints/last, and best where it is that; rank 0 writes, all wait."""
    training.session.share_buffers(training.model)
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
    if training.rows is not None:
        training.run.push(f"rows/{training.rows.name}")
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
