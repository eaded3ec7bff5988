"""rowlog: what entered the mel, step by step. `Nothing was lost` is judged on this, not on the plan.

RUN/rows/attempt-000-rank-003.jsonl: {"attempt", "step", "cursor", "keys", "hashes"}, one line a step, written after
the optimizer moved; a hash for each row, so that runs of different ranks compare. Steps past a restored checkpoint are
done again by the next attempt, at any number of ranks; of a step's lines those of its last attempt count. An attempt
has files of its own: a new node has none of the old ones, and what it uploads must not take their place.
"""

import json
from pathlib import Path

import xxhash

from streaming.batch import Batch


class RowLog:
    """Appends one rank's steps to its own file."""

    def __init__(self, folder: Path, *, rank: int, attempt: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = f"attempt-{attempt:03d}-rank-{rank:03d}.jsonl"
        self._file = (folder / self.name).open("a")
        self._attempt = attempt

    def write(self, batch: Batch, *, step: int) -> None:
        """Log a step that was taken: its rows' keys, and a hash of each waveform."""
        line = {
            "attempt": self._attempt,
            "step": step,
            "cursor": batch.cursor,
            "keys": batch.key,
            "hashes": [xxhash.xxh3_64_hexdigest(row.tobytes()) for row in batch.waveform.cpu().numpy()],
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
