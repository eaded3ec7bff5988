"""Rendering the demo's font: the layout, the splits' laws, and that a second run goes on where the first stopped."""

import errno
import hashlib
import json
import struct
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from shards import audio, programs, soundfont
from shards import render as rendering
from shards.errors import DataError, UsageError
from shards.fields import FAMILIES, QUALITIES, SOURCES, VELOCITIES
from shards.programs import SPLITS
from shards.render import font_path, render

NOTES = 60
FIELDS = [
    "note", "note_str", "instrument", "instrument_str", "pitch", "velocity", "sample_rate", "qualities",
    "qualities_str", "instrument_family", "instrument_family_str", "instrument_source", "instrument_source_str",
]  # fmt: skip


@pytest.fixture(scope="module")
def font():
    return soundfont.read(font_path(None))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    out = tmp_path_factory.mktemp("rendered")
    return out, render(out, font=None, notes=NOTES, seed=0)


def examples(out, split):
    return json.loads((out / f"nsynth-{split}" / "examples.json").read_text())


def every(out):
    return [(split, name, fields) for split in SPLITS for name, fields in examples(out, split).items()]


def contents(out):
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "render.log"
    }


@pytest.fixture(scope="module")
def raw():
    return raw_recordings(font_path(None))


def heard_notes(font, *, seed):
    listed = programs.instruments(font, seed=seed)
    chosen = programs.candidates(listed, seed=seed)
    return listed, [next(chosen) for _ in range(1500)]


# --- the layout


def test_the_layout_is_nsynths(rendered):
    out, summary = rendered
    assert summary["font"] == "TimGM6mb.sf2" and summary["reused"] == 0
    assert sum(summary["notes"].values()) == NOTES
    for split in SPLITS:
        folder = out / f"nsynth-{split}"
        assert {path.name for path in folder.iterdir()} == {"examples.json", "audio"}
        assert {path.name for path in (folder / "audio").iterdir()} == {f"{name}.wav" for name in examples(out, split)}
        assert len(examples(out, split)) == summary["notes"][split] == sum(summary["families"][split].values())
        text = (folder / "examples.json").read_text()
        assert text == json.dumps(json.loads(text), indent=4, separators=(", ", ": "))


def test_every_field_has_nsynths_type_and_agrees_with_the_name(rendered):
    for _, name, fields in every(rendered[0]):
        assert list(fields) == FIELDS
        integers = ("note", "instrument", "pitch", "velocity", "sample_rate", "instrument_family", "instrument_source")
        assert all(type(fields[key]) is int for key in integers)
        family, source, number, pitch, velocity = name.replace("-", "_").rsplit("_", 4)
        assert fields["note_str"] == name and fields["instrument_str"] == f"{family}_{source}_{number}"
        assert name == f"{fields['instrument_str']}-{int(pitch):03d}-{int(velocity):03d}" and len(number) == 3
        assert (fields["pitch"], fields["velocity"], fields["sample_rate"]) == (int(pitch), int(velocity), 16_000)
        assert 21 <= fields["pitch"] <= 108 and fields["velocity"] in VELOCITIES
        assert fields["instrument_family_str"] == family == FAMILIES[fields["instrument_family"]]
        assert fields["instrument_source_str"] == source == SOURCES[fields["instrument_source"]]
        assert len(fields["qualities"]) == 10 and set(fields["qualities"]) <= {0, 1}
        assert fields["qualities_str"] == [QUALITIES[i] for i, flag in enumerate(fields["qualities"]) if flag]


def test_note_numbers_are_unique_over_all_splits(rendered):
    assert sorted(fields["note"] for *_, fields in every(rendered[0])) == list(range(NOTES))
    by_number = defaultdict(set)
    for *_, fields in every(rendered[0]):
        by_number[fields["instrument"]].add(fields["instrument_str"])
    assert all(len(names) == 1 for names in by_number.values())


def test_audio_is_4_s_of_16_khz_mono_with_true_notes_levels(rendered):
    out, _ = rendered
    for split, name, _ in every(out):
        data = (out / f"nsynth-{split}" / "audio" / f"{name}.wav").read_bytes()
        header = audio.read_header(data, name=name)
        assert (header.sample_rate, header.channels, header.bits, header.length) == (16_000, 1, 16, 64_000)
        assert len(data) == 44 + 128_000
        samples = audio.decode(data, header=header)
        assert -7.71 <= 20 * np.log10(np.abs(samples).max()) <= -0.59
        assert abs(samples.mean()) < 1e-3


def test_tonal_notes_sound_at_the_pitch_of_their_name(font):
    for program, pitch in ((0, 60), (24, 52), (40, 69), (56, 70), (73, 72), (66, 55), (80, 57), (52, 60), (33, 43)):
        samples = rendering.note(font, program=program, pitch=pitch, velocity=100, seed=0)
        assert samples is not None and samples.shape == (64_000,) and samples.dtype == np.int16
        part = samples[4000:12_000] * np.hanning(8000)
        likeness = np.fft.irfft(np.abs(np.fft.rfft(part, 2**15)) ** 2, 2**17)[: 2**15]  # 4 lags a point
        lags, period = np.arange(2**15) / 4, 16_000 / (440 * 2 ** ((pitch - 69) / 12))
        near = (lags > 0.75 * period) & (lags < 1.34 * period)
        cents = 1200 * np.log2(period / lags[near][np.argmax(likeness[near])])
        assert abs(cents) < 35, f"{program = }, {pitch = }, {cents = :.0f}"


def test_velocities_of_a_note_sound_different_not_only_louder(font):
    soft, hard = (rendering.note(font, program=0, pitch=60, velocity=v, seed=0) / 1.0 for v in (25, 127))
    likeness = soft @ hard / np.sqrt((soft @ soft) * (hard @ hard))
    assert likeness < 0.9999


def test_qualities_are_measured():
    seconds = np.arange(64_000) / 16_000
    pluck = (20_000 * np.exp(-3 * seconds) * np.sin(2 * np.pi * 220 * seconds)).astype(np.int16)
    held = (20_000 * (seconds < 3) * np.sin(2 * np.pi * 5000 * seconds)).astype(np.int16)
    ringing = (20_000 * np.sin(2 * np.pi * 2000 * seconds)).astype(np.int16)

    def named(samples):
        return [quality for quality, flag in zip(QUALITIES, rendering.qualities(samples), strict=True) if flag]

    assert named(pluck) == ["dark", "fast_decay"]
    assert named(np.where(seconds < 0.1, pluck, pluck // 4)) == ["dark", "fast_decay", "percussive"]
    assert named(held) == ["bright"]
    assert named(ringing) == ["long_release"]


# --- the splits


@pytest.mark.parametrize("seed", range(3))
def test_families_and_instruments_are_spread_over_the_splits(font, seed):
    listed, notes = heard_notes(font, seed=seed)
    assert len(listed) == 97 and len({instrument.name for instrument in listed}) == 97
    assert [instrument.number for instrument in listed] == list(range(97))
    instruments = Counter(instrument.split for instrument in listed)
    assert 60 <= instruments["train"] <= 70 and min(instruments["valid"], instruments["test"]) >= 13
    for split in SPLITS:
        counted = Counter(instrument.family for instrument, *_ in notes if instrument.split == split)
        assert set(counted) == set(FAMILIES)
        assert max(counted.values()) / counted.total() < 0.16
    per_instrument = Counter(instrument.number for instrument, *_ in notes)
    assert set(per_instrument.values()) == {1500 // 97, 1500 // 97 + 1}
    assert len({(instrument.number, pitch, velocity) for instrument, pitch, velocity in notes}) == 1500


def test_few_notes_still_hold_every_family_of_every_split(rendered):
    assert all(len(families) == 11 for families in rendered[1]["families"].values())


def raw_recordings(path):
    """Read, with nothing of ours, which stretches of sound each note of bank 0 plays."""
    data, table = path.read_bytes(), {}
    for tag, layout in {"phdr": "20s3H12x", "pbag": "HH", "pgen": "HH", "inst": "20sH", "ibag": "HH", "igen": "HH",
                        "shdr": "20s5I2B2H"}.items():  # fmt: skip
        at = data.index(tag.encode(), data.index(b"pdta")) + 8
        size = struct.unpack_from("<I", data, at - 4)[0]
        table[tag] = list(struct.iter_unpack("<" + layout, data[at : at + size]))
    points = data.index(b"smpl") + 8
    found = defaultdict(set)
    for (_, program, bank, first), (*_, last) in zip(table["phdr"], table["phdr"][1:], strict=False):
        for bag in range(first, last) if bank == 0 else ():
            outer = dict(table["pgen"][table["pbag"][bag][0] : table["pbag"][bag + 1][0]])
            if 41 not in outer:
                continue
            low, high = (table["inst"][outer[41] + step][1] for step in (0, 1))
            for inner_bag in range(low, high):
                inner = dict(table["igen"][table["ibag"][inner_bag][0] : table["ibag"][inner_bag + 1][0]])
                if 53 not in inner:
                    continue
                sample = table["shdr"][inner[53]]
                sound = hashlib.md5(data[points + 2 * sample[1] : points + 2 * sample[2]]).hexdigest()
                ranges = [(zone.get(which, 127 << 8)) for which in (43, 44) for zone in (outer, inner)]
                keys, velocities = (
                    range(max(a & 255, b & 255), min(a >> 8, b >> 8) + 1) for a, b in (ranges[:2], ranges[2:])
                )
                for key in keys:
                    for velocity in set(velocities) & set(VELOCITIES):
                        found[program, key, velocity].add(sound)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_splits_share_no_instrument_and_no_recording(font, raw, seed):
    sounds, instruments = defaultdict(set), defaultdict(set)
    for instrument in programs.instruments(font, seed=seed):
        instruments[instrument.split].add(instrument.name)
        for pitch, velocity in instrument.notes:
            heard = raw[instrument.program, pitch, velocity]
            assert heard, (instrument.name, pitch, velocity)
            sounds[instrument.split] |= heard
    for a, b in (("train", "valid"), ("train", "test"), ("valid", "test")):
        assert not instruments[a] & instruments[b]
        assert not sounds[a] & sounds[b]


def test_rendered_splits_share_no_instrument(rendered):
    seen = [{fields["instrument"] for fields in examples(rendered[0], split).values()} for split in SPLITS]
    assert sum(map(len, seen)) == len(set().union(*seen))


def test_the_programs_are_nsynths_families():
    counted = Counter(program.family for program in programs.PROGRAMS.values())
    assert counted == {"keyboard": 8, "mallet": 11, "organ": 5, "reed": 13, "guitar": 12, "bass": 8, "string": 12,
                       "vocal": 5, "brass": 8, "flute": 8, "synth_lead": 7}  # fmt: skip
    assert all(21 <= p.pitches[0] < p.pitches[1] <= 108 and p.source in SOURCES for p in programs.PROGRAMS.values())


def test_draws_are_pinned_and_tell_their_parts_apart():
    assert programs.draw(0, "note", 40, 60, 100) == 0.43872939337681305
    assert (
        len({programs.draw(1, "a", 2), programs.draw(1, "a2"), programs.draw(1, 2, "a"), programs.draw(12, "a")}) == 4
    )
    drawn = [programs.draw(7, "x", number) for number in range(2000)]
    assert 0 <= min(drawn) < 0.01 < 0.99 < max(drawn) < 1 and abs(np.mean(drawn) - 0.5) < 0.02


# --- the same bytes, whatever happens on the way


def test_two_renders_are_byte_identical(rendered, tmp_path):
    render(tmp_path / "again", font=None, notes=NOTES, seed=0)
    assert contents(tmp_path / "again") == contents(rendered[0])


def test_an_interrupted_render_goes_on_and_ends_the_same(rendered, tmp_path, monkeypatch):
    played, made = rendering.note, Counter()

    def interrupted(*args, **options):
        made["notes"] += 1
        if made["notes"] == 26:
            raise KeyboardInterrupt
        return played(*args, **options)

    monkeypatch.setattr(rendering, "note", interrupted)
    with pytest.raises(KeyboardInterrupt):
        render(tmp_path, font=None, notes=NOTES, seed=0)
    assert not list(tmp_path.rglob("examples.json"))
    assert len(list(tmp_path.rglob("*.wav"))) == 25

    gone, cut, foreign = sorted(tmp_path.rglob("*.wav"))[:3]
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:50_000])
    foreign.write_bytes(audio.encode(np.ones(64_000, np.int16), sample_rate=16_000, codec="wav"))
    (gone.parent / f".{gone.name}.tmp").write_bytes(b"half")
    with (tmp_path / "render.log").open("a") as log:
        log.write("mallet_acoust")
    summary = render(tmp_path, font=None, notes=NOTES, seed=0)
    assert summary == {**rendered[1], "reused": 22}
    assert contents(tmp_path) == contents(rendered[0])


def test_a_finished_render_is_left_alone(rendered, monkeypatch):
    out, summary = rendered
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    monkeypatch.setattr(rendering, "_render", None)
    assert render(out, font=None, notes=NOTES, seed=0) == {**summary, "reused": NOTES}
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_finished_render_that_lost_files_is_mended(rendered, tmp_path):
    render(tmp_path, font=None, notes=6, seed=3)
    whole = contents(tmp_path)
    next(tmp_path.rglob("*.wav")).unlink()
    (tmp_path / "nsynth-test" / "examples.json").unlink()
    assert render(tmp_path, font=None, notes=6, seed=3)["reused"] == 5
    assert contents(tmp_path) == whole


def test_fewer_notes_are_the_first_of_more(rendered, tmp_path):
    render(tmp_path, font=None, notes=6, seed=0)
    more = {name: fields for _, name, fields in every(rendered[0])}
    assert all(more[name] == fields for _, name, fields in every(tmp_path))
    assert len({split for split, *_ in every(tmp_path)}) == 3


def test_silent_notes_are_replaced_by_the_next(tmp_path, monkeypatch):
    played, calls = rendering.note, []

    def mostly(*args, **options):
        calls.append(options)
        return None if len(calls) % 2 else played(*args, **options)

    monkeypatch.setattr(rendering, "note", mostly)
    assert sum(render(tmp_path, font=None, notes=5, seed=0)["notes"].values()) == 5
    assert len(calls) == 10


# --- errors speak


def refused(kind, *, out, font=None, notes=NOTES, seed=0):
    with pytest.raises(kind) as error:
        render(out, font=font, notes=notes, seed=seed)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_other_options_in_the_same_folder_are_refused(rendered):
    out, _ = rendered
    way = "ask for the same, or choose another folder"
    assert refused(UsageError, out=out, notes=61) == f"{out} was rendered with notes 60 and not 61: {way}"
    assert refused(UsageError, out=out, seed=1) == f"{out} was rendered with seed 0 and not 1: {way}"


def test_another_font_in_the_same_folder_is_refused(rendered, tmp_path):
    other = tmp_path / "other.sf2"
    other.write_bytes(font_path(None).read_bytes() + b"\0")
    assert "was rendered with font TimGM6mb.sf2 and not other.sf2, font_sha256 82475b91" in refused(
        UsageError, out=rendered[0], font=other
    )


def test_folders_of_others_are_refused(tmp_path):
    (tmp_path / "nsynth-train").mkdir()
    said = refused(UsageError, out=tmp_path)
    assert said == f"{tmp_path} holds an nsynth-* folder that render didn't write: choose another folder"
    (tmp_path / "render.json").write_text("{half")
    assert "render.json can't be read as JSON" in refused(DataError, out=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file/nsynth-train/audio"):
        render(tmp_path / "file", font=None, notes=6, seed=0)


def test_a_font_that_is_missing_or_none_is_one_line(tmp_path, monkeypatch):
    assert refused(UsageError, out=tmp_path, font=tmp_path / "no.sf2") == (
        f"font {tmp_path / 'no.sf2'} is not a file: give an .sf2 file, or none for TimGM6mb.sf2"
    )
    (tmp_path / "song.mid").write_bytes(b"MThd")
    assert refused(DataError, out=tmp_path / "out", font=tmp_path / "song.mid") == (
        "song.mid starts with b'MThd', which is no SoundFont: give a file in .sf2 format"
    )
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert refused(UsageError, out=tmp_path / "out") == (
        "TimGM6mb.sf2 is missing, since pretty_midi is not installed: pip install 'notestream[demo]'"
    )


def test_more_notes_than_the_font_has_are_refused_with_its_count(tmp_path, font, monkeypatch):
    most = sum(len(instrument.notes) for instrument in programs.instruments(font, seed=0))
    said = f"TimGM6mb.sf2 can give {most} notes, not 30000: ask for fewer, or give a larger font"
    assert refused(UsageError, out=tmp_path / "out", notes=30_000) == said
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(rendering, "note", lambda *_, **__: None)
    said = "TimGM6mb.sf2 can give 0 notes, not 5: ask for fewer, or give a larger font"
    assert refused(UsageError, out=tmp_path / "out", notes=5) == said
    assert refused(UsageError, out=tmp_path / "few", notes=2) == (
        "notes must be 3 or more, and seed fit in 64 bits, got notes = 2, seed = 0: ask for others"
    )


def test_a_full_disk_leaves_no_half_written_file(tmp_path, monkeypatch):
    whole, written = Path.write_bytes, Counter()

    def full(path, data):
        written["files"] += 1
        if written["files"] > 4:
            whole(path, data[:1000])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return whole(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device"):
        render(tmp_path, font=None, notes=6, seed=0)
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix in (".wav", ".tmp")]
    assert len(left) == 3 and all(path.stat().st_size == 128_044 for path in left)
    monkeypatch.undo()
    assert render(tmp_path, font=None, notes=6, seed=0)["reused"] == 3


def test_the_extra_is_named_when_soxr_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "soxr", None)
    said = refused(UsageError, out=tmp_path, notes=3)
    assert said == "soxr, which resamples the notes, is not installed: pip install 'notestream[demo]'"
