"""figures: numbers -> inline SVG. Drawn through matplotlib's objects; pyplot and its global state stay out.

No foreign text is drawn, so none has to be escaped here: names of classes and keys belong to the page. Colours are
written as stand-ins and handed to the page's style sheet, so that one picture serves light and dark.
"""

import dataclasses
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

INK, LINE, TRAIN, VALID = "#010101", "#020202", "#030303", "#040404"
STYLE = {INK: "currentColor", LINE: "var(--line)", TRAIN: "var(--train)", VALID: "var(--valid)"}
CLEANING = (
    (r"<metadata>.*?</metadata>|<!--.*?-->", ""),
    (r"<style.*?</style>", ""),  # its selector is *, which would reach the whole page
    (r' xmlns(:xlink)?="[^"]*"', ""),
    (r'<g id="[^"]*"', "<g"),
    (r"font: ([\d.]+)px '[^;\"]*", r"font: \1px system-ui, sans-serif"),  # matplotlib < 3.11
    (r"font-family: '[^;\"]*", "font-family: system-ui, sans-serif"),
    (r"\s*\n\s*", "\n"),
)
MAX_POINTS = 300
MAX_FRAMES = 300


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
    """One diagram over epochs: its title, what its values are, and the record fields drawn in it."""

    title: str
    unit: str
    fields: tuple[str, ...]


PANELS = (
    Panel(title="Loss", unit="nats", fields=("train/loss", "valid/loss")),
    Panel(title="Accuracy", unit="share", fields=("train/accuracy", "valid/accuracy")),
    Panel(title="Classes decided rightly", unit="share", fields=("train/label_accuracy", "valid/label_accuracy")),
    Panel(title="Mean average precision", unit="share", fields=("valid/map",)),
    Panel(title="Samples a second", unit="count", fields=("train/samples_per_second",)),
    Panel(title="Time spent waiting for data", unit="share", fields=("train/wait_share",)),
    Panel(title="Learning rate", unit="rate", fields=("train/lr",)),
)


def curves(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, Markup]]:
    """Draw each panel that has two points or more, as (title, SVG)."""
    drawn = []
    for panel in PANELS:
        series = {field: _series(records, field=field) for field in panel.fields}
        if sum(np.isfinite(values).sum() for _, values in series.values()) >= 2:
            drawn.append((panel.title, _chart(panel, series=series)))
    return drawn


def note(waveform: NDArray[np.float32], *, sample_rate: int, mel: NDArray[np.float32]) -> Markup:
    """Draw a waveform (length,) above its mel (n_mels, frames), which lies in 0..1."""
    figure = Figure(figsize=(4.6, 2.5), layout="constrained")
    wave, picture = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (1, 3)})
    seconds = max(len(waveform), 1) / sample_rate
    low, high = _envelope(np.clip(np.nan_to_num(waveform), -1, 1))
    times = np.linspace(0, seconds, len(low))
    wave.fill_between(times, low, high, color=TRAIN, linewidth=0.6)
    wave.set_ylim(-1, 1)
    wave.set_axis_off()
    extent = (0.0, seconds, 0.0, float(max(len(mel), 1)))
    if mel.size:
        picture.imshow(_narrow(np.clip(np.nan_to_num(mel), 0, 1)), aspect="auto", origin="lower", interpolation="none",
                       extent=extent, cmap="magma", vmin=0, vmax=1)  # fmt: skip
    _dress(picture)
    picture.grid(visible=False)
    picture.set(xlim=extent[:2], ylim=extent[2:], xlabel="time, s", ylabel="mel band")
    return _svg(figure, label="waveform above its mel spectrogram")


def matrix(shares: NDArray[np.float64]) -> Markup:
    """Draw shares (classes, classes) in 0..1 by class number, for more classes than a table can hold."""
    figure = Figure(figsize=(5, 4.6), layout="constrained")
    axes = figure.subplots()
    _dress(axes)
    axes.grid(visible=False)
    axes.imshow(shares, interpolation="none", cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted class, by number", ylabel="target class, by number")
    return _svg(figure, label="confusion matrix")


def _series(records: Sequence[Mapping[str, Any]], *, field: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read a field's epochs and values (points,); what a resumed run did over again replaces what it did before."""
    points, border = [], math.inf
    for record in reversed(records):
        epoch, value = record.get("epoch"), record.get(field, False)
        if value is not False and isinstance(epoch, (int, float)) and epoch < border:
            border = epoch
            points.append((epoch, value if isinstance(value, (int, float)) and math.isfinite(value) else math.nan))
    epochs, values = np.array(points[::-1], np.float64).reshape(-1, 2).T
    return _thin(epochs), _thin(values)


def _thin(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average equal runs of neighbours to at most MAX_POINTS; a hole (nan) stays one, so a diverged run shows."""
    run = max(1, math.ceil(len(values) / MAX_POINTS))
    return np.array([values[at : at + run].mean() for at in range(0, len(values), run)])


def _chart(panel: Panel, *, series: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]) -> Markup:
    figure = Figure(figsize=(4.6, 2.7), layout="constrained")
    axes = figure.subplots()
    _dress(axes)
    for (field, (epochs, values)), colour in zip(series.items(), (TRAIN, VALID), strict=False):
        if np.isfinite(values).any():
            mark = "o" if len(values) <= 24 else ""
            axes.plot(epochs, values, color=colour, linewidth=1.6, marker=mark, markersize=3.5,
                      label=field.split("/")[0])  # fmt: skip
    axes.set(xlabel="epoch", ylabel=panel.unit if panel.unit == "nats" else "")
    axes.set_ylim(0, _top(series, unit=panel.unit))
    if panel.unit == "share":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=" %"))
    if panel.unit == "count":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    if panel.unit == "rate":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    if len(series) > 1:
        axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    return _svg(figure, label=f"{panel.title} over epochs")


def _top(series: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], *, unit: str) -> float:
    """Choose the axis's end: above all that's drawn, never above 100 % for a share, never 0."""
    highest = max(float(np.nanmax(values)) for _, values in series.values() if np.isfinite(values).any())
    top = 1.08 * highest if highest > 0 else 1.0
    return min(top, 1.0) if unit == "share" and highest <= 1 else top


def _dress(axes: Axes) -> None:
    axes.set_facecolor("none")
    axes.grid(visible=True, color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=LINE, labelcolor=INK, labelsize=9, length=3)
    axes.xaxis.label.set(color=INK, fontsize=9)
    axes.yaxis.label.set(color=INK, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=(1, 2, 2.5, 5, 10)))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 2.5, 5, 10)))


def _envelope(waveform: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Give the least and greatest value in each of at most 240 stretches of a waveform (length,)."""
    if not len(waveform):
        return np.zeros(2, np.float32), np.zeros(2, np.float32)
    starts = np.linspace(0, len(waveform), min(240, len(waveform)), endpoint=False).astype(np.int64)
    return np.minimum.reduceat(waveform, starts), np.maximum.reduceat(waveform, starts)


def _narrow(mel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Keep the loudest of neighbouring frames until MAX_FRAMES are left: a long note's picture stays light."""
    if mel.shape[1] <= MAX_FRAMES:
        return mel
    starts = np.linspace(0, mel.shape[1], MAX_FRAMES, endpoint=False).astype(np.int64)
    return np.maximum.reduceat(mel, starts, axis=1)


def _svg(figure: Figure, *, label: str) -> Markup:
    """Write a figure as an <svg> element that fits into a page: no prologue, no foreign addresses, no stray ids."""
    buffer = io.StringIO()
    figure.patch.set_facecolor("none")
    # A fixed salt makes equal figures equal text, so a report is the same bytes twice. Two figures of one page may then
    # share an id, but only for a path that is the same in both.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "notestream"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for pattern, replacement in CLEANING:
        text = re.sub(pattern, replacement, text, flags=re.DOTALL)
    for stand_in, colour in STYLE.items():
        text = text.replace(stand_in, colour)
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))
