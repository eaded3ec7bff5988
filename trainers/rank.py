"""rank: what every rank does, however it was started: look around, train to the end, then evaluate and report."""

from shards.remote import locate
from streaming.readers import warm_readers
from trainers import checkpoint
from trainers.config import TrainConfig
from trainers.loop import train
from trainers.preflight import preflight
from trainers.run import Run
from trainers.session import Session


def check_rank(config: TrainConfig, *, run: Run, session: Session) -> tuple[str, ...]:
    """See that all nodes can train this run, and tell what they have; a dry run ends here (see preflight)."""
    if config.readers and not config.dry_run:
        warm_readers()
    return preflight(config, place=locate(run.place).parent.text, session=session)


def run_rank(config: TrainConfig, *, run: Run, session: Session) -> None:
    """Train from where the run stands; where that comes to its end, evaluate and report."""
    if train(config, run=run, session=session):
        from trainers.finish import finish  # here: pages and pictures, which the first step needn't wait for

        finish(config, run=run, session=session)


def is_finished(run: Run) -> bool:
    """Tell whether the run came to its end, report and all."""
    found = checkpoint.newest(run.last)
    return found is not None and checkpoint.read_state(found)["finished"] and run.report.exists()
