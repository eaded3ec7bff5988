"""Laws of the baseline: it learns what is linear, repeats itself, and keeps quiet about classes it never saw."""

import numpy as np
import pytest

from shards.errors import DataError
from trainers.baseline import fit_and_score


def rows(n, *, seed, classes=(0, 1, 2), apart=3.0):
    """Features (n, 8) of classes that lie `apart` on axes of their own."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    target = np.array(classes)[generator.integers(0, len(classes), n)]
    features = generator.normal(size=(n, 8)) + apart * np.eye(8)[target]
    return features.astype(np.float32), target.astype(np.int64)


def score(train, *, splits, num_classes=4):
    return fit_and_score(train[0], train_target=train[1], splits=splits, num_classes=num_classes)


def test_learns_what_is_linear_and_nothing_else():
    scores = score(rows(600, seed=1), splits={"valid": rows(200, seed=2), "noise": rows(400, seed=3, apart=0)})
    assert scores["valid"].accuracy > 0.9
    assert scores["noise"].accuracy < 0.5


def test_probabilities_are_of_all_classes_and_zero_for_the_unseen():
    probabilities = score(rows(300, seed=1), splits={"valid": rows(50, seed=2)})["valid"].probabilities
    assert probabilities.shape == (50, 4)
    assert probabilities.dtype == np.float32
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(50), abs=1e-5)
    assert (probabilities[:, 3] == 0).all()


def test_repeats_itself():
    first, second = (score(rows(300, seed=1), splits={"valid": rows(50, seed=2)})["valid"] for _ in range(2))
    assert first.probabilities.tobytes() == second.probabilities.tobytes()


def test_does_not_care_for_the_features_scale():
    features, target = rows(300, seed=1)
    plain = score((features, target), splits={"train": (features, target)})["train"]
    scaled = score((features * 1000, target), splits={"train": (features * 1000, target)})["train"]
    assert scaled.probabilities == pytest.approx(plain.probabilities, abs=1e-3)


def test_both_solvers_agree(monkeypatch):
    newton = score(rows(300, seed=1), splits={"valid": rows(50, seed=2)})["valid"]
    monkeypatch.setattr("trainers.baseline.MAX_NEWTON_WEIGHTS", 0)
    lbfgs = score(rows(300, seed=1), splits={"valid": rows(50, seed=2)})["valid"]
    assert lbfgs.probabilities == pytest.approx(newton.probabilities, abs=1e-3)


def test_survives_bands_that_are_copies_of_one_another():
    features, target = rows(300, seed=1)
    copies = np.repeat(features, 4, axis=1)
    assert score((copies, target), splits={"train": (copies, target)})["train"].accuracy > 0.9


def test_agrees_with_scikit_learn_on_two_classes():
    from sklearn.linear_model import LogisticRegression

    features, target = rows(300, seed=1, classes=(1, 3), apart=1.0)
    ours = score((features, target), splits={"train": (features, target)})["train"].probabilities
    standard = (features.astype(np.float64) - features.mean(axis=0)) / features.std(axis=0)
    theirs = LogisticRegression(max_iter=500).fit(standard, target).predict_proba(standard)
    assert ours[:, [1, 3]] == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("most", [2000, 0])
def test_no_warning_escapes_where_the_fit_does_not_converge(monkeypatch, most):
    monkeypatch.setattr("trainers.baseline.MAX_ITERATIONS", 1)
    monkeypatch.setattr("trainers.baseline.MAX_NEWTON_WEIGHTS", most)
    assert score(rows(300, seed=1), splits={"valid": rows(50, seed=2)})["valid"].accuracy is not None


def test_one_class_constant_columns_and_empty_splits():
    features, target = np.ones((5, 8), np.float32), np.full(5, 2, np.int64)
    empty = (np.zeros((0, 8), np.float32), np.zeros(0, np.int64))
    scores = score((features, target), splits={"train": (features, target), "test": empty})
    assert scores["train"].accuracy == 1
    assert scores["train"].probabilities[:, 2].tolist() == [1] * 5
    assert scores["test"].accuracy is None
    assert scores["test"].probabilities.shape == (0, 4)


@pytest.mark.parametrize(
    ("train", "valid", "said"),
    [
        (rows(0, seed=1), rows(5, seed=2), "needs at least one training row and got none"),
        (rows(9, seed=1), (np.zeros((5, 7), np.float32), np.zeros(5, np.int64)), r"must be \(rows, 8\).*\(5, 7\)"),
        (
            (np.full((4, 8), np.nan, np.float32), np.zeros(4, np.int64)),
            rows(5, seed=2),
            "4 of 4 rows of 'train' aren't",
        ),
        (rows(9, seed=1), rows(5, seed=2, classes=(6,)), r"targets must lie in 0\.\.3; split 'valid' has 6\.\.6"),
    ],
)
def test_errors_speak(train, valid, said):
    with pytest.raises(DataError, match=said):
        score(train, splits={"valid": valid})
