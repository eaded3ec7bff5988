"""fuzz_sources: a draw and a world -> one case of `pack`. A case tells whether its input was taken (see fuzz)."""

import csv
import gzip
import io
import json
import posixpath
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from shards.files import AudioFiles
from shards.folders import open_audio
from shards.index import Pack, open_pack
from shards.members import prepare
from shards.pack import pack
from shards.tables import read_names
from tests.shards.fuzz import (
    RATE,
    ROWS,
    SPLIT,
    Rng,
    World,
    attempt,
    check_left,
    contents,
    decode,
    describe_all,
    pick,
    read_rows,
    samples_of,
)  # fmt: skip
from tests.shards.mutations import bend, bend_gzip, bend_parquet, bend_text

ARCHIVE = f"nsynth-{SPLIT}.jsonwav.tar.gz"


def archive(rng: Rng, world: World, folder: Path) -> bool:
    """A tar.gz that is taken gives the tars of the folder that stock tools unpack it to."""
    path, dst = folder / ARCHIVE, folder / "dst"
    path.write_bytes(bend_gzip(rng, _tar(rng, world)))
    options = {"codec": pick(rng, "wav", "wav", "flac"), "rows_per_shard": ROWS}
    jobs = int(pick(rng, 1, 1, 2))
    done = attempt(lambda: pack(path, dst, split=SPLIT, jobs=jobs, **options), names=[path.name, "keys must be"])
    assert {one.name for one in folder.iterdir()} <= {path.name, "dst", "tmp"}
    if done is None:
        check_left(dst / SPLIT)
        return False
    with gzip.open(path) as file, tarfile.open(fileobj=io.BytesIO(file.read())) as members:
        members.extractall(folder / "src", filter="data")
    pack(folder / "src", folder / "other", split=SPLIT, **options)
    assert contents(dst).keys() == contents(folder / "other").keys()
    assert done.fingerprint == open_pack(folder / "other", split=SPLIT).fingerprint
    return True


def _tar(rng: Rng, world: World) -> bytes:
    """Make NSynth's tar, with examples.json anywhere, and often a note of another size than the rest."""
    names = [f"audio/{path.name}" for path in sorted((world.notes / "audio").iterdir())]
    odd = pick(rng, None, *names)
    names.insert(int(pick(rng, 0, 3, 6)), "examples.json")
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=pick(rng, tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT)) as out:
        for name in names:
            data = world.sounds["1-pcm16.wav"] if name == odd else (world.notes / name).read_bytes()
            info = tarfile.TarInfo(f"{world.notes.name}/{name}")
            info.size, info.mtime = len(data), 1.5  # which pax alone can hold
            out.addfile(info, io.BytesIO(data))
    return tar.getvalue()


def nsynth(rng: Rng, world: World, folder: Path) -> bool:
    """A folder of NSynth's with one file bent; mended, it gives the bytes that it always gave."""
    src, dst = folder / world.notes.name, folder / "dst"
    shutil.copytree(world.notes, src)
    victim = pick(rng, src / "examples.json", *sorted((src / "audio").iterdir()))
    bend_it = bend_text if victim.suffix == ".json" else bend
    victim.write_bytes(bend_it(rng, victim.read_bytes()))
    if beside := rng.integers(4) == 0:
        shutil.copytree(world.split, dst / "valid")
    done = attempt(
        lambda: pack(src, dst, split=SPLIT, rows_per_shard=ROWS),
        names=[src, victim.name, "keys must be", "sample_rate"],
    )
    if done is not None:
        for key, data in read_rows(done):
            assert data == (src / "audio" / f"{key}.wav").read_bytes()
            np.testing.assert_array_equal(samples_of(data), decode(src / "audio" / f"{key}.wav", sample_rate=RATE))
        told = json.loads((src / "examples.json").read_bytes())
        assert {row["note_str"]: row["pitch"] for row in done.read("note_str", "pitch").to_pylist()} == {
            key: note["pitch"] for key, note in told.items()
        }
    else:
        check_left(dst / SPLIT)
    if beside:
        assert contents(dst / "valid") == contents(world.split)
    if done is None and victim.suffix == ".wav":
        shutil.copy(world.notes / "audio" / victim.name, victim)
        pack(src, dst, split=SPLIT, rows_per_shard=ROWS)
        assert contents(dst / SPLIT) == contents(world.split)
    return done is not None


def sound(rng: Rng, world: World, folder: Path) -> bool:
    """A sound of any kind that is taken has the samples that soundfile gives; one that is cut has them all."""
    name = pick(rng, *world.sounds)
    whole, path = world.sounds[name], folder / name
    is_cut = rng.integers(3) == 0
    path.write_bytes(whole[: rng.integers(len(whole))] if is_cut else bend(rng, whole))
    mono, resample, rate = bool(rng.integers(4)), bool(rng.integers(2)), int(pick(rng, RATE, RATE, RATE, 8000))
    codec = pick(rng, "wav", "wav", "flac")
    files = AudioFiles(folder, {"x": name}, rate, mono, resample)
    found = attempt(lambda: prepare(files.read("x"), sample_rate=rate, codec=codec, name=files.name("x")), names=[path])
    if found is None:
        return False
    np.testing.assert_array_equal(samples_of(found[0]), found[1])
    try:
        wanted = decode(path, sample_rate=rate)
    except soundfile.LibsndfileError:  # it refuses a WAV with a chunk of a strange name, which RIFF has passed over
        assert name.endswith(".wav")
        assert found[1].tobytes() in path.read_bytes()
        return True
    np.testing.assert_array_equal(found[1], wanted, err_msg=name)
    if is_cut:
        path.write_bytes(whole)
        np.testing.assert_array_equal(found[1], decode(path, sample_rate=rate), err_msg=f"{name} was cut")
    return True


def folders(rng: Rng, world: World, folder: Path) -> bool:
    """Class folders with one sound bent, packed whole; mended at the same size, the bytes are as if it never was."""
    src, dst = folder / "src", folder / "dst"
    mono, resample = bool(rng.integers(4)), pick(rng, None, 16_000, 8000)
    for number in range(5):
        name = pick(rng, *world.sounds)
        (src / f"c{number % 2}").mkdir(parents=True, exist_ok=True)
        (src / f"c{number % 2}" / f"{number}-{name.replace('.', '_', name.count('.') - 1)}").write_bytes(
            world.sounds[name]
        )
    victim = pick(rng, *sorted(src.rglob("*.*")))
    whole = victim.read_bytes()
    victim.write_bytes(bend(rng, whole) if rng.integers(4) else whole)

    def work(out: Path) -> Pack:
        return pack(src, out, split=SPLIT, rows_per_shard=2, mono=mono, resample=resample, layout="folders")

    done = attempt(lambda: work(dst), names=[src])
    if done is None:
        check_left(dst / SPLIT)
        same_size = victim.stat().st_size == len(whole)
        victim.write_bytes(whole)
        clean = attempt(lambda: work(folder / "clean"), names=[src])
        again = attempt(lambda: work(dst), names=[src, dst]) if same_size else None
        assert not (clean and again) or contents(dst) == contents(folder / "clean")
        return False
    paths = {path.relative_to(src).with_suffix("").as_posix().replace("/", "--"): path for path in src.rglob("*.*")}
    for key, data in read_rows(done):
        np.testing.assert_array_equal(samples_of(data), decode(paths[key], sample_rate=done.sample_rate))
    return True


TABLE = b"""filename,class,fold,take,loud,tags,caption
a.wav,dog,1,007,0.5,"x,y","a dog, barking"
b.wav,cat,2,008,1.5,,
c.wav,dog,3,010,-2e3,z,"true"
"""
ROWS_JSON = b"""{"file_name": "a.wav", "class": "dog", "fold": 1, "loud": 0.5, "tags": ["x", "y"], "ok": true}
{"file_name": "b.wav", "class": "cat", "fold": 2, "loud": 1.5, "tags": [], "ok": false}
{"file_name": "c.wav", "class": null, "fold": 3, "loud": -2, "tags": ["z"], "ok": null}
"""
ROWS_PARQUET = pa.table({
    "filename": ["a.wav", "b.wav", "c.wav"], "class": ["dog", "cat", None], "fold": [1, 2, 3], "tags": [["x"], [], None]
})  # fmt: skip


def table(rng: Rng, world: World, folder: Path) -> bool:
    """A table of any kind that is taken gives each file the labels of its row, in the pack too."""
    src, kind = folder / "src", pick(rng, "csv", "tsv", "jsonl", "parquet")
    (src / "audio").mkdir(parents=True)
    for name in ("a", "b", "audio/c"):
        (src / f"{name}.wav").write_bytes(world.sounds["1-pcm16.wav"])
    path = folder / f"meta.{kind}"
    if kind == "parquet":
        pq.write_table(ROWS_PARQUET, path)
        path.write_bytes(bend_parquet(rng, path.read_bytes()))
    else:
        text = {"csv": TABLE, "tsv": TABLE.replace(b",", b"\t"), "jsonl": ROWS_JSON}[kind]
        path.write_bytes(bend_text(rng, text))
    rename = bool(rng.integers(2))
    found = attempt(
        lambda: open_audio(src, table=path, rename_keys=rename), names=[path, src, "keys must be", "rename_keys"]
    )
    if found is None:
        return False
    labels = found.manifest.drop_columns(["key"])
    labels = labels.drop_columns(["original_key"]) if rename else labels
    if kind in ("csv", "tsv"):
        cells = list(
            csv.reader(
                io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), delimiter="," if kind == "csv" else "\t"
            )
        )
        rows = [dict(zip(cells[0], row, strict=True)) for row in cells[1:] if row]
        for row, said in zip(rows, labels.to_pylist(), strict=True):
            assert all(_same_cell(row[name], value) for name, value in said.items()), (row, said)
    if rng.integers(3) == 0:
        done = attempt(
            lambda: pack(src, folder / "dst", split=SPLIT, table=path, rename_keys=rename), names=[path, src]
        )
        assert done is not None
        stored = {row.pop("key"): row for row in done.read("key", *found.manifest.column_names[1:]).to_pylist()}
        assert stored == {row.pop("key"): row for row in found.manifest.to_pylist()}
        describe_all(done)
    return True


def _same_cell(cell: str, value: object) -> bool:
    if isinstance(value, list):
        return value == [part.strip() for part in cell.split(",") if part.strip()]
    if value is None or isinstance(value, str):
        return cell == (value or "")
    return cell.lower() == str(value).lower() if isinstance(value, bool) else float(cell) == float(value)


def pattern(rng: Rng, world: World, folder: Path) -> bool:
    """Labels read off a name, put into the pattern again, give the name."""
    asked = bend_text(rng, b"{class}_{speaker}-{take:d}/x{n}").decode("utf-8", "replace")
    asked = asked if rng.integers(3) else pick(rng, "{class}_{take:d}", "{a}-{b}-{c}", "{class}/{x}", "v{n:d}.{rest}")
    texts = ("a", "dog", "7", "007", "x_y", "-", "ü", "", "a.b", "1" * 30)
    files = [re.sub(r"\{[^}]*\}", lambda _: pick(rng, *texts), asked) + ".wav" for _ in range(2)]
    files += [bend(rng, files[0].encode()).decode("utf-8", "replace")] * int(rng.integers(2))
    found = attempt(lambda: read_names(files, pattern=asked), names=[repr(asked)])
    if found is None:
        return False
    for file, labels in zip(files, found.to_pylist(), strict=True):
        stem = posixpath.splitext(file)[0]
        shape = "".join(
            re.escape(part)
            if at % 2 == 0
            else f"0*{labels[part[:-2]]}"
            if part.endswith(":d")
            else re.escape(labels[part])
            for at, part in enumerate(re.split(r"\{([^{}]*)\}", asked))
        )
        assert re.search(f"(?:^|/){shape}$", stem), (asked, file, labels)
    return True


CASES = (archive, nsynth, sound, folders, table, pattern)
