"""report: a finished run -> one HTML file that holds everything it shows. It asks nothing of any network, ever.

Keys, class names and settings are foreign text: they pass through jinja2 with autoescape on, and the page's policy
forbids scripts and addresses, so that a report of somebody else's data can be opened without a thought.
"""

import base64
import dataclasses
import importlib.resources
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from shards import audio
from shards.format import write_whole
from trainers import figures, metrics, tables
from trainers.baseline import MAJORITY
from trainers.metrics import Predictions
from trainers.report_sounds import Heard

TEMPLATE = "report.html.j2"
SOUND_BUDGET = 3 * 2**18  # points of sound in all, 2.1 MB of text: twelve whole notes of NSynth
MAX_TABLE_CLASSES = 32
NUM_CONFUSED = 8


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """A sample to look at and listen to: `waveform` (length,) in [-1, 1], `mel` (n_mels, frames) in 0..1."""

    key: str
    target: str
    predicted: str
    probability: float
    loss: float
    waveform: NDArray[np.float32]
    sample_rate: int
    mel: NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """All that a page tells of a run. What is empty leaves its section out.

    `config` and `environment` are nested and JSON-able; `records` are the lines of metrics.jsonl; `baselines` gives
    accuracies by split, then by the baseline's name. `examples` are shown by falling loss.
    """

    name: str
    config: dict[str, Any]
    environment: dict[str, Any]
    records: list[dict[str, Any]]
    splits: tuple[Predictions, ...]
    examples: tuple[Example, ...]
    baselines: dict[str, dict[str, float]]
    heard: tuple[Heard, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mark:
    """A baseline's accuracy on a split, and whether it lies below, inside or above the interval ("" without one)."""

    name: str
    accuracy: float
    place: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Headline:
    """A split's first figures: what was reached, within what bounds, beside what marks. `unit` is what a group is."""

    split: str
    rows: int
    groups: int
    unit: str
    accuracy: float | None
    bounds: tuple[float, float] | None
    macro: float | None
    present: tuple[str, ...]
    absent: tuple[str, ...]
    marks: tuple[Mark, ...]
    verdict: str


def render_report(report: Report) -> str:
    """Render the page as HTML: figures first, then what they're made of."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": _percent, "number": lambda count: f"{count:,}"}
    source = importlib.resources.files("trainers").joinpath(TEMPLATE).read_text("utf-8")
    examples = sorted(report.examples, key=lambda example: -example.loss)
    length = SOUND_BUDGET // max(len(examples), 1)
    return environment.from_string(source).render(
        name=report.name,
        progress=_progress(report.records),
        headlines=[_headline(split, baselines=report.baselines.get(split.split, {})) for split in report.splits],
        curves=figures.curves(report.records),
        confusions=[_confusion(split) for split in report.splits if split.keys],
        split_names=[split.split for split in report.splits],
        families=tables.family_rows(report.splits),
        sources=tables.source_rows(report.splits),
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


def _headline(predictions: Predictions, *, baselines: Mapping[str, float]) -> Headline:
    bounds = metrics.interval(predictions, seed=metrics.INTERVAL_SEED)
    macro, present = metrics.macro_accuracy(predictions)
    majority = baselines.get(MAJORITY, metrics.majority_share(predictions.target))
    others = {name: share for name, share in baselines.items() if name != MAJORITY}
    groups = len(set(predictions.group))
    marks = others if majority is None else {MAJORITY: majority} | others
    return Headline(
        split=predictions.split,
        rows=len(predictions.keys),
        groups=groups,
        unit="instruments" if groups < len(predictions.keys) else "samples",
        accuracy=metrics.accuracy(predictions),
        bounds=bounds,
        macro=macro,
        present=present,
        absent=tuple(name for name in predictions.classes if name not in present),
        marks=tuple(
            Mark(name=name, accuracy=share, place=_place(share, bounds=bounds)) for name, share in marks.items()
        ),
        verdict=_verdict(bounds, majority=majority),
    )


def _place(share: float, *, bounds: tuple[float, float] | None) -> str:
    if bounds is None:
        return ""
    return "below" if share < bounds[0] else "above" if share > bounds[1] else "inside"


def _verdict(bounds: tuple[float, float] | None, *, majority: float | None) -> str:
    """Say in plain words whether the interval's lower end lies above always answering the majority class."""
    if majority is None:
        return "There are no rows, so there is nothing to compare."
    if bounds is None:
        return "With one instrument only there is no interval: how it would do on others can't be told."
    low, mark = _percent(bounds[0]), _percent(majority)
    if bounds[0] > majority:
        return f"Better than always answering the majority class: the interval's lower end, {low}, lies above {mark}."
    return (
        "Not shown to be better than always answering the majority class:"
        f" the interval's lower end, {low}, doesn't lie above {mark}."
    )


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


def _flat(values: Mapping[str, Any], *, prefix: str = "") -> list[tuple[str, str]]:
    """List nested settings as (dotted name, text), in their own order."""
    rows = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, prefix=f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            rows.append((f"{prefix}{name}", text))
    return rows


def _percent(share: float | None, decimals: int = 1) -> str:
    return "–" if share is None else f"{100 * share:.{decimals}f}\N{NO-BREAK SPACE}%"
