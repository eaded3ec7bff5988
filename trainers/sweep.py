"""sweep: one pack, options to vary -> a folder of trials, each a whole run; their table and plot.

    RUNS/NAME/options.json              what was asked for; the trials are a pure function of it
    RUNS/NAME/trial-0003/               a run: config.json, metrics.jsonl, checkpoints/, report.html
    RUNS/NAME/sweep.{json,csv,png,html} what came of them

No data is rewritten: the mel is made on each rank's device, so its parameters are options like the learning rate.
The folder is all that there is to a sweep, so another process goes on with it after any kill.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import tyro
from rich.console import Console

from shards.errors import DataError, UsageError
from shards.remote import locate
from trainers.config import TrainConfig, from_json, to_json
from trainers.resume import MAY_CHANGE
from trainers.run import Run, absolute_data
from trainers.sweep_table import Outcome, Trial, as_csv, as_rows, monitor_of, read_outcome, terminal_rows
from trainers.vary import draw_trials, parse_vary, with_values

OPTIONS = "options.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Options of `python -m trainers sweep`: what to vary, and a run's own."""

    vary: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """An option and its values: mel.n_mels=40,64 a list, optim.lr=1e-4..1e-2 a range. Give it once for each option."""
    trials: int | None = None
    """How many; every combination of the lists once unless given. --resume takes more."""
    keep: int = 3
    """One trial in so many goes on past each of ASHA's rungs, which lie this factor apart."""
    least_epochs: int = 1
    """No trial is stopped before so many epochs, the first rung; --epochs here stops none."""
    at_a_time: int | None = None
    """Trials side by side; as many as there are GPUs, or cores for, unless given."""
    train: Annotated[TrainConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=TrainConfig)
    """The run that all trials vary."""

    def __post_init__(self) -> None:
        for name, least in (("keep", 2), ("least_epochs", 1), ("at_a_time", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name} must be at least {least}, got {value}")


def default_options(args: Sequence[str], *, train: Callable[[list[str]], TrainConfig]) -> SweepOptions:
    """Return what the options are unless given: those of the sweep to resume, or those of a run."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--resume")
    parser.add_argument("--runs", default="runs")
    given, _ = parser.parse_known_args(list(args))
    if given.resume:
        return read_options(given.runs, given.resume)
    return SweepOptions(train=train(list(args)))


def read_options(runs: str, name: str) -> SweepOptions:
    """Read what the sweep NAME of RUNS was asked for.

    Raises:
        UsageError: there is no such sweep.
    """
    place = locate(runs) / name / OPTIONS
    if place.size() is None:
        raise UsageError(f"sweep {name} does not exist in {locate(runs)}: begin it with --name {name}")
    told = json.loads(place.read_bytes())
    del told["drawn"]
    train = from_json(told.pop("train") | {"name": None, "runs": runs}, name=str(place))
    return SweepOptions(**told | {"vary": tuple(told["vary"])}, train=train)


def sweep(options: SweepOptions) -> None:
    """Train many runs that differ in a few options, of one pack; stop bad ones early, and tell which did best."""
    if options.train.resume and options.train.name:
        raise UsageError(f"take --resume {options.train.resume} or --name {options.train.name}, not both")
    options = dataclasses.replace(options, train=_named(options.train))
    if options.train.resume:
        _check_resumed(options)
    else:
        options = dataclasses.replace(options, train=_monitored(options.train))
    trials = _trials(options)
    _check(trials)
    place = _begin(options, drawn=[trial.values for trial in trials])
    known = [read_outcome(trial, config=options.train) for trial in trials]
    done = sum(one.is_done for one in known)
    print(f"sweep {place.name} in {place.place}: {len(trials)} trials, {done} of them done", flush=True)  # noqa: T201
    try:
        asked, failed = _run(options, place=place, known=known) if done < len(known) else (False, {})
    except KeyboardInterrupt:  # the second one: trials end where they are
        raise KeyboardInterrupt(f"go on with --resume {place.name}") from None
    known = [read_outcome(trial, config=options.train) for trial in trials]
    _tell(known, place=place, options=options)
    if asked and not all(one.is_done for one in known):
        raise KeyboardInterrupt(f"go on with --resume {place.name}")
    if failed:
        name, why = next(iter(failed.items()))
        raise DataError(f"{len(failed)} trial(s) failed, {name} by {why}: mend it and go on with --resume {place.name}")


def _named(config: TrainConfig) -> TrainConfig:
    """Name the sweep, and the data so that trials find it from another working directory."""
    name = config.name or (None if config.resume else f"sweep-{datetime.now().astimezone():%Y%m%d-%H%M%S}")
    return dataclasses.replace(config, name=name, data=absolute_data(config.data) if config.data else None)


def _monitored(config: TrainConfig) -> TrainConfig:
    """Choose the metric that trials are judged by, where the user didn't."""
    from trainers.data import open_data  # here: it imports torch, which --help needn't wait for
    from trainers.task import choose_monitor

    return dataclasses.replace(config, monitor=choose_monitor(config, many=open_data(config).many))


def _check_resumed(options: SweepOptions) -> None:
    """Refuse to go on with other options than the sweep's own, but for those that change no result, and more trials."""
    name = options.train.resume or ""
    own = read_options(options.train.runs, name)
    before, now = to_json(own.train), to_json(options.train)
    changed = [(one, before[one], now[one]) for one in now if one not in MAY_CHANGE and before[one] != now[one]]
    changed += [
        (one, getattr(own, one), getattr(options, one))
        for one in ("vary", "keep", "least_epochs")
        if getattr(own, one) != getattr(options, one)
    ]
    if changed:
        option, was, is_now = changed[0]
        raise UsageError(
            f"{option} was {was} when sweep {name} began, and is {is_now} now: leave it out to go on, or begin a new "
            "sweep with --name"
        )
    if (options.trials or 0) < (own.trials or 0):
        raise UsageError(f"trials was {own.trials} when sweep {name} began, and is {options.trials} now: more may come")


def _trials(options: SweepOptions) -> list[Trial]:
    """Make the trials' configs; nothing is written yet. What a sweep has drawn already stays as it is."""
    base, name = options.train, options.train.resume or options.train.name or ""
    drawn = draw_trials(parse_vary(options.vary), count=options.trials, seed=base.seed)
    if base.resume:
        own = json.loads((locate(base.runs) / name / OPTIONS).read_bytes())["drawn"]
        drawn = own + drawn[len(own) :]
    place = Run.at(base.runs, name).place
    alone = {"runs": place, "resume": None, "config": None, "local": True, "world_size": 1}
    return [
        Trial(
            values=values,
            config=dataclasses.replace(with_values(base, values), name=f"trial-{k:04d}", **alone),
        )
        for k, values in enumerate(drawn)
    ]


def _check(trials: Sequence[Trial]) -> None:
    """Check all that can be checked from here: the data, each mel, each network.

    Raises:
        UsageError: an option doesn't fit, or there is no split to judge trials by.
    """
    from trainers.data import open_data  # here: these import torch, which --help needn't wait for
    from trainers.mel import LogMel
    from trainers.model import build_model
    from trainers.named import load_transforms

    plain = TrainConfig()
    parts = {name: getattr(plain, name) for name in ("augment", "mel", "masks", "model", "optim", "name")}
    opened = [open_data(config) for config in {dataclasses.replace(one.config, **parts) for one in trials}]
    if any("valid" not in data.splits for data in opened):
        raise UsageError(f"data {trials[0].config.data} has no split valid, by which trials are judged: pack one")
    for mel in {one.config.mel for one in trials}:
        LogMel(mel, sample_rate=opened[0].sample_rate)
    for model in {one.config.model for one in trials}:
        build_model(model, num_classes=2, seed=0)
    load_transforms(trials[0].config.transforms)


def _begin(options: SweepOptions, *, drawn: Sequence[Mapping[str, Any]]) -> Run:
    """Make the sweep's folder, or open it to go on."""
    place = Run.at(options.train.runs, options.train.resume or options.train.name or "")
    for name in () if options.train.resume else (OPTIONS, "config.json"):
        if (locate(place.place) / name).size() is not None:
            raise UsageError(
                f"{place.name} exists in {locate(options.train.runs)}: take --resume {place.name} to go on, "
                "or another --name"
            )
    told: dict[str, Any] = {name: getattr(options, name) for name in ("vary", "trials", "keep", "least_epochs")}
    told |= {
        "drawn": drawn,
        "at_a_time": options.at_a_time,
        "train": to_json(options.train) | {"resume": None, "config": None},
    }
    place.folder.mkdir(parents=True, exist_ok=True)
    (locate(place.place) / OPTIONS).write_bytes(json.dumps(told, indent=2).encode())
    place.forget_stop()
    return place


def _run(options: SweepOptions, *, place: Run, known: Sequence[Outcome]) -> tuple[bool, dict[str, str]]:
    """Run what isn't done yet, by Ray Tune."""
    from trainers import cluster  # here: Ray takes 3 s that a sweep that is done needn't pay

    with cluster.connected(dataclasses.replace(options.train, world_size=1)) as machine:
        from trainers.tuner import run_trials

        return run_trials(
            place, config=options.train, known=known, machine=machine, keep=options.keep,
            least_epochs=options.least_epochs, at_a_time=options.at_a_time,
        )  # fmt: skip


def _tell(known: Sequence[Outcome], *, place: Run, options: SweepOptions) -> None:
    """Write the table and the plot, and print the table."""
    from trainers.sweep_page import draw, render

    monitor = monitor_of(options.train)
    rows, picture = as_rows(known, monitor=monitor), draw(known, axes=parse_vary(options.vary), monitor=monitor)
    told = {"monitor": monitor, "vary": options.vary, "trials": rows}
    page = render(known, monitor=monitor, name=place.name, vary=options.vary, picture=picture)
    files = {
        "sweep.json": json.dumps(told, indent=2).encode(),
        "sweep.csv": as_csv(rows).encode(),
        "sweep.png": picture,
        "sweep.html": page.encode("utf-8", errors="backslashreplace"),
    }
    for name, content in files.items():
        (locate(place.place) / name).write_bytes(content)
    wide = None if sys.stdout.isatty() else 60 + 24 * len(options.vary)  # a pipe has no width of its own
    Console(width=wide).print(terminal_rows(known, monitor=monitor))
    print(f"page: {place.place}/sweep.html", flush=True)  # noqa: T201
