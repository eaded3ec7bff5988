"""finish: a trained run -> its best checkpoint's answers on valid and test, the table, and report.html."""

import io
import json
from collections.abc import Mapping

import numpy as np
import torch
from rich.console import Console

from shards.bijection import permute
from shards.errors import DataError
from shards.index import Pack, open_pack
from streaming.device import choose_device
from streaming.evaluation import read_note
from streaming.store import Store
from streaming.world import World
from trainers import checkpoint, metrics
from trainers.baseline import LOGISTIC, MAJORITY, fit_and_score
from trainers.config import TrainConfig, read_config, to_json
from trainers.evaluate import evaluate
from trainers.journal import Journal, read_records
from trainers.mel import LogMel
from trainers.metrics import Predictions
from trainers.model import build_model
from trainers.report import Example, Report, write_report
from trainers.run import Run, open_run_at
from trainers.session import Session
from trainers.tables import terminal_table
from trainers.training import open_packs

NUM_EXAMPLES = 6


def load_network(
    run: Run, config: TrainConfig, *, sample_rate: int, session: Session
) -> tuple[torch.nn.Module, torch.nn.Module, tuple[str, ...]]:
    """Load a run's best network with its mel, and the names of its classes; rank 0 reads it for all."""
    files = session.broadcast(_best_files(run) if session.is_first else None)
    classes = tuple(json.loads(files[checkpoint.STATE])["classes"])
    model = build_model(config.model, num_classes=len(classes), seed=config.seed)
    checkpoint.restore_model(files, model)
    mel = LogMel(config.mel, sample_rate=sample_rate)
    return model.to(session.device), mel.to(session.device), classes


def _best_files(run: Run) -> dict[str, bytes]:
    found = checkpoint.newest(run.best) or checkpoint.newest(run.last)
    if found is None:
        raise DataError(f"run {run.place} has no whole checkpoint: go on with it by --resume {run.name}")
    return checkpoint.read_files(found)


def finish(config: TrainConfig, *, run: Run, session: Session) -> None:
    """Evaluate the best checkpoint on every held-out split (all ranks), then write table and report (rank 0)."""
    packs = open_packs(config)
    model, mel, classes = load_network(run, config, sample_rate=packs["train"].sample_rate, session=session)
    held_out = [pack for split, pack in packs.items() if split != "train"]
    found = tuple(
        evaluate(model, mel, pack=pack, label=config.label, classes=classes, session=session) for pack in held_out
    )
    if session.is_first:
        baselines = _baselines(config, packs=packs, mel=mel, classes=classes)
        examples = _top_losses(found[-1], pack=held_out[-1], mel=mel) if found else ()
        report = Report(
            name=run.name,
            config=to_json(config),
            environment=json.loads(run.environment.read_bytes()),
            records=read_records(run.metrics),
            splits=found,
            examples=examples,
            baselines={split: dict(marks) for split, marks in baselines.items()},
        )
        write_report(report, run.report)
        _tell(run, found=found, baselines=baselines)
        run.push("metrics.jsonl", "log.txt", "tb", run.report.name)
    session.barrier()


def _baselines(
    config: TrainConfig, *, packs: Mapping[str, Pack], mel: torch.nn.Module, classes: tuple[str, ...]
) -> dict[str, dict[str, float]]:
    """Score the two marks of every held-out split: train's commonest class, and a linear model on mean log-mel."""
    train = packs["train"]
    target = train.label_ids(config.label, classes)
    commonest = int(np.bincount(target, minlength=len(classes)).argmax())
    held_out = {split: pack.label_ids(config.label, classes) for split, pack in packs.items() if split != "train"}
    marks = {split: {MAJORITY: float((labels == commonest).mean())} for split, labels in held_out.items()}
    if config.baseline_rows and held_out:
        some = np.sort(permute(np.arange(min(config.baseline_rows, train.rows)), train.rows, config.seed, "baseline"))
        splits = {split: (_mean_mel(packs[split], mel=mel), labels) for split, labels in held_out.items()}
        scores = fit_and_score(
            _mean_mel(train, mel=mel, rows=some), train_target=target[some], splits=splits, num_classes=len(classes)
        )
        for split, score in scores.items():
            if score.accuracy is not None:
                marks[split][LOGISTIC] = score.accuracy
    return marks


@torch.no_grad()
def _mean_mel(pack: Pack, *, mel: torch.nn.Module, rows: np.ndarray | None = None) -> np.ndarray:
    """Average each note's log-mel over time: (rows, n_mels)."""
    store, wanted = Store(pack), range(pack.rows) if rows is None else rows.tolist()
    found = [_log_mel(mel, _waveform(store, row)).mean(1) for row in wanted]
    store.close()
    return np.stack(found)


def _log_mel(mel: torch.nn.Module, waveform: torch.Tensor) -> np.ndarray:
    """Compute one note's log-mel on the mel's own device: (n_mels, frames)."""
    device = next(mel.buffers()).device
    return mel(waveform[None].to(device))[0, 0].cpu().numpy()


def _waveform(store: Store, row: int) -> torch.Tensor:
    return torch.from_numpy(read_note(store, row))


@torch.no_grad()
def _top_losses(predictions: Predictions, *, pack: Pack, mel: torch.nn.Module) -> tuple[Example, ...]:
    """Take the rows that were answered worst, with what there is to see and to hear of them."""
    store, examples = Store(pack), []
    for row in np.argsort(-predictions.loss, kind="stable")[:NUM_EXAMPLES].tolist():
        waveform, answer = _waveform(store, row), int(predictions.probabilities[row].argmax())
        examples.append(
            Example(
                key=predictions.keys[row],
                target=predictions.classes[predictions.target[row]],
                predicted=predictions.classes[answer],
                probability=float(predictions.probabilities[row, answer]),
                loss=float(predictions.loss[row]),
                waveform=waveform.numpy(),
                sample_rate=pack.sample_rate,
                mel=_log_mel(mel, waveform),
            )
        )
    store.close()
    return tuple(examples)


def _tell(run: Run, *, found: tuple[Predictions, ...], baselines: Mapping[str, Mapping[str, float]]) -> None:
    """Write the last lines of the log: the table, the marks beside it, speed, and where the report is."""
    records = [record for record in read_records(run.metrics) if "train/loss" in record]
    lines = io.StringIO()
    console = Console(file=lines, width=100)
    if found:
        console.print(terminal_table(found))
    for split, marks in baselines.items():
        told = ", ".join(f"{name} {100 * share:.1f} %" for name, share in marks.items())
        console.print(f"beside it on {split}: {told}", highlight=False)
    if records:
        speed = float(np.median([record["train/samples_per_second"] for record in records]))
        wait = float(np.median([record["train/wait_share"] for record in records]))
        console.print(
            f"median {speed:,.0f} samples/s, {100 * wait:.1f} % of the time waiting for data", highlight=False
        )
    console.print(f"report: {run.place}/{run.report.name}", highlight=False, soft_wrap=True)
    last = records[-1] if records else {"step": 0, "cursor": 0}
    journal = Journal(run, cursor=last["cursor"], step=last["step"])
    for predictions in found:
        told = {f"{predictions.split}/{name}": value for name, value in metrics.summary(predictions).items()}
        journal.record({"step": last["step"], "cursor": last["cursor"], "checkpoint": "best", **told})
    journal.line(lines.getvalue().rstrip())
    journal.close()


def evaluate_run(place: str, *, data: str | None, split: str, device: str) -> Predictions:
    """Evaluate the best checkpoint of the run at PLACE on every row of DATA/SPLIT, in this process.

    Raises:
        UsageError: there is no such run, data or split.
        DataError: the run has no whole checkpoint, or the split a class that the run doesn't know.
    """
    run = open_run_at(place)
    config = read_config(run.config)
    pack = open_pack(data or config.data or "", split=split)
    session = Session(world=World(), device=choose_device(device))
    model, mel, classes = load_network(run, config, sample_rate=pack.sample_rate, session=session)
    return evaluate(model, mel, pack=pack, label=config.label, classes=classes, session=session)
