"""A Ray node lost for real: the run goes on, at all of its ranks or at fewer; no row is lost, none comes twice."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from tests.trainers.runs import ROOT, as_flags, config, rows_of, wait_for_records
from trainers.run import Run

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]

HEALTH = {"health_check_period_ms": 500, "health_check_timeout_ms": 2000, "health_check_failure_threshold": 3}
MEMORY = 100 << 20


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Two nodes of one CPU in this process's tree: a rank on each."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # the checkout is at the same path on all nodes
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # this process has imported Ray, and reads its mode then
    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": MEMORY, "_system_config": HEALTH}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield cluster
    finally:
        cluster.shutdown()


def train(cluster: Cluster, given: list[str], *, name: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "trainers", *given, "--name", name, "--device", "cpu", "--address",
               cluster.address, "--checkpoint-seconds", "1"]  # fmt: skip
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONWARNINGS": "ignore"}, stdout=subprocess.DEVNULL)


def until_says(run: Run, text: str, begun: subprocess.Popen[bytes], *, timeout: float = 200) -> None:
    until = time.monotonic() + timeout
    while text not in run.log.read_text():
        assert begun.poll() is None, "it ended before it said so"
        assert time.monotonic() < until, run.log.read_text()
        time.sleep(0.1)


@pytest.mark.parametrize("elastic", [False, True], ids=["fixed", "elastic"])
def test_a_lost_node_costs_no_row(whole: Run, data: Path, tmp_path: Path, cluster: Cluster, elastic: bool):
    other = cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
    ranks = ["--world-size", "2", *(["--min-world-size", "1"] if elastic else [])]
    begun = train(cluster, [*as_flags(config(data, tmp_path), local=False), *ranks], name="run")
    try:
        run = Run(tmp_path / "run")
        wait_for_records(run, 10, begun, timeout=200)  # past the first epoch's checkpoint
        cluster.remove_node(other, allow_graceful=False)
        if not elastic:
            cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
        until_says(run, f"on {1 if elastic else 2} rank(s)", begun)
        assert begun.wait(timeout=200) == 0
    finally:
        begun.kill()
        begun.wait()
    assert rows_of(run) == rows_of(whole)
    assert run.report.exists()
    last = sorted((run.folder / "rows").glob("attempt-*"))[-1].name
    assert last.endswith("rank-000.jsonl" if elastic else "rank-001.jsonl")
