"""Tars: the bytes are webdataset's own, whatever the names and sizes."""

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset.writer import TarWriter

from shards.tar import Tarball, end_of, header

KEYS = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="./\\"), min_size=1, max_size=30)
SAMPLES = st.lists(
    st.tuples(KEYS, st.binary(max_size=1500), st.sampled_from(["wav", "flac"]), st.binary(max_size=30_000)),
    max_size=6, unique_by=lambda sample: sample[0],
)  # fmt: skip


def by_webdataset(samples: list[tuple[str, bytes, str, bytes]]) -> bytes:
    file = io.BytesIO()
    with TarWriter(file, encoder=False, mtime=0) as writer:
        writer.tarstream.format = tarfile.USTAR_FORMAT
        for key, labels, codec, audio in samples:
            writer.write({"__key__": key, "json": labels, codec: audio})
    return file.getvalue()


@settings(max_examples=60, deadline=None)
@given(SAMPLES)
def test_the_bytes_are_those_of_webdatasets_writer(tmp_path_factory, samples):
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    with Tarball(path) as tar:
        for key, labels, codec, audio in samples:
            offsets = tar.add(key, {"json": labels, codec: audio})
            assert all(offset % 512 == 0 for offset in offsets.values())
    assert path.read_bytes() == by_webdataset(samples)
    assert tar.size == path.stat().st_size


def test_contents_begin_where_add_says(tmp_path: Path):
    with Tarball(tmp_path / "x.tar") as tar:
        places = [tar.add(f"k{i}", {"wav": b"w" * i * 700, "json": b"{}"}) for i in range(1, 5)]
    whole = (tmp_path / "x.tar").read_bytes()
    for i, place in enumerate(places, 1):
        assert whole[place["wav"] : place["wav"] + i * 700] == b"w" * i * 700
        assert whole[place["json"] :][:2] == b"{}"


def test_an_interrupted_tar_has_no_end(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt), Tarball(tmp_path / "x.tar") as tar:
        tar.add("k", {"wav": b"w"})
        raise KeyboardInterrupt
    assert (tmp_path / "x.tar").stat().st_size == 1024
    assert end_of(1024) == 10_240


@pytest.mark.parametrize(("name", "size"), [("x" * 101, 1), ("ß" * 51, 1), ("", 1), ("x", 8**11), ("x", -1)])
def test_what_a_header_cannot_hold_is_refused(name: str, size: int):
    with pytest.raises(ValueError, match="a ustar header can't hold"):
        header(name, size)
