"""loop: batches -> steps, checkpoints, validation; the same code on a laptop, under torchrun and under Ray Train.

Whether to save or to stop is decided by rank 0 on logging steps and broadcast: no rank acts on its own clock.
"""

import itertools
import math
import time
from collections.abc import Mapping
from typing import Any

import torch

from shards.errors import DataError
from streaming.batch import Batch, Masked
from streaming.clock import Clock
from trainers import metrics
from trainers.config import TrainConfig
from trainers.evaluate import evaluate
from trainers.optim import one_cycle
from trainers.run import Run
from trainers.session import Session
from trainers.step import train_step
from trainers.training import Training, close, save, say, set_up

GO, SAVE, STOP = "go", "save", "stop"
STAGES = ("read", "decode", "augment", "copy")  # seconds of this rank, all its readers together


def train(config: TrainConfig, *, run: Run, session: Session) -> bool:
    """Train to the end, or to where the run is told to stop; True where it came to its end."""
    training = set_up(config, run=run, session=session)
    try:
        if training.loader.cursor:
            step, ranks = training.loader.cursor // config.batch_size, session.world.world_size
            say(training, f"going on at step {step:,} of {training.steps:,} on {ranks} rank(s)")
        while training.loader.cursor < training.total and not training.stopped:
            _run_epoch(training)
            if not training.stopped:
                _end_epoch(training)
                training.stopped = _decide(training) == STOP
        if training.loader.cursor < training.total:
            say(training, f"stopped at row {training.loader.cursor:,}: go on with --resume {run.name}")
        return training.loader.cursor >= training.total
    finally:
        close(training)


def _run_epoch(training: Training) -> None:
    """Take the steps whose first row lies in this epoch."""
    config, session, epoch = training.config, training.session, training.loader.epoch
    sums, rows, clock = torch.zeros(2, dtype=torch.float64, device=session.device), 0, Clock()
    masked: list[Masked] = []
    for batch in training.loader:
        clock.add(batch.seconds)
        masked += batch.masked
        lr = one_cycle(batch.cursor / training.total, lr=config.optim.lr, warmup=config.optim.warmup)
        result = train_step(
            training.learner, batch, batch_size=config.batch_size, world_size=session.world.world_size, lr=lr
        )
        sums += torch.stack([result.loss, result.correct])  # stays on the device: reading it would wait for the step
        rows += len(batch.key)
        step = training.loader.cursor // config.batch_size
        if training.rows is not None:
            training.rows.write(batch, step=step)
        if step % config.log_every == 0 or training.loader.epoch != epoch:
            counted = torch.cat([sums, sums.new_tensor([rows, len(masked)])])
            _log_step(training, batch, step=step, sums=counted, clock=clock, lr=lr, masked=masked)
            sums.zero_()
            rows, masked = 0, []
            # not at an epoch's last step: a checkpoint past the border would leave its validation out for ever
            if training.loader.epoch == epoch and _save_or_stop(training):
                return


def _log_step(
    training: Training, batch: Batch, *, step: int, sums: torch.Tensor, clock: Clock, lr: float, masked: list[Masked]
) -> None:
    """Write the line of the steps since the last one, over all ranks."""
    loss, correct, rows, bad = training.session.sum(sums).tolist()
    training.masked += int(bad)
    told = training.session.gather(masked) if bad else []  # all ranks know the sum, so all are here
    seconds = clock.read()
    if not math.isfinite(loss):
        raise DataError(f"train/loss is {loss} at step {step} (from row {batch.cursor}): lower --optim.lr and --resume")
    if training.journal is None:
        return
    record = {
        "step": step,
        "cursor": training.loader.cursor,
        "epoch": round(training.loader.cursor / training.loader.order.span, 4),
        "train/loss": loss / rows,
        "train/accuracy": correct / rows,
        "train/samples_per_second": rows / seconds["total"],
        "train/wait_share": seconds.get("wait", 0.0) / seconds["total"],
        **{f"train/{name}_seconds": seconds[name] for name in STAGES if name in seconds},
        "train/masked": training.masked,
        "train/lr": lr,
    }
    training.journal.record(record)
    for row in itertools.chain(*told):
        training.journal.line(f"masked: {row.what}")
    training.journal.line(
        f"step {step:>6,}/{training.steps:,}  epoch {record['epoch']:6.2f}/{training.config.epochs}"
        f"  loss {record['train/loss']:7.4f}  accuracy {100 * record['train/accuracy']:5.1f} %"
        f"  {record['train/samples_per_second']:7,.0f} samples/s  wait {100 * record['train/wait_share']:4.1f} %"
        f"  lr {lr:.1e}"
    )


def _decide(training: Training) -> str:
    """Tell all ranks what rank 0 found at this step: that it is time to save, or to stop."""
    late = time.monotonic() - training.saved > training.config.checkpoint_seconds
    mine = STOP if training.run.is_asked_to_stop() else SAVE if late else GO
    return training.session.broadcast(mine)


def _save_or_stop(training: Training) -> bool:
    """Do what is decided, on all ranks; True where the run stops here."""
    decided = _decide(training)
    if decided != GO:
        save(training)
    training.stopped = decided == STOP
    return training.stopped


def _end_epoch(training: Training) -> None:
    """Validate, keep the best, save: once, at the first step at or past the epoch's border."""
    if "valid" in training.data.splits:
        predictions = predict_split(training, split="valid")
        told = {f"valid/{name}": value for name, value in metrics.summary(predictions).items()}
        better = _is_better(told, training=training)
        if better:
            training.best = told[training.config.monitor]
        _log_validation(training, told, better=better)  # first: a record past the checkpoint is dropped, not missed
        save(training, best=better)
    else:
        save(training, best=True)


def predict_split(training: Training, *, split: str) -> metrics.Predictions:
    """Answer every row of a split with the model as it stands."""
    return evaluate(
        training.model,
        training.learner.mel,
        split=training.data.splits[split],
        config=training.config,
        classes=training.loader.classes,
        session=training.session,
        readers=training.loader.pool,
    )


def _is_better(told: Mapping[str, Any], *, training: Training) -> bool:
    name = training.config.monitor
    value, best = told[name], training.best
    if value is None or best is None:
        return best is None
    return value < best if name.endswith("loss") else value > best


def _log_validation(training: Training, told: dict[str, Any], *, better: bool) -> None:
    if training.journal is None:
        return
    cursor = training.loader.cursor
    where = {"step": cursor // training.config.batch_size, "cursor": cursor}
    epoch = cursor / training.loader.order.span
    training.journal.record({**where, "epoch": round(epoch, 4), **told})
    training.journal.line(
        f"epoch {epoch:5.2f}  valid loss {told['valid/loss']:7.4f}  accuracy {100 * told['valid/accuracy']:5.1f} %"
        f"  macro {100 * told['valid/macro_accuracy']:5.1f} % of {told['valid/classes_present']} classes"
        + ("  best" if better else "")
    )
