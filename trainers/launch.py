"""launch: a config -> a run, by Ray Train or in this process. The only file that starts a cluster.

Ray starts the ranks and starts them anew when one is lost; what they restore is the run folder's newest checkpoint,
written by rank 0 itself, so that a run goes on alike under Ray, under torchrun and in one process.
"""

import contextlib
import dataclasses
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from shards import linux
from shards.errors import NotestreamError, UsageError
from shards.owner import ROOT
from streaming.device import choose_device
from trainers import checkpoint
from trainers.config import TrainConfig, from_json, to_json
from trainers.finish import finish
from trainers.follow import follow
from trainers.loop import open_packs, train
from trainers.model import build_model
from trainers.run import Run, begin_run, resume_run
from trainers.session import Session, local_session, ray_session

QUIET = {
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # it prints what ranks print twice
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # 2 s by default: a lost rank is seen sooner, and short runs end sooner
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def launch(config: TrainConfig) -> Run:
    """Begin a run, or go on with `config.resume`, and see it through; return it.

    Raises:
        UsageError, DataError: what doesn't fit is named before any rank is started, where it can be seen by then.
    """
    return _launch_local(config) if config.local else _launch_ray(config)


def _prepare(config: TrainConfig) -> tuple[Run, TrainConfig]:
    """Check all that can be checked from here, then make or open the run's folder."""
    if config.resume and config.name:
        raise UsageError(f"take --resume {config.resume} or --name {config.name}, not both")
    found = resume_run(config, name=config.resume) if config.resume else None
    config = _fill_in(found[1] if found else config)
    packs = open_packs(config)
    build_model(config.model, num_classes=2, seed=0)
    run, config = (found[0], config) if found else begin_run(config, packs=packs)
    run.stop.unlink(missing_ok=True)
    return run, config


def _fill_in(config: TrainConfig) -> TrainConfig:
    """Choose ranks and readers from what this machine has, where the user didn't."""
    gpus = torch.cuda.device_count() if choose_device(config.device).type == "cuda" else 0
    world_size = config.world_size or max(1, gpus)
    free = linux.cores() - world_size  # each rank needs a core of its own
    readers = min(8, max(1, free // world_size)) if config.readers is None else config.readers
    if config.batch_size < world_size:
        raise UsageError(f"batch_size must be at least world_size ({world_size}), got {config.batch_size}: raise it")
    return dataclasses.replace(config, world_size=world_size, readers=readers)


def _is_finished(run: Run) -> bool:
    found = checkpoint.newest(run.last)
    return found is not None and checkpoint.read_state(found)["finished"]


def _run_rank(config: TrainConfig, *, run: Run, session: Session) -> None:
    """What every rank does, however it was started."""
    if _agreed_unfinished(run, session) and not train(config, run=run, session=session):
        return
    finish(config, run=run, session=session)


def _agreed_unfinished(run: Run, session: Session) -> bool:
    return not session.broadcast(_is_finished(run) if session.is_first else None)


@contextlib.contextmanager
def _stop_on_interrupt(run: Run) -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a checkpoint and a clean end, the second into an end at once."""
    asked = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        del number, frame
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        run.stop.touch()
        print("\nstopping at the next logging step, with a checkpoint; Ctrl-C again stops at once", flush=True)  # noqa: T201

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def _steps(config: TrainConfig) -> int:
    rows = open_packs(config)["train"].rows
    return -(-config.epochs * rows // config.batch_size)


def _end(run: Run, *, stopped: bool) -> Run:
    """Say how it ended; a stopped run is an interrupted command."""
    if stopped:
        raise KeyboardInterrupt
    return run


def _launch_local(config: TrainConfig) -> Run:
    with local_session(device=config.device) as session:
        prepared = None
        if session.is_first:
            with _told_to_all(session):
                prepared = _prepare(dataclasses.replace(config, world_size=session.world.world_size))
        run, config = _receive(session, prepared)
        if not session.is_first:
            _run_rank(config, run=run, session=session)
            return run
        _announce(run, config, device=session.device)
        with _stop_on_interrupt(run) as asked, follow(run, steps=_steps(config)):
            _run_rank(config, run=run, session=session)
        return _end(run, stopped=asked())


@contextlib.contextmanager
def _told_to_all(session: Session) -> Iterator[None]:
    """Tell the other ranks of a refusal, so that none waits for a run that won't begin."""
    try:
        yield
    except NotestreamError as error:
        session.broadcast(error)
        raise


def _receive(session: Session, prepared: tuple[Run, TrainConfig] | None) -> tuple[Run, TrainConfig]:
    told = session.broadcast(prepared)
    if isinstance(told, NotestreamError):
        raise told
    return told


def _announce(run: Run, config: TrainConfig, *, device: torch.device | str) -> None:
    begun = "going on with" if config.resume else "run"
    print(  # noqa: T201
        f"{begun} {run.folder.name} in {run.folder}: {config.world_size} rank(s) on {device}, "
        f"{config.readers} reader(s) each, {config.model.name}, global batch {config.batch_size}",
        flush=True,
    )


def _launch_ray(config: TrainConfig) -> Run:
    run, config = _prepare(config)
    _announce(run, config, device=choose_device(config.device))
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    import ray

    _connect(config)
    try:
        with _stop_on_interrupt(run) as asked, follow(run, steps=_steps(config)):
            _fit(config, run=run)
        return _end(run, stopped=asked())
    finally:
        ray.shutdown()


def _connect(config: TrainConfig) -> None:
    """Join the cluster that is asked for, or start one on this machine for as long as this run."""
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    address = config.address or os.environ.get("RAY_ADDRESS")
    if address or os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):
        ray.init(address=address or "auto", logging_level=logging.ERROR)
        return
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # loopback only, and gone when the run ends
    ray.init(
        address="local",
        num_cpus=max(linux.cores(), config.world_size or 1),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )


def _fit(config: TrainConfig, *, run: Run) -> None:
    """Run the ranks in a thread, so that Ctrl-C reaches our handler and not Ray's, which would kill them."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.config import LoggingConfig

    on_gpu = choose_device(config.device).type == "cuda"
    trainer = TorchTrainer(
        train_rank,
        train_loop_config={"config": to_json(config), "run": str(run.folder)},
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=config.world_size or 1, use_gpu=on_gpu),
        run_config=RunConfig(
            name="ray",
            storage_path=str(run.folder / ".ray"),
            failure_config=FailureConfig(max_failures=config.max_failures),
            logging_config=LoggingConfig("ERROR"),
        ),
    )
    failed: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)  # a join without an end would not let a signal through
    if failed:
        raise _own_error(failed[0]) from failed[0]


def _own_error(error: BaseException) -> BaseException:
    """Find the one-line message in what Ray wraps around a rank's failure."""
    for failure in getattr(error, "worker_failures", {}).values():
        for inner in (failure, getattr(failure, "_base_exc", None), getattr(failure, "cause", None)):
            if isinstance(inner, NotestreamError):
                return inner
    return error


def train_rank(given: dict[str, Any]) -> None:
    """Be one rank of Ray Train's: `given` holds the config as JSON and the run's folder."""
    config = from_json(given["config"], name="config")
    run = Run(Path(given["run"]))
    _run_rank(config, run=run, session=ray_session(device=config.device))
