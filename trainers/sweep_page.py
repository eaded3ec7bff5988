"""sweep_page: what came of trials -> a picture of the monitored metric against each option, and an HTML page with both.

Values and names are foreign text: they pass through jinja2 with autoescape on, and the page's policy forbids scripts
and addresses. It asks nothing of any network.
"""

import base64
import importlib.resources
import io
import re
from collections.abc import Sequence

import jinja2
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from trainers.sweep_table import FINISHED, Outcome, as_rows, counts_down, ranked, show_value
from trainers.vary import Axis

TEMPLATE, LOOKS = "sweep.html.j2", "report.html.j2"
INK, SOFT, LINE, DOT, BEST = "#1d2733", "#5d6875", "#dcdfe3", "#3b78b5", "#c96f1e"
PANELS = 3  # side by side


def draw(outcomes: Sequence[Outcome], *, axes: Sequence[Axis], monitor: str) -> bytes:
    """Draw the best value of each trial over each option that was varied: a PNG."""
    columns = min(PANELS, len(axes))
    lines = -(-len(axes) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.3 * lines), layout="constrained", facecolor="white")
    panels = figure.subplots(lines, columns, squeeze=False).ravel().tolist()
    told = [one for one in ranked(outcomes, monitor=monitor) if one.best is not None]
    for at, panel in enumerate(panels):
        if at < len(axes):
            _draw_panel(panel, axes[at], told=told, monitor=monitor)
            panel.set_ylabel(monitor if at % columns == 0 else "", color=SOFT)
        else:
            panel.set_axis_off()
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=144, metadata={"Software": None})
    return out.getvalue()


def _draw_panel(panel: Axes, axis: Axis, *, told: Sequence[Outcome], monitor: str) -> None:
    """Draw one option: trials that were finished filled, others hollow, the best one in a colour of its own.

    A range keeps its own scale. The values of a list stand side by side, as they were given.
    """
    values = [one.trial.values[axis.name] for one in told]
    places = values if axis.ends else [axis.values.index(value) for value in values]
    for rank, (one, place) in reversed(list(enumerate(zip(told, places, strict=True)))):
        colour = DOT if rank else BEST
        face = colour if one.state == FINISHED else "white"
        panel.plot(
            [place], [one.best or 0.0], "o", markersize=6, markeredgecolor=colour, markerfacecolor=face, alpha=0.85
        )
    if axis.ends:
        panel.set_xscale("log" if axis.is_log else "linear")
    else:
        panel.set_xticks(
            range(len(axis.values)), [show_value(axis.name, value, monitor=monitor) for value in axis.values]
        )
        panel.set_xlim(-0.5, len(axis.values) - 0.5)
    if not counts_down(monitor):
        panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=" %"))
    panel.set_xlabel(axis.name, color=SOFT)
    panel.grid(visible=True, color=LINE, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(which="both", length=0, colors=INK, labelsize=9)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(LINE)


def render(outcomes: Sequence[Outcome], *, monitor: str, name: str, vary: Sequence[str], picture: bytes) -> str:
    """Render the page as HTML, in the report's own style."""
    room = importlib.resources.files("trainers")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = re.search(r"<style>\n(.*?)</style>", room.joinpath(LOOKS).read_text("utf-8"), re.DOTALL)
    assert style is not None, "the report has a style sheet"
    rows = as_rows(outcomes, monitor=monitor)
    shown = [[show_value(column, value, monitor=monitor) for column, value in row.items()] for row in rows]
    return environment.from_string(room.joinpath(TEMPLATE).read_text("utf-8")).render(
        name=name,
        vary=vary,
        monitor=monitor,
        columns=list(rows[0]),
        rows=shown,
        picture="data:image/png;base64," + base64.b64encode(picture).decode("ascii"),
        style=Markup(style[1]),
    )
