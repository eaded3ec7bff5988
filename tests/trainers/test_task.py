"""Laws of tasks: a row's loss is the row's own, weights go by class and keep the mean, both kinds are one interface."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from shards.errors import DataError, UsageError
from shards.index import Pack
from streaming.balance import Balance
from streaming.mix import make_order
from streaming.world import World
from tests.streaming.made_up import make_pack
from tests.trainers.runs import config
from trainers.config import TrainConfig, from_json, to_json
from trainers.data import open_data
from trainers.metrics import summary
from trainers.predictions import Predictions, tell
from trainers.ranking import chance_ap, macro_auc, mean_ap, score_classes
from trainers.task import Task, choose_monitor, class_shares, class_weights, probabilities, right_answers, row_losses

ROWS, CLASSES = 23, 5
ONE, MANY = Task(), Task(many=True)


def made(*, many: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (rows, classes) and targets, in float64."""
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(ROWS, CLASSES, generator=generator, dtype=torch.float64) * 3
    flags = (torch.rand(ROWS, CLASSES, generator=generator) < 0.3).double()
    return logits, flags if many else torch.arange(ROWS) % CLASSES


def test_losses_are_those_of_the_definition():
    weights = torch.tensor([0.5, 1.0, 2.0, 3.0, 0.1], dtype=torch.float64)
    logits, target = made(many=False)
    logs, smooth = np.log(logits.softmax(1).numpy()), 0.1
    spread = (1 - smooth) * np.eye(CLASSES)[target.numpy()] + smooth / CLASSES
    expected = -(spread * logs).sum(1) * weights.numpy()[target.numpy()]
    assert row_losses(ONE, logits, target, smoothing=smooth, weights=weights).numpy() == pytest.approx(expected)

    logits, target = made(many=True)
    share, held = logits.sigmoid().numpy(), (1 - smooth) * target.numpy() + smooth / 2
    expected = -(weights.numpy() * held * np.log(share) + (1 - held) * np.log(1 - share)).mean(1)
    assert row_losses(MANY, logits, target, smoothing=smooth, weights=weights).numpy() == pytest.approx(expected)


def test_answers_are_probabilities_and_shares_of_right_ones():
    logits, target = made(many=False)
    assert probabilities(ONE, logits).sum(1).numpy() == pytest.approx(np.ones(ROWS))
    assert right_answers(ONE, logits, target).tolist() == (logits.argmax(1) == target).tolist()
    logits, target = made(many=True)
    assert probabilities(MANY, logits).numpy() == pytest.approx(1 / (1 + np.exp(-logits.numpy())))
    expected = ((logits.sigmoid() > 0.5) == target.bool()).double().mean(1)
    assert right_answers(MANY, logits, target).numpy() == pytest.approx(expected.numpy())


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 23])
def test_no_world_size_changes_a_weighted_gradient(many: bool, world_size: int):
    """Each rank divides by the global batch, whatever classes the others hold: the mean over ranks is the batch's."""
    task, weights = Task(many=many), torch.tensor([0.5, 1.0, 2.0, 30.0, 0.1], dtype=torch.float64)
    logits, target = made(many=many)
    masked = torch.ones(ROWS, dtype=torch.float64)
    masked[4] = 0
    whole = logits.clone().requires_grad_()
    loss = row_losses(task, whole, target, smoothing=0.1, weights=weights) * masked
    (loss.sum() / ROWS).backward()
    told = torch.zeros_like(logits)
    for rank in range(world_size):
        here = slice((share := World(rank=rank, world_size=world_size).share(ROWS)).start, share.stop)
        mine = logits[here].clone().requires_grad_()
        losses = row_losses(task, mine, target[here], smoothing=0.1, weights=weights) * masked[here]
        (losses.sum() * world_size / ROWS).backward()
        told[here] = mine.grad / world_size  # as DDP's mean over ranks has it
    torch.testing.assert_close(told, whole.grad, rtol=1e-12, atol=0)
    assert not whole.grad[4].any()


@pytest.mark.parametrize("power", [0.3, 0.5, 1.0])
def test_weights_keep_the_mean_over_rows_and_power_1_makes_classes_count_alike(power: float):
    shares = np.array([0.7, 0.2, 0.1, 0.0])
    weights = class_weights(shares, power=power, many=False)
    assert (shares * weights).sum() == pytest.approx(1)
    assert weights[0] < weights[1] < weights[2] == weights[3]
    assert weights[1] / weights[0] == pytest.approx((0.7 / 0.2) ** power)
    if power == 1:
        assert (shares * weights)[:3] == pytest.approx([1 / 3] * 3)


def test_weights_of_many_classes_are_those_of_their_positives():
    weights = class_weights(np.array([0.5, 0.2, 0.01, 0.0, 1.0]), power=0.5, many=True)
    assert weights == pytest.approx([1, 2, 99**0.5, 1, 1])


@pytest.fixture
def packs(tmp_path: Path) -> tuple[Pack, ...]:
    return tuple(
        make_pack(tmp_path / name, shard_rows=(4, 4), labels={"one": list(values)})
        for name, values in (("a", "aaaaaabb"), ("b", "bbbbcccc"))
    )


def test_shares_are_of_the_rows_as_they_are_chosen_repeated_and_mixed(packs):
    told = {"label": "one", "classes": ("a", "b", "c")}
    plain = make_order(packs[:1], seed=0)
    assert class_shares(packs[:1], order=plain, **told) == pytest.approx([6 / 8, 2 / 8, 0])
    mixed = make_order(packs, seed=0, weights=(3, 1))
    assert class_shares(packs, order=mixed, **told) == pytest.approx([9 / 16, 5 / 16, 2 / 16])
    even = make_order(packs[:1], seed=0, balance=Balance(label="one", power=1.0))
    assert class_shares(packs[:1], order=even, **told) == pytest.approx([1 / 2, 1 / 2, 0])
    chosen = make_order(packs[:1], seed=0, where="one == 'b'")
    assert class_shares(packs[:1], order=chosen, **told) == pytest.approx([0, 1, 0])


def test_a_monitor_must_be_a_metric_of_the_label(data: Path, tmp_path: Path):
    assert choose_monitor(TrainConfig(), many=False) == "valid/accuracy"
    assert choose_monitor(TrainConfig(), many=True) == "valid/map"
    assert choose_monitor(TrainConfig(monitor="valid/macro_auc"), many=True) == "valid/macro_auc"
    message = r"monitor must be one of valid/map, valid/macro_auc, valid/loss where label 'qualities' has any number of"
    with pytest.raises(UsageError, match=message + r" classes a row, got 'valid/accuracy'"):
        open_data(config(data, tmp_path, label="qualities", monitor="valid/accuracy"))
    with pytest.raises(UsageError, match=r"where label 'pitch' has one class a row, got 'valid/map'"):
        open_data(config(data, tmp_path, label="pitch", monitor="valid/map"))


def test_options_that_do_not_fit_are_told():
    for power in (0, -1, 1.5):
        with pytest.raises(UsageError, match=rf"class_weights must be a power over 0 and up to 1, got {power:g}"):
            TrainConfig(class_weights=power)
    with pytest.raises(UsageError, match=r"views must not be negative, got -1"):
        TrainConfig(views=-1)
    old = to_json(TrainConfig(monitor="valid/accuracy"))
    del old["views"], old["class_weights"]
    assert from_json(old, name="an older run's") == TrainConfig(monitor="valid/accuracy")


# ---- ranking


def slow_scores(truth: np.ndarray, answer: np.ndarray) -> tuple[float, float]:
    """The definitions: precision at each positive's rank or above, over ties at once; pairs ranked rightly."""
    positive, negative = answer[truth == 1], answer[truth == 0]
    precisions = [(positive >= level).sum() / (answer >= level).sum() for level in positive]
    pairs = positive[:, None] - negative[None]
    return float(np.mean(precisions)), float(((pairs > 0) + 0.5 * (pairs == 0)).mean())


@pytest.mark.parametrize("ties", [False, True])
def test_scores_are_those_of_the_definition(ties: bool):
    generator = np.random.Generator(np.random.Philox(key=3))
    target = (generator.random((200, 4)) < [0.5, 0.1, 0.01, 0.9]).astype(np.uint8)
    target[0, 2], target[1, 3] = 1, 0
    answers = generator.random((200, 4)).astype(np.float32) + 0.3 * target
    answers = answers.round(1) if ties else answers
    scores = score_classes(target, answers, classes=tuple("abcd"))
    expected = [slow_scores(target[:, c], answers[:, c]) for c in range(4)]
    assert [(score.ap, score.auc) for score in scores] == [pytest.approx(one) for one in expected]
    assert mean_ap(scores) == pytest.approx(np.mean([ap for ap, _ in expected]))
    assert macro_auc(scores) == pytest.approx(np.mean([auc for _, auc in expected]))
    assert chance_ap(scores) == pytest.approx(target.mean(0).mean())


def test_classes_without_rows_of_both_kinds_count_nowhere():
    target = np.array([[1, 0, 1], [1, 0, 0]], np.uint8)
    scores = score_classes(target, np.array([[0.9, 0.1, 0.8], [0.9, 0.2, 0.3]]), classes=tuple("abc"))
    assert [(score.rows, score.ap, score.auc) for score in scores] == [(2, None, None), (0, None, None), (1, 1.0, 1.0)]
    assert (mean_ap(scores), macro_auc(scores), chance_ap(scores)) == (1.0, 1.0, 0.5)
    nothing = score_classes(target[:, :2], np.ones((2, 2)), classes=tuple("ab"))
    assert (mean_ap(nothing), macro_auc(nothing), chance_ap(nothing)) == (None, None, None)
    odd = score_classes(target, np.full((2, 3), np.nan), classes=tuple("abc"))
    assert mean_ap(odd) is None


# ---- metrics


def of_many(rows: int = 40, *, classes: tuple[str, ...] = ("bright", "dark", "reverb"), **fields) -> Predictions:
    generator = np.random.Generator(np.random.Philox(key=rows))
    target = (generator.random((rows, len(classes))) < 0.4).astype(np.uint8)
    answers = np.clip(0.6 * target + 0.5 * generator.random(target.shape), 0, 1).astype(np.float32)
    keys = tuple(f"note{i}" for i in range(rows))
    given = {"split": "valid", "classes": classes, "keys": keys, "target": target, "probabilities": answers}
    rest = {"loss": np.ones(rows, np.float32), "group": keys, "source": tuple("ab"[i % 2] for i in range(rows))}
    return Predictions(**(given | rest | fields))


def test_numbers_of_many_classes_are_named_for_what_they_are():
    predictions = of_many(family=tuple("xyz"[i % 3] for i in range(40)))
    told = summary(predictions)
    decided = (predictions.probabilities > 0.5) == predictions.target.astype(bool)
    assert told["label_accuracy"] == pytest.approx(decided.mean())
    assert told["source/a"] == pytest.approx(decided[::2].mean())
    assert told["family/y"] == pytest.approx(decided[1::3].mean())
    assert told["map"] == pytest.approx(np.mean([told[f"ap/{name}"] for name in predictions.classes]))
    assert told["classes_scored"] == 3
    assert not [name for name in told if name.startswith("accuracy")], "no row has one right answer"
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    empty = of_many(0)
    assert summary(empty)["map"] is None
    assert summary(empty)["label_accuracy"] is None


def test_pitches_are_judged_by_semitone_and_by_octave():
    midi = tuple(map(str, range(128)))
    answers = np.eye(128, dtype=np.float32)[[60, 61, 72, 62, 48, 127]]
    fields = {"classes": midi, "probabilities": answers, "target": np.array([60] * 6)}
    told = summary(of_many(6, **fields, label="pitch"))
    assert told["accuracy"] == pytest.approx(1 / 6)
    assert told["semitone_accuracy"] == pytest.approx(2 / 6)
    assert told["chroma_accuracy"] == pytest.approx(3 / 6)
    assert "chroma_accuracy" not in summary(of_many(6, **fields, label="velocity"))


def test_what_a_row_is_has_a_name():
    assert tell(("a", "b"), np.int64(1)) == "b"
    assert tell(("a", "b"), np.array([0.9, 0.6])) == "a, b"
    assert tell(("a", "b"), np.array([0, 0], np.uint8)) == "none"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target": np.full((2, 3), 2)}, r"targets must lie in 0\.\.1; split 'valid' has 2\.\.2"),
        ({"target": np.zeros((2, 2))}, r"must fit 2 keys and 3 classes"),
        ({"family": ("x",)}, r"group, source and family must name 2 rows; split 'valid' has \(2, 2, 1\)"),
    ],
)
def test_errors_speak(change, said):
    with pytest.raises(DataError, match=said):
        of_many(2, **change)
