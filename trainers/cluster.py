"""cluster: a prepared run -> Ray Train's ranks. The only file that starts or joins a cluster.

Ray starts the ranks, and starts them anew when one is lost. What they restore is the run folder's newest checkpoint,
written by rank 0 itself, so that a run goes on alike under Ray, under torchrun and in one process.
"""

import contextlib
import logging
import os
import secrets
import sys
import threading
from collections.abc import Iterator
from typing import Any

from shards import linux
from shards.errors import NotestreamError, UsageError
from shards.owner import ROOT
from shards.remote import locate
from trainers.config import TrainConfig, from_json, to_json
from trainers.prepare import Machine, this_machine
from trainers.rank import check_rank, run_rank
from trainers.relay import uploaded_log
from trainers.run import Run
from trainers.session import ray_session

QUIET = {
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # it prints what ranks print twice
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # 2 s by default: a lost rank is seen sooner, and short runs end sooner
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "5",  # 60 s by default: then it looks anew at what is there
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
WAIT_SECONDS = 3600  # that a run waits for nodes that its ranks need, before it gives up
RESIZE_SECONDS = 15.0  # from one look at whether a run of fewer ranks can grow to the next


@contextlib.contextmanager
def connected(config: TrainConfig) -> Iterator[Machine]:
    """Join the cluster that is asked for, or start one on this machine for as long as the block runs.

    Yields what its nodes have: the head that this runs on may have no GPU, and no core for work.

    Raises:
        UsageError: there is no such cluster.
    """
    address = config.address or os.environ.get("RAY_ADDRESS")
    joins = address or os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR")
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    if not joins:
        _ask_for_token()
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        _join(address or "auto") if joins else _start(config)
        yield _cluster_machine(config) if joins else this_machine(config)
    finally:
        ray.shutdown()


def _ask_for_token() -> None:
    """Have a cluster of our own ask for a token, which its processes inherit and no file holds.

    Ray listens on all of the machine's addresses, so who reaches them could run code here. Ray reads this as it is
    imported: where it is already, what it runs by is its importer's to say.
    """
    if "ray" not in sys.modules and os.environ.setdefault("RAY_AUTH_MODE", "token") == "token":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


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


def run_ranks(config: TrainConfig, *, run: Run) -> tuple[str, ...]:
    """Run the ranks to their end, or of a dry run what comes before the first step; return what they found there.

    They run in a thread, so that Ctrl-C reaches our handler and not Ray's, which would kill them.

    Raises:
        UsageError: the nodes can't train this run. That is told once: starting the ranks anew would mend nothing.
        NotestreamError: what a rank met that starting anew didn't mend.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.config import LoggingConfig

    filesystem, path = locate(run.url).resolve() if run.url else (None, str(run.folder))
    on_gpu, ranks = config.device == "cuda", config.world_size or 1
    waits = WAIT_SECONDS / float(os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"])
    trainer = TorchTrainer(
        train_rank,
        train_loop_config={"config": to_json(config), "runs": locate(run.place).parent.text, "name": run.name},
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=(config.min_world_size, ranks) if config.min_world_size else ranks,
            use_gpu=on_gpu,
            elastic_resize_monitor_interval_s=RESIZE_SECONDS,
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=f"{path}/.ray",
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=config.max_failures, controller_failure_limit=round(waits)),
            logging_config=LoggingConfig("CRITICAL"),  # else a traceback for each look at whether a node is back
        ),
    )
    ended: list[Any] = []

    def fit() -> None:
        try:
            ended.append(trainer.fit().return_value)
        except BaseException as error:
            ended.append(_own_error(error))

    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)  # a join without an end would not let a signal through
    told = ended[0]
    if isinstance(told, BaseException):
        raise told
    if "refused" in told:
        raise UsageError(told["refused"])
    return tuple(told["found"])


def _own_error(error: BaseException) -> BaseException:
    """Find the one-line message in what Ray wraps around a rank's failure."""
    for failure in getattr(error, "worker_failures", {}).values():
        for inner in (failure, getattr(failure, "_base_exc", None), getattr(failure, "cause", None)):
            if isinstance(inner, NotestreamError):
                inner.__cause__ = error
                return inner
    return error


def train_rank(given: dict[str, Any]) -> dict[str, Any]:
    """Be one rank of Ray Train's: `given` holds the config as JSON, and where the run is.

    Returns {"found": lines of the nodes}, or {"refused": why they can't train}: an error would have Ray try again.
    """
    config = from_json(given["config"], name="config")
    run, session = Run.at(given["runs"], given["name"]), ray_session(device=config.device)
    try:
        found = check_rank(config, run=run, session=session)
    except UsageError as error:
        return {"refused": str(error)}
    if not config.dry_run:
        with uploaded_log(run) if session.is_first else contextlib.nullcontext():
            run_rank(config, run=run, session=session)
    return {"found": list(found)}
