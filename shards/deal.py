"""deal: an archive's notes, in whatever order they come -> the tars that a folder of them would give. One pass.

    arrivals ── note ──> its gap in its tar       once examples.json has come: WAV of the usual size
              └─ note ──> spool                   before that; FLAC; another size
    at the end: a tar without a note in the spool is read once, for its hash, and put in its place;
                any other is written anew from gaps and spool

Which tar a note belongs to is known from examples.json alone. Where in it, too, if sizes are: NSynth's files are all
of one size, so the first one's is taken for all.
"""

import shutil
from typing import Protocol

import pyarrow as pa

from shards.arrivals import Examples, arrivals
from shards.body import Body, open_body
from shards.errors import UsageError
from shards.gaps import Gaps
from shards.keys import COLUMN, rename_column
from shards.nsynth import one_rate
from shards.progress import meter
from shards.shard import Job
from shards.sources import Archive
from shards.spool import Spool
from shards.target import UNDER_WAY, Target

INFLATION = 1.6  # NSynth's archives grow 1.57 times


class Plan(Protocol):
    """What makes a job of a manifest."""

    def __call__(self, manifest: pa.Table, *, sample_rate: int) -> Job:
        """Arrange the manifest's notes."""
        ...


def deal(archive: Archive, *, target: Target, plan: Plan, codec: str, jobs: int) -> Job:
    """Pack an archive into `target`, all but the index.

    Raises:
        UsageError: the disk has too little room.
        DataError: the archive is cut short, damaged or not NSynth's, or lacks notes.
    """
    place = archive.place
    with Spool(target.work / f"notes{UNDER_WAY}") as spool:
        with open_body(place) as body, meter(f"unpacking {place.name}", total=body.size >> 20, unit="MiB") as progress:
            _check_room(body, target=target, times=1 if codec == "wav" else 2)
            gaps: Gaps | None = None
            for arrived in arrivals(body, threads=jobs > 1, progress=progress):
                if isinstance(arrived, Examples):
                    gaps = _lay_out(arrived.manifest, archive=archive, plan=plan, spool=spool)
                    for name, data in spool.drain():
                        gaps.take(name, data)
                elif gaps is not None:
                    gaps.take(arrived.key, arrived.data)
                else:
                    if not spool:
                        _check_room(body, target=target, times=2)
                    spool.add(arrived.key, arrived.data)
        assert gaps is not None, "arrivals refuses an archive without examples.json"
        gaps.finish(jobs=jobs)
        return gaps.job


def _lay_out(manifest: pa.Table, *, archive: Archive, plan: Plan, spool: Spool) -> Gaps:
    rate = one_rate(manifest)
    if archive.rename_keys:
        manifest, _ = rename_column(manifest, originals=manifest["key"].to_pylist())
    job = plan(manifest, sample_rate=rate)
    names = job.arrangement.manifest[COLUMN if archive.rename_keys else "key"].to_pylist()
    return Gaps(job, names=names, spool=spool, archive=archive.place.name)


def _check_room(body: Body, *, target: Target, times: int) -> None:
    """Refuse at once what the disk can't hold: the tars, and as much again for a spool where one is needed."""
    needed, free = int(times * INFLATION * body.size), shutil.disk_usage(target.work).free
    if needed > free:
        raise UsageError(
            f"{body.place} needs about {needed:,} bytes at {target.work} to be packed, {free:,} are free: make room"
        )
