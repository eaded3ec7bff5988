"""launch: a config -> a run, by Ray Train or in this process, shown as it goes on."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from shards.errors import NotestreamError, UsageError
from shards.remote import locate
from trainers.config import TrainConfig
from trainers.follow import follow
from trainers.interrupt import stop_on_interrupt
from trainers.prepare import Prepared, begin, check, check_network, fill_in, prepare, this_machine
from trainers.rank import check_rank, is_finished, run_rank
from trainers.relay import fetched_log, local_log
from trainers.run import Run, open_run
from trainers.session import Session, local_session


def launch(config: TrainConfig) -> Run:
    """Begin a run, or go on with `config.resume`, and see it through; return it.

    Raises:
        UsageError, DataError: what doesn't fit is named before any rank is started, where it can be seen by then, else
            before the first step.
        KeyboardInterrupt: it was stopped, with a checkpoint to go on from.
    """
    if config.resume and config.name:
        raise UsageError(f"take --resume {config.resume} or --name {config.name}, not both")
    if config.resume and is_finished(run := open_run(config.runs, config.resume)):
        print(  # noqa: T201
            f"run {config.resume} is finished, its report is in {run.place}: remove that to train it anew"
        )
        return run
    return _launch_local(config) if config.local or _under_torchrun() else _launch_ray(config)


def _under_torchrun() -> bool:
    """Tell whether torchrun started this process; its own parser takes --local for one of its options."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def _launch_ray(config: TrainConfig) -> Run:
    from trainers import cluster  # here: importing Ray takes 3 s that --local needn't pay

    checked = check(config)
    # Ray ends what it started when the thread ends that did: this one starts it, and another builds the network
    with ThreadPoolExecutor(1) as beside:
        building = beside.submit(check_network, checked)
        with cluster.connected(checked.config) as machine:
            building.result()
            prepared = begin(checked)
            return _run_ranks(prepared, fill_in(prepared.config, machine))


def _run_ranks(prepared: Prepared, config: TrainConfig) -> Run:
    from trainers import cluster

    run = prepared.run
    if config.dry_run:
        try:
            _tell_dry(prepared, config, cluster.run_ranks(config, run=run))
        finally:
            locate(run.place).remove_tree()
        return run
    _announce(run, config)
    log = local_log(run)
    with stop_on_interrupt(run) as asked, follow(run, steps=prepared.steps, log=log), fetched_log(run, log):
        cluster.run_ranks(config, run=run)
    return _end(run, asked=asked())


def _launch_local(config: TrainConfig) -> Run:
    with local_session(device=config.device) as session:
        config = dataclasses.replace(config, world_size=session.world.world_size)
        prepared = None
        if session.is_first:
            with _told_to_all(session):
                prepared = prepare(config)
        prepared = _receive(session, prepared)
        run, config = prepared.run, fill_in(prepared.config, this_machine(prepared.config))
        found = check_rank(config, run=run, session=session)
        if config.dry_run:
            if session.is_first:
                _tell_dry(prepared, config, found)
            return run
        if session.is_first:
            _announce(run, config)
        watched = follow(run, steps=prepared.steps, log=run.log) if session.is_first else contextlib.nullcontext()
        with stop_on_interrupt(run) as asked, watched:
            run_rank(config, run=run, session=session)
        return _end(run, asked=asked())


@contextlib.contextmanager
def _told_to_all(session: Session) -> Iterator[None]:
    """Tell the other ranks of a refusal, so that none waits for a run that won't begin."""
    try:
        yield
    except NotestreamError as error:
        session.broadcast(error)
        raise


def _receive(session: Session, prepared: Prepared | None) -> Prepared:
    told = session.broadcast(prepared)
    if isinstance(told, NotestreamError):
        raise told
    return told


def _announce(run: Run, config: TrainConfig) -> None:
    begun = "going on with" if config.resume else "run"
    print(  # noqa: T201
        f"{begun} {run.name} in {run.place}: {config.world_size} rank(s) on {config.device}, "
        f"{config.readers} reader(s) each, {config.model.name}, global batch {config.batch_size}",
        flush=True,
    )


def _tell_dry(prepared: Prepared, config: TrainConfig, found: Sequence[str]) -> None:
    """Say what a run would do: what each node has, and how the rows are shared out."""
    ranks = config.world_size or 1
    least, most = config.batch_size // ranks, -(-config.batch_size // ranks)
    share = f"{least}" if least == most else f"{least} or {most}"
    print(*found, sep="\n")  # noqa: T201
    print(  # noqa: T201
        f"rows {prepared.rows:,}, {prepared.rows / config.batch_size:,.1f} steps an epoch, {prepared.steps:,} in all; "
        f"{share} rows a rank and step on {ranks} rank(s), {config.readers} reader(s) each\n"
        "ready: nothing was written, nothing trained",
        flush=True,
    )


def _end(run: Run, *, asked: bool) -> Run:
    """Say how it ended: a run that was stopped before its end is an interrupted command."""
    if asked and not is_finished(run):
        raise KeyboardInterrupt(f"go on with --resume {run.name}")
    return run
