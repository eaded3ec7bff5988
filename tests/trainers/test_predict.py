"""Predicting: a file is answered as its row in a pack would be, whatever its rate, channels, length and neighbours."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from shards import audio
from shards.errors import DataError, UsageError
from shards.files import AudioFiles
from trainers.__main__ import main as door
from trainers.finish import evaluate_run
from trainers.run import Run
from trainers.sounds import find_audio, open_sound, windows
from trainers.trained import vectors


def sound(length: int, *, channels: int = 1, seed: int = 0) -> np.ndarray:
    """A tone with noise that fades in: (length, channels) in [-1, 1]."""
    time, draw = np.arange(length)[:, None], np.random.default_rng(seed)
    tone = 0.3 * np.sin(2 * np.pi * 440 * (1 + np.arange(channels)) / 44_100 * time)
    return tone + 0.05 * draw.standard_normal((length, channels)) * time / length


def heard(path: Path, *, rate: int, length: int = 1 << 40) -> np.ndarray:
    return np.concatenate([*windows(open_sound(path), sample_rate=rate, length=length)])


def packed(path: Path, *, rate: int) -> np.ndarray:
    """The file as `pack --mono --resample` makes it."""
    files = AudioFiles(path.parent, {"key": path.name}, rate, True, True)
    data = files.read("key")
    return audio.decode(data, header=audio.read_header(data, name="key"))


def lines(capsys: pytest.CaptureFixture[str]) -> tuple[list[dict], list[str]]:
    told = capsys.readouterr()
    return [json.loads(line) for line in told.out.splitlines()], told.err.splitlines()


def test_a_file_is_answered_as_evaluation_answers_its_row(whole: Run, notes: Path, capsys):
    folder = notes / "nsynth-test" / "audio"
    assert door(["predict", str(whole.folder), str(folder), "--top", "11", "--json", "--device", "cpu"]) == 0
    told, _ = lines(capsys)
    rows = evaluate_run(str(whole.folder), data=None, split="test", device="cpu")
    assert [one["file"] for one in told] == sorted(str(path) for path in folder.iterdir())
    found = {Path(one["file"]).stem: one["classes"] for one in told}
    for key, expected in zip(rows.keys, rows.probabilities, strict=True):
        assert list(found[key].values()) == sorted(found[key].values(), reverse=True)
        np.testing.assert_allclose([found[key][name] for name in rows.classes], expected, atol=1e-6)


@pytest.mark.parametrize(("kind", "rate", "channels"), [
    ("wav", 44_100, 2), ("flac", 48_000, 1), ("ogg", 22_050, 2), ("mp3", 44_100, 2), ("wav", 16_000, 1),
    ("aiff", 8000, 3),
])  # fmt: skip
def test_any_kind_rate_and_channels_is_heard_as_a_pack_holds_it(tmp_path: Path, kind: str, rate: int, channels: int):
    path = tmp_path / f"x.{kind}"
    soundfile.write(path, sound(3 * rate + 17, channels=channels), rate)
    one, expected = heard(path, rate=16_000), packed(path, rate=16_000)
    assert len(one) == len(expected)
    assert np.abs(one - expected).max() <= 1.01 / 32768, "a rounding apart at most"
    assert rate != 16_000 or np.array_equal(one, expected)
    said = open_sound(path).notes(sample_rate=16_000)
    assert (f"{channels} channels mixed down" in said) == (channels > 1)
    assert (f"resampled from {rate} to 16000 Hz" in said) == (rate != 16_000)


@pytest.mark.parametrize("length", [100, 4096, 10_000, 1 << 20, 3_000_001])
def test_windows_follow_each_other_and_lose_nothing(tmp_path: Path, length: int):
    path = tmp_path / "long.wav"
    soundfile.write(path, sound(3_000_000), 16_000)
    parts = [*windows(open_sound(path), sample_rate=16_000, length=length)]
    assert all(len(part) == length for part in parts[:-1])
    assert 0 < len(parts[-1]) <= length
    assert np.array_equal(np.concatenate(parts), packed(path, rate=16_000))


def test_a_sound_is_the_mean_of_its_windows_by_their_length_whatever_is_beside_it():
    class Loudness(torch.nn.Module):
        def forward(self, waveform: torch.Tensor) -> torch.Tensor:
            return torch.stack([waveform.mean(1), waveform.new_full((len(waveform),), waveform.shape[1])], 1)

    draw = np.random.default_rng(0)
    sounds = [[draw.random(n, np.float32) for n in lengths] for lengths in ([5] * 40 + [3], [7], [5], [9, 1], [5] * 3)]

    def broken():
        yield sounds[0][0]
        raise DataError("cut short")

    several = [*vectors(Loudness(), [*sounds[:3], broken(), *sounds[3:]], device=torch.device("cpu"))]
    fault = several.pop(3)
    assert isinstance(fault, DataError)
    assert str(fault) == "cut short"
    for one, parts in zip(several, sounds, strict=True):
        size = sum(map(len, parts))
        np.testing.assert_allclose(one[0], np.concatenate(parts).mean(), rtol=1e-5)
        np.testing.assert_allclose(one[1], sum(len(part) ** 2 for part in parts) / size, rtol=1e-6)


def test_a_file_that_can_not_be_read_is_one_line_and_the_others_are_answered(whole: Run, notes: Path, tmp_path, capsys):
    good = next(iter(sorted((notes / "nsynth-test" / "audio").iterdir())))
    (tmp_path / "a.wav").write_bytes(good.read_bytes()[:-100])
    (tmp_path / "b.flac").write_bytes(b"no sound at all")
    (tmp_path / "c.m4a").write_bytes(b"a kind that libsndfile can't decode")
    (tmp_path / "d.wav").write_bytes(audio.encode(np.zeros(0, np.int16), sample_rate=16_000, codec="wav"))
    (tmp_path / "z.wav").write_bytes(good.read_bytes())
    files = [str(tmp_path), str(tmp_path / "none.wav")]
    assert door(["predict", str(whole.folder), *files, "--json", "--device", "cpu"]) == 1
    told, errors = lines(capsys)
    assert [Path(one["file"]).name for one in told] == ["a.wav", "b.flac", "c.m4a", "d.wav", "z.wav", "none.wav"]
    assert ["error" in one for one in told] == [True, True, True, True, False, True]
    assert errors[-1] == "notestream: 5 of 6 files can't be read: the others are answered"
    for name, line in zip(("a.wav", "b.flac", "c.m4a", "d.wav", "none.wav"), errors[:-1], strict=True):
        assert line.startswith("notestream: ")
        assert name in line
    assert "cut short" in errors[0]
    assert "holds no sound" in errors[3]


def test_a_table_for_people_says_what_was_done_to_hear_a_file(whole: Run, tmp_path: Path, capsys):
    soundfile.write(tmp_path / "x[red].wav", sound(30_000, channels=2), 44_100)
    assert door(["predict", str(whole.folder), str(tmp_path / "x[red].wav"), "--top", "1", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "x[red].wav" in out
    assert "2 channels mixed down" in " ".join(out.split())


def test_a_folder_is_heard_in_the_order_of_its_paths(tmp_path: Path):
    for name in ("b/2.wav", "b/1.FLAC", "a.ogg", ".hidden/x.wav", "notes.txt", "b/.x.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [path.relative_to(tmp_path).as_posix() for path in find_audio([tmp_path])] == [
        "a.ogg",
        "b/1.FLAC",
        "b/2.wav",
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"folder .*empty holds no audio files \(wav, .*\): give one that does"):
        find_audio([tmp_path / "empty"])


def test_wrong_use_of_predict_is_told(whole: Run, tmp_path: Path, capsys):
    for flags, told in (
        ([str(whole.folder)], "files must be named: audio files, or folders of them"),
        ([str(whole.folder), "x.wav", "--top", "0"], "top must be at least 1, got 0"),
        ([str(tmp_path / "no"), str(tmp_path)], "holds no audio files"),
        ([str(tmp_path / "no"), "x.wav"], "no does not exist"),
    ):
        assert door(["predict", *flags, "--device", "cpu"]) == 2
        assert told in capsys.readouterr().err
