"""cluster: a prepared run -> Ray Train's ranks. The only file that starts or joins a cluster.

Ray starts the ranks, and starts them anew when one is lost. What they restore is the run folder's newest checkpoint,
written by rank 0 itself, so that a run goes on alike under Ray, under torchrun and in one process.
"""

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from typing import Any

from shards import linux
from shards.errors import NotestreamError, UsageError
from shards.owner import ROOT
from shards.remote import locate
from trainers.config import TrainConfig, from_json, to_json
from trainers.prepare import Machine, this_machine
from trainers.rank import run_rank
from trainers.run import Run
from trainers.session import ray_session

QUIET = {
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # it prints what ranks print twice
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # 2 s by default: a lost rank is seen sooner, and short runs end sooner
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@contextlib.contextmanager
def connected(config: TrainConfig) -> Iterator[Machine]:
    """Join the cluster that is asked for, or start one on this machine for as long as the block runs.

    Yields what its nodes have: the head that this runs on may have no GPU, and no core for work.

    Raises:
        UsageError: there is no such cluster.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    address = config.address or os.environ.get("RAY_ADDRESS")
    joins = address or os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR")
    try:
        _join(address or "auto") if joins else _start(config)
        yield _cluster_machine(config) if joins else this_machine(config)
    finally:
        ray.shutdown()


def _join(address: str) -> None:
    import ray

    try:
        ray.init(address=address, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise UsageError(
            f"no Ray cluster answers at {address!r} ({' '.join(str(error).split())[:200]}): start it with "
            "`ray up ray_cluster.yaml`, or train on this machine alone with `python -m trainers train`"
        ) from error


def _start(config: TrainConfig) -> None:
    import ray

    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # loopback only, and gone when the run ends
    # transforms of the user's own lie where they said
    python_path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    ray.init(
        address="local",
        num_cpus=max(linux.cores(), config.world_size or 1),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {"PYTHONPATH": python_path}},
    )


def _cluster_machine(config: TrainConfig) -> Machine:
    import ray

    there = ray.cluster_resources()
    gpus, cores = int(there.get("GPU", 0)), int(there.get("CPU", 0))
    # an autoscaler may have no GPU node up yet: who asks for cuda waits for one
    on_gpu = config.device == "cuda" or (config.device == "auto" and gpus > 0)
    return Machine(gpus=gpus if on_gpu else 0, cores=cores, device="cuda" if on_gpu else "cpu")


def run_ranks(config: TrainConfig, *, run: Run) -> None:
    """Run the ranks in a thread, so that Ctrl-C reaches our handler and not Ray's, which would kill them."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.config import LoggingConfig

    filesystem, path = locate(run.url).resolve() if run.url else (None, str(run.folder))
    on_gpu = config.device == "cuda"
    trainer = TorchTrainer(
        train_rank,
        train_loop_config={"config": to_json(config), "runs": locate(run.place).parent.text, "name": run.name},
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=config.world_size or 1, use_gpu=on_gpu),
        run_config=RunConfig(
            name="ray",
            storage_path=f"{path}/.ray",
            storage_filesystem=filesystem,
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
    """Be one rank of Ray Train's: `given` holds the config as JSON, and where the run is."""
    config = from_json(given["config"], name="config")
    run = Run.at(given["runs"], given["name"])
    run_rank(config, run=run, session=ray_session(device=config.device))
