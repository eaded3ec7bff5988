"""Whole runs of each kind of label: it learns, tells what fits it, and counts the same at any world size."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from rich.console import Console

from shards.errors import DataError, UsageError
from shards.fields import QUALITIES
from shards.index import open_pack
from streaming.augment import Augment
from streaming.world import World
from tests.streaming.made_up import make_pack
from tests.trainers.runs import config, told
from tests.trainers.test_report import Page
from tests.trainers.together import on_ranks
from trainers import checkpoint
from trainers.__main__ import main as door
from trainers.config import read_config
from trainers.data import check_split, open_split
from trainers.evaluate import evaluate
from trainers.finish import evaluate_run, load_network
from trainers.launch import launch
from trainers.metrics import confusion, summary
from trainers.predictions import Predictions
from trainers.run import Run
from trainers.session import Session
from trainers.tables import MOST_CLASSES, terminal_table

PLAIN = Augment(random_start=True)  # engines take seconds to warm up, and are none of these tests' subject
OPTIONS = {
    "instrument_source_str": {"class_weights": 0.5, "monitor": "valid/macro_accuracy", "augment": PLAIN},
    "pitch": {"views": 2, "augment": Augment(pitch_semitones=1, whole_semitones=True)},
    "qualities": {"class_weights": 0.5, "views": 3, "augment": PLAIN},
}


@pytest.fixture(scope="module", params=["instrument_family_str", *OPTIONS])
def run(request: pytest.FixtureRequest, whole: Run, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of two epochs that learns a label, the first of them the one that all others are held against."""
    if request.param not in OPTIONS:
        return whole
    return launch(config(data, tmp_path_factory.mktemp("tasks"), label=request.param, **OPTIONS[request.param]))


def label_of(run: Run) -> str:
    return json.loads(run.config.read_text())["label"]


def hold_together(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """The same names, with the same numbers, or with none."""
    assert {name: value for name, value in found.items() if value is None} == {
        name: value for name, value in expected.items() if value is None
    }
    numbers = {name: value for name, value in expected.items() if value is not None}
    assert {name: found[name] for name in numbers} == pytest.approx(numbers, rel=1e-5)


def shown(predictions: Predictions) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(terminal_table([predictions]))
    return console.export_text()


def test_the_loss_falls(run: Run):
    losses = [record["train/loss"] for record in told(run) if "train/loss" in record]
    assert len(losses) == 16
    assert np.mean(losses[-4:]) < np.mean(losses[:4])


def test_what_is_told_fits_the_label(run: Run, data: Path):
    records, log, label = told(run), run.log.read_text(), label_of(run)
    valid = next(record for record in records if "valid/loss" in record)
    many, pitch = label == "qualities", label == "pitch"
    assert ("train/label_accuracy" in records[0], "train/accuracy" in records[0]) == (many, not many)
    assert ("valid/map" in valid, "valid/accuracy" in valid) == (many, not many)
    assert ("valid/semitone_accuracy" in valid, "valid/chroma_accuracy" in valid) == (pitch, pitch)
    assert ("valid/family/bass" in valid) == (label != "instrument_family_str")
    assert ("valid/source/acoustic" in valid) == (label != "instrument_source_str")
    if many:
        assert {f"valid/ap/{name}" for name in QUALITIES} <= set(valid)
        assert "  mAP " in log
        assert "labels right" in log
        assert "beside it on valid by mAP: chance" in log
    assert ("chroma" in log) == pitch
    classes = checkpoint.read_state(run.last)["classes"]
    best = checkpoint.read_state(run.best)["best"]
    monitor = json.loads(run.config.read_text())["monitor"] or ("valid/map" if many else "valid/accuracy")
    assert best == max(record[monitor] for record in records if "valid/loss" in record and "checkpoint" not in record)
    assert len(classes) == {"qualities": 10, "pitch": 128}.get(label, 3)


def test_counts_are_the_same_at_any_world_size(run: Run):
    given = read_config(run.config)
    alone = Session(world=World(), device=torch.device("cpu"))
    model, mel, task = load_network(run, given, sample_rate=16_000, session=alone)
    found = [
        one
        for world_size in (1, 2, 3)
        for one in on_ranks(
            world_size,
            # a split of its own, as a process has
            lambda session: evaluate(
                model, mel, split=open_split(given, "valid"), config=given, task=task, session=session
            ),
        )
    ]
    first, numbers = found[0], summary(found[0])
    assert len(first.keys) == 17
    for other in found[1:]:
        assert other.keys == first.keys
        np.testing.assert_array_equal(other.target, first.target)
        np.testing.assert_allclose(other.probabilities, first.probabilities, atol=1e-6)
        hold_together(summary(other), numbers)
        if not task.many:
            assert confusion(other).tolist() == confusion(first).tolist()
    last = next(record for record in told(run) if record.get("checkpoint") and "valid/loss" in record)
    hold_together({name: last[f"valid/{name}"] for name in numbers}, numbers)


def test_evaluate_tells_it_to_people_and_programs(run: Run, capsys: pytest.CaptureFixture[str]):
    label = label_of(run)
    assert door(["evaluate", str(run.folder), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    last = told(run)[-1]
    names = {name.partition("/")[2] for name in last if name.startswith("test/")}
    hold_together({name: said[name] for name in names}, {name: last[f"test/{name}"] for name in names})
    assert [one["loss"] for one in said["top_losses"]] == sorted((o["loss"] for o in said["top_losses"]), reverse=True)
    assert ("confusion" in said) == (label != "qualities")
    assert np.sum(said.get("confusion", 11)) == 11
    assert door(["evaluate", str(run.folder)]) == 0
    out = capsys.readouterr().out
    assert "largest losses" in out
    assert "acoustic" in out
    assert "bass" in out


def test_a_table_holds_no_more_than_helps(run: Run):
    predictions = evaluate_run(str(run.folder), data=None, split="valid", device="cpu")
    text, label = shown(predictions), label_of(run)
    assert (f"the {MOST_CLASSES} most frequent of 128 classes" in text) == (label == "pitch")
    assert len(text.splitlines()) < MOST_CLASSES + 15
    for said in {"pitch": ("within a semitone", "right in any octave"), "qualities": ("valid AP", "AUC", "tempo")}.get(
        label, ("macro", "total")
    ):
        assert said in text


def test_the_report_shows_what_the_label_has(run: Run):
    page, label = Page(run.report.read_text()), label_of(run)
    many = label == "qualities"
    sections = {"headline", "curves", "families", "examples", "heard", "config", "environment"}
    assert set(page.ids) == sections | ({"classes"} if many else {"confusion", "pairs"})
    assert ("mean average precision (mAP) over 17 samples" in page.text) == many
    assert ("Class by class" in page.text) == many
    assert ("chance" in page.text) == many
    assert ("answered at" in page.text) != many
    assert ("The 32 most frequent of 128." in page.text) == (label == "pitch")
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert all(address.startswith(("data:", "#")) for address in page.addresses)


def test_views_hear_crops_and_0_the_whole_note(run: Run, capsys: pytest.CaptureFixture[str]):
    views = json.loads(run.config.read_text())["views"]
    numbers = [
        summary(evaluate_run(str(run.folder), data=None, split="valid", device="cpu", views=n))["loss"]
        for n in (None, 0, 1, 2)
    ]
    assert (numbers[0] == numbers[1]) == (views == 0)
    assert (numbers[0] == numbers[3]) == (views == 2)
    assert len(set(numbers[1:])) == 3, "notes of 1 s are heard whole, by one crop of 0.5 s, by two"
    assert door(["evaluate", str(run.folder), "--split", "valid", "--views", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(numbers[3], rel=1e-5)


def test_another_pack_is_judged_or_told_in_one_line(run: Run, data: Path, tmp_path: Path):
    label, other = label_of(run), tmp_path / "other"
    shutil.copytree(data / "valid", other / "test")
    found = evaluate_run(str(run.folder), data=str(other), split="test", device="cpu")
    assert len(found.keys) == 17
    lacking = make_pack(tmp_path / "lacking", shard_rows=(2,), labels={"a": ["x", "y"]}).home.parent
    with pytest.raises(UsageError, match=rf"label '{label}' is not a column of text .*: take one of a$"):
        evaluate_run(str(run.folder), data=str(lacking), split="train", device="cpu")
    values = {"pitch": [60, 200], "qualities": [[0, 1], [1, 1]]}.get(label, ["a", "b"])
    unknown = make_pack(tmp_path / "unknown", shard_rows=(2,), labels={label: values}).home.parent
    with pytest.raises(
        (DataError, UsageError), match=r"that train doesn't know \('|of 2 places in .* aren't the 10 classes of train"
    ):
        evaluate_run(str(run.folder), data=str(unknown), split="train", device="cpu")


def test_names_are_learned_with_rows_that_cannot_be_read(data: Path, tmp_path: Path):
    broken = tmp_path / "data"
    shutil.copytree(data, broken)
    for split in ("train", "valid"):
        row = open_pack(broken, split=split).read("shard", "key", "offset").to_pylist()[5]
        with (broken / split / row["shard"]).open("r+b") as file:
            file.seek(row["offset"] + 1000)
            file.write(b"damage")
    given = config(broken, tmp_path / "runs", label="qualities_str", on_bad_row="mask", epochs=1, augment=PLAIN)
    run = launch(given)
    assert checkpoint.read_state(run.last)["classes"] == sorted(QUALITIES)
    records = told(run)
    assert records[-1]["test/rows"] == 11
    valid = next(record for record in records if "valid/rows" in record)
    assert (valid["valid/rows"], valid["valid/masked"]) == (16, 1)
    assert run.report.exists()


def test_splits_must_be_of_one_kind(tmp_path: Path):
    for split, labels in (("a", [["x"], ["y"]]), ("b", ["x", "y"])):
        make_pack(tmp_path / split, shard_rows=(2,), labels={"tags": pa.array(labels)})
    found = open_split(config(tmp_path / "b", tmp_path, label="tags"), "train")
    with pytest.raises(
        UsageError, match=r"label 'tags' must have lists a row, as in train, got one class in .*b/train"
    ):
        check_split(found, label="tags", classes=("x", "y"), many=True, sample_rate=16_000)
