"""evaluate: a model, a split -> an answer for every row, counted once at any number of ranks.

What is averaged over a row's windows or views is its probabilities and its loss.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from shards.errors import DataError
from streaming.batch import Batch
from streaming.device import to_device
from streaming.evaluation import merge_windows, whole_notes
from streaming.readers import Readers
from trainers.config import TrainConfig
from trainers.data import Kept, Split
from trainers.predictions import Predictions
from trainers.session import Session
from trainers.task import Task, probabilities, row_losses

ROWS = 64  # whole notes at a time
COLUMNS = {"group": "instrument_str", "source": "instrument_source_str", "family": "instrument_family_str"}


@torch.no_grad()
def evaluate(
    model: torch.nn.Module,
    mel: torch.nn.Module,
    *,
    split: Split,
    config: TrainConfig,
    task: Task,
    session: Session,
    readers: Readers | None = None,
) -> Predictions:
    """Answer every row of a split with the plain (unwrapped) model; every rank gets the whole result.

    `readers` are those of training, lent; without, this process reads.

    Raises:
        DataError: the rows counted over all ranks aren't the split's, or a row can't be read.
    """
    session.share_buffers(model)
    model.eval()
    network = torch.nn.Sequential(mel, model)
    found, hearing = [], {"views": config.views, "window_seconds": config.crop_seconds} if config.views else {}
    for pack, kept in split:
        share = session.world.share(len(kept))
        notes = whole_notes(
            pack, rows=kept, label=task.label, classes=task.classes, batch_size=ROWS, world=session.world, **hearing,
            on_bad_row=config.on_bad_row, remote=config.remote, mirror_bytes=config.mirror_bytes, readers=readers,
            pinned=session.device.type == "cuda",
        )  # fmt: skip
        answers = [_answer(network, batch, task=task) for batch in to_device(notes, device=session.device)]
        mine = _merge(answers, share=share, kept=kept, width=len(task.classes) + 1)
        found += session.gather(mine)
    return make_predictions(split, task=task, answers=np.concatenate(found))


Answer = tuple[torch.Tensor, tuple[int, ...], torch.Tensor]


def _answer(network: torch.nn.Module, batch: Batch, *, task: Task) -> Answer:
    """Answer a batch's windows: probabilities and loss (windows, classes + 1), with their rows and weights.

    Windows of one length go through together, cut to it: no padding is heard, so a note's answer doesn't depend on
    what it shares a batch with.
    """
    lengths, answers = batch.length.cpu(), None
    for length in lengths.unique().tolist():
        here = (lengths == length).nonzero()[:, 0].to(batch.waveform.device)
        logits = network(batch.waveform[here, :length]).float()
        loss = row_losses(task, logits, batch.label[here])
        told = torch.cat([probabilities(task, logits), loss[:, None]], dim=1)
        answers = told.new_empty(len(lengths), told.shape[1]) if answers is None else answers
        answers[here] = told
    assert answers is not None, "a batch has rows"
    return answers.cpu(), batch.row, batch.weight.cpu()


def _merge(answers: Sequence[Answer], *, share: range, kept: Kept, width: int) -> NDArray[np.float32]:
    """Join the answers of a rank's share: (rows, width); a masked row's is nan."""
    rows = np.array([row for _, rows, _ in answers for row in rows], np.int64)
    rows = rows if isinstance(kept, range) else np.searchsorted(kept, rows)
    told = torch.cat([part for part, _, _ in answers]) if answers else torch.zeros(0, width)
    weights = torch.cat([weight for _, _, weight in answers]) if answers else torch.zeros(0)
    return merge_windows(told, rows=rows.tolist(), weights=weights, share=share).numpy().astype(np.float32)


def make_predictions(split: Split, *, task: Task, answers: NDArray[np.float32]) -> Predictions:
    """Join answers in the split's order, (rows, classes + 1), with what is known of its rows; masked ones are left out.

    Raises:
        DataError: there are more or fewer answers than rows.
    """
    if len(answers) != len(split):
        raise DataError(f"evaluation counted {len(answers)} rows of {split.name}, which has {len(split)}: report this")
    good = np.flatnonzero(~np.isnan(answers[:, 0]))
    # what is the label is told by class already
    known = {what: split.column(name) for what, name in COLUMNS.items() if what == "group" or name != task.label}
    key, group, source, family = (
        tuple("" if values[i] is None else str(values[i]) for i in good) if values else ()
        for values in (split.column("key"), *(known.get(what, ()) for what in COLUMNS))
    )
    target = split.targets(task.label, task.classes)[good]
    return Predictions(
        split=split.name,
        label=task.label,
        classes=task.classes,
        keys=key,
        target=target.astype(np.uint8) if task.many else target,
        probabilities=answers[good, :-1],
        loss=answers[good, -1],
        group=group or key,
        source=source,
        family=family,
        masked=len(answers) - len(good),
    )
