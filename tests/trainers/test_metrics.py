"""Laws of metrics: sums agree, absent classes count nowhere, the interval is a cluster bootstrap and repeats itself."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import DataError
from trainers.metrics import (
    Confused,
    Predictions,
    Tally,
    accuracy,
    confusion,
    interval,
    macro_accuracy,
    majority_share,
    most_confused,
    per_class,
    per_source,
    predicted,
    summary,
)


def make(target, answers, *, classes=("bass", "brass", "flute"), group=None, source=(), split="valid"):
    """Predictions whose likeliest classes are `answers`."""
    rows = len(target)
    probabilities = np.full((rows, len(classes)), 0.1, np.float32)
    probabilities[np.arange(rows), np.array(answers, np.int64)] = 0.8
    keys = tuple(f"note{i}" for i in range(rows))
    return Predictions(
        split=split,
        classes=tuple(classes),
        keys=keys,
        target=np.array(target, np.int64),
        probabilities=probabilities,
        loss=np.ones(rows, np.float32),
        group=keys if group is None else tuple(group),
        source=tuple(source),
    )


def grouped(*sizes_and_rights):
    """Predictions of groups, each given as (rows, how many of them are right)."""
    answers = [i < right for rows, right in sizes_and_rights for i in range(rows)]
    group = [f"g{g}" for g, (rows, _) in enumerate(sizes_and_rights) for _ in range(rows)]
    return make([0] * len(answers), [0 if right else 1 for right in answers], group=group)


def slow_interval(predictions, *, resamples):
    """The definition: draw groups with replacement, pool their rows, take quantiles."""
    right = predicted(predictions) == predictions.target
    members = [[i for i, name in enumerate(predictions.group) if name == one] for one in sorted(set(predictions.group))]
    generator = np.random.Generator(np.random.PCG64(5))
    pooled = []
    for _ in range(resamples):
        rows = [row for g in generator.integers(0, len(members), len(members)) for row in members[g]]
        pooled.append(right[rows].mean())
    return np.quantile(pooled, (0.025, 0.975))


def test_accuracy_and_predicted():
    predictions = make([0, 1, 1, 2], [0, 1, 2, 0])
    assert predicted(predictions).tolist() == [0, 1, 2, 0]
    assert accuracy(predictions) == 0.5


def test_confusion_sums_to_rows_and_classes():
    generator = np.random.Generator(np.random.Philox(key=1))
    target, answers = generator.integers(0, 3, 200), generator.integers(0, 3, 200)
    predictions = make(target, answers)
    counts = confusion(predictions)
    assert counts.dtype == np.int64
    assert counts.sum() == 200
    assert counts.sum(axis=1).tolist() == [tally.rows for tally in per_class(predictions).values()]
    assert counts.sum(axis=0).tolist() == np.bincount(answers, minlength=3).tolist()
    assert counts.trace() / 200 == accuracy(predictions)


def test_absent_classes_count_nowhere():
    predictions = make([0, 0, 0, 2], [0, 0, 1, 2])
    assert per_class(predictions)["brass"] == Tally(rows=0, correct=0)
    assert per_class(predictions)["brass"].accuracy is None
    macro, present = macro_accuracy(predictions)
    assert macro == pytest.approx((2 / 3 + 1) / 2)
    assert present == ("bass", "flute")
    assert summary(predictions)["accuracy/brass"] is None


def test_no_rows_at_all():
    predictions = make([], [])
    assert accuracy(predictions) is None
    assert macro_accuracy(predictions) == (None, ())
    assert interval(predictions, seed=0) is None
    assert confusion(predictions).tolist() == [[0] * 3] * 3
    assert most_confused(predictions, n=3) == []
    assert per_source(predictions) == {}
    assert summary(predictions)["rows"] == 0


def test_per_source_is_by_name_and_empty_when_unknown():
    predictions = make([0, 0, 1], [0, 1, 1], source=["synthetic", "acoustic", "synthetic"])
    assert list(per_source(predictions).items()) == [
        ("acoustic", Tally(rows=1, correct=0)),
        ("synthetic", Tally(rows=2, correct=2)),
    ]
    assert per_source(make([0], [0])) == {}


def test_most_confused_leaves_out_right_answers_and_breaks_ties_by_class():
    predictions = make([0, 0, 0, 1, 2, 2], [1, 1, 0, 0, 0, 2])
    assert most_confused(predictions, n=2) == [
        Confused("bass", "brass", 2, 2 / 3),
        Confused("brass", "bass", 1, 1.0),
    ]
    assert len(most_confused(predictions, n=99)) == 3


def test_majority_share():
    assert majority_share(np.array([0, 2, 2, 2])) == 0.75
    assert majority_share(np.array([], np.int64)) is None


def test_interval_of_ten_single_rows_by_hand():
    # Five of ten right: a resample's count is Binomial(10, 1/2), where P(<= 1) = .011 and P(<= 2) = .055, so the
    # 2.5 % quantile is 2 of 10, and by symmetry the other is 8.
    assert interval(grouped(*[(1, 1)] * 5, *[(1, 0)] * 5), seed=3) == (0.2, 0.8)


def test_interval_of_two_groups_by_hand():
    # AA, AB, BA, BB: three of three, three of four twice, none of one; each in 25 % of draws.
    assert interval(grouped((3, 3), (1, 0)), seed=3) == (0.0, 1.0)


def test_interval_agrees_with_its_definition():
    predictions = grouped((30, 29), (5, 1), (12, 6), (40, 22), (7, 7), (21, 3), (9, 8), (16, 10))
    assert interval(predictions, seed=1) == pytest.approx(slow_interval(predictions, resamples=2000), abs=0.03)


def test_interval_repeats_and_asks_no_global_generator():
    predictions = grouped((30, 29), (5, 1), (12, 6), (40, 22))
    before = np.random.get_state()[1].tolist()
    assert interval(predictions, seed=1) == interval(predictions, seed=1)
    assert interval(predictions, seed=1, resamples=50) != interval(predictions, seed=2, resamples=50)
    assert np.random.get_state()[1].tolist() == before


def test_interval_is_wider_with_fewer_groups():
    few = interval(grouped(*[(50, 50)] * 3, *[(50, 0)] * 3), seed=0)
    many = interval(grouped(*[(5, 5)] * 30, *[(5, 0)] * 30), seed=0)
    assert few[1] - few[0] > 1.5 * (many[1] - many[0])


def test_interval_needs_two_groups():
    assert interval(grouped((10, 7)), seed=0) is None


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=2, max_size=30))
def test_interval_covers_the_point_estimate(groups):
    predictions = grouped(*[(rows, min(rows, right)) for rows, right in groups])
    low, high = interval(predictions, seed=0)
    assert 0 <= low <= accuracy(predictions) + 1e-12
    assert accuracy(predictions) - 1e-12 <= high <= 1


def test_summary_is_plain_json_even_with_a_loss_that_is_not_finite():
    predictions = make([0, 1], [0, 0])
    predictions.loss[0] = math.inf
    numbers = summary(predictions)
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
    assert numbers["loss"] is None
    assert numbers["classes_present"] == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"classes": ("bass", "bass", "flute")}, "class names must differ"),
        ({"loss": np.ones(3, np.float32)}, "must fit 2 keys and 3 classes"),
        ({"group": ("one",)}, r"group, source and family must name 2 rows; split 'valid' has \(1, 0, 0\)"),
        ({"target": np.array([0, 3])}, r"targets must lie in 0\.\.2; split 'valid' has 0\.\.3"),
    ],
)
def test_errors_speak(change, said):
    fields = vars(make([0, 1], [0, 1]))
    with pytest.raises(DataError, match=said):
        Predictions(**(fields | change))
