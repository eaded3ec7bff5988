"""Showing: what is told of a pack is what its rows say, and foreign text does nothing to a terminal."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from shards import show
from shards.index import open_pack
from shards.index_file import PLACE, Shard
from shards.index_writer import write_index
from shards.show import describe, open_all, show_table


def printed(told: list[dict], *, width: int = 80) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(show_table(told))
    return [line.strip() for line in captured.get().splitlines() if line.strip()]


def test_counts_and_ranges_are_those_of_the_rows(data: Path, monkeypatch):
    monkeypatch.setattr("shards.index_file.SCAN_ROWS", 7)
    pack = open_pack(data, split="train")
    told, rows = describe(pack), pack.read().to_pylist()
    assert told["hours"] == round(61 / 3600, 4)
    assert told["sounding_share"] == round(sum(row["sounding_length"] for row in rows) / (61 * 16_000), 4)
    for column in ("instrument_family_str", "instrument_source_str", "instrument_str"):
        assert told["counts"][column] == Counter(row[column] for row in rows), column
        assert list(told["counts"][column]) == sorted(told["counts"][column])
        assert told["classes"][column] == len(told["counts"][column])
    assert told["counts"]["qualities_str"] == Counter(name for row in rows for name in row["qualities_str"])
    integers = {"note", "instrument", "pitch", "velocity", "sample_rate", "instrument_family", "instrument_source"}
    assert told["ranges"] == {
        name: [min(row[name] for row in rows), max(row[name] for row in rows)] for name in integers
    }
    assert (told["fingerprint"], told["folder"]) == (pack.fingerprint, str(data / "train"))


def test_columns_of_many_values_are_not_counted(data: Path, monkeypatch):
    monkeypatch.setattr(show, "MOST_COUNTED", 3)
    told = describe(open_pack(data, split="train"))
    assert set(told["counts"]) == {"instrument_family_str", "instrument_source_str"}
    assert told["classes"]["instrument_str"] == 21


def test_splits_stand_side_by_side_in_their_usual_order(data: Path, monkeypatch):
    told = [describe(pack) for pack in open_all(data)]
    lines = printed(told)
    assert lines[0].split() == ["train", "valid", "test"]
    found = {line.split("  ")[0]: line.split()[-3:] for line in lines}
    assert found["rows"] == ["61", "17", "11"]
    assert found["brass"] == [
        str(one["counts"]["instrument_family_str"]["brass"]) for one in (told[1], told[2], told[0])
    ]
    assert next(line for line in lines if line.startswith("pitch")).split("  ")[-1].strip() == "40 to 50"
    assert not any(line.startswith(("sample_rate", "instrument_family ", "instrument ")) for line in lines)
    assert any(line.startswith("fingerprint") for line in lines)
    monkeypatch.setattr(show, "MOST_SHOWN", 2)
    assert not any(line.startswith("brass") for line in printed(told))


@pytest.mark.parametrize("label", ["[red]x[/]", "[/]", "\x1b[2J", "a\nb", "é"])
def test_foreign_labels_are_shown_as_they_are(tmp_path: Path, label: str):
    places = {"offset": 0, "size": 9, "crc32": 1, "length": 8, "sounding_length": 8}
    columns = {
        "shard": pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), pa.array(["x.tar"])), "key": pa.array(["k"]),
        **{name: pa.array([value], PLACE.field(name).type) for name, value in places.items()},
        label: pa.array([label]), "empty": pa.array([None], pa.int64()),
        "none": pa.array([None], pa.list_(pa.string())),
    }  # fmt: skip
    (tmp_path / "x.tar").write_bytes(bytes(10_240))
    shards = [Shard(name="x.tar", rows=1, bytes=10_240, hash="0" * 32)]
    write_index(
        tmp_path, split="x", sample_rate=8, codec="wav", shards=shards, tables=[pa.table(columns)], options={}
    )  # fmt: skip
    told = describe(open_pack(tmp_path.parent, split=tmp_path.name))
    assert told["counts"] == {label: {label: 1}, "none": {}}
    assert told["ranges"] == {}
    lines = printed([told])
    shown = label if label.isprintable() else repr(label)
    assert [line.split("  ")[0] for line in lines if line.endswith(("1 class", "1"))][-2:] == [shown, shown]
    assert not any("\x1b" in line for line in lines)
