"""embed: a run, a pack's split or files -> features.parquet: what the network makes of each before its head.

    key: string, features: fixed_size_list<float32>[n]       metadata `notestream`: run, cursor, model, what they are of

Whole notes, in windows as evaluation hears them; nothing is padded. The file appears by a rename.
"""

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from shards.errors import DataError, UsageError
from shards.format import replace_file
from trainers.data import Notes, Split, open_split
from trainers.predict import complain, hear
from trainers.sounds import find_audio
from trainers.trained import Trained, Windows, open_trained, vectors

ROWS_A_GROUP = 4096  # of the parquet file: what is in memory at a time

Named = Iterator[tuple[str, NDArray[np.float32] | DataError]]


class Features(torch.nn.Module):
    """A network behind its mel, up to what its head looks at: (rows, time) -> (rows, n)."""

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.mel, self.model = trained.mel, trained.model

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        model: Any = self.model
        return model.forward_head(model.forward_features(self.mel(waveform)), pre_logits=True)


def embed_split(place: str, *, data: str | None, split: str, out: Path, device: str) -> int:
    """Write the features of every row of DATA/SPLIT by the best checkpoint of the run at PLACE; return the rows.

    Raises:
        UsageError: there is no such run, data, split or device, or its network has no features apart from its head.
        DataError: the run has no whole checkpoint, a row can't be read, or the split is of another rate.
    """
    trained = _open(place, device=device)
    config = dataclasses.replace(trained.config, data=data or trained.config.data)
    found = open_split(config, split)
    for pack in found.packs:
        if pack.sample_rate != trained.sample_rate:
            raise DataError(
                f"sample_rate must be the run's {trained.sample_rate}, got {pack.sample_rate} in {pack.home}: "
                "re-pack with --resample"
            )
    with contextlib.closing(Notes(found)) as notes:
        told = vectors(Features(trained), _whole(found, notes, trained), device=trained.device)
        named = zip(found.column("key"), told, strict=True)
        return _write(named, out=out, about=_about(trained, {"data": config.data, "split": split}), skip=False)


def embed_files(place: str, files: Sequence[Path], *, out: Path, device: str) -> int:
    """Write the features of files, and of all audio beneath folders, by their paths; return how many.

    What can't be read is named on stderr and left out.

    Raises:
        UsageError: there is no such run or device, or its network has no features apart from its head.
        DataError: the run has no whole checkpoint, or a file couldn't be read; the others are written.
    """
    trained, found = _open(place, device=device), find_audio(files)
    told = vectors(Features(trained), hear(found, trained, opened=[]), device=trained.device)
    about = _about(trained, {"files": [str(file) for file in files]})
    written = _write(zip(map(str, found), told, strict=True), out=out, about=about, skip=True)
    if written < len(found):
        raise DataError(f"{len(found) - written} of {len(found)} files can't be read: they are left out of {out}")
    return written


def _open(place: str, *, device: str) -> Trained:
    trained = open_trained(place, device=device)
    check_parts(trained)
    return trained


def check_parts(trained: Trained) -> None:
    """Refuse a network that can't be asked for its features."""
    if not all(hasattr(trained.model, part) for part in ("forward_features", "forward_head")):
        raise UsageError(
            f"model {trained.config.model.name!r} has no features apart from its head: give it timm's "
            "forward_features(x) and forward_head(x, pre_logits)"
        )


def _whole(split: Split, notes: Notes, trained: Trained) -> Iterator[Windows]:
    for row in range(len(split)):
        note = notes.read(row).numpy()
        yield (note[first : first + trained.window] for first in range(0, len(note), trained.window))


def _about(trained: Trained, what: dict[str, Any]) -> dict[str, Any]:
    return {
        "run": trained.run.place,
        "cursor": trained.state["cursor"],
        "model": trained.config.model.name,
        "sample_rate": trained.sample_rate,
        **what,
    }


def _write(named: Named, *, out: Path, about: dict[str, Any], skip: bool) -> int:
    """Write features as they come; the width is the first one's. `skip`: what can't be had is named and left out."""
    good = _good(named, skip=skip)
    first = next(good, None)
    if first is None:
        raise DataError(f"there is nothing to write to {out}: no sound could be read")
    kinds = {"key": pa.string(), "features": pa.list_(pa.float32(), len(first[1]))}
    schema = pa.schema(list(kinds.items()), metadata={"notestream": json.dumps(about)})
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh, rows = out.with_name(f".{out.name}.new"), 0
    try:
        with pq.ParquetWriter(fresh, schema) as writer:
            whole = itertools.chain([first], good)
            while group := list(itertools.islice(whole, ROWS_A_GROUP)):
                flat = pa.array(np.concatenate([vector for _, vector in group]), pa.float32())
                features = pa.FixedSizeListArray.from_arrays(flat, len(first[1]))
                writer.write_table(pa.table([[key for key, _ in group], features], schema=schema))
                rows += len(group)
        replace_file(fresh, out)
    finally:
        fresh.unlink(missing_ok=True)
    return rows


def _good(named: Iterable[tuple[str, NDArray[np.float32] | DataError]], *, skip: bool) -> Iterator[tuple[str, Any]]:
    for key, vector in named:
        if not isinstance(vector, DataError):
            yield key, vector
        elif skip:
            complain(key, str(vector))
        else:
            raise vector
