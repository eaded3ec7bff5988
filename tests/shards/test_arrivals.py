"""Every order of an archive gives the same notes; whatever else is in it, or broken, is one line; memory stays flat."""

import gzip
import io
import itertools
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from isal import igzip, isal_zlib

from shards import arrivals as module
from shards.arrivals import Examples, Note, arrivals
from shards.body import OFFICIAL, Official, open_body
from shards.errors import DataError
from shards.examples import read_examples
from shards.progress import Meter
from shards.remote import Location

ROOT = Path(__file__).resolve().parents[2]
NAME = "nsynth-valid.jsonwav.tar.gz"
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


@pytest.fixture(scope="module")
def members(notes: Path) -> dict[str, bytes]:
    """What an archive of nsynth-valid holds, in the order of a folder: examples.json last."""
    root = notes / "nsynth-valid"
    audio = {f"nsynth-valid/audio/{path.name}": path.read_bytes() for path in sorted(root.glob("audio/*.wav"))}
    return audio | {"nsynth-valid/examples.json": (root / "examples.json").read_bytes()}


def entry(name: str, *, size: int = 0, **fields) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def make_tar(members: dict[str, bytes], *more: tarfile.TarInfo, kind: str = "ustar", folders: bool = False) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=FORMATS[kind]) as tar:
        if folders:
            for name in ("nsynth-valid", "nsynth-valid/audio"):
                tar.addfile(entry(name, type=tarfile.DIRTYPE, mode=0o755))
        for name, data in members.items():
            tar.addfile(entry(name, size=len(data)), io.BytesIO(data))
        for info in more:
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    return out.getvalue()


def read(folder: Path, packed: bytes, *, threads: bool = False) -> list[Note | Examples]:
    path = folder / NAME
    path.write_bytes(packed)
    with open_body(Location(str(path))) as body:
        found = list(arrivals(body, threads=threads, progress=None))
        assert body.at == body.size
    return found


def read_tar(folder: Path, tar: bytes) -> list[Note | Examples]:
    return read(folder, igzip.compress(tar, compresslevel=0))


def plain(found: list[Note | Examples]) -> list:
    return [(x.key, x.data) if isinstance(x, Note) else x.manifest.to_pylist() for x in found]


def wanted(members: dict[str, bytes]) -> list:
    return [
        (Path(name).stem, data) if name.endswith(".wav") else read_examples([data], name="x").to_pylist()
        for name, data in members.items()
    ]


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("place", [0, 7, 17])
def test_no_place_of_examples_json_changes_what_arrives(tmp_path, members, place: int, threads: bool):
    names = [name for name in members if name.endswith(".wav")]
    names.insert(place, "nsynth-valid/examples.json")
    ordered = {name: members[name] for name in names}
    found = read(tmp_path, gzip.compress(make_tar(ordered, folders=True)), threads=threads)
    assert plain(found) == wanted(ordered)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("prefix", ["", "./"])
def test_no_format_of_tar_changes_what_arrives(tmp_path, members, kind: str, prefix: str):
    long = {} if kind == "ustar" else {f"nsynth-valid/audio/{'ü' * 150}.wav": b"long"}
    given = {prefix + name: data for name, data in (members | long).items()}
    assert plain(read_tar(tmp_path, make_tar(given, kind=kind, folders=True))) == wanted(members | long)


def test_what_gzip_allows_is_allowed(tmp_path, members):
    tar = make_tar(members)
    cuts = [0, 1, 700, 33_333, len(tar)]
    parts = b"".join(gzip.compress(tar[a:b]) for a, b in itertools.pairwise(cuts))
    for packed in (parts, parts + bytes(1000), gzip.compress(tar, 0), gzip.compress(tar + bytes(100_000))):
        assert plain(read(tmp_path, packed)) == wanted(members)


def test_what_macos_adds_is_passed_over(tmp_path, members):
    first = next(iter(members))
    added = {"._nsynth-valid": b"x" * 700, "nsynth-valid/.DS_Store": b"y" * 9000, first.replace("io/", "io/._"): b""}
    assert plain(read_tar(tmp_path, make_tar(added | members))) == wanted(members)


def test_progress_is_told_in_mib_of_the_body(tmp_path, members):
    data = np.random.default_rng(0).bytes(1 << 20)
    sound = {f"nsynth-valid/audio/{i}.wav": data for i in range(5)}
    path = tmp_path / NAME
    path.write_bytes(igzip.compress(make_tar(members | sound), compresslevel=0))
    meter = Meter("reading", total=0, unit="MB")
    with open_body(Location(str(path))) as body:
        assert sum(1 for _ in arrivals(body, threads=False, progress=meter)) == len(members) + 5
        assert meter.done == body.size >> 20 >= 5


NOT_OURS = "which is no part of NSynth: give an official archive"
STRANGERS = {
    "link": (entry("nsynth-valid/audio/l.wav", type=tarfile.SYMTYPE, linkname="/etc/passwd"), NOT_OURS),
    "hard link": (entry("nsynth-valid/audio/l.wav", type=tarfile.LNKTYPE, linkname="nsynth-valid/x"), NOT_OURS),
    "device": (entry("nsynth-valid/audio/d.wav", type=tarfile.CHRTYPE), NOT_OURS),
    "fifo": (entry("nsynth-valid/audio/f.wav", type=tarfile.FIFOTYPE), NOT_OURS),
    "sparse": (entry("nsynth-valid/audio/s.wav", type=tarfile.GNUTYPE_SPARSE), NOT_OURS),
    "continuous": (entry("nsynth-valid/audio/c.wav", type=tarfile.CONTTYPE), NOT_OURS),
    "unknown type": (entry("nsynth-valid/audio/u.wav", type=b"Z"), NOT_OURS),
    "macos link": (entry("nsynth-valid/._x", type=tarfile.SYMTYPE, linkname="x"), NOT_OURS),
    "absolute": (entry("/nsynth-valid/audio/a.wav"), NOT_OURS),
    "absolute folder": (entry("/tmp", type=tarfile.DIRTYPE), NOT_OURS),
    "above": (entry("../nsynth-valid/audio/a.wav"), NOT_OURS),
    "above in between": (entry("nsynth-valid/../audio/a.wav"), NOT_OURS),
    "folder above": (entry("nsynth-valid/..", type=tarfile.DIRTYPE), NOT_OURS),
    "macos above": (entry("../._x"), NOT_OURS),
    "other file": (entry("nsynth-valid/notes.txt"), NOT_OURS),
    "other folder": (entry("other/audio/x.wav"), NOT_OURS),
    "deeper": (entry("nsynth-valid/audio/x/y.wav"), NOT_OURS),
    "no name": (entry("nsynth-valid/audio/.wav"), NOT_OURS),
    "not utf-8": (entry("nsynth-valid/audio/\udcff.wav"), NOT_OURS),
    "line end": (entry("nsynth-valid/audio/x.wav\n"), NOT_OURS),
    "examples twice": (entry("./nsynth-valid/examples.json"), "' twice: give an official archive"),
}


@pytest.mark.parametrize("which", STRANGERS)
def test_what_is_no_part_of_nsynth_is_refused_by_name(tmp_path, members, which: str):
    info, told = STRANGERS[which]
    with pytest.raises(DataError) as error:
        read_tar(tmp_path, make_tar(members, info))
    message = str(error.value)
    assert f"{NAME} holds {info.name!r}" in message
    assert message.endswith(told)
    assert "\n" not in message


def test_a_note_twice_is_refused(tmp_path, members):
    first = next(iter(members))
    with pytest.raises(DataError, match=rf"{NAME} holds '{first}' twice: give an official archive"):
        read_tar(tmp_path, make_tar(members, entry(first)))


def header_of(name: str, *, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    return entry(name, size=size, type=kind).tobuf(tarfile.GNU_FORMAT)


def test_folders_hold_nothing_whatever_they_say(tmp_path, members):
    tar = header_of("nsynth-valid/", size=5000, kind=tarfile.DIRTYPE) + make_tar(members)
    assert plain(read_tar(tmp_path, tar)) == wanted(members)


PAX_SPARSE = b"22 GNU.sparse.major=1\n"


@pytest.mark.parametrize(
    ("tar", "told"),
    [
        (header_of("nsynth-x/audio/a.wav", size=(64 << 20) + 1), "says 'nsynth-x/audio/a.wav' has 67,108,865 bytes: g"),
        (header_of("nsynth-x/audio/a.wav", size=1 << 62), "has 4,611,686,018,427,387,904 bytes: give an official"),
        (header_of("nsynth-x/examples.json", size=(1 << 30) + 1), "has 1,073,741,825 bytes: give an official archive"),
        (header_of("nsynth-x/._a", size=1 << 40), "has 1,099,511,627,776 bytes: give an official archive"),
        (header_of("x", size=1 << 40, kind=tarfile.XHDTYPE), "has a header of 1,099,511,627,776 bytes: give an off"),
        (header_of("x", size=65_537, kind=tarfile.XGLTYPE), "has a header of 65,537 bytes: give an official archive"),
        (header_of("x", size=1 << 20, kind=tarfile.GNUTYPE_LONGNAME), "has a header of 1,048,576 bytes: give an off"),
        (
            header_of("x", size=22, kind=tarfile.XHDTYPE) + PAX_SPARSE.ljust(512, b"\0"),
            "holds a sparse file, which is no part of NSynth: give an official archive",
        ),
        (b"\x01" * 512, "is cut short or damaged (a header can't be read): fetch it anew and compare its md5"),
        (b"", "is cut short or damaged (the tar within ends early): fetch it anew and compare its md5"),
        (bytes(1024), "holds no nsynth-SPLIT/examples.json: give one of NSynth's jsonwav.tar.gz files"),
        (header_of("nsynth-x/audio/a.wav", size=9) + b"short", "(the tar within ends early, after 'nsynth-x/audio/a.w"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "tar",
)
def test_no_header_is_believed(tmp_path, tar: bytes, told: str):
    with pytest.raises(DataError) as error:
        read_tar(tmp_path, tar)
    assert f"{NAME} {told}" in str(error.value) or told in str(error.value)
    assert "\n" not in str(error.value)


def test_pax_sizes_hold_and_lying_ones_are_refused(tmp_path, members):
    def with_size(size: bytes) -> bytes:
        record = b"%d size=%s\n" % (len(size) + 9, size)
        pax = header_of("p", size=len(record), kind=tarfile.XHDTYPE) + record.ljust(512, b"\0")
        return pax + header_of("nsynth-valid/audio/pax.wav", size=0) + b"sound".ljust(512, b"\0")

    assert plain(read_tar(tmp_path, with_size(b"5") + make_tar(members)))[0] == ("pax", b"sound")
    for lie in (b"5x", b"-5"):
        with pytest.raises(DataError, match=r"is cut short or damaged \(a header can't be read"):
            read_tar(tmp_path, with_size(lie) + make_tar(members))
    with pytest.raises(DataError, match=r"says 'nsynth-valid/audio/pax\.wav' has 99,999,999,999 bytes"):
        read_tar(tmp_path, with_size(b"99999999999") + make_tar(members))


@pytest.mark.parametrize(
    ("break_examples", "told"),
    [
        (lambda text: text[: len(text) // 2], r"is not whole JSON .*: fetch or unpack it"),
        (lambda text: text.replace(b"pitch", b"pitsch", 1), r"note '.*' lacks pitch: NSynth's 13"),
        (lambda text: b" " * (1 << 20), r"holds a note, or blanks, of over 65,536 characters"),
    ],
)
def test_examples_json_is_checked_as_it_passes(tmp_path, members, break_examples: Callable, told: str):
    name = "nsynth-valid/examples.json"
    with pytest.raises(DataError, match=rf"{NAME}:nsynth-valid/examples\.json:? {told}"):
        read_tar(tmp_path, make_tar(members | {name: break_examples(members[name])}))


def test_gunzip_may_not_run_on(tmp_path, members, monkeypatch: pytest.MonkeyPatch):
    tar = make_tar(members)
    for rest in (bytes(2 << 20), bytes(30_000) + b"x", make_tar(members)):
        with pytest.raises(DataError, match=rf"{NAME} goes on after its tar's end: fetch it anew and compare its md5"):
            read_tar(tmp_path, tar + rest)
    silence = {f"nsynth-valid/audio/{i}.wav": bytes(1 << 20) for i in range(20)}
    packed = gzip.compress(make_tar(silence | members))
    assert len(read(tmp_path, packed)) == 20 + len(members)
    monkeypatch.setattr(module, "FREE_BYTES", 1 << 20)
    monkeypatch.setattr(module, "MAX_INFLATION", 3)
    for threads in (False, True):
        with pytest.raises(DataError, match=r"inflates .* bytes to over [0-9,]+, which no sound does: give an officia"):
            read(tmp_path, packed, threads=threads)


@pytest.mark.parametrize("threads", [False, True])
def test_a_cut_anywhere_is_told(tmp_path, members, threads: bool):
    packed = gzip.compress(make_tar(members), 1)
    for size in [*range(1, 40), *range(40, len(packed) - 12, 20_011), *range(len(packed) - 12, len(packed))]:
        with pytest.raises(DataError, match=rf"{NAME} is cut short or damaged \(.*\): fetch it anew and compare its"):
            read(tmp_path, packed[:size], threads=threads)


def test_a_wrong_checksum_is_told_after_the_last_note(tmp_path, members):
    packed = gzip.compress(make_tar(members), 1)
    crc, size = struct.unpack("<II", packed[-8:])
    for tail in (struct.pack("<II", crc ^ 1, size), struct.pack("<II", crc, size + 1)):
        with pytest.raises(DataError, match=r"is cut short or damaged \(.*, after 'nsynth-valid/examples\.json'\)"):
            read(tmp_path, packed[:-8] + tail)


def test_an_official_name_and_size_with_another_md5_is_refused(tmp_path, members, monkeypatch: pytest.MonkeyPatch):
    packed = gzip.compress(make_tar(members), 1)
    known = Official(md5="0" * 32, least_bytes=len(packed), most_bytes=len(packed))
    monkeypatch.setitem(OFFICIAL, NAME, known)
    with pytest.raises(DataError, match=rf"{NAME} has md5 .*, NSynth's own has 0+: fetch it anew"):
        read(tmp_path, packed)


@pytest.mark.parametrize("seed", range(6))
def test_a_mutated_archive_gives_a_data_error_or_its_notes(tmp_path, members, seed: int):
    rng = np.random.default_rng(seed)
    small = {name: data[:800] for name, data in members.items() if name.endswith(".wav")}
    tar = make_tar(small | {"nsynth-valid/examples.json": members["nsynth-valid/examples.json"]}, kind="pax")
    packed = gzip.compress(tar, 1)
    outcomes = {"told": 0, "read": 0}
    for i in range(60):
        bent = bytearray(packed if i % 2 else tar)
        for _ in range(rng.integers(1, 4)):
            at, count = int(rng.integers(len(bent))), int(rng.integers(1, 9))
            kind = rng.integers(3)
            bent[at : at + (0 if kind == 1 else count)] = b"" if kind == 2 else rng.bytes(count)
        try:
            found = read(tmp_path, bytes(bent) if i % 2 else igzip.compress(bent, 0))
        except DataError as error:
            outcomes["told"] += 1
            assert "\n" not in str(error)
        else:
            outcomes["read"] += 1
            assert sum(isinstance(x, Examples) for x in found) == 1
            assert len({x.key for x in found if isinstance(x, Note)}) == len(found) - 1
    assert outcomes["told"] > 40


CHILD = """
import resource, sys
import pyarrow as pa
from shards.arrivals import arrivals
from shards.body import open_body
from shards.errors import DataError
from shards.remote import Location

pa.array(["what pyarrow imports at its first use"])
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
told = ""
try:
    with open_body(Location(sys.argv[1])) as body:
        for arrival in arrivals(body, threads=sys.argv[2] == "1", progress=None):
            del arrival
except DataError as error:
    told = str(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024)
print(told)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "threads"), [("notes", "0"), ("notes", "1"), ("blanks", "0"), ("zeros after the end", "1")]
)
def test_memory_stays_flat(tmp_path, members, what: str, threads: str):
    pack = isal_zlib.compressobj(0, wbits=31)
    path, zeros = tmp_path / NAME, bytes(1 << 20)
    with path.open("wb") as out:
        if what == "notes":
            for i in range(1500):
                note = np.random.default_rng(i).bytes(64_000) + bytes(64_000)
                out.write(pack.compress(header_of(f"nsynth-valid/audio/{i}.wav", size=len(note)) + note))
            out.write(pack.compress(make_tar(members)))
        elif what == "blanks":
            out.write(pack.compress(header_of("nsynth-valid/examples.json", size=1 << 30)))
            for _ in range(1 << 8):
                out.write(pack.compress(b" " * len(zeros)))
        else:
            out.write(pack.compress(make_tar(members)))
            for _ in range(1 << 8):
                out.write(pack.compress(zeros))
        out.write(pack.flush())
    command = [sys.executable, "-c", CHILD, str(path), threads]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    peak_mb, told = done.stdout.split("\n")[:2]
    assert float(peak_mb) < 60
    assert ("" if what == "notes" else "holds a note, or blanks" if what == "blanks" else "goes on after") in told
    assert bool(told) == (what != "notes")
