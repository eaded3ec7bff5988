"""Laws of what a sweep varies: keyed, spread evenly, and never changed by more trials; what can't be is refused."""

import math

import numpy as np
import pytest

from shards.errors import UsageError
from trainers.config import TrainConfig
from trainers.vary import draw_trials, parse_vary, with_values

GRID = ("mel.n_mels=40,64,128", "mel.win_length=none,512")
RANGES = ("optim.lr=1e-4..1e-2", "optim.weight_decay=0..0.1", "mel.n_mels=24..80")


def test_values_are_of_their_options_kind():
    given = ("augment.random-start=true,false", "mel.power=1,2", "model.name=resnet18,test_resnet", "limit=100,none")
    axes = parse_vary(given)
    assert [axis.values for axis in axes] == [(True, False), (1, 2), ("resnet18", "test_resnet"), (100, None)]
    assert axes[0].name == "augment.random_start"


def test_a_grid_gives_each_combination_once_in_a_keyed_order():
    axes = parse_vary(GRID)
    trials = draw_trials(axes, count=None, seed=0)
    assert len({tuple(trial.values()) for trial in trials}) == len(trials) == 6
    assert draw_trials(axes, count=None, seed=0) == trials
    assert draw_trials(axes, count=None, seed=1) != trials
    assert draw_trials(axes, count=4, seed=0) == trials[:4]


def test_more_trials_change_none_that_are_there():
    axes = parse_vary((*RANGES, "mel.power=1,2"))
    assert draw_trials(axes, count=50, seed=3)[:7] == draw_trials(axes, count=7, seed=3)


def test_ranges_are_walked_evenly_in_their_own_scale():
    trials = draw_trials(parse_vary(RANGES), count=16, seed=0)
    for name, places in {
        "optim.lr": [math.log10(trial["optim.lr"]) / 2 + 2 for trial in trials],
        "optim.weight_decay": [trial["optim.weight_decay"] * 10 for trial in trials],
    }.items():
        counts, _ = np.histogram(places, bins=4, range=(0, 1))
        assert counts.sum() == 16, name
        assert counts.min() >= 2, (name, counts)
    assert all(isinstance(trial["mel.n_mels"], int) and 24 <= trial["mel.n_mels"] <= 80 for trial in trials)


def test_lists_are_used_evenly_beside_a_range():
    trials = draw_trials(parse_vary(("optim.lr=1e-4..1e-2", *GRID)), count=12, seed=0)
    assert sorted(trial["mel.n_mels"] for trial in trials) == [40] * 4 + [64] * 4 + [128] * 4


def test_no_global_generator_is_drawn_from():
    np.random.seed(0)
    before = np.random.get_state()[1].tobytes()
    draw_trials(parse_vary(RANGES), count=9, seed=0)
    assert np.random.get_state()[1].tobytes() == before


def test_options_are_put_where_they_belong():
    config = with_values(TrainConfig(), {"mel.n_mels": 64, "optim.lr": 0.5, "crop_seconds": 1.0})
    assert (config.mel.n_mels, config.optim.lr, config.crop_seconds) == (64, 0.5, 1.0)
    assert config.mel.n_fft == TrainConfig().mel.n_fft
    with pytest.raises(UsageError, match=r"mel n_mels must be positive, got 0"):
        with_values(TrainConfig(), {"mel.n_mels": 0})


@pytest.mark.parametrize(
    ("given", "count", "message"),
    [
        ((), None, "vary must be given: such as --vary mel.n_mels=40,64"),
        (("mel.n_mels",), None, "vary must be NAME=A,B,C or NAME=LOW..HIGH, got 'mel.n_mels': such as"),
        (("mel.n_mells=40",), None, "vary 'mel.n_mells' is no option of train: take another, such as mel.n_mels"),
        (("mel=40",), None, "vary 'mel' is no option of train"),
        (("world_size=1,2",), None, "vary 'world_size' is the same in all trials of a sweep: take another, such as"),
        (("mel.n_mels=a,40",), None, "vary mel.n_mels takes whole numbers, got 'a'"),
        (("mel.win_length=x",), None, "vary mel.win_length takes whole numbers or none, got 'x'"),
        (("mel.power=3",), None, "vary mel.power takes 1 or 2, got '3'"),
        (("optim.lr=inf",), None, "vary optim.lr takes numbers, got 'inf'"),
        (("optim.lr=1..0",), None, "vary optim.lr must be a range LOW..HIGH of numbers, LOW below HIGH, got '1..0'"),
        (("model.name=a..b",), None, "vary model.name must be a range LOW..HIGH of numbers"),
        (("mel.n_mels=40,40",), None, "vary mel.n_mels must name each value once, got '40,40'"),
        (("optim.lr=0.1", "optim.lr=0.2"), None, "vary optim.lr is given twice: put all of its values in one"),
        (("optim.lr=1e-4..1e-2",), None, "trials must be given with a range (optim.lr): such as --trials 12"),
        (("optim.lr=1e-3,1e-2",), 3, "trials must lie in 1..2 (the lists' combinations), got 3: leave it out for all"),
        (("optim.lr=1e-3..1e-2",), 0, "trials must lie in 1..1"),
    ],
)
def test_what_cannot_be_varied_is_refused_in_one_line(given, count, message):
    with pytest.raises(UsageError) as refused:
        draw_trials(parse_vary(given), count=count, seed=0)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
