"""The command line: options frozen, exit codes, one clear line on stderr, nothing listed that isn't there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shards.__main__ import VERBS as SHARDS
from shards.door import run_door
from shards.index import open_pack
from streaming.__main__ import VERBS as STREAMING
from streaming.plan import make_plan
from trainers.__main__ import VERBS as TRAINERS
from trainers.__main__ import main as trainers_main

ROOT = Path(__file__).resolve().parents[1]
CORE = {
    ("shards", "pack"): "--split --seed --jobs --codec --limit --layout --table --label-from --mono --resample",
    ("shards", "render"): "--font --notes --seed",
    ("shards", "show"): "--split --json",
    ("shards", "index"): "--json",
    ("shards", "verify"): "--split --repair --json",
    (
        "streaming",
        "plan",
    ): "--split --seed --batch-size --world-size --rank --readers --cursor --steps --where --limit --balance --json",
    (
        "trainers",
        "train",
    ): "--data --name --resume --epochs --batch-size --seed --world-size --readers --device "
    "--local --preset --config --log-rows --monitor --label --where --limit --balance --remote --mirror-gb "
    "--class-weights --views",
    ("streaming", "measure"): "--split --augment --readers --consumer-rate --json",
    ("trainers", "evaluate"): "--data --split --views --json",
    ("trainers", "peek"): "--data --out --split --rows --cursor",
    ("trainers", "sweep"): "--vary --trials --keep --least-epochs --at-a-time --data --name --resume --runs --epochs",
}
VERBS = {"shards": SHARDS, "streaming": STREAMING, "trainers": TRAINERS}


def door(room: str, *args: str) -> int:
    return trainers_main(list(args)) if room == "trainers" else run_door(room, VERBS[room], list(args))


def help_of(room: str, verb: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        door(room, verb, "--help")
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(("room", "verb"), CORE)
def test_core_options_are_frozen_and_explained(room: str, verb: str, capsys):
    said = help_of(room, verb, capsys)
    options = set(re.findall(r"--[a-z][a-z-]*", said))
    assert set(CORE[room, verb].split()) <= options
    assert "--num-workers" not in said
    assert len(said) > 300


def test_the_verbs_are_those_that_work(capsys):
    assert [*SHARDS] == ["render", "pack", "index", "verify", "show"]
    assert [*STREAMING] == ["plan", "measure"]
    assert [*TRAINERS] == ["train", "evaluate", "predict", "embed", "export", "peek", "sweep"]
    for room in VERBS:
        assert door(room, "--help") == 0
        said = capsys.readouterr().out
        assert all(re.search(rf"^  {verb} +[A-Z].*\.$", said, re.MULTILINE) for verb in VERBS[room])


def one_line(capsys) -> str:
    said = capsys.readouterr().err
    last = said.strip().splitlines()[-1]
    assert last.startswith("notestream: ")
    assert "Traceback" not in said
    return last


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("shards", "bake"), "'bake' is not a verb of shards: take one of render, pack, index, verify, show"),
        (("shards", "pack", "/nowhere", "OUT", "--split", "train"), "source /nowhere does not exist"),
        (("shards", "pack", "NOTES", "OUT", "--split", "a/b"), "split must be letters, digits, - and _, got 'a/b'"),
        (("shards", "show", "/nowhere"), "/nowhere holds no finished split"),
        (("shards", "index", "NOTES"), "holds no .tar"),
        (("streaming", "plan", "DATA", "--batch-size", "2", "--world-size", "3"), "does not fit batch_size 2"),
        (("trainers", "train"), "data must be named: --data DST"),
        (("trainers", "train", "--data", "DATA", "--label", "pich"), "label 'pich' is not a column of text"),
        (
            ("trainers", "train", "--data", "DATA", "--model.name", "alexnt"),
            "model must be one of timm's, got 'alexnt'",
        ),
        (("trainers", "train", "--data", "DATA", "--batch-size", "1", "--world-size", "2"), "at least world_size (2)"),
        (("trainers", "train", "--config", "/nowhere.json"), "config /nowhere.json does not exist"),
        (("trainers", "evaluate", "/nowhere"), "run /nowhere does not exist"),
    ],
)
def test_wrong_use_exits_with_2_and_one_line(args, message, notes, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"NOTES": str(notes), "DATA": str(data), "OUT": str(tmp_path / "out")}
    assert door(args[0], *[names.get(arg, arg) for arg in args[1:]]) == 2
    assert message in one_line(capsys)
    assert not list(tmp_path.iterdir()), "nothing is begun"


def test_an_option_that_is_not_there_exits_with_2(capsys):
    with pytest.raises(SystemExit) as ended:
        door("shards", "pack", "a", "b", "--split", "train", "--wat")
    assert ended.value.code == 2


def test_bad_data_exits_with_1(data: Path, tmp_path: Path, capsys):
    broken = tmp_path / "train"
    broken.mkdir()
    (broken / "index.parquet").write_bytes(b"PAR1 not really")
    assert door("shards", "show", str(tmp_path)) == 1
    assert "is not a parquet file that can be read" in one_line(capsys)


def test_results_can_be_read_by_programs(data: Path, notes: Path, tmp_path: Path, capsys):
    assert door("shards", "show", str(data), "--json") == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["split"] for one in told] == ["test", "train", "valid"]
    assert told[1]["rows"] == 61
    assert told[1]["shards"] == 7
    assert door("shards", "pack", str(notes), str(tmp_path), "--split", "test", "--json") == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 11


def test_the_plan_can_be_checked_from_outside(data: Path, capsys):
    pack = open_pack(data, split="train")
    order = make_plan([shard.rows for shard in pack.shards], seed=3)
    flags = ["--batch-size=10", "--seed=3", "--world-size=3", "--rank=1", "--readers=2", "--cursor=50", "--steps=3"]
    assert door("streaming", "plan", str(data), *flags, "--json") == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["step"], one["cursor"], one["reader"]) for one in told] == [(0, 50, 0), (1, 60, 1), (2, 70, 0)]
    for one in told:
        rows, epochs = order.slots(one["cursor"], batch_size=10, slots=range(3, 6))
        assert one["keys"] == pack.take(rows)[0]
        assert one["epochs"] == epochs.tolist()


def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *args], cwd=ROOT, capture_output=True, text=True, env=os.environ | env, timeout=120
    )


@pytest.mark.slow
def test_another_owner_of_the_name_streaming_is_refused(data: Path, tmp_path: Path):
    info = tmp_path / "mosaicml_streaming-0.13.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mosaicml-streaming\nVersion: 0.13.0\n")
    (info / "top_level.txt").write_text("streaming\n")
    done = run("shards", "show", str(data), PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "the distribution 'mosaicml-streaming' owns the import name 'streaming' as well" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_full_disk_is_one_line(notes: Path, small_disk: Path):
    done = run("shards", "pack", str(notes), str(small_disk), "--split", "train")
    assert done.returncode == 1
    assert re.search(
        r"notestream: the disk is full.*: free some space and run again, what is done is kept", done.stderr
    )
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_closed_pipe_is_quiet(data: Path):
    command = f"{sys.executable} -m streaming plan {data} --batch-size 1 --steps 5000 --json | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert json.loads(done.stdout)["step"] == 0
    assert done.stderr == ""


def test_foreign_names_do_nothing_to_a_terminal(data: Path, tmp_path: Path, capsys):
    shutil.copytree(data / "valid", tmp_path / "valid")
    (tmp_path / "valid/\x1b[2J.tar").write_bytes(b"")
    assert door("shards", "verify", str(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "note: \\x1b[2J.tar is not in the index" in out
    assert "\x1b" not in out
