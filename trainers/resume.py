"""resume: a run's own config, the command's -> the config to go on with. What may not change is refused by name."""

import dataclasses
import json

from shards.errors import UsageError
from streaming.mix import parse_data
from trainers.config import TrainConfig, read_config, to_json
from trainers.run import Run, absolute_data, open_run

MAY_CHANGE = (
    "name", "resume", "rebatch", "runs", "preset", "config", "dry_run", "world_size", "min_world_size", "readers",
    "device", "local", "address", "max_failures", "log_every", "log_rows", "checkpoint_seconds", "baseline_rows",
    "on_bad_row", "verify_reads", "remote", "mirror_gb", "micro_batch", "compile", "loggers", "stall_seconds",
)  # fmt: skip


def resume_run(config: TrainConfig) -> tuple[Run, TrainConfig]:
    """Open the run to go on with, and check that only what may change at a restart has changed.

    Raises:
        UsageError: there is no such run, or an option differs that its order or its weights depend on; it is named.
    """
    run = open_run(config.runs, config.resume or "")
    own = to_json(read_config(run.config))
    rebatched = ("batch_size",) if config.rebatch else ()
    data = absolute_data(config.data or own["data"])
    for option, value in (to_json(config) | {"data": data}).items():
        if option == "data" and _weights(data) == _weights(own["data"]):
            continue  # the same packs may lie elsewhere by now: `check_packs` holds them against the run's
        if option not in (*MAY_CHANGE, *rebatched) and value != own[option]:
            raise UsageError(
                f"{option} was {own[option]} when run {run.name} began, and is {value} now: "
                f"leave it out to go on, or begin a new run with --name"
            )
    changed = {option: getattr(config, option) for option in (*MAY_CHANGE, *rebatched)}
    return run, dataclasses.replace(read_config(run.config), **changed, data=data)


def check_packs(run: Run, fingerprints: dict[str, str], *, data: str | None) -> None:
    """Hold the packs that were opened, split by split, against those that the run began with.

    Raises:
        UsageError: a split is missing, or another pack; it is named.
    """
    for split, began in json.loads(run.environment.read_bytes())["fingerprints"].items():
        if (found := fingerprints.get(split)) != began:
            what = "isn't there" if found is None else f"is another pack ({found})"
            raise UsageError(
                f"{split} of {data} {what}; run {run.name} began with {began}: give that pack with --data, or begin a "
                "new run with --name"
            )


def _weights(data: str) -> list[int]:
    return [weight for _, weight in parse_data(data)]
