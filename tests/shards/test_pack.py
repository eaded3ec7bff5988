"""Packing: round trip, byte-identical rewrite, whatever is interrupted goes on, errors speak."""

import gc
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import isal_zlib

from shards import audio, format, members, nsynth
from shards.errors import DataError, UsageError
from shards.index import open_pack
from shards.pack import pack
from tests.conftest import write_notes


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def make_archive(folder: Path, out: Path, *, order: str) -> Path:
    """NSynth's tar.gz, with examples.json first, last or in the middle."""
    names = sorted(f"audio/{path.name}" for path in (folder / "audio").iterdir())
    names.insert({"first": 0, "middle": len(names) // 2, "last": len(names)}[order], "examples.json")
    with tarfile.open(out, "w:gz") as tar:
        tar.add(folder, arcname=folder.name, recursive=False)
        for name in names:
            tar.add(folder / name, arcname=f"{folder.name}/{name}")
    return out


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its tars open
def test_round_trip_by_the_index_and_by_stock_webdataset(notes: Path, data: Path):
    examples = json.loads((notes / "nsynth-train/examples.json").read_text())
    found = open_pack(data, split="train")
    assert found.rows == len(examples)
    rows = found.read().to_pylist()
    for row in rows:
        stored = (found.folder / row["shard"]).read_bytes()[row["offset"] : row["offset"] + row["size"]]
        assert stored == (notes / "nsynth-train/audio" / f"{row['key']}.wav").read_bytes()
        assert isal_zlib.crc32(stored) == row["crc32"]
        assert {name: row[name] for name in examples[row["key"]]} == examples[row["key"]]
    urls = [str(found.folder / shard.name) for shard in found.shards]
    stock = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    gc.collect()
    assert [sample["__key__"] for sample in stock] == [row["key"] for row in rows]
    assert all(json.loads(sample["json"]) == examples[sample["__key__"]] for sample in stock)


def test_sounding_length_tells_where_a_note_falls_silent(data: Path):
    found = open_pack(data, split="train").read().to_pylist()
    for row in found:
        half = int(row["note"]) % 4 == 3
        assert (abs(row["sounding_length"] - 8_000) < 50) if half else (row["sounding_length"] > 15_900)
    assert audio.sounding_length(np.zeros(100, np.int16)) == 0
    assert audio.sounding_length(np.array([-32768, 0, 33, 0], np.int16)) == 3


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3 * audio.TAIL), st.sampled_from([-32768, -33, -32, 0, 1, 32, 33, 32767]))))
def test_sounding_length_is_that_of_the_plain_definition(points: list[tuple[int, int]]):
    samples = np.zeros(max((at for at, _ in points), default=-1) + 1, np.int16)
    for at, value in points:
        samples[at] = value
    level = np.abs(samples.astype(np.int64))
    loud = np.flatnonzero(1000 * level > level.max(initial=0))
    assert audio.sounding_length(samples) == (int(loud[-1]) + 1 if len(loud) else 0)


@pytest.mark.parametrize("order", ["first", "middle", "last"])
def test_archive_and_folder_give_the_same_shards(notes: Path, data: Path, tmp_path: Path, order: str):
    archive = make_archive(notes / "nsynth-valid", tmp_path / "nsynth-valid.jsonwav.tar.gz", order=order)
    pack(archive, tmp_path / "out", split="valid", rows_per_shard=10)
    ours, theirs = open_pack(tmp_path / "out", split="valid"), open_pack(data, split="valid")
    assert ours.fingerprint == theirs.fingerprint
    made = ["README.md", "index.parquet", "valid-000000.tar", "valid-000001.tar"]
    assert sorted(contents(tmp_path / "out/valid")) == made


def test_bytes_do_not_depend_on_jobs_or_on_interruptions(notes: Path, data: Path, tmp_path: Path, monkeypatch):
    whole = contents(data / "train")
    pack(notes, tmp_path / "two", split="train", rows_per_shard=10, jobs=2)
    assert contents(tmp_path / "two/train") == whole

    read, count = members.prepare, 0

    def interrupted(*args, **kwargs):
        nonlocal count
        count += 1
        if count in (25, 41):
            raise KeyboardInterrupt
        return read(*args, **kwargs)

    monkeypatch.setattr("shards.contents.prepare", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            pack(notes, tmp_path / "three", split="train", rows_per_shard=10)
        assert not list((tmp_path / "three/train").glob("*.tmp"))
        assert not packing_done(tmp_path / "three")
    pack(notes, tmp_path / "three", split="train", rows_per_shard=10)
    assert count < 61 + 20, "whole shards were written again"
    assert contents(tmp_path / "three/train") == whole


def packing_done(folder: Path) -> bool:
    return (folder / "train" / format.INDEX_NAME).exists()


def test_a_second_run_writes_nothing_and_other_options_are_refused(notes: Path, tmp_path: Path):
    pack(notes, tmp_path, split="valid")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "valid").iterdir()}
    pack(notes, tmp_path, split="valid")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "valid").iterdir()} == before
    with pytest.raises(UsageError, match="already holds a pack with seed 0, not 1: pack into another folder"):
        pack(notes, tmp_path, split="valid", seed=1)


def test_a_finished_pack_is_known_without_reading_the_notes(notes: Path, tmp_path: Path, monkeypatch):
    pack(notes, tmp_path, split="valid")
    monkeypatch.setattr(nsynth, "read_examples", None)
    assert pack(notes, tmp_path, split="valid").rows == 17


@pytest.mark.parametrize("options", [{"order": "source"}, {"where": ["velocity=100"]}, {"rename_keys": True}], ids=str)
def test_what_changes_the_tars_is_part_of_what_a_pack_is(notes: Path, tmp_path: Path, options):
    pack(notes, tmp_path, split="valid")
    with pytest.raises(UsageError, match=rf"already holds a pack with {next(iter(options))} .*, not .*: pack into"):
        pack(notes, tmp_path, split="valid", **options)


def test_a_damaged_split_beside_it_is_told_and_costs_no_pack(notes: Path, tmp_path: Path, capsys):
    (tmp_path / "train").mkdir()
    (tmp_path / "train/index.parquet").write_bytes(b"PAR1 not really")
    assert pack(notes, tmp_path, split="valid").rows == 17
    assert "no dataset card was written: " in capsys.readouterr().err


def test_tars_of_others_are_left_alone(notes: Path, tmp_path: Path):
    (tmp_path / "valid").mkdir()
    theirs = tmp_path / "valid/valid-000000.tar"
    theirs.write_bytes(b"theirs")
    with pytest.raises(UsageError, match="holds tars that no pack of ours began: pack into another folder"):
        pack(notes, tmp_path, split="valid")
    assert theirs.read_bytes() == b"theirs"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its tars open
def test_keys_that_are_not_ascii_are_read_where_the_index_says(tmp_path: Path):
    root = write_notes(tmp_path, split="train", count=3)
    text = (root / "examples.json").read_text().replace("bass_acoustic", "baß_acoustic")
    (root / "examples.json").write_text(text)
    for path in (root / "audio").glob("bass_*"):
        path.rename(path.with_name(path.name.replace("bass", "baß")))
    found = pack(tmp_path, tmp_path / "out", split="train")
    for row in found.read().to_pylist():
        stored = (found.folder / row["shard"]).read_bytes()[row["offset"] : row["offset"] + row["size"]]
        assert isal_zlib.crc32(stored) == row["crc32"]
    urls = [str(found.folder / found.shards[0].name)]
    read = {one["__key__"] for one in webdataset.WebDataset(urls, shardshuffle=False)}
    assert read == set(found.read("key")["key"].to_pylist())
    gc.collect()


def test_limit_is_a_fair_draw_and_flac_decodes_to_the_same(notes: Path, tmp_path: Path):
    small = pack(notes, tmp_path / "a", split="train", limit=20, codec="flac")
    assert small.rows == 20
    assert len(set(small.read("instrument_family_str")["instrument_family_str"].to_pylist())) == 3
    for row in small.read().to_pylist():
        stored = (small.folder / row["shard"]).read_bytes()[row["offset"] : row["offset"] + row["size"]]
        original = (notes / "nsynth-train/audio" / f"{row['key']}.wav").read_bytes()
        packed, first = audio.read_header(stored, name="x"), audio.read_header(original, name="y")
        np.testing.assert_array_equal(
            audio.decode_pcm16(stored, header=packed), audio.decode_pcm16(original, header=first)
        )
        np.testing.assert_array_equal(
            audio.decode(stored, header=packed, start=7, stop=99),
            audio.decode(original, header=first, start=7, stop=99),
        )


def break_rate(root: Path) -> None:
    path = sorted((root / "audio").iterdir())[5]
    path.write_bytes(audio.encode(np.ones(100, np.int16), sample_rate=44_100, codec="wav"))


def break_channels(root: Path) -> None:
    path = sorted((root / "audio").iterdir())[5]
    wav = bytearray(path.read_bytes())
    wav[22] = 2
    path.write_bytes(wav)


def break_length(root: Path) -> None:
    path = sorted((root / "audio").iterdir())[5]
    path.write_bytes(path.read_bytes()[:-10])


def break_key(root: Path) -> None:
    text = (root / "examples.json").read_text()
    key = next(iter(json.loads(text)))
    (root / "examples.json").write_text(text.replace(key, key.replace("_", ".")))
    (root / "audio" / f"{key}.wav").rename(root / "audio" / f"{key.replace('_', '.')}.wav")


def break_json(root: Path) -> None:
    (root / "examples.json").write_bytes((root / "examples.json").read_bytes()[:-9])


def break_field(root: Path) -> None:
    text = (root / "examples.json").read_text()
    (root / "examples.json").write_text(text.replace('"pitch"', '"pich"', 1))


def break_presence(root: Path) -> None:
    sorted((root / "audio").iterdir())[5].unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_rate, r"sample_rate must be 16000 for this pack, got 44100 \(.*\.wav\): resample it"),
        (break_channels, r"channels must be 1, got 2 \(.*\.wav\): mix it down"),
        (break_length, r"\.wav says it holds 32000 bytes of sound but 31990 are there: it is cut short"),
        (break_key, r"1 hold a dot, slash or control character \('bass\.acoustic.*rename"),
        (break_json, r"examples\.json is not whole JSON .*fetch or unpack it anew"),
        (break_field, r"lacks pitch: NSynth's 13 fields are needed"),
        (break_presence, r"1 notes of examples\.json have no audio in .*fetch or unpack it anew"),
    ],
)
def test_errors_speak_and_nothing_half_written_stays(notes: Path, tmp_path: Path, damage, message: str):
    shutil.copytree(notes / "nsynth-valid", tmp_path / "nsynth-valid")
    damage(tmp_path / "nsynth-valid")
    with pytest.raises(DataError, match=message) as caught:
        pack(tmp_path, tmp_path / "out", split="valid")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out/valid").exists()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_truncated_archive_is_named_and_leaves_nothing(notes: Path, tmp_path: Path, share: float):
    archive = make_archive(notes / "nsynth-valid", tmp_path / "nsynth-valid.jsonwav.tar.gz", order="first")
    archive.write_bytes(archive.read_bytes()[: int(share * archive.stat().st_size)])
    with pytest.raises(DataError, match=r"tar\.gz is cut short or damaged .*: fetch it anew"):
        pack(archive, tmp_path / "out", split="valid")
    assert not (tmp_path / "out/valid").exists()


def test_missing_and_empty_sources_are_named(tmp_path: Path):
    with pytest.raises(UsageError, match=r"source .*nowhere does not exist: give an NSynth folder or archive"):
        pack(tmp_path / "nowhere", tmp_path / "out", split="train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"source .*empty holds no examples\.json and no nsynth-train"):
        pack(tmp_path / "empty", tmp_path / "out", split="train", layout="nsynth")
    with pytest.raises(UsageError, match=r"source .*empty holds no audio files"):
        pack(tmp_path / "empty", tmp_path / "out", split="train")
    with pytest.raises(UsageError, match=r"split must be letters, digits, - and _, got '\.\./x'"):
        pack(tmp_path, tmp_path / "out", split="../x")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_keeps_whole_shards_and_nothing_half_written(notes: Path, data: Path, small_disk: Path):
    with pytest.raises(OSError, match="No space left"):
        pack(notes, small_disk, split="train", rows_per_shard=10)
    assert not packing_done(small_disk)
    whole = contents(data / "train")
    left = list((small_disk / "train").glob("*tar*"))
    assert left
    assert all(path.read_bytes() == whole[path.name] for path in left)


def test_classes_come_from_train_and_unknown_ones_are_refused(data: Path):
    train, valid = open_pack(data, split="train"), open_pack(data, split="valid")
    classes = train.classes["instrument_family_str"]
    assert classes == ("bass", "brass", "flute")
    ids = valid.label_ids("instrument_family_str", classes)
    assert [classes[i] for i in ids] == valid.read("instrument_family_str")["instrument_family_str"].to_pylist()
    with pytest.raises(DataError, match=r"have a instrument_family_str that train doesn't know \('flute'\)"):
        valid.label_ids("instrument_family_str", classes[:2])
    with pytest.raises(
        UsageError, match=r"label 'nothing' is not a column of text or whole numbers .*: take one of instrument_str"
    ):
        valid.label_ids("nothing", classes)


def test_opening_says_what_is_missing(data: Path, tmp_path: Path):
    with pytest.raises(UsageError, match=r"data folder .*gone does not exist: pack one with"):
        open_pack(tmp_path / "gone", split="train")
    with pytest.raises(UsageError, match=r"split 'dev' is not in .* \(it holds the splits test, train, valid\)"):
        open_pack(data, split="dev")
