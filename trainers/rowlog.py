"""rowlog: what entered the mel, step by step. `Nothing was lost` is judged on this, not on the plan.

RUN/rows/rank-003.jsonl: {"attempt", "step", "cursor", "keys", "hash"}, one line a step, written after the optimizer
moved. Steps past a restored checkpoint are done again by the next attempt; the later line counts.
"""

import json
from pathlib import Path

import xxhash

from streaming.batch import Batch


class RowLog:
    """Appends one rank's steps to its own file."""

    def __init__(self, folder: Path, *, rank: int, attempt: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = f"rank-{rank:03d}.jsonl"
        self._file = (folder / self.name).open("a")
        self._attempt = attempt

    def write(self, batch: Batch, *, step: int) -> None:
        """Log a step that was taken: its keys, and one hash of the rank's waveforms."""
        line = {
            "attempt": self._attempt,
            "step": step,
            "cursor": batch.cursor,
            "keys": batch.key,
            "hash": xxhash.xxh3_64_hexdigest(batch.waveform.cpu().numpy().tobytes()),
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
