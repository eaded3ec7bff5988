"""loop: batches -> steps, checkpoints, validation; the same code on a laptop, under torchrun and under Ray Train.

Whether to save or to stop is decided by rank 0 on logging steps and broadcast: no rank acts on its own clock.
"""

import dataclasses
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from shards.errors import DataError, UsageError
from shards.format import INDEX_NAME
from shards.index import Pack, open_pack
from streaming.batch import Batch
from streaming.clock import Clock
from streaming.loader import Loader
from trainers import checkpoint, metrics
from trainers.config import TrainConfig
from trainers.evaluate import evaluate
from trainers.journal import Journal
from trainers.mel import LogMel
from trainers.model import build_model
from trainers.optim import make_optimizer, one_cycle
from trainers.rowlog import RowLog
from trainers.run import Run
from trainers.session import Session
from trainers.step import Learner, train_step

SPLITS = ("train", "valid", "test")
GO, SAVE, STOP = "go", "save", "stop"


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
        if (Path(config.data) / split / INDEX_NAME).exists():
            packs[split] = open_pack(config.data, split=split)
    for pack in packs.values():
        pack.label_ids(config.label, packs["train"].classes.get(config.label, ()))
        if pack.sample_rate != packs["train"].sample_rate:
            rates = (packs["train"].sample_rate, pack.sample_rate)
            raise DataError(f"sample_rate must be train's {rates[0]} in every split, got {rates[1]} in {pack.split}")
    return packs


def train(config: TrainConfig, *, run: Run, session: Session) -> bool:
    """Train to the end, or to where the run is told to stop; True where it came to its end."""
    training = _set_up(config, run=run, session=session)
    try:
        if training.loader.cursor:
            _say(training, f"going on at step {training.loader.cursor // config.batch_size:,} of {training.steps:,}")
        while training.loader.cursor < training.total and not training.stopped:
            _run_epoch(training)
            if not training.stopped:
                _end_epoch(training)
        if training.stopped:
            _save(training)
            _say(training, f"stopped at row {training.loader.cursor:,}: go on with --resume {run.folder.name}")
        return not training.stopped
    finally:
        training.loader.close()
        for writer in (training.journal, training.rows):
            if writer is not None:
                writer.close()


def _set_up(config: TrainConfig, *, run: Run, session: Session) -> Training:
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
    # rank 0 picks the checkpoint, so that all ranks begin from one
    found = session.broadcast(checkpoint.newest(run.last) if session.is_first else None)
    state = checkpoint.load_training(found, model=model, optimizer=optimizer) if found else {}
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


def _run_epoch(training: Training) -> None:
    """Take the steps whose first row lies in this epoch."""
    config, session = training.config, training.session
    sums, clock = torch.zeros(3, dtype=torch.float64, device=session.device), Clock()
    batches = iter(training.loader)
    while True:
        with clock.time("wait"):
            batch = next(batches, None)
        if batch is None:
            return
        lr = one_cycle(batch.cursor / training.total, lr=config.optim.lr, warmup=config.optim.warmup)
        result = train_step(
            training.learner, batch, batch_size=config.batch_size, world_size=session.world.world_size, lr=lr
        )
        sums += torch.stack([result.loss, result.correct, result.correct.new_tensor(result.rows)])
        step = training.loader.cursor // config.batch_size
        if training.rows is not None:
            training.rows.write(batch, step=step)
        if step % config.log_every == 0 or training.loader.cursor >= training.total:
            _log_step(training, batch, step=step, sums=sums, clock=clock, lr=lr)
            sums.zero_()
            if _agree(training):
                return


def _log_step(training: Training, batch: Batch, *, step: int, sums: torch.Tensor, clock: Clock, lr: float) -> None:
    """Write the line of the steps since the last one, over all ranks."""
    loss, correct, rows = training.session.sum(sums).tolist()
    seconds = clock.read()
    if not math.isfinite(loss):
        raise DataError(f"train/loss is {loss} at step {step} (from row {batch.cursor}): lower --optim.lr and --resume")
    if training.journal is None:
        return
    record = {
        "step": step,
        "cursor": training.loader.cursor,
        "epoch": round(training.loader.cursor / training.loader.plan.span, 4),
        "train/loss": loss / rows,
        "train/accuracy": correct / rows,
        "train/samples_per_second": rows / seconds["total"],
        "train/wait_share": seconds.get("wait", 0.0) / seconds["total"],
        "train/lr": lr,
    }
    training.journal.record(record)
    training.journal.line(
        f"step {step:>6,}/{training.steps:,}  epoch {record['epoch']:6.2f}/{training.config.epochs}"
        f"  loss {record['train/loss']:7.4f}  accuracy {100 * record['train/accuracy']:5.1f} %"
        f"  {record['train/samples_per_second']:7,.0f} samples/s  wait {100 * record['train/wait_share']:4.1f} %"
        f"  lr {lr:.1e}"
    )


def _agree(training: Training) -> bool:
    """Do what rank 0 decides, on all ranks at this step; True where the run stops here."""
    late = time.monotonic() - training.saved > training.config.checkpoint_seconds
    mine = STOP if training.run.stop.exists() else SAVE if late else GO
    decided = training.session.broadcast(mine)
    if decided == SAVE:
        _save(training)
    training.stopped = decided == STOP
    return training.stopped


def _end_epoch(training: Training) -> None:
    """Validate, keep the best, save: once, at the first step at or past the epoch's border."""
    if "valid" in training.packs:
        predictions = predict_split(training, split="valid")
        told = {f"valid/{name}": value for name, value in metrics.summary(predictions).items()}
        better = _is_better(told, training=training)
        if better:
            training.best = told[training.config.monitor]
        _save(training, best=better)
        _log_validation(training, told, better=better)
    else:
        _save(training, best=True)


def predict_split(training: Training, *, split: str) -> metrics.Predictions:
    """Answer every row of a split with the model as it stands."""
    return evaluate(
        training.model,
        training.learner.mel,
        pack=training.packs[split],
        label=training.config.label,
        classes=training.loader.classes,
        session=training.session,
    )


def _is_better(told: Mapping[str, Any], *, training: Training) -> bool:
    name = training.config.monitor
    if name not in told:
        raise UsageError(f"monitor must be one of {', '.join(list(told)[3:8])} ..., got {name!r}")
    value, best = told[name], training.best
    if value is None or best is None:
        return best is None
    return value < best if name.endswith("loss") else value > best


def _log_validation(training: Training, told: dict[str, Any], *, better: bool) -> None:
    if training.journal is None:
        return
    cursor = training.loader.cursor
    where = {"step": cursor // training.config.batch_size, "cursor": cursor}
    epoch = cursor / training.loader.plan.span
    training.journal.record({**where, "epoch": round(epoch, 4), **told})
    training.journal.line(
        f"epoch {epoch:5.2f}  valid loss {told['valid/loss']:7.4f}  accuracy {100 * told['valid/accuracy']:5.1f} %"
        f"  macro {100 * told['valid/macro_accuracy']:5.1f} % of {told['valid/classes_present']} classes"
        + ("  best" if better else "")
    )


def _save(training: Training, *, best: bool = False) -> None:
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
    training.saved = time.monotonic()
    training.session.barrier()


def _say(training: Training, text: str) -> None:
    if training.journal is not None:
        training.journal.line(text)
