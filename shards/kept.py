"""kept: the rows of one tar after another -> files, and back as tables of one schema.

What stays in memory is the schema, and eight bytes for each key to tell whether one stands there twice.
"""

import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from shards.errors import DataError
from shards.labels import Columns

MAX_CELLS = 1 << 26  # of one tar's rows times all columns: they're one piece of the index, and so of memory
MOST_SUSPECTS = 1000


class KeptRows(Sequence[pa.Table]):
    """The rows of each tar, in files; each is brought to the columns of all when it is read."""

    def __init__(self, folder: Path, columns: Columns) -> None:
        self.folder, self.columns = folder, columns
        self.names: list[str] = []
        self.hashes = array.array("Q")  # of keys, row by row: two that are equal are looked at

    def append(self, batches: Sequence[pa.Table], *, name: str) -> None:
        """Keep one tar's rows."""
        rows = sum(batch.num_rows for batch in batches)
        self._check_room(rows, name=name)
        for batch in batches:
            self.hashes.extend(xxhash.xxh3_64_intdigest(key.encode()) for key in batch["key"].to_pylist())
        table = pa.concat_tables([self.columns.fit(batch, name=name) for batch in batches]).combine_chunks()
        with pa.ipc.new_file(self._path(len(self.names)), table.schema) as writer:
            writer.write_table(table)
        self.names.append(name)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: Any) -> Any:
        table = self.read(range(len(self))[number])
        self._check_room(table.num_rows, name=self.names[number])
        return self.columns.fit(table, name=self.names[number])

    def read(self, number: int) -> pa.Table:
        """Read one tar's rows as they were kept."""
        with pa.OSFile(str(self._path(number))) as file, pa.ipc.open_file(file) as reader:
            return reader.read_all()

    def check_unique(self) -> None:
        """Refuse keys that stand there twice. Only rows whose keys' hashes are equal are held against each other.

        Raises:
            DataError: some do.
        """
        ordered = np.sort(np.frombuffer(self.hashes, np.uint64))
        suspects = set(np.unique(ordered[1:][ordered[1:] == ordered[:-1]])[:MOST_SUSPECTS].tolist())
        if not suspects:
            return
        found: Counter[str] = Counter()
        tars: dict[str, str] = {}
        for number, name in enumerate(self.names):
            for key in self.read(number)["key"].to_pylist():
                if xxhash.xxh3_64_intdigest(key.encode()) in suspects:
                    found[key] += 1
                    tars[key] = name
        twice = [key for key, count in found.items() if count > 1]
        if twice:
            told = ", ".join(f"{key!r} in {tars[key]}" for key in twice[:3])
            raise DataError(f"keys stand there twice ({told}): a key names one sample, so pack them anew")

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:07d}.arrow"

    def _check_room(self, rows: int, *, name: str) -> None:
        if rows * len(self.columns.schema) > MAX_CELLS:
            told = f"{rows:,} samples and {len(self.columns.schema)} label columns"
            raise DataError(f"{name} has {told}, which no memory should hold at once: split it into smaller tars")
