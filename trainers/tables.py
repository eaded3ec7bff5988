"""tables: predictions of splits -> rows of a table, one a class, a family or a source, and the same for a terminal."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from rich.table import Table
from rich.text import Text

from trainers.lines import ABSENT, percent
from trainers.metrics import (
    INTERVAL_SEED,
    accuracy,
    interval,
    macro_accuracy,
    per_class,
    per_family,
    per_source,
    pitch_accuracies,
)
from trainers.predictions import Predictions, Tally
from trainers.ranking import Score, macro_auc, mean_ap, score_classes

MOST_CLASSES = 20  # of a terminal's table: the most frequent
HEADINGS = {"instrument_family_str": "family", "instrument_source_str": "source", "": "class"}
PITCH = {"semitone_accuracy": "within a semitone", "chroma_accuracy": "right in any octave"}


class Counted(Protocol):
    """What a table tells of something in one split."""

    @property
    def rows(self) -> int:
        """How many rows it has there."""
        ...


T = TypeVar("T", bound=Counted)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(Generic[T]):
    """A class's, a family's or a source's figures, one a split in the splits' order; zero rows where it's absent."""

    name: str
    tallies: tuple[T, ...]


def heading(splits: Sequence[Predictions]) -> str:
    """Say in a word what a class is."""
    label = splits[0].label if splits else ""
    return HEADINGS.get(label, label)


def class_rows(splits: Sequence[Predictions]) -> list[Row[Tally]]:
    """Line up every class that any split knows, in the order of the first split that does."""
    return _line_up([per_class(predictions) for predictions in splits], none=Tally(rows=0, correct=0))


def score_rows(splits: Sequence[Predictions]) -> list[Row[Score]]:
    """Line up the scores of every class where a row has any number of them."""
    found = [scores_of(predictions) for predictions in splits]
    none = Score(name="", rows=0, share=0.0, ap=None, auc=None)
    return _line_up([{score.name: score for score in scores} for scores in found], none=none)


def family_rows(splits: Sequence[Predictions]) -> list[Row[Tally]]:
    """Line up every family that any split has; empty where none is known, or where they are the classes."""
    return _line_up([per_family(predictions) for predictions in splits], none=Tally(rows=0, correct=0))


def source_rows(splits: Sequence[Predictions]) -> list[Row[Tally]]:
    """Line up every source that any split has; empty where none is known, or where they are the classes."""
    return _line_up([per_source(predictions) for predictions in splits], none=Tally(rows=0, correct=0))


def scores_of(predictions: Predictions) -> list[Score]:
    """Score each class of a split where a row has any number of them."""
    return score_classes(predictions.target, predictions.probabilities, classes=predictions.classes)


def most_frequent(rows: Sequence[Row[T]], *, most: int) -> list[Row[T]]:
    """Keep the `most` rows of a table that have most rows of the splits, in its order."""
    by_count = sorted(range(len(rows)), key=lambda at: -sum(tally.rows for tally in rows[at].tallies))
    return [rows[at] for at in sorted(by_count[:most])]


def terminal_table(splits: Sequence[Predictions]) -> Table:
    """Lay out each split's figures by class, of the most frequent ones, then those of all."""
    return _scored(splits) if splits and splits[0].many else _counted(splits)


def groups_table(splits: Sequence[Predictions]) -> Table | None:
    """Lay out each split's right answers by family and by source; None where neither is known."""
    parts = [rows for rows in (family_rows(splits), source_rows(splits)) if rows]
    if not parts:
        return None
    table = _begin("labels right, %" if splits[0].many else "accuracy, %", splits, columns=("",), first="of")
    for rows in parts:
        table.add_section()
        for row in rows:
            table.add_row(Text(row.name or "(not named)"), *_each(map(_tally_cells, row.tallies)))
    return table


def _counted(splits: Sequence[Predictions]) -> Table:
    """Lay out accuracies and rows where a row has one class, then macro and total with its 95 % interval."""
    table = _begin("accuracy, %", splits, columns=("",), first=heading(splits))
    for row in _shown(table, class_rows(splits)):
        # Text, since names are foreign and a plain string's brackets would be read as markup.
        table.add_row(Text(row.name), *_each(map(_tally_cells, row.tallies)))
    table.add_section()
    for name, told in PITCH.items():
        cells = [pitch_accuracies(predictions).get(name) for predictions in splits]
        if any(cell is not None for cell in cells):
            table.add_row(told, *_each((_percent(cell), "") for cell in cells))
    table.add_row("macro", *_each(_macro_cells(predictions) for predictions in splits))
    table.add_row("total", *_each(_total_cells(predictions) for predictions in splits), style="bold")
    return table


def _scored(splits: Sequence[Predictions]) -> Table:
    """Lay out how each class is ranked where a row has any number of them, then the means."""
    title = "average precision and area under the ROC curve, %"
    table = _begin(title, splits, columns=(" AP", " AUC"), first=heading(splits))
    for row in _shown(table, score_rows(splits)):
        cells = ((_percent(score.ap), _percent(score.auc), _count(score.rows)) for score in row.tallies)
        table.add_row(Text(row.name), *_each(cells))
    table.add_section()
    scores = [scores_of(predictions) for predictions in splits]
    means = ((_percent(mean_ap(one)), _percent(macro_auc(one)), _scored_count(one)) for one in scores)
    table.add_row("mean", *_each(means), style="bold")
    labels = ((_percent(accuracy(predictions)), "", _count(len(predictions.keys))) for predictions in splits)
    table.add_row("labels right", *_each(labels))
    return table


def _begin(title: str, splits: Sequence[Predictions], *, columns: Sequence[str], first: str) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column(Text(first))
    for predictions in splits:
        for column in columns:
            table.add_column(Text(predictions.split + column), justify="right")
        table.add_column("n", justify="right", style="dim")
    return table


def _shown(table: Table, rows: Sequence[Row[T]]) -> list[Row[T]]:
    """Choose the rows that are shown, and say on the table if some aren't."""
    shown = most_frequent(rows, most=MOST_CLASSES)
    if len(shown) < len(rows):
        table.caption = f"the {len(shown)} most frequent of {len(rows)} classes"
    return shown


def _line_up(columns: Sequence[Mapping[str, T]], *, none: T) -> list[Row[T]]:
    names = dict.fromkeys(name for column in columns for name in column)
    return [Row(name=name, tallies=tuple(column.get(name, none) for column in columns)) for name in names]


def _each(cells: Iterable[Sequence[str]]) -> list[str]:
    return [cell for some in cells for cell in some]


def _tally_cells(tally: Tally) -> tuple[str, str]:
    return _percent(tally.accuracy), _count(tally.rows)


def _macro_cells(predictions: Predictions) -> tuple[str, str]:
    macro, present = macro_accuracy(predictions)
    return _percent(macro), f"{len(present)} classes"


def _total_cells(predictions: Predictions) -> tuple[str, str]:
    bounds = interval(predictions, seed=INTERVAL_SEED)
    between = f" ({_percent(bounds[0])} to {_percent(bounds[1])})" if bounds else ""
    return _percent(accuracy(predictions)) + between, _count(len(predictions.keys))


def _scored_count(scores: Sequence[Score]) -> str:
    return f"{sum(score.ap is not None for score in scores)} classes"


def _count(rows: int) -> str:
    return f"{rows:,}" if rows else ABSENT


def _percent(share: float | None) -> str:
    return percent(share, 0)
