"""sweep_table: trials' folders -> what came of each, as a table for people, JSON and CSV for programs.

A trial is judged by its best validation of the monitored metric. Its figures on test stay in its own report: who
chooses among many trials by test has no test any more.
"""

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from shards.remote import locate
from trainers.config import TrainConfig
from trainers.journal import read_records
from trainers.run import Run

ENDED = "ended.json"
FINISHED, STOPPED_EARLY, DIVERGED, UNFINISHED, NOT_BEGUN = (
    "finished", "stopped early", "diverged", "unfinished", "not begun",
)  # fmt: skip
DONE = (FINISHED, STOPPED_EARLY, DIVERGED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial of a sweep: its own options by dotted name, and the whole config; `config.name` is its name."""

    values: Mapping[str, Any]
    config: TrainConfig

    @property
    def name(self) -> str:
        """The folder's name: trial-0003."""
        assert self.config.name, "a trial has a name"
        return self.config.name

    @property
    def place(self) -> str:
        """The trial's folder or URL."""
        return (locate(self.config.runs) / self.name).text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a trial so far: each validation as (epoch, value of the monitored metric)."""

    trial: Trial
    state: str
    history: tuple[tuple[int, float], ...]
    best: float | None
    best_epoch: int | None

    @property
    def name(self) -> str:
        """The trial's name."""
        return self.trial.name

    @property
    def epochs(self) -> int:
        """Count the epochs that were validated."""
        return self.history[-1][0] if self.history else 0

    @property
    def is_done(self) -> bool:
        """Tell whether the trial isn't run again."""
        return self.state in DONE


def read_outcome(trial: Trial, *, config: TrainConfig) -> Outcome:
    """Read a trial's folder: all that a sweep knows of it."""
    place, run = locate(trial.place), Run.at(trial.config.runs, trial.name)
    state = NOT_BEGUN
    if (place / "config.json").size() is not None:
        state = FINISHED if (place / "report.html").size() is not None else UNFINISHED
    if state == UNFINISHED and (place / ENDED).size() is not None:
        state = json.loads((place / ENDED).read_bytes())["why"]
    if run.url is not None and (place / "metrics.jsonl").size() is not None:
        run.folder.mkdir(parents=True, exist_ok=True)
        run.metrics.write_bytes((place / "metrics.jsonl").read_bytes())
    history = validations(run, monitor=monitor_of(config)) if state != NOT_BEGUN else ()
    best = _best(history, monitor=monitor_of(config))
    return Outcome(
        trial=trial,
        state=state,
        history=history,
        best=best[1] if best else None,
        best_epoch=best[0] if best else None,
    )


def validations(run: Run, *, monitor: str) -> tuple[tuple[int, float], ...]:
    """Return each epoch's value of the monitored metric from a run's metrics.jsonl, as (epoch, value)."""
    found = {}
    for record in read_records(run.metrics):
        if record.get(monitor) is not None and "checkpoint" not in record:  # that is the best one's, once more
            found[int(record["epoch"])] = record[monitor]
    return tuple(found.items())


def end_trial(place: str, why: str) -> None:
    """Write into a trial's folder why it goes no further."""
    (locate(place) / ENDED).write_bytes(json.dumps({"why": why}).encode())


def monitor_of(config: TrainConfig) -> str:
    """Return the metric that trials are judged by, which a sweep has chosen before they begin."""
    assert config.monitor is not None, "chosen when the sweep began"
    return config.monitor


def counts_down(monitor: str) -> bool:
    """Tell whether less of the metric is better."""
    return monitor.endswith("loss")


def _best(history: Sequence[tuple[int, float]], *, monitor: str) -> tuple[int, float] | None:
    sign = 1 if counts_down(monitor) else -1
    return min(history, key=lambda one: sign * one[1], default=None)  # the first of equals, as the run itself keeps


def ranked(outcomes: Sequence[Outcome], *, monitor: str) -> list[Outcome]:
    """Sort outcomes by their best value, the best first; those without one last, by name."""
    sign = 1 if counts_down(monitor) else -1
    return sorted(outcomes, key=lambda one: (one.best is None, sign * (one.best or 0), one.name))


def as_rows(outcomes: Sequence[Outcome], *, monitor: str) -> list[dict[str, Any]]:
    """Return the table's rows as plain values, the best first."""
    return [
        {"trial": one.name, **one.trial.values, "state": one.state, "epochs": one.epochs, monitor: one.best,
         "at_epoch": one.best_epoch}
        for one in ranked(outcomes, monitor=monitor)
    ]  # fmt: skip


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows as CSV with a header."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def terminal_rows(outcomes: Sequence[Outcome], *, monitor: str) -> Table:
    """Lay out the rows for a terminal."""
    rows = as_rows(outcomes, monitor=monitor)
    table = Table(box=SIMPLE, show_edge=False)
    for name in rows[0]:
        table.add_column(Text(name), justify="left" if name in ("trial", "state") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(show_value(name, value, monitor=monitor)) for name, value in row.items()))
    return table


def show_value(name: str, value: Any, *, monitor: str) -> str:
    """Write one value for people: a share in percent, what isn't there as a dash."""
    if value is None:
        return "none" if name != monitor and name != "at_epoch" else "-"
    if name == monitor:
        return f"{value:.4f}" if counts_down(monitor) else f"{100 * value:.1f} %"
    return f"{value:g}" if isinstance(value, float) else str(value)


def show_trial(name: str, values: Mapping[str, Any], *, epoch: int, config: TrainConfig, value: float) -> str:
    """Write the line of a trial's validation."""
    monitor = monitor_of(config)
    told = "  ".join(f"{option} {show_value(option, one, monitor=monitor)}" for option, one in values.items())
    monitored = f"{monitor} {show_value(monitor, value, monitor=monitor)}"
    return f"{name}  epoch {epoch:>3}/{config.epochs}  {monitored}  {told}"
