"""Data sets in their own layouts, packed by the very lines that stand in docs/datasets.md."""

import gc
import json
import os
import re
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import webdataset

from shards import __main__ as shards_door
from shards import audio
from shards.door import run_door
from shards.index import open_pack
from tests.conftest import tone

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/datasets.md").read_text()
ADDRESS = "http://download.magenta.tensorflow.org/datasets/nsynth/"
PYTHON = """#!/bin/sh
{ printf '%s\\0' "$PWD" "$@"; printf '\\0'; } >> "$CALLS"
"""

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"  # webdataset leaves its tars open
)


@pytest.fixture(autouse=True)
def _closed():
    yield
    gc.collect()


def calls_of(heading: str, *, folder: Path) -> list[tuple[str, list[str]]]:
    """Run a section's shell block in FOLDER with a python that only tells how it is called: (cwd, arguments) each."""
    (section,) = re.findall(rf"^## {heading}$(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL)
    (block,) = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    python, told = folder / ".bin/python", folder / ".bin/calls"
    python.parent.mkdir()
    python.write_text(PYTHON)
    python.chmod(0o755)
    world = os.environ | {"PATH": f"{python.parent}:{os.environ['PATH']}", "CALLS": str(told)}
    subprocess.run(["sh", "-e", "-c", block], cwd=folder, env=world, check=True)
    records = [record.split("\0") for record in told.read_text().split("\0\0") if record]
    assert len(records) >= len(re.findall(r"^ *python -m", block, re.MULTILINE))
    return [(cwd, arguments) for cwd, *arguments in records]


def run_section(heading: str, *, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run what a section calls of the shards' door, in this process."""
    for cwd, arguments in calls_of(heading, folder=folder):
        monkeypatch.chdir(cwd)
        if arguments[:2] == ["-m", "shards"]:
            # no test has a network: what the address names lies in the folder
            given = [argument.replace(ADDRESS, f"{folder}/nsynth/") for argument in arguments[2:]]
            assert run_door("shards", shards_door.VERBS, given) == 0, given


def write_sound(path: Path, *, seconds: float, sample_rate: int, pitch: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    length = round(seconds * sample_rate)
    path.write_bytes(audio.encode(tone(pitch, length=length, sounding=length), sample_rate=sample_rate, codec="wav"))


def read_split(data: Path, split: str, *, sources: Path, sample_rate: int) -> dict[str, dict[str, Any]]:
    """Open a split, hold it against stock webdataset and its sources' bytes, and return its labels by key."""
    pack = open_pack(data, split=split)
    assert pack.sample_rate == sample_rate
    tars = [str(pack.folder / shard.name) for shard in pack.shards]
    samples = {one["__key__"]: one for one in webdataset.WebDataset(tars, shardshuffle=False, empty_check=False)}
    table = pack.read()
    rows = {row["key"]: {name: row[name] for name in table.column_names[7:]} for row in table.to_pylist()}
    assert list(samples) == list(rows)
    whole = {path.read_bytes() for path in sources.rglob("*.wav")}
    for key, labels in rows.items():
        assert json.loads(samples[key]["json"]) == labels
        assert samples[key]["wav"] in whole
    return rows


def types_of(data: Path, split: str) -> dict[str, pa.DataType]:
    schema = open_pack(data, split=split).schema
    return {field.name: field.type for field in list(schema)[7:]}


def test_nsynth_from_its_archives(notes: Path, tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "nsynth").mkdir()
    for split in ("train", "valid", "test"):
        with tarfile.open(tmp_path / f"nsynth/nsynth-{split}.jsonwav.tar.gz", "w:gz") as tar:
            tar.add(notes / f"nsynth-{split}", arcname=f"nsynth-{split}")
    run_section("NSynth", folder=tmp_path, monkeypatch=monkeypatch)
    for split, rows in (("train", 61), ("valid", 17), ("test", 11)):
        found = read_split(tmp_path / "nsynth-pack", split, sources=notes, sample_rate=16_000)
        assert found == json.loads((notes / f"nsynth-{split}/examples.json").read_text())
        assert len(found) == rows
    kept = read_split(tmp_path / "nsynth-acoustic", "train", sources=notes, sample_rate=16_000)
    examples = json.loads((notes / "nsynth-train/examples.json").read_text())
    assert kept == {
        key: note
        for key, note in examples.items()
        if note["instrument_source_str"] == "acoustic" and note["instrument_family_str"] in ("bass", "brass")
    }
    assert "license: cc-by-4.0" in (tmp_path / "nsynth-pack/README.md").read_text().splitlines()
    assert "61" in capsys.readouterr().out, "show"


def test_esc_50_by_its_folds(tmp_path: Path, monkeypatch):
    root, lines = tmp_path / "ESC-50-master", ["filename,fold,target,category,esc10,src_file,take"]
    for fold in range(1, 6):
        for target, category, esc10 in ((0, "dog", True), (14, "chirping_birds", False)):
            name = f"{fold}-{100000 + target}-A-{target}.wav"
            write_sound(root / "audio" / name, seconds=5, sample_rate=44_100, pitch=50 + target + fold)
            lines.append(f"{name},{fold},{target},{category},{esc10},{100000 + target},A")
    (root / "meta").mkdir()
    (root / "meta/esc50.csv").write_text("\n".join(lines) + "\n")
    run_section("ESC-50", folder=tmp_path, monkeypatch=monkeypatch)
    for split, folds in (("train", {1, 2, 3}), ("valid", {4}), ("test", {5})):
        rows = read_split(tmp_path / "sounds", split, sources=root, sample_rate=44_100)
        assert len(rows) == 2 * len(folds)
        assert {row["fold"] for row in rows.values()} == folds
        for key, row in rows.items():
            assert key == f"{row['fold']}-{row['src_file']}-{row['take']}-{row['target']}"
            assert (row["category"], row["esc10"]) == {0: ("dog", True), 14: ("chirping_birds", False)}[row["target"]]
        assert open_pack(tmp_path / "sounds", split=split).classes["category"] == ("chirping_birds", "dog")


def test_fsd50k_by_its_ground_truth(tmp_path: Path, monkeypatch):
    told = {
        "dev": {64760: "Electric_guitar,Guitar", 16399: "Bark,Dog,Animal", 16401: "Rain", 21914: "Dog"},
        "eval": {37199: "Guitar,Music", 175151: "Rain"},
    }
    for part, clips in told.items():
        lines = ["fname,labels,mids,split" if part == "dev" else "fname,labels,mids"]
        for at, (clip, labels) in enumerate(clips.items()):
            path = tmp_path / f"FSD50K.{part}_audio/{clip}.wav"
            write_sound(path, seconds=0.3 + at, sample_rate=44_100, pitch=40 + clip % 40)
            mids = ",".join(f"/m/{label[:3].lower()}" for label in labels.split(","))
            side = f",{'val' if clip == 16401 else 'train'}" if part == "dev" else ""
            lines.append(f'{clip},"{labels}","{mids}"{side}')
        truth = tmp_path / f"FSD50K.ground_truth/{part}.csv"
        truth.parent.mkdir(exist_ok=True)
        truth.write_text("\n".join(lines) + "\n")
    run_section("FSD50K", folder=tmp_path, monkeypatch=monkeypatch)
    for split, part, clips in (
        ("train", "dev", [16399, 21914, 64760]), ("valid", "dev", [16401]), ("test", "eval", [175151, 37199])
    ):  # fmt: skip
        sources = tmp_path / f"FSD50K.{part}_audio"
        rows = read_split(tmp_path / "events", split, sources=sources, sample_rate=44_100)
        assert sorted(rows) == [str(clip) for clip in clips]
        assert {key: row["labels"] for key, row in rows.items()} == {
            str(clip): told[part][clip].split(",") for clip in clips
        }
        assert all(len(row["mids"]) == len(row["labels"]) for row in rows.values())
        texts = pa.list_(pa.string())
        kinds = {"labels": texts, "mids": texts} | ({"split": pa.string()} if part == "dev" else {})
        assert types_of(tmp_path / "events", split) == kinds


def test_speech_commands_by_its_lists(tmp_path: Path, monkeypatch):
    root, speakers = tmp_path / "speech_commands", ("0a7c2a8d", "00f0204f", "0132a06d", "0137b3f4")
    words = [f"{word}/{speaker}_nohash_0.wav" for word in ("bed", "no", "zero") for speaker in speakers]
    for at, word in enumerate(words):
        write_sound(root / word, seconds=1 if at else 0.7, sample_rate=16_000, pitch=40 + at)
    write_sound(root / "_background_noise_/doing_the_dishes.wav", seconds=6, sample_rate=16_000, pitch=30)
    lists = {"validation": [w for w in words if speakers[2] in w], "testing": [w for w in words if speakers[3] in w]}
    for name, listed in lists.items():
        (root / f"{name}_list.txt").write_text("\n".join(listed) + "\n")
    for name in ("README.md", "LICENSE"):
        (root / name).write_text("text")
    run_section("Speech Commands", folder=tmp_path, monkeypatch=monkeypatch)
    train = [word for word in words if word not in lists["validation"] + lists["testing"]]
    for split, listed in (("train", train), ("valid", lists["validation"]), ("test", lists["testing"])):
        rows = read_split(tmp_path / "words", split, sources=root, sample_rate=16_000)
        assert {key: row["class"] for key, row in rows.items()} == {
            word.removesuffix(".wav").replace("/", "--"): word.split("/")[0] for word in listed
        }
        assert open_pack(tmp_path / "words", split=split).classes["class"] == ("bed", "no", "zero")


def test_ones_own_folders(tmp_path: Path, monkeypatch):
    for at, genre in enumerate(("blues", "blues", "jazz")):
        write_sound(tmp_path / f"genres/{genre}/{genre}.{at:05d}.wav", seconds=3, sample_rate=22_050, pitch=50 + at)
    for at, name in enumerate(("bell_ann_1", "drum_ann_2", "bell_bob_1", "drum_cleo_07", "bell_cleo_8")):
        write_sound(tmp_path / f"mine/{name}.wav", seconds=0.5, sample_rate=48_000, pitch=50 + at)
    run_section("Your own audio", folder=tmp_path, monkeypatch=monkeypatch)
    rows = read_split(tmp_path / "genres-pack", "train", sources=tmp_path / "genres", sample_rate=22_050)
    assert {key: row["class"] for key, row in rows.items()} == {
        "blues--blues_00000": "blues", "blues--blues_00001": "blues", "jazz--jazz_00002": "jazz"
    }  # fmt: skip
    assert all("." not in key and key.split("_")[-1] in row["original_key"] for key, row in rows.items())
    assert "blues.00000" in rows["blues--blues_00000"]["original_key"]
    train = read_split(tmp_path / "mine-pack", "train", sources=tmp_path / "mine", sample_rate=48_000)
    valid = read_split(tmp_path / "mine-pack", "valid", sources=tmp_path / "mine", sample_rate=48_000)
    assert sorted(train) == ["bell_ann_1", "bell_bob_1", "drum_ann_2"]
    assert valid == {
        "bell_cleo_8": {"class": "bell", "speaker": "cleo", "take": 8},
        "drum_cleo_07": {"class": "drum", "speaker": "cleo", "take": 7},
    }
