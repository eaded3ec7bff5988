"""What the engines of pitch and tempo must keep of a sound. The bounds are what Signalsmith or a prototype reached."""

import functools

import numpy as np
import pytest

from tests.streaming import quality, r3, sounds

# Median and 90 % of notes, dB to R3; median and worst of tones, dB; ms; dB
MEL = {"vocoder": (0.41, 1.0), "wsola": (0.46, 1.15)}
PARTIALS = {"vocoder": (51, 30), "wsola": (45, 30)}
RISE_MS = {"vocoder": 6.7, "wsola": 5.0}
PRE_ECHO = {"vocoder": -33, "wsola": -90}


@functools.cache
def heard(crops, engine):
    return [(crop, *sounds.play(crop, engine=engine)) for crop in crops()]


@functools.cache
def bursts(engine):
    return [(output, crop.heard(crop.onset)) for crop, output, _ in heard(sounds.bursts, engine)]


@pytest.mark.parametrize("engine", sounds.ENGINES)
def test_notes_sound_like_those_of_rubberband_r3(engine):
    distances = r3.mel_distances([(output, ratio) for _, output, ratio in heard(sounds.notes, engine)])
    median, ninth = MEL[engine]
    assert np.median(distances) <= median, np.round(distances, 2)
    assert np.percentile(distances, 90) <= ninth, np.round(distances, 2)


@pytest.mark.parametrize("engine", sounds.ENGINES)
def test_pitch_is_the_returned_ratio(engine):
    cents = [
        abs(quality.cents_off(output, crop.partials * ratio)) for crop, output, ratio in heard(sounds.tones, engine)
    ]
    assert np.mean(cents) <= 1, np.round(cents, 1)
    assert max(cents) <= 4, np.round(cents, 1)


@pytest.mark.parametrize("engine", sounds.ENGINES)
def test_harmonics_stand_above_the_rest(engine):
    rests = [
        quality.partials_to_rest(output, crop.partials * ratio) for crop, output, ratio in heard(sounds.tones, engine)
    ]
    median, worst = PARTIALS[engine]
    assert np.median(rests) >= median, np.round(rests)
    assert min(rests) >= worst, np.round(rests)


@pytest.mark.parametrize("engine", sounds.ENGINES)
def test_onsets_stay_sharp(engine):
    rises = [quality.rise_ms(*burst) for burst in bursts(engine)]
    assert np.median(rises) <= RISE_MS[engine], np.round(rises, 1)


@pytest.mark.parametrize("engine", sounds.ENGINES)
def test_nothing_is_heard_before_an_onset(engine):
    echoes = [quality.pre_echo(*burst) for burst in bursts(engine)]
    assert np.median(echoes) <= PRE_ECHO[engine], np.round(echoes)


def test_onsets_are_in_time():
    late = [quality.late_ms(output, crop) for crop, output, _ in heard(sounds.bursts, "vocoder")]
    assert np.abs(late).max() <= 2, np.round(late, 1)


def test_dense_inharmonic_chords_stay_clean():
    rests = [
        quality.partials_to_rest(output, crop.partials * ratio)
        for crop, output, ratio in heard(sounds.chords, "vocoder")
    ]
    assert min(rests) >= 31, np.round(rests)


def test_what_moves_past_half_the_sample_rate_is_gone():
    aliases = [quality.alias(output, crop.waveform) for crop, output, _ in heard(sounds.high_tones, "vocoder")]
    assert max(aliases) < -80, np.round(aliases)
