"""Evaluation's answers: the same at any world size, and for a note whatever it shares a batch with."""

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from shards import audio
from shards.errors import DataError
from shards.index import Pack, open_pack
from streaming.evaluation import whole_notes
from streaming.world import World
from tests.streaming.clips import clip, make_clips
from tests.trainers.together import Together, on_ranks
from trainers import evaluate as module
from trainers.config import TrainConfig
from trainers.data import Split
from trainers.evaluate import evaluate
from trainers.mel import LogMel
from trainers.metrics import Predictions
from trainers.task import Task

LABEL = "instrument_family_str"
LENGTHS = [3000, 1, 500, 3000, 1023, 1024, 4096, 2048, 5001, 3000, 77, 4097, 8192, 2048]
WINDOW = 2048
KEPT = np.array([0, 1, 2, 4, 6, 8, 11, 12, 13])


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pack, ...]:
    """Two packs of one split."""
    found = [make_clips(tmp_path_factory.mktemp(n), split="valid", lengths=of) for n, of in
             (("a", LENGTHS), ("b", LENGTHS[:3]))]  # fmt: skip
    return tuple(found)


@pytest.fixture(scope="module")
def network() -> tuple[torch.nn.Module, torch.nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d((8, 2)), torch.nn.Flatten(), torch.nn.Linear(16, 3))
    return LogMel(sample_rate=16_000), model


def answers(
    network, packs: Sequence[Pack], kept: Sequence[np.ndarray], *, world_size: int, on_bad_row: str = "raise"
) -> list[Predictions]:
    """Evaluate on each of a group of ranks."""
    mel, model = network
    config = TrainConfig(label=LABEL, on_bad_row=on_bad_row)
    task = Task(label=LABEL, classes=packs[0].classes[LABEL])

    def work(session: Together) -> Predictions:
        own = tuple(open_pack(pack.home.parent, split="valid") for pack in packs)  # as a process of its own has
        split = Split(name="valid", packs=own, kept=tuple(kept))
        return evaluate(model, mel, split=split, config=config, task=task, session=session)

    return on_ranks(world_size, work)


@pytest.fixture
def short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "whole_notes", partial(whole_notes, window_seconds=WINDOW / 16_000))


def heard_alone(network, pack: Pack, row: int) -> np.ndarray:
    """Answer a row's clip by itself: the mean over its windows, each weighing what it holds of the clip."""
    mel, model = network
    keys, _ = pack.take(range(pack.rows))
    number = sorted(keys).index(keys[row])
    wave = clip(number, length=LENGTHS[number])
    sound = torch.from_numpy(wave.astype(np.float32) * np.float32(audio.PCM16_SCALE))
    parts = [model(mel(part[None])).softmax(1)[0] * (len(part) / len(sound)) for part in sound.split(WINDOW)]
    return sum(parts).detach().numpy()


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 9, 16])
@pytest.mark.parametrize("rows", [1, 3, 64])
def test_a_note_is_answered_as_if_it_were_alone_at_any_world_size(
    network, packs, monkeypatch, short_windows, world_size: int, rows: int
):
    monkeypatch.setattr(module, "ROWS", rows)
    kept = [KEPT, np.array([0, 2])]
    found = answers(network, packs, kept, world_size=world_size)
    expected = [heard_alone(network, pack, row) for pack, of in zip(packs, kept, strict=True) for row in of.tolist()]
    keys = packs[0].take(KEPT)[0] + packs[1].take([0, 2])[0]
    for one in found:
        assert one.keys == tuple(keys)
        assert one.masked == 0
        np.testing.assert_allclose(one.probabilities, expected, atol=1e-6)
        assert one.target.tolist() == [packs[0].classes[LABEL].index(key.split("_")[0]) for key in keys]


@pytest.mark.parametrize("world_size", [1, 4, 16])
def test_masked_rows_are_left_out_and_counted(network, packs, tmp_path: Path, short_windows, world_size: int):
    broken = make_clips(tmp_path, split="valid", lengths=LENGTHS)
    for row in (0, 8):
        number, part, at = broken.find(row)
        with Path(str(broken.folder), broken.shards[number].name).open("r+b") as tar:
            tar.seek(int(part.places["offset"][at]) + 44)
            tar.write(b"\x5a\xa5")
    whole = answers(network, packs[:1], [KEPT], world_size=1)[0]
    for one in answers(network, [broken], [KEPT], world_size=world_size, on_bad_row="mask"):
        assert one.masked == 2
        good = [i for i, row in enumerate(KEPT) if row not in (0, 8)]
        assert one.keys == tuple(whole.keys[i] for i in good)
        np.testing.assert_allclose(one.probabilities, whole.probabilities[good], atol=1e-6)


def test_a_row_that_went_missing_is_no_result(network, packs, monkeypatch):
    monkeypatch.setattr(module, "whole_notes", lambda pack, rows, **rest: whole_notes(pack, rows=rows[:-1], **rest))
    with pytest.raises(DataError, match=r"evaluation counted 8 rows of 9, or others: report this"):
        session = Together(World(), [None], threading.Barrier(1))
        split = Split(name="valid", packs=packs[:1], kept=(KEPT,))
        evaluate(
            network[1], network[0], split=split, config=TrainConfig(label=LABEL),
            task=Task(label=LABEL, classes=packs[0].classes[LABEL]), session=session,
        )  # fmt: skip
