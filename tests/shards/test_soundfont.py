"""A tiny font is built here, byte by byte, so that what is read and what is heard can be known."""

import random
import struct

import numpy as np
import pytest

from shards import soundfont, voice
from shards.errors import DataError

RATE = 48_000


def chunk(tag, data):
    return tag + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def font_bytes(presets, samples, *, version=2):
    """Build a font of [(program, [{generator: amount}])] and [(int16 points, original pitch)]; one instrument each."""
    points, shdr = np.zeros(0, np.int16), b""
    for index, (sample, pitch) in enumerate(samples):
        start, end = len(points), len(points) + len(sample)
        shdr += struct.pack("<20sIIIIIBbHH", b"s%d" % index, start, end, start, end, RATE, pitch, 0, 0, 1)
        points = np.concatenate([points, sample, np.zeros(46, np.int16)])
    phdr = pbag = pgen = inst = ibag = igen = b""
    zones = 0
    for number, (program, of_preset) in enumerate(presets):
        phdr += struct.pack("<20sHHHIII", b"p%d" % program, program, 0, number, 0, 0, 0)
        pbag += struct.pack("<HH", number, 0)
        pgen += struct.pack("<HH", 41, number)
        inst += struct.pack("<20sH", b"i", zones)
        for zone in of_preset:
            ibag += struct.pack("<HH", len(igen) // 4, 0)
            igen += b"".join(struct.pack("<HH", oper, amount & 0xFFFF) for oper, amount in zone.items())
            zones += 1
    count = len(presets)
    phdr += struct.pack("<20sHHHIII", b"EOP", 0, 0, count, 0, 0, 0)
    pbag, pgen = pbag + struct.pack("<HH", count, 0), pgen + bytes(4)
    inst, ibag, igen = (
        inst + struct.pack("<20sH", b"EOI", zones),
        ibag + struct.pack("<HH", len(igen) // 4, 0),
        igen + bytes(4),
    )
    tables = {
        b"phdr": phdr,
        b"pbag": pbag,
        b"pgen": pgen,
        b"inst": inst,
        b"ibag": ibag,
        b"igen": igen,
        b"shdr": shdr + bytes(46),
    }
    info = chunk(b"LIST", b"INFO" + chunk(b"ifil", struct.pack("<HH", version, 4)))
    sound = chunk(b"LIST", b"sdta" + chunk(b"smpl", points.tobytes()))
    rest = chunk(b"LIST", b"pdta" + b"".join(chunk(tag, data) for tag, data in tables.items()))
    return chunk(b"RIFF", b"sfbk" + info + sound + rest)


def sine(*, periods=480, points=48_000):
    return np.round(20_000 * np.sin(2 * np.pi * periods * np.arange(points) / points)).astype(np.int16)


def read(tmp_path, presets, samples, **options):
    path = tmp_path / "tiny.sf2"
    path.write_bytes(font_bytes(presets, samples, **options))
    return soundfont.read(path)


def loudest_hz(heard):
    return np.argmax(np.abs(np.fft.rfft(heard))) * RATE / len(heard)


def test_zones_say_which_keys_play_which_recording(tmp_path):
    zones = [{43: 60 << 8 | 40, 53: 0}, {43: 90 << 8 | 61, 44: 100 << 8 | 20, 53: 1}]
    font = read(tmp_path, [(7, zones)], [(sine(), 60), (sine(periods=700), 60)])
    low, high = font.presets[7]
    assert (low.keys, low.velocities) == ((40, 60), (0, 127))
    assert (high.keys, high.velocities) == ((61, 90), (20, 100))
    assert low.recording != high.recording
    assert list(soundfont.sounding(font.presets[7], pitch=61, velocity=101)) == []


def test_a_copy_under_another_name_is_the_same_recording(tmp_path):
    font = read(
        tmp_path, [(0, [{53: 0}]), (1, [{53: 1}]), (2, [{53: 2}])], [(sine(), 60), (sine(periods=9), 60), (sine(), 72)]
    )
    one, other, copy = (font.presets[program][0].recording for program in (0, 1, 2))
    assert one == copy != other


def test_overlapping_ranges_are_the_same_recording(tmp_path):
    data = bytearray(font_bytes([(0, [{53: 0}]), (1, [{53: 1}])], [(sine(), 60), (sine(periods=9), 60)]))
    second = data.index(b"shdr") + 8 + 46 + 20
    data[second : second + 4] = struct.pack("<I", 30_000)
    (tmp_path / "tiny.sf2").write_bytes(data)
    font = soundfont.read(tmp_path / "tiny.sf2")
    assert font.presets[0][0].recording == font.presets[1][0].recording


@pytest.mark.parametrize("pitch", [48, 60, 67])
@pytest.mark.parametrize(("sample_pitch", "zone"), [(69, {}), (20, {58: 69}), (57, {51: -12}), (69, {44: 127 << 8})])
def test_a_note_sounds_at_its_pitch_and_root_key_rules(tmp_path, pitch, sample_pitch, zone):
    a440 = sine(periods=440)  # a second of 440 Hz
    font = read(tmp_path, [(0, [{54: 1, **zone, 53: 0}])], [(a440, sample_pitch)])
    heard = voice.sound(font, program=0, pitch=pitch, velocity=127, hold=1.0, seconds=1.0)
    assert heard.shape == (RATE,) and heard.dtype == np.float32
    assert loudest_hz(heard) == pytest.approx(440 * 2 ** ((pitch - 69) / 12), abs=1.1)


def test_a_soft_note_is_softer_and_duller(tmp_path):
    noise = np.random.default_rng(0).integers(-9000, 9000, RATE).astype(np.int16)
    font = read(tmp_path, [(0, [{54: 1, 8: 9000, 53: 0}])], [(noise, 60)])
    loud, soft = (voice.sound(font, program=0, pitch=60, velocity=v, hold=1.0, seconds=1.0) for v in (127, 25))

    def treble(heard):
        power = np.abs(np.fft.rfft(heard)) ** 2
        return power[1500:].sum() / power.sum()

    assert np.abs(soft).max() < 0.1 * np.abs(loud).max()
    assert treble(soft) < 0.7 * treble(loud)


def test_decay_and_release_fall_in_decibels_at_their_rates(tmp_path):
    zone = {36: 1200, 37: 400, 38: 0, 54: 1, 53: 0}  # 100 dB in 2 s down to -40 dB, then 100 dB in 1 s
    font = read(tmp_path, [(0, [zone])], [(sine(), 60)])
    heard = voice.sound(font, program=0, pitch=60, velocity=127, hold=1.5, seconds=2.5)

    def level_db(seconds):
        at = round(seconds * RATE)
        return 20 * np.log10(np.abs(heard[at : at + 2000]).max())

    assert level_db(0.2) - level_db(0.6) == pytest.approx(20, abs=0.5)
    assert level_db(1.0) - level_db(1.4) == pytest.approx(0, abs=0.5)
    assert level_db(1.6) - level_db(1.9) == pytest.approx(30, abs=0.5)
    assert not voice.sound(font, program=0, pitch=60, velocity=127, hold=0.5, seconds=2.0)[-1000:].round(9).any()


def test_a_sample_without_a_loop_ends_and_an_absent_preset_is_silent(tmp_path):
    font = read(tmp_path, [(0, [{53: 0}])], [(sine(), 60)])
    heard = voice.sound(font, program=0, pitch=72, velocity=127, hold=1.0, seconds=1.0)
    assert np.abs(heard[:20_000]).max() > 0.3 and np.abs(heard[30_000:]).max() < 1e-3
    assert not voice.sound(font, program=5, pitch=60, velocity=127, hold=1.0, seconds=1.0).any()


def test_group_joins_along_links_in_the_order_of_the_items():
    assert soundfont.group([5, 1, 2, 9, 3], links=[(1, 3), (3, 9)]) == [(5,), (1, 9, 3), (2,)]


def test_what_is_no_font_is_refused_in_one_line(tmp_path):
    whole = font_bytes([(0, [{53: 0}])], [(sine(), 60)])
    cases = {
        b"MThd whatever": "bad.sf2 starts with b'MThd', which is no SoundFont: give a file in .sf2 format",
        b"": "bad.sf2 starts with b'', which is no SoundFont: give a file in .sf2 format",
        whole[:4000]: "bad.sf2 ends inside its b'LIST', 96104 bytes long: it is cut short, fetch it anew",
        font_bytes([(0, [{53: 0}])], [(sine(), 60)], version=3): (
            "bad.sf2 is a SoundFont of version 3, and 2 is read: convert it to .sf2"
        ),
        whole.replace(b"igen", b"IGEN"): "bad.sf2 has no igen, so it is no whole SoundFont: fetch it anew",
        whole.replace(b"EOP" + bytes(21) + b"\1", b"EOP" + bytes(21) + b"\7"): (
            "bad.sf2 has a phdr that points past pbag: fetch it anew"
        ),
    }
    for data, message in cases.items():
        (tmp_path / "bad.sf2").write_bytes(data)
        with pytest.raises(DataError) as error:
            soundfont.read(tmp_path / "bad.sf2")
        assert str(error.value) == message


def test_a_zone_that_points_outside_the_samples_is_left_out(tmp_path):
    font = read(tmp_path, [(0, [{53: 9}]), (1, [{0: 30_000, 4: 5, 53: 0}]), (2, [{53: 0}])], [(sine(), 60)])
    assert set(font.presets) == {2}


def test_damaged_fonts_are_refused_or_play_and_never_crash(tmp_path):
    zones = [{54: 1, 58: 60, 36: 1000, 53: 0}, {54: 3, 5: 10, 11: 500, 53: 1}]
    whole = font_bytes([(0, zones), (4, zones[1:])], [(sine(points=500), 60), (sine(points=300), 72)])
    draws, refused = random.Random(0), 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(draws.choice([1, 4, 30])):
            data[draws.randrange(len(data)) if draws.random() < 0.3 else draws.randrange(1900, len(data))] = (
                draws.randrange(256)
            )
        (tmp_path / "tiny.sf2").write_bytes(data)
        try:
            font = soundfont.read(tmp_path / "tiny.sf2")
        except DataError as error:
            refused += 1
            assert "\n" not in str(error)
            continue
        for program in font.presets:
            assert voice.sound(font, program=program, pitch=60, velocity=90, hold=0.02, seconds=0.03).shape == (1440,)
    assert 0 < refused < 300
