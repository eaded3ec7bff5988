"""Archives: one pass in any order gives the folder's tars to the byte, through kills, odd sizes, names and URLs."""

import functools
import http.server
import json
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shards import audio, deal, gaps
from shards.errors import DataError, UsageError
from shards.index import open_pack
from shards.pack import pack
from tests.conftest import write_notes

SPLIT = "train"


def make_archive(folder: Path, *, order: str = "first", leave_out: str = "") -> Path:
    """An NSynth tar.gz of FOLDER, beside it, with examples.json where asked."""
    names = sorted(f"audio/{path.name}" for path in (folder / "audio").iterdir())
    names.insert({"first": 0, "middle": len(names) // 2, "last": len(names)}[order], "examples.json")
    out = folder.parent / f"{order}.tar.gz"
    with tarfile.open(out, "w:gz", compresslevel=1) as tar:
        for name in names:
            if name != leave_out:
                tar.add(folder / name, arcname=f"{folder.name}/{name}")
    return out


def made(data: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (data / SPLIT).iterdir() if path.suffix == ".tar"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Notes of which every fifth has another size."""
    root = write_notes(tmp_path, split=SPLIT, count=40, length=2000, families=4)
    for path in sorted((root / "audio").iterdir())[::5]:
        path.write_bytes(audio.encode(np.arange(900, dtype=np.int16), sample_rate=16_000, codec="wav"))
    return root


@pytest.mark.parametrize("order", ["first", "middle", "last"])
@pytest.mark.parametrize("options", [{}, {"jobs": 2}, {"codec": "flac"}, {"limit": 13}, {"order": "source"}], ids=str)
def test_an_archive_gives_the_folders_tars(folder: Path, tmp_path: Path, order: str, options):
    pack(folder, tmp_path / "folder", split=SPLIT, rows_per_shard=7, **options)
    archive = make_archive(folder, order=order)
    pack(archive, tmp_path / "archive", split=SPLIT, rows_per_shard=7, **options)
    assert made(tmp_path / "archive") == made(tmp_path / "folder")
    ours, theirs = (open_pack(tmp_path / name, split=SPLIT) for name in ("archive", "folder"))
    assert ours.read().equals(theirs.read())
    assert not list((tmp_path / "archive").rglob("*.tmp"))
    assert not (tmp_path / "archive" / SPLIT / ".packing").exists()


def test_what_is_selected_is_all_that_is_read(folder: Path, tmp_path: Path):
    where = ["instrument_source_str=acoustic", "instrument_family_str=bass,flute"]
    ours = pack(make_archive(folder, order="last"), tmp_path / "archive", split=SPLIT, where=where)
    theirs = pack(folder, tmp_path / "folder", split=SPLIT, where=where)
    assert ours.fingerprint == theirs.fingerprint
    assert 0 < ours.rows < 40
    assert set(ours.read("instrument_family_str").column(0).to_pylist()) == {"bass", "flute"}
    assert set(ours.read("instrument_source_str").column(0).to_pylist()) == {"acoustic"}


@pytest.mark.parametrize("order", ["first", "last"])
def test_a_kill_costs_no_whole_tar(folder: Path, tmp_path: Path, monkeypatch, order: str):
    archive = make_archive(folder, order=order)
    pack(archive, tmp_path / "whole", split=SPLIT, rows_per_shard=7)
    publish, count = gaps.Gaps._close, 0

    def interrupted(self, number):
        nonlocal count
        if (count := count + 1) == 3:
            raise KeyboardInterrupt
        return publish(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(gaps.Gaps, "_close", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pack(archive, tmp_path / "out", split=SPLIT, rows_per_shard=7)
    assert not list((tmp_path / "out").rglob("*.tmp")), "nothing half-written stays"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / SPLIT).glob("*.tar")}
    assert 0 < len(before) < 6
    (tmp_path / "out" / SPLIT / ".packing/train-000005.tar.gaps.tmp").write_bytes(b"as SIGKILL leaves it")
    pack(archive, tmp_path / "out", split=SPLIT, rows_per_shard=7)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items()), "whole tars were written again"
    assert made(tmp_path / "out") == made(tmp_path / "whole")


def test_a_note_that_never_comes_is_named(folder: Path, tmp_path: Path):
    missing = sorted((folder / "audio").iterdir())[7].name
    archive = make_archive(folder, leave_out=f"audio/{missing}")
    with pytest.raises(DataError, match=rf"1 notes of examples\.json have no audio in first\.tar\.gz \({missing}\)"):
        pack(archive, tmp_path / "out", split=SPLIT)
    assert not (tmp_path / "out" / SPLIT).exists()


def test_keys_are_mended_and_their_originals_kept(folder: Path, tmp_path: Path):
    for path in list((folder / "audio").glob("bass_*")):
        path.rename(path.with_name(path.name.replace("bass_", "bass.")))
    text = (folder / "examples.json").read_text()
    examples = {key.replace("bass_", "bass."): note for key, note in json.loads(text).items()}
    for key, note in examples.items():
        note["note_str"] = key
    (folder / "examples.json").write_text(json.dumps(examples))
    archive = make_archive(folder)
    for src in (folder, archive):
        with pytest.raises(DataError, match=r"10 hold a dot, .*: rename those files, or pack with --rename-keys"):
            pack(src, tmp_path / "out", split=SPLIT)
        assert not (tmp_path / "out" / SPLIT).exists()
    ours = pack(archive, tmp_path / "archive", split=SPLIT, rename_keys=True)
    theirs = pack(folder, tmp_path / "folder", split=SPLIT, rename_keys=True)
    assert ours.fingerprint == theirs.fingerprint
    rows = ours.read("key", "original_key", "note_str").to_pylist()
    assert {row["original_key"] for row in rows} == set(examples)
    assert all(row["key"] == row["original_key"].replace(".", "_") for row in rows)
    assert all(row["note_str"] == row["original_key"] for row in rows)


def test_a_disk_that_is_too_small_is_refused_at_once(folder: Path, tmp_path: Path, monkeypatch):
    archive = make_archive(folder)
    usage = functools.partial(deal.shutil.disk_usage, tmp_path)()._replace(free=100)
    monkeypatch.setattr(deal.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UsageError, match=r"first\.tar\.gz needs about [\d,]+ bytes at .* 100 are free: make room"):
        pack(archive, tmp_path / "out", split=SPLIT)
    assert not (tmp_path / "out" / SPLIT).exists()


class _Breaking(http.server.SimpleHTTPRequestHandler):
    """A web server that knows ranges and breaks off after 30 kB where it is asked for all the rest."""

    ranges: list[str | None]

    def do_GET(self) -> None:
        whole = Path(self.translate_path(self.path)).read_bytes()
        asked = self.headers["Range"]
        self.ranges.append(asked)
        first, _, last = (asked or "bytes=0-").removeprefix("bytes=").partition("-")
        part = whole[int(first) : int(last) + 1 if last else None]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(whole)}")
        self.send_header("ETag", '"one"')
        self.end_headers()
        self.wfile.write(part if last else part[:30_000])

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def website(tmp_path: Path) -> Iterator[tuple[str, list[str | None]]]:
    ranges: list[str | None] = []
    handler = type("Handler", (_Breaking,), {"ranges": ranges})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", ranges
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_archive_at_a_url_that_breaks_off_is_packed_all_the_same(folder: Path, tmp_path: Path, website):
    url, ranges = website
    archive = make_archive(folder)
    assert archive.stat().st_size > 60_000
    pack(folder, tmp_path / "folder", split=SPLIT)
    pack(f"{url}/{archive.name}", tmp_path / "out", split=SPLIT)
    assert made(tmp_path / "out") == made(tmp_path / "folder")
    assert any(asked and asked.startswith("bytes=30000-") for asked in ranges), "went on where it broke"
    again = len(ranges)
    pack(archive, tmp_path / "out", split=SPLIT)
    assert len(ranges) == again, "the same archive on a disk is the same source: nothing to do"


def test_a_finished_pack_is_not_read_again(folder: Path, tmp_path: Path, monkeypatch):
    archive = make_archive(folder)
    pack(archive, tmp_path / "out", split=SPLIT)

    def fail(*args, **kwargs):
        raise AssertionError("nothing is to be read")

    monkeypatch.setattr(deal, "arrivals", fail)
    assert pack(archive, tmp_path / "out", split=SPLIT).rows == 40
    with pytest.raises(UsageError, match="already holds a pack with source"):
        pack(folder, tmp_path / "out", split=SPLIT)
