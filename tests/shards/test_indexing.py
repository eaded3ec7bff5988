"""Indexing: any tars that stock webdataset reads, wherever they lie; and none that it would read in part."""

import gc
import gzip
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import isal_zlib

from shards import audio, format, kept, labels, walk
from shards.errors import DataError, UsageError
from shards.index import Pack, open_pack
from shards.indexing import index_shards
from shards.remote import Location
from shards.walk import read_header
from tests.conftest import serve

WAV = audio.encode(np.arange(-50, 50, dtype=np.int16), sample_rate=8000, codec="wav")
Members = list[tuple[str, bytes]]


def write_tar(path: Path, members: Members, *, kind: int = tarfile.USTAR_FORMAT, **fields) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as tar:
        for name, contents in members:
            info = tarfile.TarInfo(name)
            info.size = len(contents)
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(contents))
    return path


def two(**of_b: bytes) -> Members:
    """Two samples, of which the second has the members given, or a json and a wav."""
    second = of_b or {"json": b'{"x": 2}', "wav": WAV}
    return [("a.json", b'{"x": 1}'), ("a.wav", WAV), *((f"b.{name}", contents) for name, contents in second.items())]


def index(*places: str | Path, out: str | Path | None = None, split: str | None = None) -> Pack:
    return index_shards([str(place) for place in places], out=out, split=split)


def rows(pack: Pack) -> list[dict]:
    return pack.read().to_pylist()


def stored(pack: Pack, row: dict) -> bytes:
    with (pack.folder / row["shard"]).open() as file:
        return file.read_at(row["size"], row["offset"])


def columns(tmp_path: Path, *shards: list[dict | str]) -> dict[str, list]:
    """Index tars whose samples have these labels; return the label columns."""
    for number, told in enumerate(shards):
        texts = [one if isinstance(one, str) else json.dumps(one) for one in told]
        members = [[(f"{number}-{i}.json", text.encode()), (f"{number}-{i}.wav", WAV)] for i, text in enumerate(texts)]
        write_tar(tmp_path / f"train/{number}.tar", [member for sample in members for member in sample])
    found = index(tmp_path / "train").read()
    return {name: found[name].to_pylist() for name in found.column_names[7:]}


# What is indexed


def test_an_index_of_packed_tars_is_the_packers_own(data: Path, tmp_path: Path):
    shutil.copytree(data / "train", tmp_path / "train", ignore=shutil.ignore_patterns("index.parquet"))
    ours, theirs = index(tmp_path / "train"), open_pack(data, split="train")
    assert ours.fingerprint == theirs.fingerprint
    assert rows(ours) == rows(theirs)
    assert ours.classes == theirs.classes


def test_an_index_anew_keeps_how_the_tars_were_packed(data: Path, tmp_path: Path):
    shutil.copytree(data / "valid", tmp_path / "valid")
    assert index(tmp_path / "valid").options == open_pack(data, split="valid").options
    (tmp_path / "valid/index.parquet").write_bytes(b"PAR1 no more")
    assert index(tmp_path / "valid").options == {"indexed": True}


FOREIGN = [
    ("__index__", b"of the tar"), ("__meta__/a.wav", b"of the tar"), ("README", b"no sample's"), (".hidden", b"no key"),
    ("./a.JSON", b'{"x": 1}'), ("./a.seg.wav", b"no sound"), ("./a.WAV", WAV), ("./a.png", bytes(9999)),
    ("deep/v1.0/b.wav", WAV), ("deep/v1.0/b.cls", b"7\n"), ("deep/v1.0/b.txt", "ein Baß ".encode()),
    ("deep/v1.0/c.d.wav", b"no sound"), ("deep/v1.0/c.wav", WAV), ("ü.wav", WAV), ("x" * 180 + "/e.wav", WAV),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its tars open
@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_tars_of_others_are_grouped_as_stock_webdataset_does(tmp_path: Path, kind: int):
    members = FOREIGN[:-1] if kind == tarfile.USTAR_FORMAT else FOREIGN
    found = rows(index(write_tar(tmp_path / "train/some.tar", members, kind=kind)))
    stock = list(webdataset.WebDataset([str(tmp_path / "train/some.tar")], shardshuffle=False))
    gc.collect()
    assert [row["key"] for row in found] == [one["__key__"].removeprefix("./") for one in stock]
    assert [row["x"] for row in found] == [1, *[None] * (len(found) - 1)]
    assert [(row["cls"], row["txt"]) for row in found[:2]] == [(None, None), ("7", "ein Baß")]
    for row, one in zip(found, stock, strict=True):
        assert (row["length"], row["crc32"]) == (100, isal_zlib.crc32(one["wav"]))


def test_links_devices_and_folders_are_left_out_and_what_a_link_meant_is_missing(tmp_path: Path):
    path = write_tar(tmp_path / "train/some.tar", two())
    with tarfile.open(path, "a") as tar:
        for name, kind in (("c", tarfile.DIRTYPE), ("c.wav", tarfile.CHRTYPE), ("c.json", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, 0
            tar.addfile(info)
    assert [row["key"] for row in rows(index(path))] == ["a", "b"]
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("d.wav")
        info.type, info.linkname = tarfile.LNKTYPE, "a.wav"
        tar.addfile(info)
        tar.addfile(tarfile.TarInfo("d.txt"))
    with pytest.raises(DataError, match=r"some\.tar:d has no wav or flac \(it has txt\): unpack the tars and pack"):
        index(path)


def test_flac_is_indexed_by_its_samples(tmp_path: Path):
    sound = (np.sin(np.arange(2000) / 9) * 9000).astype(np.int16)
    flac = audio.encode(sound, sample_rate=16_000, codec="flac")
    pack = index(write_tar(tmp_path / "train/some.tar", [("a.cls", b"x"), ("a.flac", flac)]))
    assert (pack.codec, pack.sample_rate, rows(pack)[0]["length"]) == ("flac", 16_000, 2000)
    assert stored(pack, rows(pack)[0]) == flac


# Labels


def test_labels_get_one_type_over_all_shards(tmp_path: Path):
    first = [{"tags": [], "n": 1, "same": None}, {"tags": [], "n": 2, "late": True}]
    second = [{"tags": ["x"], "n": 0.5, "same": "s"}, {}]
    found = columns(tmp_path, first, second)
    assert found == {
        "tags": [[], [], ["x"], None],
        "n": [1.0, 2.0, 0.5, None],
        "same": [None, None, "s", None],
        "late": [None, True, None, None],
    }


@pytest.mark.parametrize("count", [1, 2, 3])
def test_batches_and_shards_agree_alike(tmp_path: Path, monkeypatch, count: int):
    monkeypatch.setattr("shards.indexing.BATCH_ROWS", count)
    told = [{"n": 1, "l": []}, {"n": None}, {"n": 2.5, "l": [1]}, {"l": [[2]], "new": "x"}]
    found = columns(tmp_path, told)
    assert found == {"n": [1, None, 2.5, None], "l": ["[]", None, "[1]", "[[2]]"], "new": [None, None, None, "x"]}


def test_objects_are_kept_as_json_and_nan_as_null(tmp_path: Path):
    found = columns(tmp_path, [{"o": {}, "f": 1.5}], [{"o": {"a": [float("nan")]}, "f": float("nan")}, {"o": None}])
    assert found == {"o": ["{}", '{"a": [null]}', None], "f": [1.5, None, None]}


def test_labels_by_the_names_of_the_index_are_renamed(tmp_path: Path):
    assert columns(tmp_path, [{"key": "C#", "length": 3}]) == {"label_key": ["C#"], "label_length": [3]}


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        (([{"x": 1}], [{"x": "one"}]), r"1\.tar has a label of a type that doesn't fit .*int64 vs string\): make them"),
        (([{"x": 1}, {"x": "one"}],), r"0\.tar has label 'x' of a type that doesn't fit others of its name"),
        (([{"x": [1, "a"]}],), r"0\.tar has label 'x' of a type that doesn't fit"),
        (([{"x": 2**53 + 1}], [{"x": 0.5}]), r"label 'x' of a type that doesn't fit .*9007199254740993 not in range"),
        (([{"x": 2**70}],), r"label 'x' of a type that doesn't fit others of its name \(.*too large"),
        ((['{"x": "\\ud800"}'],), r"label 'x' of a type that doesn't fit .*surrogates not allowed"),
        ((['{"x": Infinity}'],), r"0-0\.json can't be read as labels \(Infinity is no JSON\): make it anew"),
        ((['{"x": ' + "1" * 5000 + "}"],), r"can't be read as labels \(Exceeds the limit"),
        ((['{"x": ' + "[" * 9999 + "]" * 9999 + "}"],), r"can't be read as labels \(maximum recursion depth"),
        ((["[1, 2]"],), r"0-0\.json holds no JSON object but '\[1, 2\]': write one with a field a label"),
        (([{"": 1}],), r"has a label '', which can't name a column: rename it"),
        (([{"a\nb": 1}],), r"has a label 'a\\nb', which can't name a column"),
        (([{"key": 1, "label_key": 2}],), r"has a label 'key', which can't name a column"),
        (([{str(i): i for i in range(1001)}],), r"brings the labels to over 1,000 columns: keep what varies in a list"),
        (([{str(i): i} for i in range(501)], [{f"_{i}": i} for i in range(500)]), r"1\.tar brings the labels to over"),
        ((['{"x": "' + "y" * labels.MAX_BYTES + '"}'],), r"0-0\.json has 1,048,\d{3} bytes, over 1,048,576: cut it up"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)  # fmt: skip
def test_labels_that_no_column_holds_are_named(tmp_path: Path, shards, message: str):
    with pytest.raises(DataError, match=message) as caught:
        columns(tmp_path, *shards)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_labels_beyond_memory_are_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(kept, "MAX_CELLS", 5)
    with pytest.raises(
        DataError, match=r"0\.tar has 3 samples and 2 label columns, which no memory should hold at once"
    ):
        columns(tmp_path, [{"x": 1}, {"x": 2}, {"x": 3}], [{"y": 1}])
    monkeypatch.setattr("shards.indexing.MAX_LABEL_BYTES", 20)
    with pytest.raises(DataError, match=r"0\.tar holds over 20 bytes of labels: split it into smaller tars"):
        columns(tmp_path, [{"x": 1}, {"x": 2}, {"x": 3}])


# Sounds


def flac_of(length: int) -> bytes:
    """A FLAC whose header claims `length` samples."""
    found = bytearray(audio.encode(np.ones(100, np.int16), sample_rate=8000, codec="flac"))
    found[21] = found[21] & 0xF0 | length >> 32
    found[22:26] = (length & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(found)


def sound_file(**options) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, np.zeros((100, options.pop("channels", 1))), 8000, **options)
    return content.getvalue()


@pytest.mark.parametrize(
    ("member", "contents", "message"),
    [
        ("wav", audio.encode(np.ones(9, np.int16), sample_rate=44_100, codec="wav"), "must be 8000 for this pack"),
        ("wav", audio.encode(np.ones(9, np.int16), sample_rate=0, codec="wav"), r"b\.wav says sample_rate 0: pack it"),
        ("wav", sound_file(format="WAV", subtype="PCM_24"), r"b\.wav is a WAV with .*convert it to 16-bit PCM"),
        ("wav", sound_file(format="WAV", subtype="PCM_16", channels=2), r"channels must be 1, got 2 \(.*mix it down"),
        ("wav", WAV[:44], r"says it holds 200 bytes of sound but 0 are there: it is cut short"),
        ("wav", b"", r"b\.wav starts with b'', which is neither WAV nor FLAC"),
        ("flac", WAV, r"b\.flac holds wav, whatever its name says"),
        ("flac", sound_file(format="FLAC", subtype="PCM_16"), r"codec must be wav for this pack, got flac"),
        ("flac", flac_of(2**36 - 1), r"b\.flac (says it holds 68,719,476,735|holds 68,|gave 100) samples"),
        ("flac", flac_of(10**6), r"b\.flac: codec must be wav"),
        ("mp3", b"ID3", r"some\.tar:b has no wav or flac \(it has mp3\): unpack the tars and pack the files anew"),
    ],
)  # fmt: skip
def test_sounds_that_no_pack_holds_are_named(tmp_path: Path, member: str, contents: bytes, message: str):
    with pytest.raises(DataError, match=message) as caught:
        index(write_tar(tmp_path / "train/some.tar", two(**{member: contents})))
    assert "\n" not in str(caught.value)


def test_a_sample_has_one_sound_under_one_name(tmp_path: Path):
    flac = audio.encode(np.ones(100, np.int16), sample_rate=8000, codec="flac")
    with pytest.raises(DataError, match=r"some\.tar:b has audio twice, as wav and flac"):
        index(write_tar(tmp_path / "train/some.tar", two(wav=WAV, flac=flac)))
    with pytest.raises(DataError, match=r"some\.tar:a has two members 'wav', at byte 2,560 too"):
        index(write_tar(tmp_path / "train/some.tar", [("a.json", b"{}"), ("a.wav", WAV), ("a.WAV", WAV)]))


def test_a_flac_that_lies_about_its_length_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"a\.flac (gave 100 samples, not 1000000|can't be decoded)"):
        index(write_tar(tmp_path / "train/some.tar", [("a.flac", flac_of(10**6))]))


def test_keys_name_one_sample_in_the_whole_split(tmp_path: Path, monkeypatch):
    write_tar(tmp_path / "train/one.tar", two())
    write_tar(tmp_path / "train/two.tar", [("c.wav", WAV), ("a.wav", WAV)])
    with pytest.raises(DataError, match=r"keys stand there twice \('a' in .*two\.tar\): a key names one sample"):
        index(tmp_path / "train")
    write_tar(tmp_path / "train/two.tar", [("c.wav", WAV), ("d.wav", WAV)])
    monkeypatch.setattr(kept.xxhash, "xxh3_64_intdigest", lambda key: 7)  # equal hashes are no equal keys
    assert index(tmp_path / "train").rows == 4


# Damage


def header_of(path: Path, name: str) -> int:
    with tarfile.open(path) as tar:
        return tar.getmember(name).offset


def change(path: Path, at: int, new: bytes) -> None:
    whole = bytearray(path.read_bytes())
    whole[at : at + len(new)] = new
    path.write_bytes(whole)


def cut(path: Path, at: int) -> None:
    path.write_bytes(path.read_bytes()[:at])


PAX = tarfile.PAX_FORMAT
B, B_WAV = 2048, 3072  # where b's headers begin: a.json takes two blocks, a.wav three
DAMAGES = {
    "a bit of a header": (lambda p: change(p, B + 3, b"\x01"), r"a damaged header at byte 2,048, .*, after 'a\.wav'"),
    "zeros over a header": (lambda p: change(p, B, bytes(512)), r"end mark at byte 2,048, after 'a\.wav', and more"),
    "cut at a member": (lambda p: cut(p, B), r"ends without tar's end mark, as if it was cut \(2,048 bytes\)"),
    "cut inside a header": (lambda p: cut(p, B + 99), r"is cut inside a header \(2,147 bytes\), after 'a\.wav'"),
    "cut inside a sound": (lambda p: cut(p, B_WAV + 600), r"is cut inside 'b\.wav' \(156 of 244 bytes lack\)"),
    "cut in the padding": (lambda p: cut(p, B_WAV + 800), r"is cut inside a header|ends without tar's end mark"),
    "garbage": (lambda p: p.write_bytes(random.Random(0).randbytes(9999)), r"damaged header at byte 0, .*, at its beg"),
    "empty": (lambda p: p.write_bytes(b""), r"is empty \(0 bytes\), at its beginning"),
    "only an end": (lambda p: p.write_bytes(bytes(10240)), r"some\.tar holds no sample: leave it out"),
    "gzip": (lambda p: p.write_bytes(gzip.compress(os.urandom(999))), r"is compressed by gzip, .*: unpack"),
    "two tars end to end": (lambda p: p.write_bytes(p.read_bytes() * 2), r"end mark at byte 4,096, after 'b\.wav'"),
    "zeros to the end": (lambda p: p.write_bytes(p.read_bytes()[:B] + bytes(3 << 20)), r"ends 3,145,728 bytes before"),
    "a size of 8 GB": (lambda p: change(p, B, tar_header("b.json", 8**11 - 1)), r"is cut inside 'b\.json' \("),
    "a negative size": (lambda p: change(p, B, tar_header("b.json", -512)), r"a damaged header at byte 2,048"),
    "a sparse file": (lambda p: change(p, B, tar_header("b.json", 8, type=b"S")), r"'b\.json' as a sparse file"),
    "a pax bomb": (lambda p: write_tar(p, two(), kind=PAX, pax_headers={"comment": "x" * 70_000}),
                   r"has 70,015 bytes of extended header at byte 0, at its beginning"),
    "a sparse file of pax": (lambda p: write_tar(p, two(), kind=PAX, pax_headers={"GNU.sparse.major": "1"}),
                             r"holds 'a\.json' as a sparse file"),
    "a name that leads out": (lambda p: write_tar(p, [("../a.wav", WAV)]), r"has a member '\.\./a' that leads out"),
    "an absolute name": (lambda p: write_tar(p, [("/etc/a.wav", WAV)]), r"has a member '/etc/a' that leads out"),
    "a name that is no UTF-8": (lambda p: write_tar(p, [("\udcff.wav", WAV)]), r"'\\udcff' whose name is no"),
    "control characters": (lambda p: write_tar(p, [("a\x1b[2J.wav", WAV)]), r"has a key 'a\\x1b\[2J' with control"),
    "an endless name": (lambda p: write_tar(p, [("x" * 2000 + ".wav", WAV)], kind=tarfile.GNU_FORMAT),
                        r"has a key 'x{40}'\.\.\. of 2,000 bytes, over 1,024: rename it"),
}  # fmt: skip


def tar_header(name: str, size: int, **fields) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


@pytest.mark.parametrize("damage", DAMAGES, ids=str)
def test_a_tar_that_stock_readers_pass_in_part_is_refused(tmp_path: Path, damage: str):
    path = write_tar(tmp_path / "train/some.tar", two())
    assert (header_of(path, "b.json"), header_of(path, "b.wav")) == (B, B_WAV)
    work, message = DAMAGES[damage]
    work(path)
    with pytest.raises(DataError, match=rf"some\.tar.*{message}" if "some" not in message else message) as caught:
        index(path)
    assert "\n" not in str(caught.value)
    assert [one.name for one in path.parent.iterdir()] == ["some.tar"]


def test_a_sound_too_large_to_read_is_refused_unread(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(format, "MAX_SAMPLE_BYTES", 200)
    with pytest.raises(DataError, match=r"some\.tar:a\.wav has 244 bytes, over 200: cut it up, or leave it out"):
        index(write_tar(tmp_path / "train/some.tar", two()))
    monkeypatch.setattr(format, "MAX_SAMPLE_BYTES", 1 << 30)
    monkeypatch.setattr(audio, "MAX_POINTS", 99)
    with pytest.raises(DataError, match=r"a\.wav (says it )?holds 100 samples, over 99"):
        index(write_tar(tmp_path / "train/some.tar", two()))


def test_a_run_that_fails_leaves_an_older_index_alone(tmp_path: Path):
    path = write_tar(tmp_path / "train/some.tar", two())
    index(path)
    before = (tmp_path / "train/index.parquet").read_bytes()
    write_tar(path, two(txt=b"no sound"))
    with pytest.raises(DataError):
        index(path)
    assert (tmp_path / "train/index.parquet").read_bytes() == before
    assert len(list(path.parent.iterdir())) == 2


def test_each_byte_is_read_once(tmp_path: Path, monkeypatch):
    for number in range(3):
        write_tar(tmp_path / f"train/{number}.tar", [(f"{number}.wav", WAV), (f"{number}.png", bytes(5 << 20))])
    taken, take = [], walk.Tar.take

    def counted(tar: walk.Tar, size: int) -> bytes:
        data = take(tar, size)
        taken.append(len(data))
        return data

    monkeypatch.setattr(walk.Tar, "take", counted)
    pack = index(tmp_path / "train")
    assert (
        sum(taken)
        == sum(shard.bytes for shard in pack.shards)
        == sum(p.stat().st_size for p in tmp_path.rglob("*.tar"))
    )
    assert max(taken) <= walk.READ_BYTES


MEASURE = """
import resource, sys
from shards.indexing import index_shards
from tests.conftest import serve
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
index_shards(sys.argv[1:], out=None, split=None)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_holds_a_member_not_a_tar(tmp_path: Path):
    noise = audio.encode(np.random.default_rng(0).integers(-99, 99, 2_000_000, np.int16), sample_rate=8000, codec="wav")
    members = [(f"{i}.{name}", noise) for i in range(40) for name in ("wav", "png")]
    write_tar(tmp_path / "train/some.tar", members)  # 320 MB
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "train")], capture_output=True, text=True, check=True
    )
    assert int(ran.stdout) < 80_000, f"{ran.stdout} kB"


# Hostile mutations


def small_tar(kind: int) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=kind) as tar:
        flac = audio.encode(np.arange(40, dtype=np.int16), sample_rate=8000, codec="flac")
        for i, sound in enumerate((flac, flac, flac)):
            for name, contents in ((f"{'long/' * 30 * (i == 1)}k{i}.json", b'{"x": %d}' % i), (f"k{i}.flac", sound)):
                name = name if name.endswith("json") or i != 1 else "long/" * 30 + name
                info = tarfile.TarInfo(name)
                info.size = len(contents)
                tar.addfile(info, io.BytesIO(contents))
    return content.getvalue().rstrip(b"\0") + bytes(1024)


SMALL = [small_tar(kind) for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)]


HOW = ("flip", "set", "cut", "drop", "copy", "insert", "header", "checksum")
NAMES = ("k0.flac", "../k0.flac", "/k", "k9.json", "\udcff.flac", "k0.", "x" * 99)
KINDS = (b"0", b"\0", b"1", b"2", b"3", b"5", b"7", b"S", b"L", b"K", b"x", b"g", b"X", b"Z")
SIZES = (0, 8, 100, 513, 8**11 - 1, 1 << 60, -1, -(1 << 40))


def mutate(whole: bytearray, how: str, at: int, draw: random.Random) -> None:
    """Change a tar at a byte, or at the block that holds it."""
    at %= max(1, len(whole))
    block = at // 512 * 512
    if how == "flip" and whole:
        whole[at] ^= 1 << draw.randrange(8)
    elif how == "set":
        new = draw.randbytes(draw.randint(1, 12))
        whole[at : at + len(new)] = new
    elif how == "cut":
        whole[at:] = bytes(draw.choice((0, 0, 512, 1024)))
    elif how == "drop":
        del whole[block : block + 512 * draw.randint(1, 3)]
    elif how == "copy":
        start = draw.randrange(len(whole) + 1) // 512 * 512
        whole[block:block] = whole[start : start + 512]
    elif how == "insert":
        whole[at:at] = draw.randbytes(draw.randint(1, 600))
    elif how == "header":  # one that is whole in itself, and says something else
        new = tar_header(draw.choice(NAMES), draw.choice(SIZES), type=draw.choice(KINDS))
        whole[block : block + 512] = new
    elif len(whole) >= block + 512:  # a byte of a header, with a checksum that is right again
        whole[block + draw.randrange(148)] = draw.randrange(256)
        field = b"%06o\0 " % (sum(whole[block : block + 148]) + sum(whole[block + 156 : block + 512]) + 256)
        whole[block + 148 : block + 156] = field


def reference(content: bytes) -> list[tuple[str, bytes]]:
    """What stock webdataset reads of a tar: each sample's key and sound."""
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    files = ({**one, "__url__": ""} for one in tar_file_iterator(io.BytesIO(content)))
    return [(one["__key__"].removeprefix("./"), one["flac"]) for one in group_by_keys(files)]


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutated") / "train/some.tar"


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    base=st.sampled_from(range(len(SMALL))),
    changes=st.lists(st.tuples(st.sampled_from(HOW), st.integers(0, 1 << 14)), min_size=1, max_size=3),
    seed=st.integers(0, 1 << 32),
)
def test_whatever_befalls_a_tar_it_is_refused_or_read_as_stock_reads_it(shard: Path, base, changes, seed):
    whole, draw = bytearray(SMALL[base]), random.Random(seed)
    for how, at in changes:
        mutate(whole, how, at, draw)
    content = bytes(whole)
    shard.parent.mkdir(exist_ok=True)
    shard.write_bytes(content)
    try:
        pack = index(shard)
    except DataError as error:
        assert "\n" not in str(error)
        return
    found = [(row["key"], content[row["offset"] : row["offset"] + row["size"]]) for row in rows(pack)]
    assert found == reference(content)


def test_the_unmutated_tars_are_read(shard: Path):
    for content in SMALL:
        shard.parent.mkdir(exist_ok=True)
        shard.write_bytes(content)
        found = rows(index(shard))
        assert [(row["key"], content[row["offset"] : row["offset"] + row["size"]]) for row in found] == reference(
            content
        )
        assert [row["x"] for row in found] == [0, 1, 2]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    data=st.data(),
    size=st.sampled_from((0, 7, 128_044, 8**11 - 1, 8**11, 1 << 70)),
    prefix=st.sampled_from(("", "p/" * 60)),
)
def test_a_header_is_read_as_tarfile_reads_it(data: st.DataObject, size: int, prefix: str):
    kind = data.draw(
        st.sampled_from((tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT if size < 8**11 else tarfile.GNU_FORMAT))
    )
    info = tarfile.TarInfo(prefix + "näme.wav" if kind == tarfile.USTAR_FORMAT else "näme.wav")
    info.size, info.type = size, data.draw(st.sampled_from((b"0", b"\0", b"1", b"5", b"x")))
    block = bytearray(info.tobuf(kind, "utf-8")[-512:])
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, 511))
        block[at] = data.draw(st.sampled_from((0, 32, 47, 48, 55, 56, 65, 128, 255)))
    if data.draw(st.booleans()):  # a checksum that is right again
        block[148:156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256)
    found = read_header(bytes(block), longer={})
    try:
        wanted = tarfile.TarInfo.frombuf(bytes(block), "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        assert found is None
    else:
        assert (
            found is None
            if wanted.size < 0
            else (found.name, found.size, found.type) == (wanted.name, wanted.size, wanted.type)
        )


# Places


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    for number in range(3):
        write_tar(tmp_path / f"train/t-{number:06d}.tar", [(f"k{number}.wav", WAV), (f"k{number}.cls", b"%d" % number)])
    return tmp_path / "train"


def names(pack: Pack) -> list[str]:
    return [shard.name for shard in pack.shards]


def test_folders_globs_braces_and_lists_name_tars(tars: Path, monkeypatch):
    (tars / ".t-000009.tar").write_bytes(b"hidden")
    every = [f"t-{number:06d}.tar" for number in range(3)]
    assert names(index(tars)) == every
    assert names(index(tars / "t-*[02].tar")) == [every[0], every[2]]
    assert names(index(tars / "t-{000001..000002}.tar")) == every[1:]
    assert names(index(tars / "t-00000{2,0}.tar")) == [every[2], every[0]]
    assert names(index(tars / every[2], tars / "t-00000[01].tar")) == [every[2], *every[:2]]
    assert names(index(f"file://{tars}")) == every
    monkeypatch.chdir(tars.parent)
    assert index("train/../train").folder.path == tars
    (tars / every[0]).rename(tars / "t-{0,9}.tar")
    with pytest.raises(UsageError, match=r"t-\{0,9\}\.tar has a name that an index can't hold: use letters"):
        index(tars / "t-{0,9}.tar")


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ((), "no shards are named: give a folder with tars"),
        (("gone",), "gone is not there: give a folder with tars, or tars by name, glob or braces"),
        (("train/t-{000001..000005}.tar",), r"t-000003\.tar is not there"),
        (("train/x-*.tar",), r"x-\*\.tar fits no \.tar: give"),
        (("train/t-{1..2.tar",), r"has braces that don't close: write them as in \{000000"),
        (("train/t-{1..99999999999}.tar",), "names over 1,000,000 shards: index them as several splits"),
        (("empty",), r"empty holds no \.tar: give the folder with a split's shards"),
        (("train", "train/t-000001.tar"), r"t-000001\.tar is named twice: name each shard once"),
        (("train", "other"), r"must lie in one folder, got .*t-000000\.tar and .*other/o\.tar: index each by itself"),
        (("train/t.tar.gz",), r"t\.tar\.gz is compressed, and nothing can be read from the middle of it: unpack"),
        (("http://127.0.0.1:9/train",), r"can't be listed over http: name its tars, as in .*\{000000\.\.000012\}\.tar"),
        (("http://127.0.0.1:9/t-*.tar",), r"can't be listed over http: name its tars"),
        (("nope://x/y/t.tar",), r"nope://x/ can't be used"),
        (("a b/t.tar",), r"a b has a name that no split can have: give --out FOLDER and --split NAME"),
    ],
)
def test_places_that_name_no_split_are_refused(tars: Path, monkeypatch, places, message: str):
    write_tar(tars.parent / "other/o.tar", [("o.wav", WAV)])
    write_tar(tars.parent / "a b/t.tar", two())
    (tars.parent / "empty").mkdir()
    (tars / "t.tar.gz").write_bytes(b"")
    monkeypatch.chdir(tars.parent)
    with pytest.raises(UsageError, match=message):
        index(*places)


def test_an_index_may_lie_in_a_folder_of_its_own(tars: Path, tmp_path: Path):
    pack = index(tars, out=tmp_path / "out", split="dev")
    assert pack.folder.path == tars
    assert pack.split == "dev"
    assert [one.name for one in (tmp_path / "out/dev").iterdir()] == ["index.parquet"]
    assert not (tars / "index.parquet").exists()
    assert pack.fingerprint == open_pack(tmp_path / "out", split="dev").fingerprint == index(tars).fingerprint
    assert index(tars, out=tmp_path).folder == index(tars).folder  # which is where they lie
    with pytest.raises(
        UsageError, match=r"an index beside .*train is that of split 'train': give --out FOLDER for 'dev'"
    ):
        index(tars, split="dev")
    with pytest.raises(UsageError, match=r"split must be letters, digits, - and _, got '\.\./x'"):
        index(tars, out=tmp_path, split="../x")
    write_tar(tmp_path / "out/full/t.tar", two())
    with pytest.raises(UsageError, match=r"out/full holds tars of its own: give --out another folder, or --split"):
        index(tars, out=tmp_path / "out", split="full")


def test_tars_in_a_bucket_are_indexed_there_or_here(store: str, tars: Path, tmp_path: Path):
    there = store.replace("PATH", "indexed/train")
    for path in sorted(tars.iterdir()):
        (Location(there) / path.name).upload(path)
    (Location(there) / "notes.txt").write_bytes(b"no tar")
    here = index(tars)
    for place in (
        there,
        there.replace("train?", "train/t-*.tar?"),
        there.replace("train?", "train/t-{000000..000002}.tar?"),
    ):
        found = index(place)
        assert found.folder == Location(there)
        assert found.read().equals(here.read())
        assert found.fingerprint == here.fingerprint
    assert "index.parquet" in Location(there).children()
    assert not [name for name in Location(there).children() if "probe" in name]

    away = index(there, out=tmp_path / "away", split="dev")
    assert away.folder == Location(there)
    assert isal_zlib.crc32(stored(away, rows(away)[1])) == rows(away)[1]["crc32"]
    for place, message in (
        (
            there.replace("train?", "train/t-{000002..000004}.tar?"),
            r"2 of 3 shards .* \(s3://.*t-000003\.tar",
        ),
        (there.replace("train?", "empty?"), r"s3://.*empty.* holds no \.tar"),
        (there.replace("train?", "train/u-*.tar?"), r"fits no \.tar"),
    ):
        with pytest.raises(UsageError, match=message):
            index(place)
    with pytest.raises(UsageError, match="holds a password, which the index would tell: give it by the environment"):
        index(there.replace("s3://", "s3://user:secret@"), out=tmp_path / "secret")


def test_tars_on_a_website_are_indexed_here(tars: Path, tmp_path: Path):
    here = index(tars)
    with serve(tars.parent) as url:
        found = index(f"{url}/train/t-{{000000..000002}}.tar", out=tmp_path / "out")
        assert found.split == "train"
        assert found.folder == Location(f"{url}/train")
        assert found.read().equals(here.read())
        assert isal_zlib.crc32(stored(found, rows(found)[2])) == rows(found)[2]["crc32"]
        with pytest.raises(
            UsageError, match=r"no index can be written there, so give --out FOLDER for it: http.*can't be"
        ):
            index(f"{url}/train/t-000000.tar")
        with pytest.raises(UsageError, match=r"1 of 2 shards .*or can't be reached \(http://.*t-000003\.tar\): check"):
            index(f"{url}/train/t-00000{{2..3}}.tar", out=tmp_path / "none")
        cut(tars / "t-000001.tar", 700)
        with pytest.raises(DataError, match=r"http://.*t-000001\.tar is cut inside 'k1\.wav'"):
            index(f"{url}/train/t-000001.tar", out=tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(UsageError, match=r"1 of 1 shards are not there, or can't be reached \(http://.*: check"):
        index(f"{url}/train/t-000000.tar", out=tmp_path / "none")


def test_a_folder_that_is_read_only_is_told_before_a_tar_is_read(tars: Path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    monkeypatch.setattr(Location, "open", None)
    with pytest.raises(UsageError, match=r"no index can be written there, so give --out FOLDER for it: .*read-only"):
        index(tars)
