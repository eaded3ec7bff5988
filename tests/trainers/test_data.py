"""What a run reads: chosen rows, balanced and mixed packs, rows that can't be read, and packs larger than a mirror."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from shards.errors import UsageError
from shards.index import open_pack
from shards.pack import pack
from shards.remote import Location
from tests.conftest import write_notes
from tests.trainers.runs import config, launch_until, rows_of
from trainers.data import open_data
from trainers.finish import evaluate_run
from trainers.launch import launch
from trainers.resume import resume_run
from trainers.run import Run

FAMILY = "instrument_family_str"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second pack: 20 notes for training, of four families where the first has three, and 7 to be judged by."""
    folder = tmp_path_factory.mktemp("other")
    for split, count in (("train", 20), ("valid", 7)):
        write_notes(folder / "notes", split=split, count=count, families=4)
        pack(folder / "notes", folder / "pack", split=split, rows_per_shard=6)
    return folder / "pack"


def keys_of(run: Run) -> list[str]:
    return [key for _, keys, _ in rows_of(run) for key in keys]


def records_of(run: Run) -> list[dict]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def test_where_chooses_in_every_split_and_limit_and_balance_in_training_alone(data: Path, tmp_path: Path):
    given = config(data, tmp_path, where="pitch < 50", limit=12, balance=f"{FAMILY}=1")
    found = open_data(given)
    pitches = {name: split.column("pitch") for name, split in found.splits.items()}
    assert all(max(column) < 50 for column in pitches.values())
    assert {name: len(column) for name, column in pitches.items()} == {"train": 12, "valid": 10, "test": 10}
    labels = found.train.targets(FAMILY, found.classes)
    assert found.order.span == 3 * max(Counter(labels.tolist()).values())


def test_a_run_of_chosen_rows_takes_and_counts_these_alone(data: Path, tmp_path: Path):
    run = launch(config(data, tmp_path, where="pitch < 50", limit=12, epochs=1, baseline_rows=4))
    there = open_pack(data, split="train").read("key", "pitch").to_pylist()
    pitch = {row["key"]: row["pitch"] for row in there}
    assert len(set(keys_of(run)[:12])) == 12
    assert max(pitch[key] for key in keys_of(run)) < 50
    assert next(r["valid/rows"] for r in records_of(run) if "valid/rows" in r) == 10
    found = evaluate_run(str(run.folder), data=None, split="test", device="cpu")
    assert len(found.keys) == 10


def test_mixed_packs_are_learned_by_weight_and_judged_whole(data: Path, other: Path, tmp_path: Path):
    given = config(f"{data}=2,{other}=1", tmp_path, epochs=1, baseline_rows=10)
    run, found = launch(given), open_data(given)
    slots = found.order.slots(0, batch_size=90, slots=range(90))
    assert sum(slots.pack.tolist()) == 30
    names = [pack.read("key")["key"].to_pylist() for pack in found.train.packs]
    expected = [names[pack][row] for pack, row in zip(slots.pack.tolist(), slots.row.tolist(), strict=True)]
    assert keys_of(run)[:90] == expected
    assert next(r["valid/rows"] for r in records_of(run) if "valid/rows" in r) == 17 + 7
    state = json.loads((run.last / "state.json").read_text())
    assert state["weights"] == [2, 1]
    assert len(state["classes"]) == 4
    with pytest.raises(UsageError, match=r"data was .*=2,.*=1 when run run began, and is .*: leave it out to go on"):
        resume_run(config(data, tmp_path, resume="run", name=None, epochs=1, baseline_rows=10))


@pytest.mark.parametrize("split", ["train", "valid"])
def test_rows_that_cannot_be_read_are_masked_told_and_left_out(data: Path, tmp_path: Path, split: str):
    broken = tmp_path / "data"
    shutil.copytree(data, broken)
    row = open_pack(broken, split=split).read("shard", "key", "offset").to_pylist()[5]
    with (broken / split / row["shard"]).open("r+b") as file:
        file.seek(row["offset"] + 1000)
        file.write(b"damage")
    run = launch(config(broken, tmp_path / "runs", epochs=1, on_bad_row="mask", baseline_rows=61))
    assert run.report.exists()
    if split == "train":
        counted = [record["train/masked"] for record in records_of(run) if "train/masked" in record]
        assert counted[-1] == 1 + (row["key"] in keys_of(run)[61:])
        assert f"/{row['shard']}, {row['key']}, offset {row['offset']} doesn't match its crc32" in run.log.read_text()
        assert len(keys_of(run)) == 64
    else:
        assert next(r["valid/rows"] for r in records_of(run) if "valid/rows" in r) == 16
        assert evaluate_run(str(run.folder), data=None, split="valid", device="cpu").masked == 1


def test_a_batch_of_another_size_takes_the_rows_that_are_left(data: Path, tmp_path: Path):
    launch_until(config(data, tmp_path), records=3)
    with pytest.raises(UsageError, match=r"batch_size was 8 when run run began, and is 5 now"):
        launch(config(data, tmp_path, resume="run", name=None, batch_size=5))
    run = launch(config(data, tmp_path, resume="run", name=None, batch_size=5, rebatch=True))
    whole = launch(config(data, tmp_path, name="whole"))
    files = sorted((run.folder / "rows").glob("attempt-*-rank-000.jsonl"))
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    by_cursor = {line["cursor"]: line["keys"] for line in lines}
    taken = [key for cursor in sorted(by_cursor) for key in by_cursor[cursor]]
    assert taken[:122] == keys_of(whole)[:122]
    assert {len(line["keys"]) for line in lines} == {8, 5}


def test_more_data_than_a_mirror_holds_comes_in_windows(
    store: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    place = Location(store.replace("PATH", "data"))
    filesystem, path = place.resolve()
    pafs.copy_files(str(data), path, destination_filesystem=filesystem)
    total = sum(shard.bytes for shard in open_pack(data, split="train").shards)
    given = config(place.text, tmp_path, epochs=1, mirror_gb=0.8 * total / 1e9, baseline_rows=0)
    run = launch(given)
    assert "rows are shuffled in" in capsys.readouterr().err
    held = json.loads(run.config.read_text())
    assert held["window"] < 61
    span = 61 // held["lanes"] * held["lanes"]
    assert len(set(keys_of(run)[:span])) == span
