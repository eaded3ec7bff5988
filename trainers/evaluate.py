"""evaluate: a model, a split -> an answer for every row, counted once at any number of ranks."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from shards.errors import DataError
from streaming.batch import Batch
from streaming.device import to_device
from streaming.evaluation import merge_windows, whole_notes
from streaming.readers import Readers
from trainers.config import TrainConfig
from trainers.data import Split
from trainers.metrics import Predictions
from trainers.session import Session

ROWS = 64  # whole notes at a time


@torch.no_grad()
def evaluate(
    model: torch.nn.Module,
    mel: torch.nn.Module,
    *,
    split: Split,
    config: TrainConfig,
    classes: Sequence[str],
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
    found = []
    for pack, kept in split:
        share = session.world.share(len(kept))
        notes = whole_notes(
            pack, rows=kept, label=config.label, classes=classes, batch_size=ROWS, world=session.world,
            on_bad_row=config.on_bad_row, remote=config.remote, mirror_bytes=config.mirror_bytes, readers=readers,
            pinned=session.device.type == "cuda",
        )  # fmt: skip
        answers = [_answer(network, batch) for batch in to_device(notes, device=session.device)]
        mine = _merge(answers, share=share, kept=kept, width=len(classes) + 1)
        found += session.gather(mine)
    return make_predictions(split, label=config.label, classes=classes, answers=np.concatenate(found))


Answer = tuple[torch.Tensor, tuple[int, ...], torch.Tensor]


def _answer(network: torch.nn.Module, batch: Batch) -> Answer:
    """Answer a batch's windows: probabilities and loss (windows, classes + 1), with their rows and weights.

    Windows of one length go through together, cut to it: no padding is heard, so a note's answer doesn't depend on
    what it shares a batch with.
    """
    lengths, answers = batch.length.cpu(), None
    for length in lengths.unique().tolist():
        here = (lengths == length).nonzero()[:, 0].to(batch.waveform.device)
        logits = network(batch.waveform[here, :length]).float()
        loss = functional.cross_entropy(logits, batch.label[here], reduction="none")
        told = torch.cat([logits.softmax(1), loss[:, None]], dim=1)
        answers = told.new_empty(len(lengths), told.shape[1]) if answers is None else answers
        answers[here] = told
    assert answers is not None, "a batch has rows"
    return answers.cpu(), batch.row, batch.weight.cpu()


def _merge(answers: Sequence[Answer], *, share: range, kept: NDArray[np.int64], width: int) -> NDArray[np.float32]:
    """Join the answers of a rank's share: (rows, width); a masked row's is nan."""
    rows = np.searchsorted(kept, [row for _, rows, _ in answers for row in rows])
    told = torch.cat([part for part, _, _ in answers]) if answers else torch.zeros(0, width)
    weights = torch.cat([weight for _, _, weight in answers]) if answers else torch.zeros(0)
    return merge_windows(told, rows=rows.tolist(), weights=weights, share=share).numpy().astype(np.float32)


def make_predictions(split: Split, *, label: str, classes: Sequence[str], answers: NDArray[np.float32]) -> Predictions:
    """Join answers in the split's order, (rows, classes + 1), with what is known of its rows; masked ones are left out.

    Raises:
        DataError: there are more or fewer answers than rows.
    """
    if len(answers) != len(split):
        raise DataError(f"evaluation counted {len(answers)} rows of {split.name}, which has {len(split)}: report this")
    good = np.flatnonzero(~np.isnan(answers[:, 0]))
    columns = {name: split.column(name) for name in ("key", "instrument_str", "instrument_source_str")}
    key, group, source = (tuple(values[i] for i in good) if values else () for values in columns.values())
    return Predictions(
        split=split.name,
        classes=tuple(classes),
        keys=key,
        target=split.label_ids(label, classes)[good],
        probabilities=answers[good, :-1],
        loss=answers[good, -1],
        group=group or key,
        source=source,
        masked=len(answers) - len(good),
    )
