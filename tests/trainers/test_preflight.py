"""Preflight: what a node lacks is told before the first step, in one line with its name, to all ranks alike."""

import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import torch.multiprocessing

from shards.errors import UsageError
from shards.pack import pack
from streaming.world import World
from tests.trainers.runs import config, finished
from trainers.launch import launch
from trainers.preflight import SAME, Found, code_hash, difference, node_name, preflight
from trainers.session import Session

ALONE = Session(world=World(), device=torch.device("cpu"))


def test_a_dry_run_tells_what_there_is_and_leaves_nothing(data: Path, tmp_path: Path, capsys):
    launch(config(data, tmp_path / "runs", dry_run=True, batch_size=7))
    said = capsys.readouterr().out
    assert f"rank 0 on {node_name()}: cpu, " in said
    assert "rows 61, 8.7 steps an epoch, 18 in all; 7 rows a rank and step on 1 rank(s), 0 reader(s) each" in said
    assert "ready: nothing was written, nothing trained" in said
    assert not list((tmp_path / "runs").iterdir())


def test_it_costs_a_run_in_one_process_milliseconds(data: Path, tmp_path: Path):
    given = config(data, tmp_path)
    preflight(given, place=str(tmp_path), session=ALONE)  # the first hashes the code
    began = time.monotonic()
    preflight(given, place=str(tmp_path), session=ALONE)
    assert time.monotonic() - began < 0.5


def test_storage_that_can_not_be_written_is_named_with_its_node(data: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    told = rf"node .*{socket.gethostname()}.*: {tmp_path}/file can't be written \(.*\): give --runs a folder or URL"
    with pytest.raises(UsageError, match=told) as refused:
        launch(config(data, tmp_path / "file", dry_run=True))
    assert "\n" not in str(refused.value)


def test_fewer_ranks_than_the_fewest_are_refused(data: Path, tmp_path: Path):
    with pytest.raises(UsageError, match=r"min_world_size must not exceed world_size \(2\), got 3"):
        config(data, tmp_path, world_size=2, min_world_size=3)


def found(**changed: Any) -> Found:
    versions = dict.fromkeys(SAME, "1.0")
    there = {"rank": 0, "node": "head (10.0.0.1)", "device": "cpu", "cores": 2, "versions": versions,
             "fingerprints": {"train": "aa", "valid": "bb"}}  # fmt: skip
    return Found(**(there | changed))


@pytest.mark.parametrize("name", SAME)
def test_other_versions_on_a_node_are_refused_by_name(name: str):
    other = found(node="worker", versions=dict.fromkeys(SAME, "1.0") | {name: "1.1"})
    told = difference(other, found())
    assert told is not None
    assert str(told).startswith(
        f"{'code of notestream' if name == 'notestream' else name} is 1.1, and 1.0 on head (10.0.0.1)"
    )
    assert difference(found(), found()) is None


def test_other_data_and_devices_on_a_node_are_refused_by_name():
    assert "valid of --data is another pack (cc) than on head (10.0.0.1) (bb)" in str(
        difference(found(fingerprints={"train": "aa", "valid": "cc"}), found())
    )
    assert "train of --data is another pack (None)" in str(difference(found(fingerprints={}), found()))
    assert difference(found(device="cuda H100"), found(device="cuda A100")) is None
    assert "device is cpu, and cuda A100 on head" in str(difference(found(), found(device="cuda A100")))


def test_the_code_is_named_by_its_bytes():
    assert code_hash() == code_hash()
    assert len(code_hash()) == 16


def be_rank(rank: int, cases: list[dict[str, list[str]]], folder: str) -> None:
    """One of two ranks, whose nodes differ in where --runs and --data lead."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    session = Session(world=World(rank=rank, world_size=2), device=torch.device("cpu"))
    for number, case in enumerate(cases):
        place, pack = case["places"][rank], case["packs"][rank]
        try:
            told = "\n".join(preflight(config(pack, Path(place)), place=place, session=session))
        except UsageError as error:
            told = f"refused: {error}"
        Path(folder, f"told-{number}-{rank}").write_text(told)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_ranks_agree_on_what_is_wrong_with_one_of_them(data: Path, notes: Path, tmp_path: Path):
    shared, own, other = tmp_path / "shared", tmp_path / "own", tmp_path / "other"
    own.mkdir()
    pack(notes, other, split="train", rows_per_shard=20)
    here = str(data)
    cases = [
        {"places": [str(shared), str(shared)], "packs": [here, here]},
        {"places": [str(shared), str(own)], "packs": [here, here]},
        {"places": [str(shared), str(shared)], "packs": [here, str(tmp_path / "nowhere")]},
        {"places": [str(shared), str(shared)], "packs": [here, str(other)]},
    ]
    torch.multiprocessing.spawn(be_rank, (cases, str(tmp_path)), nprocs=2)
    told = [[(tmp_path / f"told-{number}-{rank}").read_text() for rank in range(2)] for number in range(len(cases))]
    assert all(first == second for first, second in told)
    good, local, absent, differs = (first for first, _ in told)
    assert [line.split(" on ")[0] for line in good.splitlines()] == ["rank 0", "rank 1"]
    assert f"{own} is not the folder that rank 0's node writes to: --runs must be a disk that all nodes share" in local
    assert absent.startswith("refused: node ")
    assert f"{tmp_path}/nowhere" in absent
    assert "train of --data is another pack" in differs
    assert not list(shared.iterdir()) + list(own.iterdir())


@pytest.mark.cluster
def test_a_dry_run_under_ray_asks_every_rank_and_leaves_nothing(data: Path, tmp_path: Path):
    done = finished([
        sys.executable, "-m", "trainers", "train", "--data", str(data), "--runs", str(tmp_path / "runs"), "--name", "x",
        "--world-size", "2", "--batch-size", "9", "--readers", "0", "--device", "cpu", "--dry-run",
    ])  # fmt: skip
    assert f"rank 0 on {node_name()}: cpu" in done.stdout
    assert f"rank 1 on {node_name()}: cpu" in done.stdout
    assert "4 or 5 rows a rank and step on 2 rank(s)" in done.stdout
    assert not list((tmp_path / "runs").iterdir())
