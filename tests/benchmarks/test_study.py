"""Laws of the study: no trial is made twice, valid alone chooses, the page tells what is there, a copy is found."""

import subprocess
import time
from collections import ChainMap
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro

from benchmarks import fonts, networks, transforms
from benchmarks.arms import ARMS, CHANGES, COMBINED, START, at_length, candidates, combine, finalists
from benchmarks.study_page import Setting, write_page
from benchmarks.trial import Flags, Told, Trial, keep, make_trial, read_told, run_missing
from streaming.draws import Draw
from trainers.config import TrainConfig, base

SETTING = Setting(notes=100, other_notes=50, epochs=3, seeds=2, tuning_seeds=1)
LIKENESS = fonts.Likeness(
    names=("a.sf2", "b.sf2"), recordings=(4, 3), pieces=(2, 1), equal=0, alike=1, highest=0.99, next_highest=0.5,
    programs=(52,),
)  # fmt: skip


def tell(flags: Flags, *, seed: int, valid: float, other: float = 0.5) -> Told:
    trial = make_trial(at_length(flags, epochs=3), seed=seed)
    return Told(trial=trial, accuracy={"valid": valid, "test": 0.4, "other": other}, cpu_seconds=90.0, seconds=50.0)


def write(folder: Path, told: list[Told]) -> str:
    write_page(folder / "study.md", setting=SETTING, told=told, likeness=LIKENESS)
    return (folder / "study.md").read_text()


def test_a_study_goes_on_where_it_was_killed(tmp_path: Path):
    path, made = tmp_path / "trials.jsonl", []
    trials = [make_trial(ARMS["none"], seed=seed) for seed in range(5)]

    def make(trial: Trial) -> Told:
        made.append(trial.seed)
        return Told(trial=trial, accuracy={"valid": 0.5}, cpu_seconds=1.0, seconds=1.0)

    for trial in trials[:2]:
        keep(make(trial), path)
    with path.open("a") as file:
        file.write('{"flags": ["--augment.sp')  # a kill cut it short
    assert run_missing(trials, path=path, make=make, jobs=2, until=time.monotonic() + 60)
    assert sorted(made) == [0, 1, 2, 3, 4]
    assert {told.trial for told in read_told(path)} == set(trials)
    assert run_missing(trials, path=path, make=make, jobs=2, until=time.monotonic() + 60)
    assert len(made) == 5


def test_no_trial_is_begun_too_late_and_one_that_fails_stops_no_other(tmp_path: Path):
    path, trials = tmp_path / "trials.jsonl", [make_trial({}, seed=seed) for seed in range(3)]

    def make(trial: Trial) -> Told:
        if trial.seed == 1:
            raise subprocess.CalledProcessError(1, "trial", stderr="it diverged")
        return Told(trial=trial, accuracy={"valid": 0.5}, cpu_seconds=1.0, seconds=1.0)

    assert not run_missing(trials, path=path, make=make, jobs=1, until=time.monotonic())
    assert not path.exists()
    assert not run_missing(trials, path=path, make=make, jobs=1, until=time.monotonic() + 60)
    assert [told.trial.seed for told in read_told(path)] == [0, 2]


def test_the_best_of_each_kind_is_put_together_by_valid_alone():
    told = [tell(flags, seed=0, valid=0.5) for flags in candidates().values()]
    assert combine(told, epochs=3, seeds=range(1)) == candidates()[START]
    told = [
        tell(flags, seed=0, valid=0.6 if name in ("64 mels", "strong") else 0.4 if name == "GroupNorm" else 0.5,
             other=0.9 if name == "GroupNorm" else 0.1)
        for name, flags in candidates().items()
    ]  # fmt: skip
    expected = {**candidates()[START], **CHANGES["mel"]["64 mels"], **CHANGES["policy"]["strong"]}
    assert combine(told, epochs=3, seeds=range(1)) == expected
    assert set(finalists(told, epochs=3, seeds=range(1), most=2)) == {COMBINED, START, "64 mels", "strong"}
    assert finalists(told[1:], epochs=3, seeds=range(1), most=2) == {}


def test_the_page_tells_what_is_there_and_what_is_not(tmp_path: Path):
    assert write(tmp_path, []).count("not run yet") == 3 * len(ARMS)
    told = [tell(ARMS["none"], seed=0, valid=0.5, other=0.30), tell(ARMS["none"], seed=1, valid=0.6, other=0.50)]
    told += [tell(ARMS["crop"], seed=0, valid=0.5, other=0.35)]
    page = write(tmp_path, told)
    assert "| none | 2 | 55.0 ± 7.1 | 40.0 ± 0.0 | 40.0 ± 14.1 | -5.0, 0 of 1 |" in page
    assert "| crop | 1 | 50.0 | 40.0 | 35.0 |  |" in page
    assert "All 3 runs of this page took 0.07 CPU-hours" in page
    told += [tell(flags, seed=seed, valid=0.5 + 0.1 * (name == "64 mels")) for seed in range(2)
             for name, flags in candidates().items()]  # fmt: skip
    assert "## The best by valid" in write(tmp_path, told)
    assert "--mel.n-mels 64" in write(tmp_path, told)


def test_training_takes_every_flag():
    changes = [flags for kind in CHANGES.values() for flags in kind.values()]
    for flags in (ARMS["none"], dict(ChainMap(*map(dict, changes), dict(ARMS[START])))):
        words = make_trial(at_length(flags, epochs=3), seed=0).flags
        config = tyro.cli(TrainConfig, default=base(), args=list(words))
        assert config.augment.is_nothing == (flags is ARMS["none"])
        assert config.epochs in (3, 6)


@pytest.mark.parametrize("name", ["small", "small_group", "small_dropout", "small_bands", "wide"])
def test_networks_take_pictures_of_any_size(name: str):
    network = getattr(networks, name)(num_classes=11).eval()
    assert network(torch.rand(2, 1, 40, 126)).shape == network(torch.rand(2, 1, 64, 251)).shape == (2, 11)
    assert name != "small" or sum(parameter.numel() for parameter in network.parameters()) == 165_043


def test_transforms_colour_and_fade_within_their_bounds():
    second = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000).astype(np.float32)
    for key in "abc":
        draw = Draw(seed=0, epoch=0, pack=0, key=key, repeat=0, place=0, sample_rate=16_000)
        for change, most_db in ((transforms.colour, transforms.COLOUR_DB), (transforms.fade, transforms.FADE_DB)):
            heard = change(second.copy(), draw)
            assert heard.dtype == np.float32
            assert np.array_equal(heard, change(second.copy(), draw))
            assert not np.allclose(heard, second, atol=1e-3)
            assert abs(20 * np.log10(np.linalg.norm(heard) / np.linalg.norm(second))) < most_db


def test_a_copy_is_found_whatever_its_level_and_place():
    noise = np.random.Generator(np.random.Philox(0)).standard_normal((3, 8000)).astype(np.float32)
    copy = np.concatenate([np.zeros(500, np.float32), -0.1 * noise[1, :6000]])
    found = fonts.correlate([noise[0], noise[1], noise[2][:100]], [copy, noise[2]])
    assert found[1, 0] == pytest.approx(1, abs=1e-3)
    assert found[[0, 0, 1, 2, 2], [0, 1, 1, 0, 1]].max() < 0.2
