"""Data and runs at URLs, on a real S3 server (moto's): the same rows, and a run that goes on from the bucket."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest
import torch

from shards import remote
from shards.errors import DataError, UsageError
from shards.index import open_pack
from shards.remote import BLOCK_BYTES, Location, locate
from streaming.loader import Loader
from tests.conftest import serve
from tests.trainers.runs import launch_until
from trainers import checkpoint, sync
from trainers.config import TrainConfig
from trainers.launch import launch
from trainers.options import ModelConfig
from trainers.run import Run, open_run_at


@pytest.fixture(scope="module")
def bucket(store: str, data: Path) -> str:
    """A bucket that holds the pack under data/; its URL takes a path before the query."""
    filesystem, path = Location(at(store, "data")).resolve()
    pafs.copy_files(str(data), path, destination_filesystem=filesystem)
    return store


def at(bucket: str, path: str) -> str:
    return bucket.replace("PATH", path)


def test_a_remote_pack_gives_the_same_rows(bucket: str, data: Path):
    options = {"batch_size": 16, "seed": 1, "label": "instrument_family_str", "crop_seconds": 0.5}
    local = [batch.clone() for batch in Loader(open_pack(data, split="train"), **options)]
    remote = Loader(open_pack(at(bucket, "data"), split="train"), **options)
    for ours, theirs in zip(remote, local, strict=True):
        assert ours.key == theirs.key
        assert torch.equal(ours.waveform, theirs.waveform)
    remote.close()
    assert remote.packs[0].fingerprint == open_pack(data, split="train").fingerprint


def test_a_file_url_is_a_path(data: Path):
    pack = open_pack(f"file://{data}", split="valid")
    assert pack.fingerprint == open_pack(data, split="valid").fingerprint
    assert pack.rows == 17


def test_what_is_not_there_is_named(bucket: str, data: Path):
    with pytest.raises(UsageError, match=r"split 'dev' is not in s3://.* \(it holds the splits test, train, valid\)"):
        open_pack(at(bucket, "data"), split="dev")
    with pytest.raises(UsageError, match=r"nope://x/ can't be used .*: take a path, s3://"):
        open_pack("nope://x/y", split="train")
    with pytest.raises(DataError, match=r"can't be read .*: check the address, the credentials and the network"):
        Location(f"file://{data}/nothing.tar").open()


@pytest.mark.parametrize("kind", ["folder", "file url", "bucket"])
def test_what_is_written_is_read_back_and_removed_wherever_it_lies(bucket: str, tmp_path: Path, kind: str):
    places = {"folder": str(tmp_path / "new"), "file url": f"file://{tmp_path}/new", "bucket": at(bucket, "new")}
    root = locate(places[kind])
    (tmp_path / "big").write_bytes(bytes(range(256)) * 9000)
    (root / "deep/er/small.gz").write_bytes(b"one")
    (root / "deep/er/small.gz").write_bytes(b"two")  # replaces; .gz isn't compressed once more
    (root / "deep/big").upload(tmp_path / "big")
    (root / "deep/big").upload(tmp_path / "big")
    assert root.children() == ["deep"]
    assert (root / "deep").children() == ["big", "er"]
    assert (root / "deep/er/small.gz").read_bytes() == b"two"
    assert (root / "deep/big").read_bytes() == (tmp_path / "big").read_bytes()
    for _ in range(2):  # what isn't there is removed already
        (root / "deep/big").remove()
        assert (root / "deep").children() == ["er"]
    for _ in range(2):
        (root / "deep").remove_tree()
        assert root.children() == []


def test_a_write_that_fails_on_a_disk_leaves_what_stood_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place = locate(tmp_path / "new/file")
    place.write_bytes(b"kept")
    (tmp_path / "big").write_bytes(bytes(3 * BLOCK_BYTES))

    def lost(*args):
        raise OSError("disk on fire")

    monkeypatch.setattr(Path, "replace", lost)
    for write in (lambda: place.upload(tmp_path / "big"), lambda: place.write_bytes(b"other")):
        with pytest.raises(OSError, match="disk on fire"):
            write()
        assert place.parent.children() == ["file"]
        assert place.read_bytes() == b"kept"


def test_an_upload_that_breaks_halfway_leaves_no_part_of_a_file(bucket: str):
    def blocks() -> Iterator[bytes]:
        yield bytes(BLOCK_BYTES)
        raise OSError("disk on fire")

    place = locate(at(bucket, "half/file"))
    with pytest.raises(DataError, match=r"s3://.*half/file.* can't be written \(disk on fire\): check the address"):
        place._put(blocks())
    assert place.size() is None


def test_uploads_hold_a_block_at_a_time(bucket: str, tmp_path: Path, monkeypatch):
    (tmp_path / "big").write_bytes(bytes(5 * BLOCK_BYTES + 1))
    sizes = []
    monkeypatch.setattr(remote, "_stream", lambda filesystem, path, blocks: sizes.extend(map(len, blocks)))
    locate(at(bucket, "big")).upload(tmp_path / "big")
    assert sizes == [BLOCK_BYTES] * 5 + [1]


def test_a_web_page_is_not_written():
    page = locate("http://127.0.0.1:9/pack")
    for work in (lambda: page.write_bytes(b""), page.remove, page.remove_tree):
        with pytest.raises(UsageError, match=r"http://.*/pack can't be written: give a folder, or a store such as s3"):
            work()


@pytest.fixture(scope="module")
def website(data: Path) -> Iterator[str]:
    """The pack on a web server."""
    with serve(data) as url:
        yield url


@pytest.mark.slow
def test_a_pack_on_a_website_gives_the_same_rows_in_readers_too(website: str, data: Path):
    options = {"batch_size": 16, "seed": 1, "label": "instrument_family_str", "crop_seconds": 0.5}
    local = next(iter(Loader(open_pack(data, split="train"), **options))).clone()
    for readers in (0, 1):
        loader = Loader(open_pack(website, split="train"), readers=readers, **options)
        assert torch.equal(next(iter(loader)).waveform, local.waveform)
        loader.close()
    with pytest.raises((UsageError, DataError), match=r"split 'dev' is not in http|can't be read"):
        open_pack(website, split="dev")


def config(bucket: str, **options) -> TrainConfig:
    given = {
        "data": at(bucket, "data"), "runs": at(bucket, "runs"), "name": "run", "local": True, "epochs": 2,
        "batch_size": 16, "readers": 0, "crop_seconds": 0.5, "log_every": 1, "log_rows": True, "baseline_rows": 0,
        "model": ModelConfig(name="test_resnet"),
    }  # fmt: skip
    return TrainConfig(**(given | options))


def test_a_run_in_a_bucket_goes_on_from_another_machine(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    run = Run.at(at(bucket, "runs"), "run")
    assert run.url is not None
    launch_until(config(bucket, epochs=8), records=3)  # time enough to be stopped in
    assert not sync.exists(run.url, "report.html")
    cursor = checkpoint.read_state(run.last)["cursor"]
    assert 0 < cursor < 8 * 61
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    shutil.rmtree(run.folder)  # another machine: it has the bucket only
    launch(config(bucket, name=None, resume="run", epochs=8))
    found = {"config.json", "environment.json", "metrics.jsonl", "log.txt", "tb", "checkpoints", "report.html", "rows"}
    assert {name for name in Location(run.url).children() if name[0] != "."} == found
    shutil.rmtree(run.folder)
    again = open_run_at(run.url)
    assert checkpoint.is_whole(again.best)
    assert checkpoint.read_state(again.last)["finished"]
    with pytest.raises(UsageError, match=r"run run exists in s3://.*: take --resume run to go on"):
        launch(config(bucket))


def test_an_upload_cut_short_leaves_a_whole_checkpoint(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    url, model = at(bucket, "cut/run"), torch.nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    last = tmp_path / "here/checkpoints/last"

    def save(cursor: int) -> None:
        checkpoint.save_checkpoint(last, model=model, optimizer=optimizer, state={"cursor": cursor})
        sync.push_checkpoint(url, last)

    def newest() -> int:
        sync.pull(url, tmp_path / "there")
        found = checkpoint.newest(tmp_path / "there/checkpoints/last")
        assert found is not None
        return checkpoint.read_state(found)["cursor"]

    save(1)
    assert newest() == 1
    stream = remote._stream
    for allowed in range(4):
        count = 0

        def fails(filesystem, path, blocks, allowed=allowed) -> None:
            nonlocal count
            count += 1
            if count > allowed:
                raise OSError("connection lost")
            stream(filesystem, path, blocks)

        monkeypatch.setattr(remote, "_stream", fails)
        with pytest.raises(DataError, match=r"can't be written \(connection lost\)"):
            save(2)
        assert newest() == 1
    monkeypatch.setattr(remote, "_stream", stream)
    save(3)
    assert newest() == 3
