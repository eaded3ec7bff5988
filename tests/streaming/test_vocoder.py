"""The vocoder's laws: length, pitch, tempo, level, silence, slices, determinism; and a slow reference to agree with."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from streaming import layout, vocoder

RATE = 16_000
TIME = np.arange(4 * RATE) / RATE
both_engines = pytest.mark.parametrize("engine", ["vocoder", "wsola"])
WINDOWS = [(-6.0, 1.0), (-4.0, 0.8), (-1.3, 1.25), (0.0, 1.1), (0.7, 0.9), (4.0, 1.25), (4.0, 0.8), (6.0, 1.0)]


def ratio_of(semitones):
    return 2.0 ** (semitones / 12)


def cents(ratio):
    return 1200 * math.log2(ratio)


def render(waveform, semitones, speed, start=8000.0, length=24_000, **options):
    waveform = np.asarray(waveform, np.float32)
    return vocoder.render(waveform, pitch_ratio=ratio_of(semitones), speed=speed, start=start, length=length, **options)


def tone(frequency):
    return 0.5 * np.sin(2 * np.pi * frequency * TIME)


def harmonics(frequency, highest):
    order = np.arange(1, int(highest / frequency) + 1)
    waveform = sum(np.sin(2 * np.pi * frequency * k * TIME + k * k) / k for k in order)
    return 0.5 * waveform / np.abs(waveform).max()


def noise(seed, length=4 * RATE):
    return 0.1 * np.random.default_rng(seed).standard_normal(length)


def peak_frequency(waveform, near):
    size = 1 << 18
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)), size))
    low = int(near * 0.9 * size / RATE)
    k = low + int(spectrum[low : int(near * 1.1 * size / RATE) + 2].argmax())
    left, middle, right = np.log(spectrum[k - 1 : k + 2])
    return (k + 0.5 * (left - right) / (left - 2 * middle + right)) * RATE / size


def decibels(after, before):
    return 10 * math.log10(float(np.mean(np.square(after, dtype=np.float64)) / np.mean(np.square(before))))


@both_engines
@pytest.mark.parametrize("length", [1, 2, 255, 511, 512, 513, 1536, 40_000])
@pytest.mark.parametrize(("semitones", "speed"), [(-4, 0.8), (0, 1), (0, 1.25), (4, 1.25)])
def test_length_is_exact(engine, length, semitones, speed):
    output, _ = render(noise(0), semitones, speed, length=length, engine=engine)
    assert output.shape == (length,)
    assert output.dtype == np.float32
    assert np.isfinite(output).all()


@both_engines
def test_applied_ratio_is_within_5_cents_up_to_6_semitones(engine):
    silence = np.zeros(1, np.float32)
    for asked in np.linspace(-600, 600, 241):
        ratio = 2 ** (asked / 1200)
        _, applied = vocoder.render(silence, pitch_ratio=ratio, speed=1.0, start=0.0, length=1, engine=engine)
        assert abs(cents(applied) - asked) <= 5, asked


@pytest.mark.parametrize("frequency", [41.2, 60.0, 110.0, 440.0, 3000.0])
@pytest.mark.parametrize(("semitones", "speed"), WINDOWS)
def test_pitch_is_the_returned_ratio(frequency, semitones, speed):
    output, applied = render(tone(frequency), semitones, speed)
    assert abs(cents(peak_frequency(output, frequency * applied) / (frequency * applied))) < 1


@pytest.mark.parametrize("pitch_ratio", [0.25, 0.5, 2.0, 4.0])
@pytest.mark.parametrize("speed", [0.25, 4.0])
def test_the_ends_of_the_range_work(pitch_ratio, speed):
    output, applied = vocoder.render(
        tone(440).astype(np.float32), pitch_ratio=pitch_ratio, speed=speed, start=4000.0, length=10_000
    )
    assert abs(cents(applied / pitch_ratio)) < 10
    assert abs(cents(peak_frequency(output, 440 * applied) / (440 * applied))) < 2
    assert abs(decibels(output, tone(440))) < 0.5


@pytest.mark.parametrize("onset", [6000, 12_345, 20_003])
@pytest.mark.parametrize(("semitones", "speed"), WINDOWS)
def test_an_onset_sounds_once_and_in_time(onset, semitones, speed):
    start = 1000.5
    waveform = np.where(np.arange(len(TIME)) >= onset, tone(523), 0)
    output, _ = render(waveform, semitones, speed, start=start, length=32_000)
    expected = (onset - start) / speed
    heard = int((np.abs(output) > 0.25).argmax())
    assert abs(heard - expected) / RATE < 0.002
    before = output[: int(expected) - 32]
    assert decibels(before, 0.125) < -40


@both_engines
@pytest.mark.parametrize(("semitones", "speed"), [(0, 1.0), (-3, 1.1), (3, 0.9)])
def test_above_the_band_nothing_is_left_and_below_it_all(engine, semitones, speed):
    ratio = ratio_of(semitones)
    low, high = tone(2900 / ratio), tone(3500 / ratio)  # the cut-off is 3200 Hz
    kept, removed = (render(waveform, semitones, speed, band=0.4, engine=engine)[0] for waveform in (low, high))
    assert abs(decibels(kept, low)) < 0.2
    assert decibels(removed[2000:-2000], high) < -70


@pytest.mark.parametrize(("semitones", "speed"), [(-4, 1.25), (4, 0.8), (-4, 0.8), (4, 1.25)])
def test_every_onset_of_a_rhythm_is_in_time(semitones, speed):
    onsets = [9000, 14_111, 21_777, 30_010]
    waveform = sum(
        np.exp(-30 * np.clip(TIME - t / RATE, 0, 9)) * np.sign(np.clip(TIME - t / RATE, 0, 9)) for t in onsets
    )
    output, _ = render(waveform * tone(700), semitones, speed, start=5000.0, length=20_000)
    for onset in onsets:
        expected = round((onset - 5000) / speed)
        if expected < 20_000 - 400:
            piece = np.abs(output[expected - 400 : expected + 400])
            assert abs(int((piece > piece.max() / 2).argmax()) - 400) / RATE < 0.002, onset


@pytest.mark.parametrize(("semitones", "speed"), [(-4, 1.25), (0, 0.8), (4, 0.8)])
def test_tempo_is_kept_without_onsets(semitones, speed):
    swell = np.exp(-((TIME - 2.0) ** 2) / 0.1)  # too slow a rise to be an onset
    output, _ = render(swell * tone(600), semitones, speed, start=8000.0, length=int(48_000 / speed))
    power = np.square(output, dtype=np.float64)
    centre = float((np.arange(len(output)) * power).sum() / power.sum())
    assert abs(centre / ((32_000 - 8000) / speed) - 1) < 0.005


@pytest.mark.parametrize("frequency", [60.0, 110.0, 440.0])
@pytest.mark.parametrize(("semitones", "speed"), WINDOWS)
def test_harmonics_stay_30_db_above_the_rest(frequency, semitones, speed):
    output, applied = render(harmonics(frequency, 3000), semitones, speed, length=12_000)
    order = np.arange(1, int(3000 / frequency) + 1)
    angles = 2 * np.pi * frequency * applied * np.outer(np.arange(4000) / RATE, order)
    basis = np.concatenate((np.cos(angles), np.sin(angles)), axis=1)
    signal = output[4000:8000].astype(np.float64)
    rest = signal - basis @ np.linalg.solve(basis.T @ basis, basis.T @ signal)
    assert decibels(signal, rest) > 30


@pytest.mark.parametrize("frequency", [60.0, 440.0, 2000.0])
@pytest.mark.parametrize(("semitones", "speed"), WINDOWS)
def test_level_is_kept_from_the_first_sample_to_the_last(frequency, semitones, speed):
    output, _ = render(tone(frequency), semitones, speed)
    assert abs(decibels(output, tone(frequency))) < 0.1
    peaks = np.abs(output).reshape(-1, 600).max(axis=1)  # 600 samples hold a period even of 60 Hz at -6 semitones
    assert np.abs(20 * np.log10(peaks / 0.5)).max() < 0.5


def test_a_constant_offset_stays_constant():
    output, _ = render(0.2 + 0.01 * noise(1), 3, 0.9)
    assert abs(float(output.mean()) - 0.2) < 0.001
    assert float(np.abs(output - 0.2).max()) < 0.02


@both_engines
@pytest.mark.parametrize(("semitones", "speed"), WINDOWS)
def test_digital_silence_stays_silent(engine, semitones, speed):
    output, _ = render(np.zeros(30_000), semitones, speed, engine=engine)
    assert not output.any()


@both_engines
@pytest.mark.parametrize("start", [-90_000.0, 500_000.0, 1e12])
def test_outside_of_the_waveform_is_silence(engine, start):
    output, _ = render(noise(2), 2, 0.9, start=start, engine=engine)
    assert not output.any()
    assert not render(noise(2), 0, 1, start=start)[0].any()


@both_engines
@pytest.mark.parametrize(("semitones", "speed"), WINDOWS)
def test_a_note_after_silence_keeps_sounding(engine, semitones, speed):
    gaps = np.where((TIME > 1.0) & ((TIME < 1.5) | (TIME > 2.0)), 1, 0)
    output, _ = render(gaps * tone(440), semitones, speed, start=0.0, length=48_000, engine=engine)
    times = np.arange(48_000) * speed / RATE
    for low, high in [(1.05, 1.45), (2.05, 3.7)]:
        sounding = output[(times > low) & (times < high)]
        assert len(sounding) == 0 or abs(decibels(sounding, tone(440))) < 0.5
    assert np.abs(output[times < 0.85]).max() < 1e-6


def test_identity_is_the_slice_itself():
    waveform = noise(3).astype(np.float32)
    output, applied = vocoder.render(waveform, pitch_ratio=1.0, speed=1.0, start=1234.4, length=5000)
    assert applied == 1.0
    np.testing.assert_array_equal(output, waveform[1234:6234])
    output[:] = 0  # it is the caller's own
    again, _ = vocoder.render(waveform, pitch_ratio=1.0, speed=1.0, start=-3.0, length=10)
    np.testing.assert_array_equal(again, np.concatenate((np.zeros(3, np.float32), waveform[:7])))
    assert vocoder.reach(pitch_ratio=1.0, speed=1.0, start=1234.4, length=5000) == (1234, 6234)


@both_engines
def test_the_slice_that_reach_names_gives_the_same_bits(engine):
    rng = np.random.default_rng(4)
    waveform = np.where(TIME % 0.7 < 0.3, harmonics(130, 3000), 0.001 * noise(5)).astype(np.float32)
    padded = np.pad(waveform, (20_000, 120_000))
    for _ in range(80):
        semitones, speed = rng.uniform(-12, 12), 2.5 ** rng.uniform(-1, 1)
        start, length = (
            float(rng.choice([rng.uniform(-3000, 60_000), rng.integers(9000) + 0.5])),
            int(rng.integers(1, 30_000)),
        )
        whole, applied = render(waveform, semitones, speed, start, length, engine=engine)
        first, last = vocoder.reach(
            pitch_ratio=ratio_of(semitones), speed=speed, start=start, length=length, engine=engine
        )
        inside = max(first, 0)
        piece = render(waveform[inside : max(last, 0)], semitones, speed, start - inside, length, engine=engine)
        np.testing.assert_array_equal(piece[0], whole)
        assert piece[1] == applied
        wide = render(padded[first + 20_000 : last + 20_000], semitones, speed, start - first, length, engine=engine)
        np.testing.assert_array_equal(wide[0], whole)


@both_engines
def test_nothing_outside_reach_is_heard(engine):
    waveform = noise(6).astype(np.float32)
    first, last = vocoder.reach(pitch_ratio=1.2, speed=0.9, start=20_000.0, length=9000, engine=engine)
    loud = np.ones_like(waveform)
    loud[first:last] = waveform[first:last]
    np.testing.assert_array_equal(
        render(loud, cents(1.2) / 100, 0.9, 20_000.0, 9000, engine=engine)[0],
        render(waveform, cents(1.2) / 100, 0.9, 20_000.0, 9000, engine=engine)[0],
    )


@both_engines
def test_the_same_input_gives_the_same_bits_whatever_ran_before(engine):
    calls = [(noise(seed), *window, 500.0 * seed, 7000 + 3000 * seed) for seed, window in enumerate(WINDOWS)]
    alone = [render(*call, engine=engine)[0] for call in calls]
    for call, expected in zip(reversed(calls), reversed(alone), strict=True):
        render(np.full(64_000, 0.9), 5, 1.4, length=40_000)
        np.testing.assert_array_equal(render(*call, engine=engine)[0], expected)


@both_engines
def test_threads_do_not_share_buffers(engine):
    calls = [(noise(seed), *WINDOWS[seed % 8], 100.0, 20_000) for seed in range(16)]
    alone = [render(*call, engine=engine)[0] for call in calls]
    with ThreadPoolExecutor(4) as pool:
        for output, expected in zip(pool.map(lambda call: render(*call, engine=engine)[0], calls), alone, strict=True):
            np.testing.assert_array_equal(output, expected)


def test_the_input_is_left_alone_and_may_be_strided_or_read_only():
    waveform = noise(7).astype(np.float32)
    expected, _ = render(waveform, 2, 1.1)
    frozen = waveform.copy()
    frozen.flags.writeable = False
    strided = np.repeat(waveform, 2)[::2]
    for same in (frozen, strided):
        output, _ = vocoder.render(same, pitch_ratio=ratio_of(2), speed=1.1, start=8000.0, length=24_000)
        np.testing.assert_array_equal(output, expected)
        np.testing.assert_array_equal(same, waveform)


def reference(waveform, applied, speed, start, length, hop):
    """The same frames one at a time in float64, with angles that are added instead of products that are normed."""
    step = round(hop * applied)
    size_in, size_out = 3 * step, 3 * hop
    window_in, window_out = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n) for n in (size_in, size_out))
    output = np.zeros(length + 2 * size_out)
    written = np.zeros(0)
    for m in range(-(-length // hop) + 2):
        begin = round(start) + int(np.rint((m - 0.5) * hop * speed)) - size_in // 2
        now = np.fft.rfft(waveform[begin : begin + size_in] * window_in)
        before = np.fft.rfft(waveform[begin - step : begin - step + size_in] * window_in)
        bins = min(size_in, size_out) // 2
        size = np.concatenate((np.abs(now[2:0:-1]), np.abs(now[:bins]), [0, 0]))
        peaks = np.array([k for k in range(bins) if size[k + 2] >= size[k : k + 5].max()])
        phases = np.angle(now[:bins])
        if m > 0:
            turns = written - np.angle(before[:bins])
            for k in range(bins):
                phases[k] += turns[peaks[::-1][np.abs(peaks[::-1] - k).argmin()]]  # a bin halfway goes with the upper
        written = phases
        spectrum = np.zeros(size_out // 2 + 1, complex)
        spectrum[:bins] = np.abs(now[:bins]) * (np.cos(phases) + 1j * np.sin(phases))
        output[m * hop : m * hop + size_out] += np.fft.irfft(spectrum, size_out) * window_out / applied / 1.125
    return output[2 * hop : 2 * hop + length]


@pytest.mark.parametrize(("semitones", "speed"), [(-4, 1.25), (-1.3, 0.8), (0, 1.2), (2.5, 1.0), (5, 0.9)])
def test_it_agrees_with_a_slow_reference(semitones, speed):
    waveform = (harmonics(196, 4000) + 0.05 * noise(8)).astype(np.float32)
    output, applied = render(waveform, semitones, speed, start=9000.3, length=8000)
    _, hop = layout._hops(round(100 * semitones), "vocoder")
    expected = reference(waveform, applied, speed, 9000.3, 8000, hop)
    apart = np.abs(output - expected)
    assert np.median(apart) < 1e-5
    assert apart.max() < 2e-3  # a weak bin can be a peak by less than float32's rounding, and then takes another turn


@pytest.mark.parametrize("name", ["pitch_ratio", "speed"])
@pytest.mark.parametrize("value", [0.0, 0.2499, 4.001, -1.0, math.nan, math.inf])
def test_errors_name_the_ratio_and_its_range(name, value):
    options = {"pitch_ratio": 1.1, "speed": 1.0, "start": 0.0, "length": 10} | {name: value}
    with pytest.raises(ValueError, match=rf"^{name} must be within 0\.25\.\.4\.0, got {value}: .+$"):
        vocoder.render(np.zeros(10, np.float32), **options)
    with pytest.raises(ValueError, match=f"^{name} must be"):
        vocoder.reach(**options)


def test_errors_name_the_window_and_the_waveform():
    silence = np.zeros(10, np.float32)
    with pytest.raises(ValueError, match=r"^band must be within 0\.01\.\.1, got 1\.5: "):
        render(silence, 1, 1, band=1.5)
    with pytest.raises(ValueError, match=r"^engine must be one of vocoder, wsola, got 'sox'$"):
        render(silence, 1, 1, engine="sox")
    with pytest.raises(ValueError, match=r"^length must be at least 1 output sample, got 0: "):
        render(silence, 1, 1, length=0)
    with pytest.raises(ValueError, match=r"^start must be a finite input position in samples, got nan: "):
        render(silence, 1, 1, start=math.nan)
    for wrong in (np.zeros(10), np.zeros((2, 10), np.float32), np.zeros(10, np.int16)):
        with pytest.raises(
            ValueError, match=rf"^waveform must be float32 of shape \(time,\), got {wrong.dtype} of shape"
        ):
            vocoder.render(wrong, pitch_ratio=1.1, speed=1.0, start=0.0, length=10)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("semitones", [0, 2])
def test_errors_name_samples_that_are_no_numbers(bad, semitones):
    waveform = noise(9)
    waveform[20_000] = bad
    with pytest.raises(ValueError, match=r"^waveform must be finite, got NaN or inf between samples \d+ and \d+: "):
        render(waveform, semitones, 1.0)
    assert np.isfinite(render(waveform, semitones, 1.0, start=30_000.0, length=1000)[0]).all()
