"""Verifying: every damage is found, named and told apart; repair gives the same bytes; nothing else is touched."""

import dataclasses
import gc
import io
import json
import re
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import tyro
import webdataset

from shards import audio, format, walk
from shards.door import run_door
from shards.errors import DataError, UsageError
from shards.findings import Finding, Report, tell_reports
from shards.indexing import index_shards
from shards.pack import pack
from shards.remote import Location
from shards.repair import repair
from shards.verify import verify
from tests.conftest import write_notes

SPLIT, SHARD = "train", "train-000002.tar"  # 61 notes in seven shards of ten
ROW = 24  # the fifth of that shard


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def place(folder: Path, row: int = ROW) -> dict:
    return pq.read_table(folder / format.INDEX_NAME).slice(row, 1).to_pylist()[0]


def flip(folder: Path, at: int, *, bit: int = 3) -> None:
    path = folder / SHARD
    changed = bytearray(path.read_bytes())
    changed[at] ^= 1 << bit
    path.write_bytes(changed)


def cut(folder: Path, at: int) -> None:
    path = folder / SHARD
    path.write_bytes(path.read_bytes()[:at])


def zero(folder: Path, first: int, last: int | None = None) -> None:
    path = folder / SHARD
    whole = path.read_bytes()
    last = len(whole) if last is None else last
    path.write_bytes(whole[:first] + bytes(last - first) + whole[last:])


def swap(folder: Path) -> None:
    one, other = folder / SHARD, folder / "train-000004.tar"
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)


def sound(folder: Path) -> int:
    return place(folder)["offset"]


def repack(folder: Path) -> None:
    """Leave the index as it is over tars that were packed with another seed."""
    notes = folder.parent / "notes"
    write_notes(notes, split=SPLIT, count=61)
    pack(notes, folder.parent / "other", split=SPLIT, rows_per_shard=10, seed=1)
    for path in (folder.parent / "other" / SPLIT).glob("*.tar"):
        shutil.copy(path, folder)


def after(folder: Path) -> int:
    """Where the sample's members end: the next one's json header begins."""
    row = place(folder)
    return row["offset"] + -(-row["size"] // 512) * 512


# damage, how many findings, whether KEY is named, what is said, whether stock webdataset reads on in silence
DAMAGES = {
    "a bit of a sound": (lambda f: flip(f, sound(f) + 5000), 1, True, r"damaged contents \(crc32 \w{8}, not \w{8}\)"),
    "a bit of a WAV header": (lambda f: flip(f, sound(f) + 24), 1, True, r"damaged contents \(crc32"),
    "a bit of a tar header": (lambda f: flip(f, sound(f) - 500), 1, True, r"has a damaged tar header, where stock"),
    "a bit of a size in a header": (lambda f: flip(f, sound(f) - 512 + 130), 1, True, r"has a damaged tar header"),
    "a bit of a json's header": (lambda f: flip(f, sound(f) - 1536 + 3), 1, True, r"has a damaged tar header"),
    "a bit of a label": (lambda f: flip(f, sound(f) - 1000, bit=0), 1, True, r"has labels that are not the index's"),
    "a bit of the padding": (lambda f: flip(f, sound(f) - 513), 1, False, r"differs in bytes that no row speaks of"),
    "cut inside a sound": (lambda f: cut(f, sound(f) + 99), 1, True, r"is cut inside .*wav .*: 6 samples are lost"),
    "cut inside a header": (lambda f: cut(f, sound(f) - 99), 1, True, r"is cut inside a header .*: 6 samples are lost"),
    "cut at a member": (lambda f: cut(f, after(f)), 1, False, r"is cut where a member ends .*: 5 samples are lost"),
    "zeros over a header": (lambda f: zero(f, sound(f) - 512, sound(f)), 1, True, r"has a damaged tar header"),
    "zeros to the end": (lambda f: zero(f, after(f)), 1, False, r"holds only zeros from there on .*: 5 samples"),
    "two shards swapped": (swap, 2, False, r"^holds train-00000[24]\.tar, byte for byte"),
    "tars of another packing": (repack, 7, False, r"is a whole tar, but not the one that was indexed .*index is stale"),
    "a missing shard": (lambda f: (f / SHARD).unlink(), 1, False, r"is missing, with 10 samples"),
}  # fmt: skip


@pytest.fixture
def split(data: Path, tmp_path: Path) -> Path:
    """A copy of the pack's train split that a test may damage."""
    return Path(shutil.copytree(data / SPLIT, tmp_path / "pack" / SPLIT))


def check(split: Path) -> Report:
    (report,) = verify(split.parent, split=split.name)
    return report


def test_a_whole_pack_passes_with_each_byte_read_once(data: Path, monkeypatch):
    taken, take = Counter(), walk.Tar.take

    def counting(tar, size):
        got = take(tar, size)
        taken["bytes"] += len(got)
        return got

    monkeypatch.setattr(walk.Tar, "take", counting)
    found = list(verify(data))
    assert [(one.split, one.rows, one.findings, one.damaged, one.notes) for one in found] == [
        (name, count, (), (), ()) for name, count in (("test", 11), ("train", 61), ("valid", 17))
    ]
    assert taken["bytes"] == sum(one.bytes for one in found) == sum(p.stat().st_size for p in data.rglob("*.tar"))


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_is_found_named_and_told_apart(split: Path, name: str):
    damage, count, named, message = DAMAGES[name]
    key = place(split)["key"]
    damage(split)
    report = check(split)
    assert len(report.findings) == count, report.findings
    first = report.findings[0] if count == 7 else next(one for one in report.findings if one.shard == SHARD)
    assert re.search(message, first.what), first
    assert (first.key == key) == named, first
    assert "\n" not in str(first)
    assert set(report.damaged) == {one.shard for one in report.findings}


MENDED = [name for name in DAMAGES if name.split()[0] in ("two", "tars", "cut") or "pad" in name or "missing" in name]


@pytest.mark.parametrize("name", MENDED)
def test_repair_gives_the_same_bytes_and_touches_nothing_else(notes: Path, data: Path, split: Path, name: str):
    DAMAGES[name][0](split)
    damaged = check(split).damaged
    before = {path.name: path.stat().st_mtime_ns for path in split.iterdir() if path.name not in damaged}
    assert repair(notes, split.parent, split=SPLIT) == damaged
    assert contents(split) == contents(data / SPLIT)
    assert {path.name: path.stat().st_mtime_ns for path in split.iterdir() if path.name not in damaged} == before
    assert not check(split).findings
    assert repair(notes, split.parent, split=SPLIT) == ()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its tars open
def test_stock_webdataset_lets_most_damages_through(data: Path, tmp_path: Path):
    def read(folder: Path) -> dict[str, tuple]:
        urls = [str(path) for path in sorted(folder.glob("*.tar"))]
        stock = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False)
        return {sample["__key__"]: (sample.get("wav"), sample.get("json")) for sample in stock}

    truth, told = read(data / SPLIT), {}
    for number, (name, (damage, *_)) in enumerate(DAMAGES.items()):
        folder = Path(shutil.copytree(data / SPLIT, tmp_path / str(number) / SPLIT))
        damage(folder)
        try:
            found = read(folder)
            told[name] = (
                "harmless to it"
                if found == truth
                else "samples without sound" * any(wav is None for wav, _ in found.values())
                or ("samples lost" if len(found) < len(truth) else "samples changed")
            )
        except tarfile.ReadError:
            told[name] = "an error"
    gc.collect()
    assert Counter(told.values()) == {
        "an error": 1, "samples without sound": 4, "samples lost": 4, "samples changed": 3, "harmless to it": 3
    }  # fmt: skip
    assert told["cut inside a sound"] == "an error"


def change_index(folder: Path, column: str, value: int) -> None:
    path = folder / format.INDEX_NAME
    table = pq.read_table(path)
    values, at = table[column].to_pylist(), table.schema.get_field_index(column)
    values[ROW] += value
    field = table.schema.field(at)
    pq.write_table(table.set_column(at, field, pa.array(values, field.type)), path, row_group_size=10)


@pytest.mark.parametrize(
    ("column", "value", "what"),
    [
        ("offset", 512, "no member of the tar begins there"),
        ("offset", 10**12, "no member of the tar begins there"),
        ("size", -2, "the tar has '.*' of 32,044 bytes there, not .* of 32,042"),
        ("crc32", -1, "damaged contents"),
        ("length", 1, "says length 16000, not 16001"),
    ],
)
def test_a_damaged_index_is_told_from_a_damaged_tar(notes: Path, split: Path, column: str, value: int, what: str):
    change_index(split, column, value)
    report = check(split)
    assert report.damaged == ()
    (found,) = report.findings
    assert found.key == place(split)["key"]
    assert re.search(what, found.what)
    assert found.way.startswith("the tar is the one that was indexed")
    with pytest.raises(DataError, match=r"has whole tars and a damaged index \(train-000002\.tar, "):
        repair(notes, split.parent, split=SPLIT)


def test_what_cannot_be_read_is_told_in_one_line(data: Path, split: Path):
    with pytest.raises(UsageError, match="split 'dev' is not in"):
        list(verify(split.parent, split="dev"))
    with pytest.raises(UsageError, match="holds no finished split"):
        list(verify(split))
    index = split / format.INDEX_NAME
    whole = index.read_bytes()
    index.write_bytes(whole[:100] + bytes(200) + whole[300:])
    with pytest.raises(DataError, match=r"index\.parquet is damaged and can't be read \(.*\): pack or index again"):
        check(split)


def test_a_tar_that_is_not_in_the_index_is_a_note(split: Path):
    shutil.copy(split / SHARD, split / "train-000099.tar")
    report = check(split)
    assert report.findings == ()
    assert report.notes == ("train-000099.tar is not in the index: we don't read it, a glob over *.tar does",)


def test_tars_of_others_are_checked_and_left_to_others(notes: Path, split: Path, tmp_path: Path):
    wav = audio.encode(np.ones(100, np.int16), sample_rate=8000, codec="wav")
    folder = tmp_path / "theirs"
    folder.mkdir()
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(folder / f"{form}.tar", "w", format=form) as tar:
            tar.add(notes / "nsynth-test", arcname="folder", recursive=False)
            for name, content in ((f"./ä{form}.wav", wav), (f"b{form}.{'x' * 120}", b"x"), (f"b{form}.wav", wav)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    index_shards([str(folder)], out=None, split=None)
    assert check(folder).findings == ()
    path = folder / f"{tarfile.PAX_FORMAT}.tar"
    path.write_bytes(path.read_bytes()[: place(folder, 3)["offset"] + 50])
    (found,) = check(folder).findings
    assert found.key == f"b{tarfile.PAX_FORMAT}"
    assert found.way == "bring the tar again from where it came"
    with pytest.raises(UsageError, match="was indexed, not packed by us: bring its tars again"):
        repair(notes, folder.parent, split="theirs")


def test_a_flac_pack_names_the_sample_whose_json_header_is_damaged(notes: Path, tmp_path: Path):
    found = pack(notes, tmp_path, split="train", codec="flac", rows_per_shard=10)
    key = place(found.folder.path)["key"]
    flip(found.folder.path, after(found.folder.path) + 3)
    (finding,) = check(found.folder.path).findings
    assert finding.key == key
    assert repair(notes, tmp_path, split="train") == (SHARD,)


def test_repair_from_an_archive(notes: Path, tmp_path: Path):
    with tarfile.open(tmp_path / "nsynth-test.jsonwav.tar.gz", "w:gz") as tar:
        tar.add(notes / "nsynth-test", arcname="nsynth-test")
    pack(tmp_path, tmp_path / "out", split="test", rows_per_shard=4, limit=9)
    whole = contents(tmp_path / "out/test")
    (tmp_path / "out/test/test-000002.tar").unlink()
    assert repair(tmp_path, tmp_path / "out", split="test") == ("test-000002.tar",)
    assert contents(tmp_path / "out/test") == whole
    (tmp_path / "out/test/test-000000.tar").unlink()
    assert repair(notes, tmp_path / "out", split="test") == ("test-000000.tar",), "a folder of the same notes will do"
    assert contents(tmp_path / "out/test") == whole


def test_repair_from_a_folder_of_audio_whose_keys_were_mended(tmp_path: Path):
    for name in ("rock/rock.00000", "rock/rock.00001", "pop/pop.00000", "pop/a_b", "pop/a.b"):
        path = tmp_path / "src" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.full((500, 2), len(name) / 100), 8000, subtype="FLOAT")
    pack(tmp_path / "src", tmp_path / "out", split="train", rename_keys=True, mono=True, rows_per_shard=2)
    whole = contents(tmp_path / "out/train")
    for name in (SHARD, "train-000000.tar"):
        (tmp_path / "out/train" / name).write_bytes(whole[name][:700])
    assert sorted(repair(tmp_path / "src", tmp_path / "out", split="train")) == ["train-000000.tar", SHARD]
    assert contents(tmp_path / "out/train") == whole


def test_repair_in_a_bucket(notes: Path, store: str):
    place = store.replace("PATH", "repair")
    pack(notes, place, split="train", rows_per_shard=10)
    tar = Location(place) / "train" / SHARD
    whole = tar.read_bytes()
    tar.write_bytes(whole[:5000] + b"?" + whole[5001:])
    assert repair(notes, place, split="train") == (SHARD,)
    assert tar.read_bytes() == whole


def test_another_source_is_refused_and_nothing_is_changed(notes: Path, split: Path, tmp_path: Path):
    flip(split, 5000)
    before = contents(split)
    other = Path(shutil.copytree(notes / "nsynth-train", tmp_path / "other"))
    for path in (other / "audio").iterdir():  # examples.json is as it was, the sounds are not
        path.write_bytes(path.read_bytes()[:-2] + b"xx")
    with pytest.raises(DataError, match=r"train-000002\.tar would be another than it was .*: the source's audio has"):
        repair(other, split.parent, split=SPLIT)
    for path in (other / "audio").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"10 notes have no audio in .*other \('.*'\): give the source of .*train"):
        repair(other, split.parent, split=SPLIT)
    soundfile.write(tmp_path / "x.wav", np.ones(9), 8000)
    with pytest.raises(DataError, match=r"10 notes have no audio in .* \('.*'\): give the source of .*train"):
        repair(tmp_path, split.parent, split=SPLIT)
    assert contents(split) == before


def test_the_door_prints_a_line_a_finding_and_exits_with_1(data: Path, split: Path, capsys):
    def door(where: tyro.conf.Positional[Path], /, *, json: bool = False) -> None:
        tell_reports(verify(where), data=where, json=json)

    verbs = {"verify": door}
    assert run_door("shards", verbs, ["verify", str(data)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("valid: 17 samples in 2 shards, ")
    row = place(split)
    flip(split, row["offset"] + 100)
    assert run_door("shards", verbs, ["verify", str(split.parent)]) == 1
    told = capsys.readouterr()
    line, summary = told.out.splitlines()
    assert line.startswith(f"train/{SHARD}, {row['key']}, byte {row['offset']:,}: has damaged contents")
    assert "`python -m shards verify" in line
    assert summary.endswith("/s: 1 finding")
    assert f"is damaged, 1 finding in 1 shard, the first {SHARD}" in told.err.splitlines()[-1]
    assert run_door("shards", verbs, ["verify", str(split.parent), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert list(said) == ["split", "shards", "rows", "bytes", "seconds", "findings", "notes"]
    assert said["findings"][0] == dataclasses.asdict(check(split).findings[0])
    assert Finding(**said["findings"][0]).offset == row["offset"]
