"""Laws of the policy: keyed draws, a place for each, shares as asked, effects in dB, errors that speak."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shards.bijection import uniforms
from shards.errors import UsageError
from shards.index import open_pack
from streaming import decode, effects, loops
from streaming.augment import Augment, preset
from streaming.draws import draw_uniforms
from streaming.effects import apply_effects
from streaming.view import View, draw_view, valid_length
from streaming.world import World
from tests.streaming.test_loader import join, make, same, take

EVERYTHING = Augment(
    pitch_semitones=4, pitch_probability=0.7, speed=1.3, speed_probability=0.6, random_start=True, low_pass=0.6,
    low_pass_probability=0.4, gain_db=9, gain_probability=0.3, polarity_probability=0.25, noise_probability=0.2,
)  # fmt: skip
OFF = {
    "pitch": {"pitch_semitones": 0}, "speed": {"speed": 1}, "start": {"random_start": False},
    "band": {"low_pass": 1}, "gain": {"gain_db": 0}, "polarity": {"polarity_probability": 0},
    "noise": {"noise_probability": 0},
}  # fmt: skip


def views(augment: Augment, *, count: int = 400, length: int = 100, note: int = 16_000) -> list[View]:
    keys = [(3, 1, 0, f"note-{i}", 0) for i in range(count)]
    return [draw_view(augment, length=length, note_length=note, sounding_length=note, key=key) for key in keys]


def parts(view: View) -> dict[str, Any]:
    return {
        "pitch": view.pitch_ratio, "speed": view.speed, "start": view.start, "band": view.band,
        "gain": abs(view.gain), "polarity": math.copysign(1, view.gain), "noise": (view.noise_snr_db, view.noise_seed),
    }  # fmt: skip


def test_draws_are_the_bijections_uniforms():
    key = (3, 1, 2, "a note, ünd ein Schlüssel", 4)
    assert draw_uniforms(key, blocks=2) == uniforms(16, *key).tolist()
    assert draw_uniforms(key, blocks=1) == uniforms(8, *key).tolist()


@pytest.mark.parametrize("name", OFF)
def test_switching_one_effect_off_changes_no_other(name: str):
    before = [parts(view) for view in views(EVERYTHING)]
    after = [parts(view) for view in views(dataclasses.replace(EVERYTHING, **OFF[name]))]
    for one, other in zip(before, after, strict=True):
        # a start is bounded by the input that the crop needs, so it moves with the speed
        but = {name, "start"} if name == "speed" else {name}
        assert {k: v for k, v in one.items() if k not in but} == {k: v for k, v in other.items() if k not in but}
    assert len({one[name] for one in before}) > 1
    assert len({one[name] for one in after}) == 1


def test_probabilities_are_shares_and_independent():
    found, count = views(EVERYTHING, count=4000), 4000
    moved = {
        "pitch": (0.7, [view.pitch_ratio != 1 for view in found]), "speed": (0.6, [view.speed != 1 for view in found]),
        "band": (0.4, [view.band != 1 for view in found]), "gain": (0.3, [abs(view.gain) != 1 for view in found]),
        "polarity": (0.25, [view.gain < 0 for view in found]),
        "noise": (0.2, [view.noise_snr_db is not None for view in found]),
    }  # fmt: skip
    for name, (share, told) in moved.items():
        assert abs(np.mean(told) - share) < 4 * math.sqrt(share * (1 - share) / count), name
    coins = np.corrcoef([told for _, told in moved.values()])
    assert np.abs(coins - np.eye(len(coins))).max() < 4.5 / math.sqrt(count)


def test_draws_stay_in_their_ranges_and_fill_them():
    found = views(EVERYTHING, count=2000)
    for low, high, values in (
        (-4, 4, [12 * math.log2(view.pitch_ratio) for view in found]),
        (1 / 1.3, 1.3, [view.speed for view in found]),
        (0.6, 1, [view.band for view in found]),
        (-9, 9, [20 * math.log10(abs(view.gain)) for view in found]),
        (20, 50, [view.noise_snr_db for view in found if view.noise_snr_db is not None]),
        (0, 16_000, [view.start for view in found]),
    ):
        assert low - 1e-9 <= min(values) < low + 0.02 * (high - low)
        assert high + 1e-9 >= max(values) > high - 0.02 * (high - low)
    seeds = [view.noise_seed for view in found if view.noise_snr_db is not None]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize(("most", "there"), [(0, 1), (1, 3), (2.9, 5), (3, 7)])
def test_whole_semitones_are_whole_and_each_as_often(most: float, there: int):
    found = views(Augment(pitch_semitones=most, whole_semitones=True), count=3000)
    steps, counts = np.unique([12 * math.log2(view.pitch_ratio) for view in found], return_counts=True)
    np.testing.assert_allclose(steps, np.arange(there) - there // 2, atol=1e-12)
    assert np.abs(counts - 3000 / there).max() < 4 * math.sqrt(3000 / there)


def test_a_crop_never_starts_in_a_silent_tail():
    for i in range(400):
        view = draw_view(
            EVERYTHING, length=4_000, note_length=16_000, sounding_length=5_000, key=(0, 0, 0, f"note-{i}", 0)
        )  # fmt: skip
        assert 5_000 - view.start >= 4_000 * view.speed / 2 - 1, "half of it sounds"


def test_presets_are_frozen():
    off = dataclasses.asdict(Augment())
    table = {
        "none": {},
        "light": {"pitch_semitones": 1, "speed": 1.1, "random_start": True},
        "default": {
            "pitch_semitones": 3, "speed": 1.25, "random_start": True, "low_pass": 0.8, "low_pass_probability": 0.5,
        },
        "strong": {
            "pitch_semitones": 5, "speed": 1.5, "random_start": True, "low_pass": 0.7, "low_pass_probability": 0.5,
            "gain_db": 6, "polarity_probability": 0.5, "noise_snr_db": (20, 50), "noise_probability": 0.5,
        },
    }  # fmt: skip
    assert {name: dataclasses.asdict(preset(name)) for name in table} == {n: off | told for n, told in table.items()}
    assert [preset(name).is_nothing for name in table] == [True, False, False, False]


@pytest.mark.parametrize("name", OFF)
def test_what_is_nothing_draws_plain_views(name: str):
    alone = dataclasses.replace(EVERYTHING, **{k: v for other in OFF if other != name for k, v in OFF[other].items()})
    assert not alone.is_nothing
    assert any(not view.is_plain or view.start for view in views(alone))
    nothing = dataclasses.replace(alone, **OFF[name])
    assert nothing.is_nothing
    assert all(view.is_plain and not view.start for view in views(nothing))


def test_the_loader_hands_out_the_same_at_any_rank_reader_and_resume(data: Path):
    whole = take(make(data, augment=EVERYTHING), 6)
    assert {len(batch.semitones) for batch in whole} == {12}
    ranks = [take(make(data, augment=EVERYTHING, world=World(rank=rank, world_size=3)), 6) for rank in range(3)]
    assert all(same(join([rank[step] for rank in ranks]), whole[step]) for step in range(6))
    late = make(data, augment=EVERYTHING)
    late.load_state_dict(make(data, augment=EVERYTHING, cursor=36).state_dict())
    assert all(same(one, other) for one, other in zip(take(late, 3), whole[3:], strict=True))


@pytest.mark.parametrize("engine", ["vocoder", "wsola"])
def test_a_low_pass_and_the_engine_reach_the_loader(data: Path, engine: str):
    quiet = Augment(low_pass=0.3, low_pass_probability=0.5, engine=engine, noise_probability=1, noise_snr_db=(0, 0))
    passed = dataclasses.replace(quiet, noise_probability=0)
    for augment in (passed, dataclasses.replace(passed, pitch_semitones=3, speed=1.2), quiet):
        batch, again = (next(iter(make(data, augment=augment, crop_seconds=0.9))) for _ in range(2))
        assert same(batch, again)
        assert batch.waveform.isfinite().all()
    plain, cut = (next(iter(make(data, augment=a))).waveform for a in (None, passed))
    untouched = [torch.equal(one, other) for one, other in zip(plain, cut, strict=True)]
    assert 0 < sum(untouched) < 12, "half of the notes are cut alone, and these to the bit"


@pytest.mark.slow
def test_readers_hand_out_the_same(data: Path):
    expected = take(make(data, augment=EVERYTHING), 5)
    assert all(same(*pair) for pair in zip(take(make(data, augment=EVERYTHING, readers=2), 5), expected, strict=True))


def test_a_batch_tells_the_semitones_that_were_applied(data: Path):
    pack, loader = open_pack(data, split="train"), make(data, augment=EVERYTHING)
    batch = next(iter(loader))
    keys, told = pack.read("key")["key"].to_pylist(), batch.semitones.tolist()
    assert batch.semitones.dtype == torch.float32
    for key, semitones in zip(batch.key, told, strict=True):
        (place,) = pack.take([keys.index(key)])[1]
        view = draw_view(
            EVERYTHING,
            length=8_000,
            note_length=16_000,
            sounding_length=int(place["sounding_length"]),
            key=(4, 0, 0, key, 0),
        )
        assert abs(semitones - 12 * math.log2(view.pitch_ratio)) < 0.05
    assert 0 in told
    assert len(set(told)) > 4
    assert torch.equal(batch.clone().semitones, batch.semitones)
    assert not next(iter(make(data, augment=None))).semitones.any()


def crop_of(**changes: Any) -> View:
    return View(start=0, pitch_ratio=1.0, speed=1.0, length=8_000, **changes)


@pytest.mark.parametrize("snr", [-10.0, 0.0, 20.0, 37.5, 60.0])
@pytest.mark.parametrize("valid", [8_000, 3_000])
def test_noise_lies_as_far_below_the_crop_as_asked(snr: float, valid: int):
    clean = np.zeros(8_000, np.float32)
    clean[:valid] = 0.3 * np.sin(np.arange(valid) / 7)
    heard = clean.copy()
    apply_effects(heard, crop_of(noise_snr_db=snr, noise_seed=77), valid=valid)
    noise = heard.astype(np.float64) - clean
    level = 20 * math.log10(clean[:valid].std() / noise.std())
    assert abs(level - snr) < 0.5
    assert abs(20 * math.log10(noise[: valid // 2].std() / noise[-valid // 2 :].std())) < 0.7, "one floor, to the end"


def test_noise_is_white_near_gaussian_and_its_seeds_differ():
    one, other = (effects.noise(np.uint64(seed), 200_000) / effects.DEVIATION for seed in (1, 2))
    assert abs(one.mean()) < 4 / math.sqrt(200_000)
    assert abs(one.var() - 1) < 0.02
    assert abs(np.mean(one**4) - 2.7) < 0.05  # a Gaussian's is 3, four uniforms' 2.7
    for shifted in (other, np.roll(one, 1), np.roll(one, 64)):
        assert abs(np.mean(one * shifted)) < 4 / math.sqrt(200_000)
    assert np.array_equal(effects.noise(np.uint64(1), 100), effects.noise(np.uint64(1), 200_000)[:100])


def test_silence_stays_silent_and_finite():
    silence = np.zeros(8_000, np.float32)
    for valid in (0, 8_000):
        apply_effects(silence, crop_of(noise_snr_db=20.0, noise_seed=1, gain=-2.0), valid=valid)
        assert not silence.any()
    faint = np.full(8_000, 1e-38, np.float32)
    apply_effects(faint, crop_of(noise_snr_db=20.0, noise_seed=1, gain=2.0), valid=8_000)
    assert np.isfinite(faint).all()


def test_gain_and_polarity_are_one_factor_and_keep_the_ratio():
    clean = (0.3 * np.sin(np.arange(8_000) / 7)).astype(np.float32)
    plain, loud = clean.copy(), clean.copy()
    apply_effects(plain, crop_of(gain=-1.5), valid=8_000)
    np.testing.assert_array_equal(plain, clean * np.float32(-1.5))
    apply_effects(loud, crop_of(gain=-1.5, noise_snr_db=20.0, noise_seed=5), valid=8_000)
    noise = loud / -1.5 - clean
    assert abs(20 * math.log10(clean.std() / noise.std()) - 20) < 0.5


@pytest.mark.parametrize("seed", [0, 1, 2**53 - 1, 0x123456789ABCD])
def test_the_slow_twins_give_the_same_bits(seed: int, monkeypatch: pytest.MonkeyPatch):
    waveform = np.random.Generator(np.random.Philox(seed)).standard_normal(9_999).astype(np.float32)
    fast, slow = waveform.copy(), waveform.copy()
    given = np.uint64(seed), np.float32(-0.7123), np.float32(1.1e-7)
    loops.add_noise(fast, *given)
    effects.add_noise_slowly(slow, *given)
    np.testing.assert_array_equal(fast, slow)
    pcm = np.arange(-32768, 32768).astype(np.int16)
    one, other = np.empty(65536, np.float32), np.empty(65536, np.float32)
    loops.scale_pcm(pcm, one)
    decode._scale_slowly(pcm, other)
    np.testing.assert_array_equal(one, other)
    heard = [waveform.copy(), waveform.copy()]
    view = crop_of(noise_snr_db=15.0, noise_seed=seed, gain=0.8)
    apply_effects(heard[0], view, valid=9_999)
    monkeypatch.setattr(effects, "HAS_NUMBA", False)
    apply_effects(heard[1], view, valid=9_999)
    np.testing.assert_array_equal(*heard)


def test_repeated_notes_have_one_noise_floor_that_does_not_repeat(data: Path):
    noisy = Augment(noise_probability=1, noise_snr_db=(30, 30))
    batch, clean = (next(iter(make(data, crop_seconds=2.0, pad="repeat", augment=a))) for a in (noisy, None))
    noise = batch.waveform - clean.waveform
    assert not torch.equal(noise[:, :16_000], noise[:, 16_000:])
    ratio = 20 * torch.log10(clean.waveform.std(dim=1) / noise.std(dim=1))
    assert (ratio - 30).abs().max() < 0.5


def test_valid_samples_are_those_of_the_note():
    view = View(start=1_000, pitch_ratio=1.0, speed=1.25, length=20_000)
    assert valid_length(view, note_length=16_000) == 12_000
    assert valid_length(view, note_length=900) == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pitch_semitones": 13}, r"pitch_semitones must lie in 0\.\.12, got 13: 3 is much"),
        ({"pitch_semitones": float("nan")}, r"pitch_semitones must lie in 0\.\.12, got nan"),
        ({"pitch_semitones": 0.5, "whole_semitones": True}, r"pitch_semitones must be 0 or at least 1 with whole_semi"),
        ({"speed": 0.5}, r"speed must lie in 1\.\.2, got 0\.5: 1\.25 means 0\.8 to 1\.25"),
        ({"low_pass": 0}, r"low_pass must lie in 0\.1\.\.1, got 0: 1 is off"),
        ({"gain_db": -1}, r"gain_db must lie in 0\.\.24, got -1"),
        ({"speed_probability": 1.5}, r"speed_probability must lie in 0\.\.1, got 1\.5: 0\.5 is every other note"),
        ({"noise_snr_db": (50, 20)}, r"noise_snr_db must be two figures in -10\.\.100, the lower first, got 50 20"),
        ({"noise_snr_db": (20,)}, r"noise_snr_db must be two figures in -10\.\.100, the lower first, got 20"),
        ({"engine": "pvoc"}, r"engine must be one of vocoder, wsola, got 'pvoc'"),
    ],
)
def test_errors_speak(given: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message) as caught:
        Augment(**given)
    assert "\n" not in str(caught.value)
