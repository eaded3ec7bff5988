"""Folders of audio: layouts of known data sets pack and come back, types are kept, errors speak."""

import io
import json
import os
import pickle
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from shards import audio
from shards.errors import DataError, NotestreamError, UsageError
from shards.folders import list_audio, open_audio
from shards.index import Pack
from shards.index_file import PLACE
from shards.pack import pack
from shards.tables import read_names, read_table

RATE = 16_000


def wave(number: int = 0, *, length: int = 400, rate: int = RATE) -> np.ndarray:
    """A tone in [-0.5, 0.5], (length,) float64."""
    return 0.5 * np.sin(2 * np.pi * (220 + 40 * number) * np.arange(length) / rate)


def write(path: Path, points: np.ndarray | None = None, *, rate: int = RATE, **kind: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    points = wave(len(path.name)) if points is None else points
    soundfile.write(path, points, rate, **kind)
    return path


def pack_source(src: Path, out: Path, **options: Any) -> Pack:
    return pack(src, out, split="train", layout="folders", rows_per_shard=4, **options)


def stored(pack: Pack) -> dict[str, bytes]:
    rows = pack.read().to_pylist()
    return {
        row["key"]: (pack.folder.path / row["shard"]).read_bytes()[row["offset"] : row["offset"] + row["size"]]
        for row in rows
    }


def labels(pack: Pack) -> dict[str, dict[str, Any]]:
    return {row["key"]: {k: v for k, v in row.items() if k not in PLACE.names} for row in pack.read().to_pylist()}


def types(pack: Pack) -> dict[str, str]:
    return {field.name: str(field.type) for field in pack.schema if field.name not in PLACE.names}


def only(src: Path, **options: Any) -> tuple[audio.Header, np.ndarray]:
    """Read the one file of SRC/class as a shard would hold it."""
    source = open_audio(src, **options)
    (key,) = source.manifest["key"].to_pylist()
    header = audio.read_header(source.files.read(key), name=key)
    assert (header.channels, header.bits, header.sample_rate) == (1, 16, source.sample_rate)
    return header, audio.decode_pcm16(source.files.read(key), header=header)


def test_speech_commands_class_folders_round_trip(tmp_path: Path):
    src = tmp_path / "src"
    for i, name in enumerate(
        ("bed/0a7c_nohash_0", "bed/0a7c_nohash_1", "cat/0a7c_nohash_0", "cat/b/c_nohash_0", "dog/é")
    ):
        write(src / f"{name}.wav", wave(i))
    for other in ("README.md", "testing_list.txt", "bed/.hidden.wav", "__MACOSX/bed/._x.wav", ".git/x.wav"):
        (src / other).parent.mkdir(parents=True, exist_ok=True)
        (src / other).write_text("no audio")
    found = pack_source(src, tmp_path / "out")
    assert found.sample_rate == RATE
    assert found.classes["class"] == ("bed", "cat", "dog")
    assert types(found) == {"class": "string"}
    assert labels(found)["cat--b--c_nohash_0"] == {"class": "cat"}
    assert stored(found) == {
        str(path.relative_to(src).with_suffix("")).replace("/", "--"): path.read_bytes()
        for path in src.glob("[bcd]*/**/[!.]*.wav")
    }, "plain files are kept byte for byte"


def test_esc_50_table_round_trip(tmp_path: Path):
    src = tmp_path / "ESC-50"
    lines = ["filename,fold,target,category,esc10,src_file,take,gain,note"]
    for i in range(6):
        write(src / f"audio/{i % 5 + 1}-10003{i}-A-0.wav", wave(i))
        name = ("dog", "chirping_birds")[i % 2]
        note = ('"a bark, far off"', "")[i % 2]
        lines.append(f"{i % 5 + 1}-10003{i}-A-0.wav,{i % 5 + 1},{i % 2},{name},{i < 2},007,A,{i / 4},{note}")
    (src / "meta").mkdir()
    (src / "meta/esc50.csv").write_text("\ufeff" + "\n".join(lines) + "\n")
    found = pack_source(src, tmp_path / "out", table=Path("meta/esc50.csv"))
    assert types(found) == {
        "fold": "int64", "target": "int64", "category": "string", "esc10": "bool", "src_file": "string",
        "take": "string", "gain": "double", "note": "string",
    }  # fmt: skip
    assert found.classes["category"] == ("chirping_birds", "dog")
    assert labels(found)["1-100030-A-0"] == {
        "fold": 1, "target": 0, "category": "dog", "esc10": True, "src_file": "007", "take": "A", "gain": 0.0,
        "note": "a bark, far off",
    }  # fmt: skip
    assert labels(found)["2-100031-A-0"]["note"] is None
    assert stored(found)["1-100030-A-0"] == (src / "audio/1-100030-A-0.wav").read_bytes()
    beside = open_audio(src, table=src / "meta/esc50.csv")
    assert beside.identity == found.options["source"]


def test_fsd50k_labels_are_lists_in_every_split(tmp_path: Path):
    src = tmp_path / "FSD50K.dev_audio"
    for name in ("64760", "16399", "16401"):
        write(src / f"{name}.wav")
    table = tmp_path / "dev.csv"
    table.write_text('fname,labels,mids,split\n64760,"Electric_guitar,Music",/m/02,train\n16399,Bark,"/m/1,/m/2",val\n')
    found = pack_source(src, tmp_path / "out", table=table)
    assert types(found) == {"labels": "list<element: string>", "mids": "list<element: string>", "split": "string"}
    assert labels(found) == {
        "64760": {"labels": ["Electric_guitar", "Music"], "mids": ["/m/02"], "split": "train"},
        "16399": {"labels": ["Bark"], "mids": ["/m/1", "/m/2"], "split": "val"},
    }
    assert set(found.classes) == {"split"}
    table.write_text("fname,labels\n16401,Bark\n")
    assert read_table(table)[1].schema.field("labels").type == pa.list_(pa.string()), "also where no cell has a comma"


def test_names_of_a_private_folder_become_columns(tmp_path: Path):
    src = tmp_path / "src"
    for name in ("dog_anna_01", "dog_bo_12", "deep/er/cat_anna_03"):
        write(src / f"{name}.wav")
    found = pack_source(src, tmp_path / "out", label_from="{class}_{speaker}_{take}")
    assert labels(found) == {
        "dog_anna_01": {"class": "dog", "speaker": "anna", "take": "01"},
        "dog_bo_12": {"class": "dog", "speaker": "bo", "take": "12"},
        "deep--er--cat_anna_03": {"class": "cat", "speaker": "anna", "take": "03"},
    }
    whole = open_audio(src, label_from="{class}_{speaker}_{take:d}").manifest
    assert whole["take"].type == pa.int64()
    assert sorted(whole["take"].to_pylist()) == [1, 3, 12]


@pytest.mark.parametrize(
    ("file", "pattern", "fields"),
    [
        ("bed/0a7c_nohash_2.wav", "{class}/{speaker}_nohash_{n:d}", {"class": "bed", "speaker": "0a7c", "n": 2}),
        ("x/0_01_7.wav", "{digit}_{speaker}_{take}", {"digit": "0", "speaker": "01", "take": "7"}),
        ("a+b(1).wav", "{what}({n:d})", {"what": "a+b", "n": 1}),
        ("rec-[x]-^y.wav", "rec-[{a}]-^{b}", {"a": "x", "b": "y"}),
    ],
)
def test_a_pattern_is_text_but_for_its_fields(file: str, pattern: str, fields: dict[str, Any]):
    assert read_names([file], pattern=pattern).to_pylist() == [fields]


def test_a_pattern_takes_linear_time():
    pattern = "_".join(f"{{f{i}}}" for i in range(30)) + "!"
    begun = time.perf_counter()
    with pytest.raises(DataError, match="1 of 1 files don't fit"):
        read_names(["a_" * 120 + "b.wav"], pattern=pattern)
    assert time.perf_counter() - begun < 0.5


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_types_of_tables_that_have_them_are_kept(tmp_path: Path, kind: str):
    rows = [
        {"file_name": "audio/a.wav", "pitch": 60, "gain": 1, "name": "x", "tags": ["a"], "bins": [1, 2], "ok": True},
        {"file_name": "./audio/b", "pitch": None, "gain": 0.5, "name": "y", "tags": [], "bins": [], "ok": False},
    ]
    rows = [row | {"none": None} for row in rows]
    for name in "abc":
        write(tmp_path / f"src/audio/{name}.wav")
    table = tmp_path / f"metadata.{kind}"
    if kind == "jsonl":
        table.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    else:
        pq.write_table(pa.Table.from_pylist(rows), table)
    found = pack_source(tmp_path / "src", tmp_path / "out", table=table)
    assert types(found) == {
        "pitch": "int64", "gain": "double", "name": "string", "tags": "list<element: string>",
        "bins": "list<element: int64>", "ok": "bool", "none": "string",
    }  # fmt: skip
    wanted = {row["file_name"].removesuffix(".wav")[-1]: row for row in rows}
    assert labels(found) == {
        key: {name: value for name, value in row.items() if name != "file_name"} for key, row in wanted.items()
    }


def test_other_arrow_types_become_plain_ones(tmp_path: Path):
    columns = {
        "filename": pa.array([7, 8]),
        "family": pa.array(["a", "b"]).dictionary_encode(),
        "wide": pa.array(["a", "b"], pa.large_string()),
        "gain": pa.array([1.5, float("nan")], pa.float32()),
        "small": pa.array([1, 2], pa.int8()),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    files, found = read_table(tmp_path / "t.parquet")
    assert files == ["7", "8"]
    assert [str(kind) for kind in found.schema.types] == ["string", "string", "float", "int8"]
    assert found["gain"].to_pylist() == [1.5, None]


@pytest.mark.parametrize(
    ("name", "subtype"),
    [("x.wav", "PCM_24"), ("x.wav", "PCM_32"), ("x.wav", "FLOAT"), ("x.flac", "PCM_24"), ("x.aiff", "PCM_24")],
)
def test_deeper_kinds_are_rounded_to_16_bits(tmp_path: Path, name: str, subtype: str):
    deep = np.linspace(-(2**23), 2**23 - 1, 4001).astype(np.int32)  # 24 bits, from one end to the other
    write(tmp_path / "class" / name, deep / 2**23 if subtype == "FLOAT" else deep << 8, subtype=subtype)
    header, samples = only(tmp_path)
    assert header.codec == "wav"
    assert samples.tolist() == [min(round(int(value) / 256), 32767) for value in deep]


@pytest.mark.parametrize("name", ["x.aiff", "x.caf", "x.au", "x.WAV", "x.FLAC"])
def test_16_bit_kinds_are_kept_exactly(tmp_path: Path, name: str):
    whole = np.linspace(-32768, 32767, 4001).astype(np.int16)
    write(tmp_path / "class" / name, whole, subtype="PCM_16")
    header, samples = only(tmp_path)
    assert header.codec == ("flac" if name == "x.FLAC" else "wav")
    assert samples.tolist() == whole.tolist()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x.wav", {"subtype": "PCM_U8"}),
        ("x.ogg", {"subtype": "VORBIS"}),
        ("x.opus", {"format": "OGG", "subtype": "OPUS"}),
        ("x.mp3", {"subtype": "MPEG_LAYER_III"}),
    ],
)
def test_lossy_kinds_are_near(tmp_path: Path, name: str, kind: dict[str, str]):
    points = wave(3, length=4000)
    write(tmp_path / "class" / name, points, **kind)
    _, samples = only(tmp_path)
    assert len(samples) == 4000
    assert np.abs(samples / 32768 - points)[200:-200].max() < 0.05


def test_a_deeper_file_is_rounded_and_clipped(tmp_path: Path):
    write(tmp_path / "c/x.wav", np.array([1.5, -1.5, 1.0, 0.6 / 32768, -0.6 / 32768]), subtype="FLOAT")
    assert only(tmp_path)[1].tolist() == [32767, -32768, 32767, 1, -1]


def test_stereo_is_mixed_and_rates_are_changed_only_if_asked(tmp_path: Path):
    both = np.stack([wave(n, length=44_100, rate=44_100) * 32768 for n in (1, 9)], axis=1).astype(np.int16)
    write(tmp_path / "src/c/x.wav", both, rate=44_100)
    with pytest.raises(DataError, match=r"^channels must be 1, got 2 \(.*x\.wav\): pack with --mono to mix them down$"):
        only(tmp_path / "src")
    header, samples = only(tmp_path / "src", mono=True)
    assert header.sample_rate == 44_100
    np.testing.assert_array_equal(samples, np.rint(both.mean(axis=1)))
    header, samples = only(tmp_path / "src", mono=True, resample=RATE)
    assert len(samples) == RATE
    wanted = (wave(1, length=RATE) + wave(9, length=RATE)) / 2
    assert np.abs(samples / 32768 - wanted)[200:-200].max() < 1e-3

    write(tmp_path / "src/a/first.wav")
    with pytest.raises(DataError, match=r"^sample_rate must be 16000 for this pack, got 44100 \(.*x\.wav\): pack with "
                                        r"--resample 16000, or leave the file out$"):  # fmt: skip
        pack_source(tmp_path / "src", tmp_path / "out", mono=True)
    found = pack_source(tmp_path / "src", tmp_path / "out2", mono=True, resample=RATE)
    assert stored(found)["a--first"] == (tmp_path / "src/a/first.wav").read_bytes()


def test_resampling_without_soxr_is_refused_at_once(tmp_path: Path, monkeypatch):
    write(tmp_path / "c/x.wav")
    monkeypatch.setitem(__import__("sys").modules, "soxr", None)
    with pytest.raises(UsageError, match=r"^soxr, which .* is not installed: pip install 'notestream\[demo\]'$"):
        open_audio(tmp_path, resample=8000)


def cut(path: Path, **kind: str) -> None:
    points = wave(length=8000)
    write(path, points, **kind)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("x.wav", {}, "it is cut short"),
        ("x.wav", {"subtype": "PCM_24"}, "ends after .* samples: it is cut short, make it anew"),
        ("x.wav", {"subtype": "FLOAT"}, "ends after .* samples: it is cut short, make it anew"),
        ("x.aiff", {"subtype": "PCM_24"}, "ends after .* samples: it is cut short, make it anew"),
        ("x.flac", {"subtype": "PCM_24"}, "can't be decoded .*: make it anew, or as WAV"),
        ("x.mp3", {}, "ends after .* samples: it is cut short, make it anew"),
        ("x.opus", {"format": "OGG", "subtype": "OPUS"}, "can't be decoded .*: make it anew, or as WAV"),
    ],
)
def test_a_cut_file_is_named(tmp_path: Path, name: str, kind: dict[str, str], message: str):
    write(tmp_path / "a/first.wav")
    cut(tmp_path / "b" / name, **kind)
    with pytest.raises(DataError, match=message) as caught:
        open_audio(tmp_path).files.read("b--x")
    assert str(tmp_path / "b" / name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "BytesIO" not in str(caught.value)


def huge_flac(path: Path) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave(), RATE, format="FLAC")
    data = bytearray(buffer.getvalue())
    data[21:26] = bytes([data[21] | 0x0F]) + b"\xff\xff\xff\xff"  # 2**36 - 1 samples
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b"hello"), "can't be decoded .*: make it anew, or as WAV"),
        (lambda path: path.write_bytes(b""), "can't be decoded .*: make it anew, or as WAV"),
        (lambda path: path.write_bytes(audio.encode(np.empty(0, np.int16), sample_rate=RATE, codec="wav")),
         "length must be 1 to 134217728 samples in all channels, got 0 in 1 "),
        (lambda path: path.write_bytes(audio.encode(np.ones(9, np.int16), sample_rate=1, codec="wav")),
         r"sample_rate must be 16000 for this pack, got 1 "),
        (lambda path: write(path, np.array([0.0, np.nan]), subtype="FLOAT", format="WAV"), "not numbers"),
        (huge_flac, "length must be 1 to 134217728 samples"),
    ],
)  # fmt: skip
def test_files_that_are_no_notes_are_named(tmp_path: Path, make, message: str):
    write(tmp_path / "a/first.wav")
    (tmp_path / "b").mkdir()
    make(tmp_path / "b/x.wav")
    with pytest.raises(DataError, match=message) as caught:
        open_audio(tmp_path).files.read("b--x")
    assert str(tmp_path / "b/x.wav") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_low_rate_does_not_swell_when_it_is_resampled(tmp_path: Path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b/x.wav").write_bytes(audio.encode(np.ones(9_000, np.int16), sample_rate=1, codec="wav"))
    with pytest.raises(DataError, match="length must be 1 to 134217728 samples in all channels, got 9000 in 1"):
        open_audio(tmp_path, resample=RATE).files.read("b--x")


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ([], {}, r"source .* holds no audio files \(wav, .*\): give the folder that does"),
        (["c/x.wav", "y.wav"], {}, r"1 audio files lie in .* itself \('y\.wav'\), where a folder is a class: move"),
        (["c/x.wav", "c/x.flac"], {}, r"'c/x\.wav' and 'c/x\.flac' in .* both make the key 'c--x': rename one"),
        (["c/d--x.wav", "c/d/x.wav"], {}, r"'c/d/x\.wav' and 'c/d--x\.wav' in .* both make the key 'c--d--x'"),
        (["c/x.y.wav"], {}, r"1 hold a dot, slash or control character \('c--x\.y'\)\: rename"),
        (["c/x\ny.wav"], {}, r"1 hold a dot, slash or control character \('c--x\\ny'\)\: rename"),
        (["c/x\\y.wav"], {}, r"1 hold a dot, slash or control character"),
        (["c" * 60 + "/" + "x" * 60 + ".wav"], {}, r"1 are empty or over 95 bytes"),
        (["c/x.wav", "c/y.m4a"], {}, r"'c/y\.m4a' in .* is of a kind that can't be decoded here: make it FLAC or WAV"),
        (["a_1.wav", "b.wav", "c.wav"], {"label_from": "{class}_{take}"},
         r"2 of 3 files don't fit the pattern '\{class\}_\{take\}' \('b\.wav'\): mend the pattern, or rename"),
        (["dog_bark_anna_1.wav"], {"label_from": "{class}_{speaker}_{take}"}, r"1 of 1 files don't fit"),
        (["a_x.wav"], {"label_from": "{class}_{take:d}"}, r"1 of 1 files don't fit"),
        (["a.wav"], {"label_from": "class"}, r"label_from 'class' must hold fields such as \{class\} or \{take:d\}"),
        (["a.wav"], {"label_from": "{a!r}"}, r"must hold fields such as"),
        (["a.wav"], {"label_from": "{a.b}"}, r"must hold fields such as"),
        (["a.wav"], {"label_from": "{a}_{"}, r"must hold fields such as"),
        (["a.wav"], {"label_from": "{a}{b}"}, r"has two fields with nothing between them: put a character there"),
        (["a.wav"], {"label_from": "{a}_{a}"}, r"has two columns 'a': rename one"),
        (["a.wav"], {"label_from": "{key}"}, r"has a column 'key', a name that the index keeps for itself: rename it"),
        (["a.wav"], {"label_from": "{a}", "table": Path("t.csv")}, r"labels come from a table or from names, got"),
        (["a.wav"], {"resample": 0}, r"resample must be 1 to 1000000 Hz, got 0"),
    ],
)  # fmt: skip
def test_errors_speak(tmp_path: Path, files: list[str], options: dict[str, Any], message: str):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(audio.encode(np.ones(4, np.int16), sample_rate=RATE, codec="wav"))
    with pytest.raises(NotestreamError, match=message) as caught:
        open_audio(tmp_path, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "", r"has 0 file columns, not one \(its columns: none\): call the one with file names filename"),
        ("t.csv", "file,class\na,b\n", r"has 0 file columns, not one \(its columns: 'file', 'class'\)"),
        ("t.csv", "filename,fname\na,b\n", r"has 2 file columns, not one"),
        ("t.csv", "filename,class\n", r"has no rows: give a table with a row a file"),
        ("t.csv", "filename,class\na.wav\n", r"has 1 cells in line 2, 2 in its first: mend it"),
        ("t.csv", "filename,a,a\na.wav,1,2\n", r"has two columns 'a': rename one"),
        ("t.csv", "filename,\na.wav,1\n", r"has a column without a name, number 2: name it"),
        ("t.csv", "filename,length\na.wav,1\n", r"has a column 'length', a name that the index keeps for itself"),
        ("t.csv", 'filename,b\na.wav,"x\n', r"t\.csv can't be read \(unexpected end of data\)"),
        ("t.csv", b"filename,b\na.wav,\xe9\n", r"t\.csv can't be read \('utf-8' codec .*: write it anew as UTF-8"),
        ("t.csv", "filename,b\n,1\n", r"names no file in row 1: name one, or remove the row"),
        ("t.csv", "filename,b\na.wav,1\nb.wav,2\nc,3\n",
         r"2 of 3 rows of .*t\.csv name no audio file of .* \('b\.wav'\): fetch those files, or remove the rows"),
        ("t.csv", "filename,b\na.wav,1\naudio/d.wav,2\na,3\n", r"names 'a\.wav' in rows 1 and 3: remove one"),
        ("t.csv", "filename\n../a.wav\n", r"names '\.\./a\.wav' in row 1, which leads out of .*: name files beneath"),
        ("t.csv", "filename\n/etc/passwd\n", r"names '/etc/passwd' in row 1, which leads out of"),
        ("t.csv", "filename\ne\n", r"names 'e' in row 1, which may be 'e\.flac', 'e\.wav': write the extension too"),
        ("t.csv", "filename\nf.wav\naudio/f.wav\n", r"'audio/f\.wav' and 'f\.wav' in .* both make the key 'f'"),
        ("t.tsv", "filename\tb\na.wav\t1\t2\n", r"has 3 cells in line 2, 2 in its first"),
        ("t.jsonl", '{"filename": "a.wav"}\n{"filen', r"has no whole JSON in line 2 "),
        ("t.jsonl", "[1]\n", r"holds no JSON object in line 1: write one a line"),
        ("t.jsonl", '{"filename": "a.wav", "b": 1}\n{"filename": "d", "b": "x"}\n',
         r"column 'b' has values of more than one type \(.*\): mend it"),
        ("t.jsonl", '{"filename": "a.wav", "b": {"c": 1}}\n', r"column 'b' is of type struct.*: make it text, numbers"),
        ("t.jsonl", '{"filename": "a.wav", "b": [[1]]}\n', r"column 'b' is of type list.*: make it text, numbers"),
        ("t.jsonl", '{"filename": "a.wav", "b": "\\ud800"}\n', r"column 'b' has values of more than one type"),
        ("t.parquet", "PAR1 no", r"t\.parquet can't be read \("),
        ("t.xlsx", "PK", r"table .*t\.xlsx is of a kind that is not read: give a \.csv, \.tsv, \.jsonl, \.parquet"),
        ("none.csv", None, r"table .*none\.csv is not a file: give a \.csv"),
    ],
)  # fmt: skip
def test_tables_speak(tmp_path: Path, name: str, text: str | bytes | None, message: str):
    for file in ("a.wav", "audio/d.wav", "e.wav", "e.flac", "f.wav", "audio/f.wav"):
        write(tmp_path / "src" / file)
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(NotestreamError, match=message) as caught:
        open_audio(tmp_path / "src", table=tmp_path / name)
    assert "\n" not in str(caught.value)


def test_hostile_names_and_links_are_refused(tmp_path: Path):
    src = tmp_path / "src"
    write(src / "c/x.wav")
    secret = write(tmp_path / "secret.wav")

    def refused(message: str, made: Path) -> None:
        with pytest.raises(DataError, match=message) as caught:
            list_audio(src)
        str(caught.value).encode("ascii")
        assert "\n" not in str(caught.value)
        made.unlink()

    (src / "c/out.wav").symlink_to(secret)
    refused(r"'c/out\.wav' in .* is a link that leads out of it: put the file itself there", src / "c/out.wav")
    (src / "gone.wav").symlink_to(src / "nothing")
    refused(r"'gone\.wav' in .* is not a file, or a link to none: remove it", src / "gone.wav")
    (src / "loop").symlink_to(src)
    refused(r"'loop' in .* is a link to a folder: put the folder itself there", src / "loop")
    os.mkfifo(src / "c/pipe.wav")
    refused(r"'c/pipe\.wav' in .* is not a file", src / "c/pipe.wav")
    try:
        strange = Path(os.fsdecode(os.fsencode(src / "c") + b"/caf\xe9.wav"))
        strange.write_bytes(b"")
    except OSError:
        pass  # macOS and some disks refuse such names themselves
    else:
        refused(r"'c/caf\\udce9\.wav' in .* has a name that isn't UTF-8: rename it", strange)
    (src / "c/y.wav").symlink_to("x.wav")
    assert sorted(list_audio(src)) == ["c/x.wav", "c/y.wav"], "a link within SRC is a file like others"


def test_identity_is_of_the_content_and_not_of_its_place(tmp_path: Path):
    for name in ("c/x.wav", "d/y.wav"):
        write(tmp_path / "one" / name)
    first = open_audio(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two", copy_function=shutil.copyfile)
    (tmp_path / "two/notes.txt").write_text("no audio")
    assert open_audio(tmp_path / "two").identity == first.identity
    assert open_audio(tmp_path / "two", mono=True).identity != first.identity
    assert open_audio(tmp_path / "two", resample=8000).identity != first.identity
    write(tmp_path / "two/d/y.wav", wave(length=401))
    assert open_audio(tmp_path / "two").identity != first.identity
    (tmp_path / "one/d").rename(tmp_path / "one/e")
    assert open_audio(tmp_path / "one").identity != first.identity


def test_a_source_crosses_to_packing_processes_and_decodes_nothing_before(tmp_path: Path, monkeypatch):
    write(tmp_path / "a/x.wav")
    write(tmp_path / "b/y.wav", subtype="FLOAT")
    (tmp_path / "c").mkdir()
    (tmp_path / "c/broken.wav").write_bytes(b"RIFF")
    source = pickle.loads(pickle.dumps(open_audio(tmp_path)))
    assert source.manifest["key"].to_pylist() == ["a--x", "b--y", "c--broken"]
    assert source.files.read("b--y")[:4] == b"RIFF"


def test_listing_costs_little_a_file(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(1500):
            (tmp_path / name / f"{i}.wav").touch()
    begun = time.perf_counter()
    assert len(list_audio(tmp_path)) == 3000
    assert time.perf_counter() - begun < 1.0
