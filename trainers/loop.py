"""loop: batches -> steps, checkpoints, validation; the same code on a laptop, under torchrun and under Ray Train.

Whether to save or to stop is decided by rank 0 on logging steps and broadcast: no rank acts on its own clock.
"""

import itertools
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from shards.errors import DataError
from streaming.batch import Batch, Masked
from streaming.clock import Clock
from trainers import metrics
from trainers.config import TrainConfig
from trainers.evaluate import evaluate
from trainers.gauges import show_gauges
from trainers.lines import step_line, validation_line
from trainers.memory import peak_bytes
from trainers.network import see
from trainers.optim import one_cycle
from trainers.pictures import MOST_MELS, Image, confusion_image, mels_image
from trainers.run import Run
from trainers.session import Session
from trainers.step import train_step
from trainers.training import Training, close, save, say, set_up, unfreeze_if_due

GO, SAVE, STOP = "go", "save", "stop"
STAGES = ("read", "decode", "augment", "copy")  # seconds of this rank, all its readers together


class DivergedError(DataError):
    """The loss is no number any more."""


def train(
    config: TrainConfig, *, run: Run, session: Session, tell: Callable[[dict[str, Any]], None] | None = None
) -> bool:
    """Train to the end, or to where the run is told to stop; True where it came to its end.

    `tell` is called on every rank with what each epoch's validation gave, once its checkpoint is written.
    """
    training = set_up(config, run=run, session=session)
    try:
        if training.loader.cursor:
            step, ranks = training.loader.cursor // config.batch_size, session.world.world_size
            say(training, f"going on at step {step:,} of {training.steps:,} on {ranks} rank(s)")
        while training.loader.cursor < training.total and not training.stopped:
            unfreeze_if_due(training)
            _run_epoch(training)
            if not training.stopped:
                told = _end_epoch(training)
                if tell is not None:
                    tell(told)
                training.stopped = _decide(training) == STOP
        training.uploads.wait()
        if training.loader.cursor < training.total:
            say(training, f"stopped at row {training.loader.cursor:,}: go on with --resume {run.name}")
        return training.loader.cursor >= training.total
    finally:
        close(training)


def _run_epoch(training: Training) -> None:
    """Take the steps whose first row lies in this epoch."""
    config, session, epoch = training.config, training.session, training.loader.epoch
    sums, rows, steps, clock = torch.zeros(3, dtype=torch.float64, device=session.device), 0, 0, Clock()
    masked: list[Masked] = []
    for batch in training.loader:
        clock.add(batch.seconds)
        masked += batch.masked
        lr = one_cycle(batch.cursor / training.total, lr=config.optim.lr, warmup=config.optim.warmup)
        result = train_step(
            training.learner, batch, batch_size=config.batch_size, world_size=session.world.world_size, lr=lr
        )
        # stays on the device: reading it would wait for the step
        sums += torch.stack([result.loss, result.correct, result.grad_norm])
        rows, steps = rows + len(batch.key), steps + 1
        step = training.loader.cursor // config.batch_size
        if training.rows is not None:
            training.rows.write(batch, step=step)
        if step % config.log_every == 0 or training.loader.epoch != epoch:
            counted = torch.cat([sums, sums.new_tensor([rows, len(masked), steps])])
            _log_step(training, batch, step=step, sums=counted, clock=clock, lr=lr, masked=masked)
            sums.zero_()
            rows, steps, masked = 0, 0, []
            if training.loader.epoch != epoch and training.journal is not None:
                training.journal.picture("train/mels", partial(_draw_mels, training, batch), step=step)
            # not at an epoch's last step: a checkpoint past the border would leave its validation out for ever
            if training.loader.epoch == epoch and _save_or_stop(training):
                return


def _log_step(
    training: Training, batch: Batch, *, step: int, sums: torch.Tensor, clock: Clock, lr: float, masked: list[Masked]
) -> None:
    """Write the line of the steps since the last one, over all ranks."""
    loss, correct, grad_norm, rows, bad, steps = training.session.sum(sums).tolist()
    training.masked += int(bad)
    told = training.session.gather(masked) if bad else []  # all ranks know the sum, so all are here
    seconds = clock.read()
    for name, value in (("loss", loss), ("grad_norm", grad_norm)):  # before anything is saved
        if not math.isfinite(value):
            raise DivergedError(
                f"train/{name} is {value} at step {step} (from row {batch.cursor}): lower --optim.lr and --resume"
            )
    if training.journal is None:
        return
    record = {
        "step": step,
        "cursor": training.loader.cursor,
        "epoch": round(training.loader.cursor / training.loader.order.span, 4),
        "train/loss": loss / rows,
        f"train/{training.learner.task.right}": correct / rows,
        "train/samples_per_second": rows / seconds["total"],
        "train/wait_share": seconds.get("wait", 0.0) / seconds["total"],
        **{f"train/{name}_seconds": seconds[name] for name in STAGES if name in seconds},
        "train/masked": training.masked,
        "train/grad_norm": grad_norm / steps,  # all ranks know the same, and count it
        "train/lr": lr,
        "train/memory_bytes": peak_bytes(training.session.device),
    }
    training.journal.record(record)
    show_gauges(record, run=training.run.name)
    for row in itertools.chain(*told):
        training.journal.line(f"masked: {row.what}")
    training.journal.line(step_line(record, steps=training.steps, epochs=training.config.epochs))


@torch.no_grad()
def _draw_mels(training: Training, batch: Batch) -> Image:
    """Draw some mels of a batch as the network saw them."""
    learner, some = training.learner, batch.map(lambda tensor: tensor[:MOST_MELS])
    pictures, _ = see(some, mel=learner.mel, masks=learner.masks)
    return mels_image(training.config.mel.draw(pictures[:, 0].float().cpu().numpy()))


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


def _end_epoch(training: Training) -> dict[str, Any]:
    """Validate, keep the best, save: once, at the first step at or past the epoch's border. Return what was told."""
    if "valid" in training.data.splits:
        predictions = predict_split(training, split="valid")
        told = {f"valid/{name}": value for name, value in metrics.summary(predictions).items()}
        better = _is_better(told, training=training)
        if better:
            training.best = told[training.monitor]
        if training.journal is not None and not training.data.many:
            step = training.loader.cursor // training.config.batch_size
            training.journal.picture("valid/confusion", partial(confusion_image, predictions), step=step)
        _log_validation(training, told, better=better)  # first: a record past the checkpoint is dropped, not missed
        save(training, best=better)
        return {"epoch": training.loader.epoch, **told}
    save(training, best=True)
    return {"epoch": training.loader.epoch}


def predict_split(training: Training, *, split: str) -> metrics.Predictions:
    """Answer every row of a split with the model as it stands."""
    return evaluate(
        training.model,
        training.learner.mel,
        split=training.data.splits[split],
        config=training.config,
        task=training.learner.task,
        session=training.session,
        readers=training.loader.pool,
    )


def _is_better(told: Mapping[str, Any], *, training: Training) -> bool:
    name = training.monitor
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
    training.journal.line(validation_line(told, epoch=epoch) + ("  best" if better else ""))
