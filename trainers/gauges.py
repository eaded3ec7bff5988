"""gauges: a logging step's record -> gauges that Ray exports to Prometheus, tagged by the run's name.

Rank 0 sets them; each node's Ray serves its own at http://NODE:METRICS_EXPORT_PORT/metrics, as ray_notestream_loss and
so on. Without Ray there is nobody to serve them, and nothing happens.
"""

import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from streaming import room

if TYPE_CHECKING:
    from ray.util.metrics import Gauge

OF_RECORD = {
    "train/samples_per_second": ("notestream_samples_per_second", "Rows trained on a second, over all ranks."),
    "train/wait_share": ("notestream_wait_share", "Share of rank 0's time that it waits for data, 0 to 1."),
    "train/masked": ("notestream_masked_rows", "Rows that couldn't be read, since the ranks began."),
    "train/loss": ("notestream_loss", "Training loss since the last logging step."),
}
MIRROR = ("notestream_mirror_bytes", "Bytes in the mirror of rank 0's node, whoever fetched them.")


def show_gauges(record: Mapping[str, Any], *, run: str) -> None:
    """Set the gauges of a run from a logging step's record; do nothing in a process that Ray doesn't know."""
    ray = sys.modules.get("ray")  # not imported for this: a run without Ray needn't pay 3 s
    if ray is None or not ray.is_initialized():
        return
    for field, (name, about) in OF_RECORD.items():
        _gauge(name, about).set(record[field], tags={"run": run})
    _gauge(*MIRROR).set(room.held_bytes(room.mirror_folder()), tags={"run": run})


@lru_cache
def _gauge(name: str, about: str) -> "Gauge":
    from ray.util.metrics import Gauge

    return Gauge(name, description=about, tag_keys=("run",))
