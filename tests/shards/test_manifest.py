"""Which notes are packed, and in what order: pure functions of the keys, the seed and what was asked for."""

import numpy as np
import pyarrow as pa
import pytest

from shards.errors import DataError, UsageError
from shards.keys import rename_column, rename_keys
from shards.manifest import arrange, parse_where

COUNT = 100
NOTES = pa.table({
    "key": [f"k{(i * 37) % COUNT:03d}" for i in range(COUNT)],
    "family": ["bass" if i % 4 else "flute" for i in range(COUNT)],
    "fold": [i % 5 for i in range(COUNT)],
    "tags": [["a", "b"] if i % 2 else ["b"] if i % 3 else [] for i in range(COUNT)],
    "loud": [i % 2 == 0 for i in range(COUNT)],
})  # fmt: skip


def arranged(manifest: pa.Table = NOTES, **options):
    given = {"where": {}, "limit": None, "order": "shuffled", "seed": 0, "rows_per_shard": 8}
    return arrange(manifest, **given | options)


def keys(arrangement) -> list[str]:
    return [key for n in range(arrangement.shards) for key in arrangement.notes(n)["key"].to_pylist()]


def test_every_note_is_in_one_shard_and_none_is_empty():
    found = arranged()
    assert sorted(keys(found)) == sorted(NOTES["key"].to_pylist())
    assert found.shards == 13
    assert [len(found.rows(n)) for n in range(13)] == [8] * 12 + [4]


def test_the_order_does_not_depend_on_the_order_of_the_source():
    turned = NOTES.take(np.arange(COUNT)[::-1])
    assert keys(arranged(turned)) == keys(arranged())
    assert keys(arranged(turned, limit=30)) == keys(arranged(limit=30))
    assert keys(arranged(seed=1)) != keys(arranged())


def test_order_source_keeps_the_sources_order():
    assert keys(arranged(order="source")) == NOTES["key"].to_pylist()
    kept = keys(arranged(order="source", limit=30))
    assert kept == [key for key in NOTES["key"].to_pylist() if key in set(kept)]
    assert set(kept) == set(keys(arranged(limit=30))), "the same notes are drawn"


def test_a_seeded_shuffle_spreads_classes_over_shards():
    """A shard's mix is near the whole's: classes sorted by key would fill shards of their own."""
    count = 4096
    notes = pa.table({"key": [f"k{i:05d}" for i in range(count)], "class": [i * 8 // count for i in range(count)]})

    def distance(order: str) -> float:
        found = arranged(notes, order=order, rows_per_shard=512)
        shares = [np.bincount(found.notes(n)["class"], minlength=8) / 512 for n in range(found.shards)]
        return float(np.mean([np.abs(share - 1 / 8).sum() / 2 for share in shares]))

    assert distance("shuffled") < 0.08
    assert distance("source") > 0.8


@pytest.mark.parametrize(
    ("where", "count"),
    [
        (["fold=1,2"], 40),
        (["family=flute"], 25),
        (["family=flute", "fold=0"], 5),
        (["tags=a"], 50),
        (["tags=a,b"], sum(bool(tags) for tags in NOTES["tags"].to_pylist())),
        (["loud=true"], 50),
    ],
)
def test_where_keeps_rows_that_have_one_of_the_values(where, count):
    assert len(keys(arranged(where=parse_where(where)))) == count


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (["fold"], r"where must be COLUMN=VALUE\[,VALUE\.\.\.\], got 'fold': write it like fold=1,2,3"),
        (["=1"], "got '=1'"),
        (["fold=1,"], "got 'fold=1,'"),
        (["fold=1", "fold=2"], r"where names 'fold' twice: give its values in one, as fold=A,B"),
        (["flod=1"], r"where names 'flod', which is no label of this source: take one of family, fold, tags, loud"),
        (["key=k001"], "no label of this source"),
        (["fold=7"], r"where asks for fold '7', which no note has: take one of 0, 1, 2, 3, 4"),
        (["tags=c"], r"where asks for tags 'c', which no note has: take one of a, b"),
        (["loud=true", "tags=a"], "where leaves no note"),
    ],
)
def test_a_wrong_where_is_named(where, message):
    with pytest.raises(UsageError, match=message):
        arranged(where=parse_where(where))


def test_bad_keys_are_told_together():
    bad = pa.table({"key": ["a.b", "c/d", "", "x" * 96, "e", "e"]})
    with pytest.raises(DataError, match=r"2 hold a dot.*2 are empty or over 95 bytes.*1 stand there twice.*rename"):
        arranged(bad)


def test_renamed_keys_are_unique_fit_and_depend_on_their_own_name_alone():
    names = ["a.b", "a_b", "c/d", "", "x" * 200, "x" * 199 + "y", "ok", "ß" * 60, "a/b"]
    mended = rename_keys(names, names)
    assert len(set(mended)) == len(names)
    assert mended[1] == "a_b"
    assert mended[2] == "c_d"
    assert mended[6] == "ok"
    assert all(0 < len(key.encode()) <= 95 for key in mended)
    assert rename_keys(names[::-1], names[::-1]) == mended[::-1]
    arranged(pa.table({"key": mended}))


def test_the_originals_are_kept_in_a_column():
    table, renamed = rename_column(pa.table({"key": ["a.b", "c"], "n": [1, 2]}), originals=["a.b", "c"])
    assert table.to_pylist() == [
        {"key": "a_b", "n": 1, "original_key": "a.b"}, {"key": "c", "n": 2, "original_key": "c"}
    ]  # fmt: skip
    assert renamed == {"a_b": "a.b"}
    with pytest.raises(UsageError, match="would add a column 'original_key', and the source has one"):
        rename_column(table, originals=["a", "b"])
