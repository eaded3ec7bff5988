"""tables: predictions of splits -> rows of a table, one a family or a source, and the same for a terminal."""

import dataclasses
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from trainers.metrics import (
    INTERVAL_SEED,
    Predictions,
    Tally,
    accuracy,
    interval,
    macro_accuracy,
    per_class,
    per_source,
)

ABSENT = "-"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A family's or a source's tallies, one a split in the splits' order; zero rows where it's absent."""

    name: str
    tallies: tuple[Tally, ...]


def family_rows(splits: Sequence[Predictions]) -> list[Row]:
    """Line up every class that any split knows, in the order of the first split that does."""
    return _line_up([per_class(predictions) for predictions in splits])


def source_rows(splits: Sequence[Predictions]) -> list[Row]:
    """Line up every source that any split has; empty where none is known."""
    return _line_up([per_source(predictions) for predictions in splits])


def terminal_table(splits: Sequence[Predictions]) -> Table:
    """Lay out accuracy and rows of every split by family, then macro and total with its 95 % interval."""
    table = Table(title="accuracy, %", title_justify="left")
    table.add_column("family")
    for predictions in splits:
        table.add_column(Text(predictions.split), justify="right")
        table.add_column("n", justify="right", style="dim")
    for row in family_rows(splits):
        cells = [(_percent(tally.accuracy), f"{tally.rows:,}" if tally.rows else ABSENT) for tally in row.tallies]
        # Text, since class names are foreign and a plain string's brackets would be read as markup.
        table.add_row(Text(row.name), *(cell for pair in cells for cell in pair))
    table.add_section()
    table.add_row("macro", *(cell for predictions in splits for cell in _macro_cells(predictions)))
    table.add_row("total", *(cell for predictions in splits for cell in _total_cells(predictions)), style="bold")
    return table


def _line_up(columns: Sequence[dict[str, Tally]]) -> list[Row]:
    names = dict.fromkeys(name for column in columns for name in column)
    none = Tally(rows=0, correct=0)
    return [Row(name=name, tallies=tuple(column.get(name, none) for column in columns)) for name in names]


def _macro_cells(predictions: Predictions) -> tuple[str, str]:
    macro, present = macro_accuracy(predictions)
    return _percent(macro), f"{len(present)} classes"


def _total_cells(predictions: Predictions) -> tuple[str, str]:
    bounds = interval(predictions, seed=INTERVAL_SEED)
    between = f" ({_percent(bounds[0])} to {_percent(bounds[1])})" if bounds else ""
    return _percent(accuracy(predictions)) + between, f"{len(predictions.keys):,}"


def _percent(share: float | None) -> str:
    return ABSENT if share is None else f"{100 * share:.1f}"
