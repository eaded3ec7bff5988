"""evaluate: a model, a split -> an answer for every row, counted once at any number of ranks."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from shards.errors import DataError
from shards.index import Pack
from streaming.device import to_device
from streaming.evaluation import whole_notes
from trainers.metrics import Predictions
from trainers.session import Session

ROWS = 64  # whole notes at a time


@torch.no_grad()
def evaluate(
    model: torch.nn.Module, mel: torch.nn.Module, *, pack: Pack, label: str, classes: Sequence[str], session: Session
) -> Predictions:
    """Answer every row of a split with the plain (unwrapped) model; every rank gets the whole result.

    Raises:
        DataError: the rows counted over all ranks aren't the split's, or a row can't be read.
    """
    session.share_buffers(model)
    model.eval()
    notes = whole_notes(pack, label=label, classes=classes, batch_size=ROWS, world=session.world)
    found: list[torch.Tensor] = []
    for batch in to_device(notes, device=session.device):
        logits = model(mel(batch.waveform)).float()
        loss = functional.cross_entropy(logits, batch.label, reduction="none")
        found.append(torch.cat([logits.softmax(1), loss[:, None]], dim=1).cpu())
    mine = torch.cat(found) if found else torch.zeros(0, len(classes) + 1)
    counted = int(session.sum(torch.tensor([len(mine)], dtype=torch.float64, device=session.device)).item())
    if counted != pack.rows:
        raise DataError(f"evaluation counted {counted} rows of {pack.split}, which has {pack.rows}: report this")
    answers = np.concatenate([part.numpy() for part in session.gather(mine)])
    return make_predictions(pack, label=label, classes=classes, probabilities=answers[:, :-1], loss=answers[:, -1])


def make_predictions(
    pack: Pack, *, label: str, classes: Sequence[str], probabilities: np.ndarray, loss: np.ndarray
) -> Predictions:
    """Join answers in index order, (rows, classes) and (rows,), with what the pack knows of its rows."""
    there = [name for name in ("key", "instrument_str", "instrument_source_str") if name in pack.schema.names]
    columns = {name: tuple(values) for name, values in pack.read(*there).to_pydict().items()}
    return Predictions(
        split=pack.split,
        classes=tuple(classes),
        keys=columns["key"],
        target=pack.label_ids(label, classes),
        probabilities=probabilities,
        loss=loss,
        group=columns.get("instrument_str", columns["key"]),
        source=columns.get("instrument_source_str", ()),
    )
