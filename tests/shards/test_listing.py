"""The list of shards, and row groups of several: what is read is the same however many there are, and bounded."""

import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from shards import index_writer, listing
from shards.claims import find_shards_fault
from shards.errors import DataError
from shards.index import Pack, open_pack
from shards.index_file import PLACE, IndexFile, Shard, read_about
from shards.index_writer import group_tables, write_index
from shards.listing import Shards, decode_shards, encode_shards, gather
from shards.remote import locate
from shards.repair import repair
from shards.verify import verify
from streaming.store import Store
from tests.shards.test_index import FACTS, FAMILY, ROOT, listed, shards_of, tables_of

SHARDS = st.lists(
    st.builds(
        Shard,
        name=st.text(max_size=60),
        rows=st.integers(-(2**63), 2**63 - 1),
        bytes=st.integers(-(2**63), 2**63 - 1),
        hash=st.binary(min_size=16, max_size=16).map(bytes.hex),
    ),
    min_size=1,
    max_size=40,
)


def some(count: int) -> list[Shard]:
    return [Shard(name=f"x-{n:06d}.tar", rows=n, bytes=n << 20, hash=f"{n:032x}") for n in range(count)]


@settings(deadline=None)
@given(SHARDS)
def test_what_is_told_of_shards_comes_back(shards: list[Shard]):
    told = encode_shards(gather(shards))
    assert told == listed(*(vars(shard) for shard in shards))
    found = decode_shards(told, count=len(shards))
    assert found == gather(shards)
    assert found is not None
    assert list(found) == shards


@settings(deadline=None)
@given(SHARDS, st.binary(max_size=300), st.integers(1, 60))
def test_no_text_of_shards_does_harm(shards: list[Shard], noise: bytes, count: int):
    told = encode_shards(gather(shards))
    for text in (noise, told[: len(noise)], told + noise):
        assert decode_shards(text, count=count) is None or len(shards) == count
    assert (decode_shards(told, count=count) is None) == (len(shards) != count)


def test_shards_are_a_sequence():
    plain = some(10)
    shards = gather(plain)
    assert gather(shards) is shards
    assert [shards[0], shards[-1], *shards[2:4], *shards[::-3]] == [plain[0], plain[-1], *plain[2:4], *plain[::-3]]
    assert plain[7] in shards
    assert shards.index(plain[7]) == 7
    assert shards.starts.tolist() == np.cumsum([0, *range(10)]).tolist()
    assert shards == gather(plain) == pickle.loads(pickle.dumps(shards)) != gather(plain[:-1])
    assert shards != gather([*plain[:-1], plain[0]])
    with pytest.raises(IndexError):
        shards[10]


def test_the_fingerprint_is_that_of_the_whole_text_however_it_is_cut(monkeypatch):
    shards = some(23)
    whole = json.dumps([[one.name, one.rows, one.hash] for one in shards]).encode()
    for block in (1, 5, 22, 23, 4096):
        monkeypatch.setattr(listing, "BLOCK_SHARDS", block)
        assert listing.fingerprint(gather(shards)) == xxhash.xxh3_128_hexdigest(whole)


def test_shards_that_no_index_can_tell_are_refused():
    for told in ("../../../etc/x", "a" * 31, "A" * 32, "a" * 32 + "\n", ""):
        with pytest.raises(DataError, match=r"shard x\.tar has hash '.*', no xxh3-128: index again"):
            gather([Shard(name="x.tar", rows=1, bytes=1, hash=told)])
    with pytest.raises(DataError, match=r"has a name of over 255 bytes: rename it"):
        gather([Shard(name="x" * 256, rows=1, bytes=1, hash="0" * 32)])


# ---- row groups


def regroup(data: Path, out: Path, *, split: str, groups: int, monkeypatch: pytest.MonkeyPatch) -> Pack:
    """Write a split's index anew, in up to so many row groups."""
    pack, about = open_pack(data, split=split), read_about(locate(data / split / "index.parquet"))
    facts = {name: about[name] for name in ("split", "sample_rate", "codec", "options")}
    tables = [pack.parts.table(number) for number in range(len(pack.shards))]
    shutil.copytree(data / split, out / split)
    with monkeypatch.context() as patched:
        patched.setattr(index_writer, "MOST_GROUPS", groups)
        write_index(out / split, shards=pack.shards, tables=tables, **facts)
    return open_pack(out, split=split)


def spelt(table: pa.Table) -> pa.Table:
    """The rows without a dictionary: that is equal only where it holds the same names."""
    return table.set_column(0, "shard", table["shard"].cast(pa.string()))


@pytest.mark.parametrize(("groups", "rows"), [(7, [10] * 6 + [1]), (4, [20, 20, 20, 1]), (2, [40, 21]), (1, [61])])
def test_no_number_of_row_groups_changes_what_is_read(data: Path, tmp_path: Path, monkeypatch, groups: int, rows: list):
    plain = open_pack(data, split="train")
    pack = regroup(data, tmp_path, split="train", groups=groups, monkeypatch=monkeypatch)
    footer = pq.read_metadata(tmp_path / "train/index.parquet")
    assert [footer.row_group(number).num_rows for number in range(footer.num_row_groups)] == rows
    assert pack.fingerprint == plain.fingerprint
    assert spelt(pack.read()).equals(spelt(plain.read()))
    for number in (*range(7), 3, 0, 6, 5):
        ours, theirs = pack.part(number), plain.part(number)
        assert ours.keys.equals(theirs.keys)
        np.testing.assert_array_equal(ours.places, theirs.places)
        assert spelt(pack.parts.table(number)).equals(spelt(plain.parts.table(number)))
    classes = plain.classes[FAMILY]
    each = [pack.label_ids(FAMILY, classes, shard=number) for number in range(7)]
    np.testing.assert_array_equal(np.concatenate(each), plain.label_ids(FAMILY, classes))
    assert [Store(pack).read(row) for row in range(61)] == [Store(plain).read(row) for row in range(61)]
    (report,) = verify(tmp_path, split="train")
    assert (report.findings, report.damaged) == ((), ())


def test_a_shard_out_of_a_row_group_of_many_is_repaired(notes: Path, data: Path, tmp_path: Path, monkeypatch):
    pack = regroup(data, tmp_path, split="train", groups=2, monkeypatch=monkeypatch)
    tar = tmp_path / "train/train-000004.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:9000] + bytes(100) + whole[9100:])
    assert repair(notes, tmp_path, split="train") == ("train-000004.tar",)
    assert tar.read_bytes() == whole
    assert pack.fingerprint == open_pack(tmp_path, split="train").fingerprint


def test_a_shards_rows_hold_no_more_than_themselves(data: Path, tmp_path: Path, monkeypatch):
    pack = regroup(data, tmp_path, split="train", groups=1, monkeypatch=monkeypatch)
    lone = open_pack(data, split="train").part(2).keys.nbytes
    assert sum(buffer.size for buffer in pack.part(2).keys.buffers() if buffer) < 2 * lone


def test_neighbours_in_a_row_group_are_read_together(data: Path, tmp_path: Path, monkeypatch):
    read, group = [], IndexFile._group

    def counting(file: IndexFile, number: int, columns) -> pa.Table:
        read.append(number)
        return group(file, number, columns)

    pack = regroup(data, tmp_path, split="train", groups=4, monkeypatch=monkeypatch)
    monkeypatch.setattr(IndexFile, "_group", counting)
    for number in range(7):
        pack.part(number)
    assert read == [0, 1, 2, 3]


def test_a_row_group_holds_so_many_rows_unless_one_shard_has_more(monkeypatch):
    monkeypatch.setattr(index_writer, "MOST_GROUP_ROWS", 7)
    tables = [table for table in tables_of(6) for table in [pa.concat_tables([table] * 3)][:1]]
    tables = [table.slice(0, rows) for table, rows in zip(tables, (3, 4, 1, 9, 2, 2), strict=True)]
    assert [len(group) for group in group_tables(tables, most=3)] == [7, 1, 9, 4]
    assert [len(group) for group in group_tables(tables, most=1)] == [3, 4, 1, 9, 2, 2]


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([0, 100, 45], "has row groups of -55 to 100 rows, outside 0..4,194,304"),
        ([0, 45, 10, 45], "has row groups of -35 to 45 rows"),
        ([0, 4, 45], r"has a row group that ends inside x-000003\.tar, at row 4"),
        ([0, 44], "has 44 rows, its shards 45"),
        ([0], "has 0 rows, its shards 45"),
        ([0, 0, 3, 3, 45, 45], None),
    ],
)
def test_row_groups_are_those_of_whole_shards(edges: list[int], message: str | None):
    found = find_shards_fault(gather(some(10)), group_edges=np.array(edges))
    assert (found is None) == (message is None)
    assert re.match(message or "None", str(found))


def test_a_row_group_that_no_memory_should_hold_is_refused():
    rows, whole = 1 << 21, 3 << 21
    shards = [Shard(name=f"{n}.tar", rows=rows, bytes=1 << 40, hash="0" * 32) for n in range(3)]
    assert find_shards_fault(gather(shards), group_edges=np.array([0, 2 * rows, whole])) is None
    found = find_shards_fault(gather(shards), group_edges=np.array([0, whole]))
    assert found == "has row groups of 6,291,456 to 6,291,456 rows, outside 0..4,194,304"


@pytest.mark.parametrize("groups", [1, 2, 9])
def test_shards_without_rows_are_no_trouble(tmp_path: Path, monkeypatch, groups: int):
    monkeypatch.setattr(index_writer, "MOST_GROUPS", groups)
    full = tables_of(7)
    tables = [table.slice(0, 0 if number in (0, 3, 6) else 3) for number, table in enumerate(full)]
    (tmp_path / "x").mkdir()
    write_index(tmp_path / "x", shards=shards_of(tables), tables=tables, **FACTS)
    for shard in shards_of(tables):
        (tmp_path / "x" / shard.name).write_bytes(bytes(shard.bytes))
    pack = open_pack(tmp_path, split="x")
    assert [pack.part(number).keys.to_pylist() for number in range(7)] == [table["key"].to_pylist() for table in tables]


def test_labels_keep_their_types(tmp_path: Path):
    values = {
        "yes": [True, None, False], "whole": [1, None, 3], "part": [0.5, None, 2.0], "text": ["a", None, "ü"],
        "numbers": [[1], [], None], "words": [["a"], [], None], "none": [None] * 3, "record": [{"a": 1}, None, {}],
    }  # fmt: skip
    labels = {name: pa.array(value) for name, value in values.items()} | {
        str(kind): pa.array([1, None, 3], kind) for kind in (pa.int8(), pa.uint8(), pa.uint64(), pa.float32())
    }
    (table,) = tables_of(1)
    for name, column in labels.items():
        table = table.append_column(name, column)
    write_index(tmp_path, shards=shards_of([table]), tables=[table], **FACTS)
    found = IndexFile(locate(tmp_path / "index.parquet"))
    assert found.schema == table.schema
    assert found.rows(0, 3).equals(table)
    assert found.schema.names[: len(PLACE)] == PLACE.names


def test_a_million_shards_are_told_in_forty_megabytes_and_no_time():
    count = 1_000_000
    shards = Shards(
        names=pa.array([f"train-{number:06d}.tar" for number in range(count)]),
        rows=np.full(count, 1000),
        bytes=1024 * np.arange(count),
        hashes=np.random.default_rng(0).integers(0, 256, (count, 16), np.uint8),
    )
    told = encode_shards(shards)
    assert len(told) < 40 << 20
    assert decode_shards(told, count=count) == shards


@pytest.mark.slow
def test_opening_and_reading_import_no_pandas(data: Path, tmp_path: Path, monkeypatch):
    """It takes 45 MB and 0.3 s of every reader, and much of pyarrow imports it where there is one."""
    regroup(data, tmp_path, split="train", groups=2, monkeypatch=monkeypatch)
    code = (
        "import sys; from shards.index import open_pack; pack = open_pack(sys.argv[1], split='train'); "
        "pack.take(range(61)); pack.fingerprint; print('pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
