"""Packing to a URL, on a real S3 server: the folder's bytes, kills and all, and nothing left on this machine."""

from pathlib import Path

import pytest

from shards import target
from shards.errors import DataError, UsageError
from shards.index import open_pack
from shards.pack import pack
from shards.remote import Location
from shards.target import Target
from shards.verify import verify
from tests.shards.test_deal import make_archive


@pytest.fixture
def place(store: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch) -> str:
    """A URL of its own for each test; what is under way lies in tmp_path."""
    monkeypatch.setattr(target.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    return store.replace("PATH", request.node.name.replace("[", "-").replace("]", ""))


def tars(folder: Location) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in folder.children() if name.endswith(".tar")}


@pytest.mark.parametrize("source", ["folder", "archive"])
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_pack_in_a_bucket_has_the_folders_bytes(notes: Path, data: Path, place: str, tmp_path: Path, source, jobs):
    src = notes if source == "folder" else make_archive(notes / "nsynth-train")
    made = pack(src, place, split="train", rows_per_shard=10, jobs=jobs)
    assert tars(Location(place) / "train") == tars(Location(str(data / "train")))
    assert made.fingerprint == open_pack(data, split="train").fingerprint
    assert not [finding for report in verify(place) for finding in report.findings]
    here = [path for path in (tmp_path / "temporary").rglob("*") if path.is_file()]
    assert not here, "nothing is left on this machine"
    assert ".packing" not in (Location(place) / "train").children()
    assert (Location(place) / "README.md").size()


def test_an_interrupted_upload_goes_on_with_what_is_not_whole(notes: Path, data: Path, place: str, monkeypatch):
    publish, names = Target.publish, []

    def interrupted(self, written):
        names.append(written.shard.name)
        if len(names) == 4:
            (self.folder / written.shard.name).write_bytes(written.path.read_bytes()[:999])  # as a kill may leave it
            raise KeyboardInterrupt
        publish(self, written)

    with monkeypatch.context() as patch:
        patch.setattr(Target, "publish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pack(notes, place, split="train", rows_per_shard=10)
    with pytest.raises(UsageError, match="split 'train' is not in"):
        open_pack(place, split="train")
    again = []

    def counted(self, written):
        again.append(written.shard.name)
        publish(self, written)

    monkeypatch.setattr(Target, "publish", counted)
    pack(notes, place, split="train", rows_per_shard=10)
    assert again == [f"train-{number:06d}.tar" for number in range(3, 7)]
    assert tars(Location(place) / "train") == tars(Location(str(data / "train")))


def test_other_options_and_foreign_tars_are_refused_in_a_bucket(notes: Path, place: str):
    pack(notes, place, split="valid")
    assert pack(notes, place, split="valid").rows == 17
    with pytest.raises(UsageError, match="already holds a pack with seed 0, not 1"):
        pack(notes, place, split="valid", seed=1)
    (Location(place) / "test/theirs.tar").write_bytes(b"theirs")
    with pytest.raises(UsageError, match="holds tars that no pack of ours began"):
        pack(notes, place, split="test")
    assert (Location(place) / "test/theirs.tar").read_bytes() == b"theirs"


def test_a_failure_before_the_first_tar_leaves_nothing(notes: Path, place: str):
    with pytest.raises(UsageError, match="where names 'flod'"):
        pack(notes, place, split="valid", where=["flod=1"])
    assert Location(place).children() in ([], ["valid"])
    assert not (Location(place) / "valid").children()


def test_what_cannot_be_written_is_named(notes: Path):
    with pytest.raises(UsageError, match=r"http://127.0.0.1:1/x.* can't be written: give a folder, or a store"):
        pack(notes, "http://127.0.0.1:1/x", split="valid")
    with pytest.raises((UsageError, DataError), match="nope://x"):
        pack(notes, "nope://x/y", split="valid")
