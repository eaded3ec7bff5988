"""predict: a run, audio files -> the classes that its network takes each of them for, with their probabilities."""

import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from rich.text import Text

from shards.errors import DataError, UsageError
from trainers.sounds import Sound, find_audio, open_sound, windows
from trainers.task import probabilities
from trainers.trained import Trained, Windows, open_trained, vectors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What a file is taken for: its likeliest classes, best first, with probabilities; or why it can't be read."""

    file: str
    classes: tuple[tuple[str, float], ...] = ()
    seconds: float | None = None
    notes: tuple[str, ...] = ()
    fault: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        if self.fault is not None:
            return {"file": self.file, "error": self.fault}
        return {"file": self.file, "seconds": self.seconds, "classes": dict(self.classes), "notes": list(self.notes)}


class Probabilities(torch.nn.Module):
    """A network behind its mel, up to probabilities: (rows, time) -> (rows, classes)."""

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.logits, self.task = torch.nn.Sequential(trained.mel, trained.model), trained.task

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        return probabilities(self.task, self.logits(waveform).float())


def predict_files(place: str, files: Sequence[Path], *, top: int, device: str) -> Iterator[Answer]:
    """Answer files, and all audio beneath folders, by the best checkpoint of the run at PLACE; in order, as they come.

    Raises:
        UsageError: there is no such run or device, no file is named, or a folder holds no audio.
        DataError: the run has no whole checkpoint.
    """
    if top < 1:
        raise UsageError(f"top must be at least 1, got {top}: 3 are told unless you say")
    if not files:
        raise UsageError("files must be named: audio files, or folders of them")
    found = find_audio(files)
    trained = open_trained(place, device=device)
    opened: list[Sound | None] = []
    told = vectors(Probabilities(trained), hear(found, trained, opened=opened), device=trained.device)
    for at, (file, vector) in enumerate(zip(found, told, strict=True)):
        sound = opened[at]
        if isinstance(vector, DataError):
            yield Answer(file=str(file), fault=str(vector))
        elif sound is not None:
            best = np.argsort(-vector, kind="stable")[:top].tolist()
            yield Answer(
                file=str(file),
                classes=tuple((trained.classes[i], float(vector[i])) for i in best),
                seconds=sound.length / sound.sample_rate,
                notes=sound.notes(sample_rate=trained.sample_rate),
            )


def hear(files: Sequence[Path], trained: Trained, *, opened: list[Sound | None]) -> Iterator[Windows]:
    """Yield each file's windows as the run hears them; `opened` gets what each is, None where that can't be told."""
    for file in files:
        opened.append(None)
        yield _hear_one(file, trained, opened)


def _hear_one(file: Path, trained: Trained, opened: list[Sound | None]) -> Windows:
    opened[-1] = sound = open_sound(file)
    yield from windows(sound, sample_rate=trained.sample_rate, length=trained.window)


def complain(file: str, fault: str) -> None:
    """Name a file that can't be read, in one line on stderr."""
    print(f"notestream: {fault if file in fault else f'{file}: {fault}'}", file=sys.stderr, flush=True)  # noqa: T201


def answers_table(answers: Sequence[Answer]) -> Table:
    """Lay out what each file is taken for, best first, and what was done to it to hear it."""
    home = Path(os.path.commonpath([Path(answer.file).parent for answer in answers]))
    table = Table(title=str(home), title_justify="left", box=None)
    table.add_column("file", overflow="fold")
    table.add_column("s", justify="right", style="dim")
    width = max((len(answer.classes) for answer in answers), default=0)
    for place in range(width):
        table.add_column("class" if place == 0 else f"{place + 1}.")
        table.add_column("%", justify="right")
    table.add_column("note", style="dim")
    for answer in answers:
        # Text, since names are foreign and a plain string's brackets would be read as markup
        cells = [cell for name, share in answer.classes for cell in (Text(name), f"{100 * share:.1f}")]
        table.add_row(
            Text(str(Path(answer.file).relative_to(home))),
            f"{answer.seconds or 0:.1f}",
            *cells,
            "; ".join(answer.notes),
        )
    return table
