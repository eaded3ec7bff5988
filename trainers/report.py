"""report: a finished run -> one HTML file that holds everything it shows. It asks nothing of any network, ever.

Keys, class names and settings are foreign text: they pass through jinja2 with autoescape on, and the page's policy
forbids scripts and addresses, so that a report of somebody else's data can be opened without a thought.
"""

import base64
import dataclasses
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from shards import audio
from shards.format import write_whole
from trainers import figures, metrics, tables
from trainers.flat import flatten
from trainers.headlines import make_headline, percent
from trainers.predictions import Predictions
from trainers.report_sounds import Heard

TEMPLATE = "report.html.j2"
SOUND_BUDGET = 3 * 2**18  # points of sound in all, 2.1 MB of text: twelve whole notes of NSynth
MAX_TABLE_CLASSES = 32
NUM_CONFUSED = 8


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """A sample to look at and listen to: `waveform` (length,) in [-1, 1], `mel` (n_mels, frames) in 0..1.

    `probability` is that of the class predicted, None where there may be any number of them.
    """

    key: str
    target: str
    predicted: str
    probability: float | None
    loss: float
    waveform: NDArray[np.float32]
    sample_rate: int
    mel: NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """All that a page tells of a run. What is empty leaves its section out.

    `config` and `environment` are nested and JSON-able; `records` are the lines of metrics.jsonl; `baselines` gives
    accuracies, or mAPs where a row has any number of classes, by split, then by the baseline's name. `examples` are
    shown by falling loss.
    """

    name: str
    config: dict[str, Any]
    environment: dict[str, Any]
    records: list[dict[str, Any]]
    splits: tuple[Predictions, ...]
    examples: tuple[Example, ...]
    baselines: dict[str, dict[str, float]]
    heard: tuple[Heard, ...] = ()


def render_report(report: Report) -> str:
    """Render the page as HTML: figures first, then what they're made of."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "number": lambda count: f"{count:,}"}
    source = importlib.resources.files("trainers").joinpath(TEMPLATE).read_text("utf-8")
    examples = sorted(report.examples, key=lambda example: -example.loss)
    length = SOUND_BUDGET // max(len(examples), 1)
    many = any(split.many for split in report.splits)
    heard = [split for split in report.splits if split.keys]
    return environment.from_string(source).render(
        name=report.name,
        progress=_progress(report.records),
        headlines=[make_headline(split, baselines=report.baselines.get(split.split, {})) for split in report.splits],
        curves=figures.curves(report.records),
        confusions=[] if many else [_confusion(split) for split in heard],
        split_names=[split.split for split in report.splits],
        scores=_most(tables.score_rows(report.splits)) if many and heard else None,
        groups=_groups(report.splits, many=many) if heard else [],
        right="share of the classes decided rightly" if many else "accuracy",
        examples=[(example, *_example_media(example, length=length)) for example in examples],
        heard=report.heard,
        config=_flat(report.config),
        environment=_flat(report.environment),
    )


def write_report(report: Report, path: Path) -> None:
    """Write the page to `path`, making its folder; the file appears whole, by rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A key from a file name that isn't UTF-8 holds surrogates, which have no encoding of their own.
    write_whole(path, render_report(report).encode("utf-8", errors="backslashreplace"))


def _progress(records: list[dict[str, Any]]) -> str:
    """Say how far the run came, from its last record; nothing without one."""
    step, epoch = (records[-1].get(name) if records else None for name in ("step", "epoch"))
    return "" if step is None or epoch is None else f"{step:,} steps, {epoch:.1f} epochs."


def _groups(splits: Sequence[Predictions], *, many: bool) -> list[tuple[str, list[Any], int]]:
    """List the tables of right answers: what a row is, the rows shown, and how many there are in all."""
    found = [] if many else [(tables.heading(splits), tables.class_rows(splits))]
    found += [("family", tables.family_rows(splits)), ("source", tables.source_rows(splits))]
    return [(what, *_most(rows)) for what, rows in found if rows]


def _most(rows: Sequence[tables.Row[Any]]) -> tuple[list[Any], int]:
    """Keep the rows that a page has room for, and tell how many there are in all."""
    return tables.most_frequent(rows, most=MAX_TABLE_CLASSES), len(rows)


def _confusion(predictions: Predictions) -> dict[str, Any]:
    """Give a split's matrix, as counts and shares for a table or as a picture where the classes are too many."""
    counts = metrics.confusion(predictions)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    small = len(predictions.classes) <= MAX_TABLE_CLASSES
    return {
        "split": predictions.split,
        "classes": predictions.classes,
        "picture": None if small else figures.matrix(shares),
        "cells": list(zip(counts.tolist(), shares.tolist(), strict=True)) if small else [],
        "pairs": metrics.most_confused(predictions, n=NUM_CONFUSED),
    }


def _example_media(example: Example, *, length: int) -> tuple[Markup, str, float | None]:
    """Give an example's picture, its sound as a data URI, and the seconds kept where the sound had to be cut."""
    wave = np.nan_to_num(example.waveform)
    picture = figures.note(wave, sample_rate=example.sample_rate, mel=example.mel)
    pcm = np.clip(np.round(wave[:length] * 32768), -32768, 32767).astype(np.int16)
    data = audio.encode(pcm, sample_rate=example.sample_rate, codec="wav")
    kept = length / example.sample_rate if len(wave) > length else None
    return picture, "data:audio/wav;base64," + base64.b64encode(data).decode("ascii"), kept


def _flat(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List nested settings as (dotted name, text), in their own order."""
    return [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
        for name, value in flatten(values).items()
    ]
