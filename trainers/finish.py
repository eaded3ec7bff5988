"""finish: a trained run -> its best checkpoint's answers on valid and test, the table, and report.html."""

import contextlib
import dataclasses
import io
import json
from collections.abc import Mapping

import numpy as np
import torch
from rich.console import Console

from shards.bijection import permute
from shards.errors import DataError
from streaming.device import choose_device
from streaming.world import World
from trainers import checkpoint, metrics, ranking
from trainers.answers import worst
from trainers.baseline import CHANCE, LOGISTIC, MAJORITY, fit_and_rank, fit_and_score
from trainers.config import TrainConfig, read_config, to_json
from trainers.data import Data, Notes, Split, check_split, open_data, open_split
from trainers.evaluate import evaluate
from trainers.journal import Journal, read_records
from trainers.mel import LogMel
from trainers.model import build_model
from trainers.peek import look
from trainers.predictions import Predictions, tell
from trainers.report import Example, Report, write_report
from trainers.report_sounds import NUM_HEARD, Heard, hear
from trainers.run import Run, open_run_at
from trainers.session import Session
from trainers.tables import terminal_table
from trainers.task import Task


def load_network(
    run: Run, config: TrainConfig, *, sample_rate: int, session: Session
) -> tuple[torch.nn.Module, LogMel, Task]:
    """Load a run's best network with its mel, and what it has learned; rank 0 reads it for all."""
    files = session.broadcast(_best_files(run) if session.is_first else None)
    state = checkpoint.state_of(files)
    task = Task(label=state["label"], classes=tuple(state["classes"]), many=state.get("many", False))
    model = build_model(config.model, num_classes=len(task.classes), seed=config.seed)
    checkpoint.restore_model(files, model)
    mel = LogMel(config.mel, sample_rate=sample_rate)
    return model.to(session.device), mel.to(session.device), task


def _best_files(run: Run) -> dict[str, bytes]:
    found = checkpoint.newest(run.best, run.last)
    if found is None:
        raise DataError(f"run {run.place} has no whole checkpoint: go on with it by --resume {run.name}")
    return checkpoint.read_files(found)


def finish(config: TrainConfig, *, run: Run, session: Session) -> None:
    """Evaluate the best checkpoint on every held-out split (all ranks), then write table and report (rank 0)."""
    data = open_data(config)
    model, mel, task = load_network(run, config, sample_rate=data.sample_rate, session=session)
    found = tuple(
        evaluate(model, mel, split=split, config=config, task=task, session=session) for split in data.held_out
    )
    if session.is_first:
        baselines = _baselines(config, data=data, mel=mel, task=task)
        examples = _top_losses(found[-1], split=data.held_out[-1], mel=mel) if found else ()
        report = Report(
            name=run.name,
            config=to_json(config),
            environment=json.loads(run.environment.read_bytes()),
            records=read_records(run.metrics),
            splits=found,
            examples=examples,
            baselines={split: dict(marks) for split, marks in baselines.items()},
            heard=_heard(config),
        )
        write_report(report, run.report)
        _tell(run, found=found, baselines=baselines)
        run.push("metrics.jsonl", "log.txt", "tb", run.report.name)
    session.barrier()


def _baselines(config: TrainConfig, *, data: Data, mel: torch.nn.Module, task: Task) -> dict[str, dict[str, float]]:
    """Score the two marks of every held-out split: what knows nothing, and a linear model on mean log-mel.

    What training is asked for doesn't grow with it: counts of its classes, and `baseline_rows` notes.
    """
    targets = {split.name: split.targets(task.label, task.classes) for split in data.held_out}
    marks = {name: _chance(data.train, target=target, task=task) for name, target in targets.items()}
    if config.baseline_rows and targets:
        rows = len(data.train)
        some = np.sort(permute(np.arange(min(config.baseline_rows, rows)), rows, config.seed, "baseline"))
        try:
            heard = {name: _mean_mel(data.splits[name], mel=mel) for name in targets}
            seen = _mean_mel(data.train, mel=mel, rows=some)
        except DataError:
            if config.on_bad_row == "raise":
                raise
            return marks  # the run was to bear rows that can't be read, so it isn't lost for a mark beside it
        learned = data.train.targets(task.label, task.classes, rows=some.tolist())
        for name, score in _logistic(seen, learned=learned, heard=heard, targets=targets, task=task).items():
            marks[name] |= {} if score is None else {LOGISTIC: score}
    return marks


def _chance(train: Split, *, target: np.ndarray, task: Task) -> dict[str, float]:
    """Score what knows nothing of a split's notes: train's commonest class, or a constant for each class."""
    if task.many:
        chance = ranking.chance_ap(ranking.score_classes(target, np.zeros_like(target), classes=task.classes))
        return {} if chance is None else {CHANCE: chance}
    return {MAJORITY: float((target == train.count(task.label, task.classes).argmax()).mean())}


def _logistic(
    seen: np.ndarray,
    *,
    learned: np.ndarray,
    heard: Mapping[str, np.ndarray],
    targets: Mapping[str, np.ndarray],
    task: Task,
) -> dict[str, float | None]:
    """Score a linear model on every split: its accuracy, or its mAP."""
    if task.many:
        answers = fit_and_rank(seen, train_target=learned, splits=heard)
        scores = {n: ranking.score_classes(targets[n], answers[n], classes=task.classes) for n in heard}
        return {name: ranking.mean_ap(score) for name, score in scores.items()}
    splits = {name: (features, targets[name]) for name, features in heard.items()}
    found = fit_and_score(seen, train_target=learned, splits=splits, num_classes=len(task.classes))
    return {name: score.accuracy for name, score in found.items()}


@torch.no_grad()
def _mean_mel(split: Split, *, mel: torch.nn.Module, rows: np.ndarray | None = None) -> np.ndarray:
    """Average each note's log-mel over time: (rows, n_mels)."""
    wanted = range(len(split)) if rows is None else rows.tolist()
    with contextlib.closing(Notes(split)) as notes:
        return np.stack([_log_mel(mel, notes.read(row)).mean(1) for row in wanted])


def _log_mel(mel: torch.nn.Module, waveform: torch.Tensor) -> np.ndarray:
    """Compute one note's log-mel on the mel's own device: (n_mels, frames)."""
    device = next(mel.buffers()).device
    return mel(waveform[None].to(device))[0, 0].cpu().numpy()


@torch.no_grad()
def _top_losses(predictions: Predictions, *, split: Split, mel: LogMel) -> tuple[Example, ...]:
    """Take the rows that were answered worst, with what there is to see and to hear of them."""
    if predictions.masked:
        return ()  # answers and rows are then not the same ones
    notes, examples = Notes(split), []
    for row in worst(predictions):
        waveform, answers = notes.read(row), predictions.probabilities[row]
        answer = answers if predictions.many else answers.argmax()
        examples.append(
            Example(
                key=predictions.keys[row],
                target=tell(predictions.classes, predictions.target[row]),
                predicted=tell(predictions.classes, answer),
                probability=None if predictions.many else float(answers.max()),
                loss=float(predictions.loss[row]),
                waveform=waveform.numpy(),
                sample_rate=split.packs[0].sample_rate,
                mel=mel.config.draw(_log_mel(mel, waveform)),
            )
        )
    notes.close()
    return tuple(examples)


def _heard(config: TrainConfig) -> tuple[Heard, ...]:
    """Take the run's first notes, before and after augmentation."""
    try:
        return hear(look(config, split="train", rows=min(NUM_HEARD, config.batch_size), cursor=0))
    except DataError:
        if config.on_bad_row == "raise":
            raise
        return ()  # the run was to bear rows that can't be read


def _tell(run: Run, *, found: tuple[Predictions, ...], baselines: Mapping[str, Mapping[str, float]]) -> None:
    """Write the last lines of the log: the table, the marks beside it, speed, and where the report is."""
    records = [record for record in read_records(run.metrics) if "train/loss" in record]
    lines = io.StringIO()
    console = Console(file=lines, width=100)
    if found:
        console.print(terminal_table(found))
    for split, marks in baselines.items():
        told = ", ".join(f"{name} {100 * share:.1f} %" for name, share in marks.items())
        by = " by mAP" if found and found[0].many else ""
        console.print(f"beside it on {split}{by}: {told}", highlight=False)
    if records:
        speed = float(np.median([record["train/samples_per_second"] for record in records]))
        wait = float(np.median([record["train/wait_share"] for record in records]))
        console.print(
            f"median {speed:,.0f} samples/s, {100 * wait:.1f} % of the time waiting for data", highlight=False
        )
    console.print(f"report: {run.place}/{run.report.name}", highlight=False, soft_wrap=True)
    last = records[-1] if records else {"step": 0, "cursor": 0}
    loggers = read_config(run.config).loggers
    journal = Journal(run, cursor=last["cursor"], step=last["step"], loggers=loggers)
    for predictions in found:
        told = {f"{predictions.split}/{name}": value for name, value in metrics.summary(predictions).items()}
        journal.record({"step": last["step"], "cursor": last["cursor"], "checkpoint": "best", **told})
    journal.line(lines.getvalue().rstrip())
    journal.close()


def evaluate_run(place: str, *, data: str | None, split: str, device: str, views: int | None = None) -> Predictions:
    """Evaluate the best checkpoint of the run at PLACE on every row of DATA/SPLIT, in this process.

    `data` and `views` are the run's own unless given.

    Raises:
        UsageError: there is no such run, data or split, or the data lacks the label that the run has learned.
        DataError: the run has no whole checkpoint, or the split a class that the run doesn't know.
    """
    run = open_run_at(place)
    config = read_config(run.config)
    views = config.views if views is None else views
    config = dataclasses.replace(config, data=data or config.data, views=views)
    found, session = open_split(config, split), Session(world=World(), device=choose_device(device))
    rate = found.packs[0].sample_rate
    model, mel, task = load_network(run, config, sample_rate=rate, session=session)
    check_split(found, label=task.label, classes=task.classes, many=task.many, sample_rate=rate)
    return evaluate(model, mel, split=found, config=config, task=task, session=session)
