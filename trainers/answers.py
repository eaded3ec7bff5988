"""answers: predictions of a split -> what was taken for what, and the worst answers, for a terminal and as JSON."""

from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from trainers.metrics import confusion, most_confused
from trainers.predictions import Predictions, tell
from trainers.tables import groups_table

NUM_CONFUSED, NUM_WORST = 8, 6


def worst(predictions: Predictions, *, n: int = NUM_WORST) -> list[int]:
    """Number the rows that were answered worst, by falling loss, the first of equals first."""
    return np.argsort(-predictions.loss, kind="stable")[:n].tolist()


def list_answers(predictions: Predictions) -> dict[str, Any]:
    """List the confusion (classes, classes) as counts, where a row has one class, and the largest losses."""
    told: dict[str, Any] = {"top_losses": [_answer(predictions, row) for row in worst(predictions)]}
    if predictions.many:
        return told
    return {"classes": list(predictions.classes), "confusion": confusion(predictions).tolist()} | told


def answer_tables(predictions: Predictions) -> list[Table]:
    """Lay out right answers by family and by source, the pairs most confused, and the largest losses."""
    groups, tables = groups_table([predictions]), []
    if groups is not None:
        tables.append(groups)
    if not predictions.many:
        tables.append(_begin("most confused", "target", "taken for", "n"))
        for pair in most_confused(predictions, n=NUM_CONFUSED):
            # Text, since names are foreign and a plain string's brackets would be read as markup.
            tables[-1].add_row(Text(pair.target), Text(pair.predicted), f"{pair.rows:,}")
    tables.append(_begin("largest losses", "key", "target", "taken for", "loss"))
    for row in worst(predictions):
        key, target, taken_for, loss = _answer(predictions, row).values()
        tables[-1].add_row(Text(key), Text(target), Text(taken_for), "-" if loss is None else f"{loss:.2f}")
    return tables


def _answer(predictions: Predictions, row: int) -> dict[str, Any]:
    answers, loss = predictions.probabilities[row], float(predictions.loss[row])
    return {
        "key": predictions.keys[row],
        "target": tell(predictions.classes, predictions.target[row]),
        "predicted": tell(predictions.classes, answers if predictions.many else answers.argmax()),
        "loss": loss if np.isfinite(loss) else None,
    }


def _begin(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if column in ("n", "loss") else "left", overflow="fold")
    return table
