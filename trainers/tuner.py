"""tuner: a sweep's trials -> Ray Tune, which runs as many at a time as fit, and stops bad ones early.

A trial is a plain function in an actor of Tune's, with one rank that knows no Ray: what it writes is a run like any
other. Ray Train V2 takes no part. A trainer of its own isn't a trial any more, and nested in one it would reserve
processes, cores and GPUs beside Tune's, each start taking as long as a tiny trial.

What Tune writes about itself holds pickles, and is never read: the trials' folders say what is done. So another process
goes on with them, after any kill; the scheduler is told anew what it had heard.
"""

import dataclasses
import os
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler

from shards.remote import locate
from streaming.device import choose_device
from streaming.world import World
from trainers.config import TrainConfig, from_json, read_config, to_json
from trainers.finish import finish
from trainers.interrupt import stop_on_interrupt
from trainers.loop import DivergedError, train
from trainers.prepare import Machine, fill_in, prepare
from trainers.resume import MAY_CHANGE
from trainers.run import Run
from trainers.session import Session
from trainers.sweep_table import (
    DIVERGED,
    STOPPED_EARLY,
    Outcome,
    counts_down,
    end_trial,
    monitor_of,
    read_outcome,
    show_trial,
    validations,
)

QUIET = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0", "TUNE_WARN_INSUFFICENT_RESOURCE": "0"}
EPOCH = "epoch"


def run_trial(given: dict[str, Any]) -> None:
    """Be one trial in Tune's actor: begin its run or go on with it, and tell Tune each validation."""
    config = from_json(given["trial"], name="trial")
    if Run.at(locate(config.runs).parent.text, locate(config.runs).name).is_asked_to_stop():
        return
    run, monitor = Run.at(config.runs, config.name or ""), monitor_of(config)
    run.pull()
    if run.config.is_file():
        changed = {name: getattr(config, name) for name in MAY_CHANGE}
        config = dataclasses.replace(read_config(run.config), **changed | {"name": None, "resume": run.name})
        for epoch, value in validations(run, monitor=monitor):
            tune.report({EPOCH: epoch, monitor: value})
    config = prepare(config).config
    session = Session(world=World(), device=choose_device(config.device))

    def tell(told: dict[str, Any]) -> None:
        # the last one comes after the report: who is stopped by then would have none
        if told[EPOCH] < config.epochs:
            tune.report({EPOCH: told[EPOCH], monitor: told[monitor]})

    try:
        if train(config, run=run, session=session, tell=tell):
            finish(config, run=run, session=session)
            epoch, value = validations(run, monitor=monitor)[-1]
            tune.report({EPOCH: epoch, monitor: value})
    except DivergedError:
        end_trial(run.place, DIVERGED)


class _Watch(tune.Callback):
    """Keeps account of the trials under way, and of those that Tune ended before their own end."""

    def __init__(self, sweep: Run, *, config: TrainConfig, known: Sequence[Outcome]) -> None:
        self._sweep, self._config = sweep, config
        self._trials = {one.name: one.trial for one in known}
        self._said = {one.name: one.epochs for one in known}
        self.running: set[str] = set()
        self.failed: dict[str, str] = {}

    def on_trial_start(self, *_: Any, **told: Any) -> None:
        self.running.add(str(told["trial"]))

    def on_trial_result(self, *_: Any, **told: Any) -> None:
        name, result = str(told["trial"]), told["result"]
        epoch = result.get(EPOCH, 0)  # the last result repeats no value
        if epoch > self._said[name]:
            self._said[name] = epoch
            values = self._trials[name].values
            value = result[monitor_of(self._config)]
            print(show_trial(name, values, epoch=epoch, config=self._config, value=value))  # noqa: T201

    def on_trial_complete(self, *_: Any, **told: Any) -> None:
        name = str(told["trial"])
        self.running.discard(name)
        if self._sweep.stop.exists():
            return
        found = read_outcome(self._trials[name], config=self._config)
        if not found.is_done:
            end_trial(found.trial.place, STOPPED_EARLY)

    def on_trial_error(self, *_: Any, **told: Any) -> None:
        name = str(told["trial"])
        self.running.discard(name)
        self.failed[name] = str(told["trial"].get_error()).strip().splitlines()[-1]  # a traceback's, not its pickle


class _WhenAsked(tune.Stopper):
    """Ends Tune once the sweep is asked to stop and the trials under way have saved."""

    def __init__(self, sweep: Run, watch: _Watch) -> None:
        self._sweep, self._watch = sweep, watch

    def __call__(self, *_: Any) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._sweep.stop.exists() and not self._watch.running


def run_trials(
    sweep: Run, *, config: TrainConfig, known: Sequence[Outcome], machine: Machine, keep: int, least_epochs: int,
    at_a_time: int | None,
) -> tuple[bool, dict[str, str]]:  # fmt: skip
    """Run the trials that aren't done yet; tell whether it was asked to stop, and the failed ones' last words."""
    os.environ.update(QUIET)
    watch = _Watch(sweep, config=config, known=known)
    readers = _readers(config, machine)
    todo = [
        to_json(one.trial.config) | {"readers": readers, "device": machine.device} for one in known if not one.is_done
    ]
    filesystem, path = locate(sweep.url).resolve() if sweep.url else (None, str(sweep.folder))
    tuner = tune.Tuner(
        tune.with_resources(run_trial, {"cpu": min(1 + readers, machine.cores), "gpu": int(machine.gpus > 0)}),
        param_space={"trial": tune.grid_search(todo)},
        tune_config=tune.TuneConfig(
            scheduler=_scheduler(config, known=known, keep=keep, least_epochs=least_epochs),
            max_concurrent_trials=at_a_time,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=f"{path}/.ray",
            storage_filesystem=filesystem,
            callbacks=[watch],
            stop=_WhenAsked(sweep, watch),
            verbose=0,
        ),
    )
    broken: list[BaseException] = []

    def fit() -> None:
        try:
            tuner.fit()
        except BaseException as error:
            broken.append(error)

    with stop_on_interrupt(sweep) as asked:
        thread = threading.Thread(target=fit, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(0.2)  # a join without an end would not let a signal through
            if sweep.stop.exists():
                for name in tuple(watch.running):
                    (locate(sweep.place) / name / ".stop").write_bytes(b"")
    if broken:
        raise broken[0]
    return asked() or sweep.stop.exists(), watch.failed


def _readers(config: TrainConfig, machine: Machine) -> int:
    """Choose a trial's readers: those of a GPU's share of the cores, else one."""
    share = dataclasses.replace(machine, cores=machine.cores // machine.gpus if machine.gpus else 2)
    readers = fill_in(dataclasses.replace(config, world_size=1), share).readers
    assert readers is not None, "filled in"
    return readers


def _name(trial: Any) -> str:
    return trial.config["trial"]["name"]


def _scheduler(config: TrainConfig, *, known: Sequence[Outcome], keep: int, least_epochs: int) -> ASHAScheduler:
    """Make the scheduler, with all that the trials that are done have reported."""
    monitor = monitor_of(config)
    mode = "min" if counts_down(monitor) else "max"
    # brackets: 1, so Ray's own draw from numpy's global generator has one outcome
    scheduler = ASHAScheduler(
        time_attr=EPOCH, metric=monitor, mode=mode, max_t=config.epochs, brackets=1, reduction_factor=keep,
        grace_period=min(least_epochs, config.epochs), stop_last_trials=False,
    )  # fmt: skip
    for one in known:
        if one.is_done:
            trial: Any = SimpleNamespace(trial_id=one.name)
            scheduler.on_trial_add(None, trial)  # pyright: ignore[reportArgumentType]
            for epoch, value in one.history:
                scheduler.on_trial_result(None, trial, {EPOCH: epoch, monitor: value})  # pyright: ignore[reportArgumentType]
    return scheduler
