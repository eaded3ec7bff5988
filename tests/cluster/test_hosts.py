"""The whole way on two hosts, nothing mocked: `ray up`, `submit`, a lost host, `job submit` and `stop`, `down`.

    this machine ── ray up, submit, job ──> head ── ssh ──> worker          (tests/cluster/hosts.py)
         └── moto's S3 server: pack/ and runs/ <── rank 0, rank 1, their readers

`ray up` takes cluster/local.yaml with other addresses, and with one CPU a host, so that two ranks are on two hosts. A
transform keeps the run slow for as long as the test needs (tests/cluster/slow.py).
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards.remote import locate
from tests.cluster.hosts import Host, missing, wait_until
from tests.cluster.site import OPTIONS, STEPS, Site, site_of
from tests.trainers.runs import ROOT, rows_of
from trainers import checkpoint
from trainers.run import Run

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.skipif(missing() is not None, reason=f"two hosts on one machine: {missing()}"),
]


@pytest.fixture(scope="module")
def site(data: Path) -> Iterator[Site]:
    with site_of(data) as found:
        yield found


@pytest.fixture(scope="module", autouse=True)
def beside(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, subprocess.Popen[str]]]:
    """The same run, uninterrupted, on one rank of this machine; it goes on while the hosts are set up."""
    runs = tmp_path_factory.mktemp("whole")
    flags = ["--data", str(data), "--runs", str(runs), "--name", "whole", *OPTIONS, "--local"]
    begun = subprocess.Popen(
        [sys.executable, "-m", "trainers", "train", *flags], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    yield Run.at(str(runs), "whole"), begun
    begun.kill()
    begun.communicate()


@pytest.fixture
def whole(beside: tuple[Run, subprocess.Popen[str]]) -> Run:
    """The uninterrupted run, done."""
    run, begun = beside
    assert begun.wait(timeout=300) == 0, begun.stderr and begun.stderr.read()
    assert len(rows_of(run)) == STEPS
    return run


def nodes(host: Host) -> int:
    """How many nodes the cluster has, by its head."""
    active = re.search(r"Active:\n(.*?)^Pending:", host.ssh("ray status"), re.DOTALL | re.MULTILINE)
    return sum(int(found) for found in re.findall(r"^ (\d+) ", active[1], re.MULTILINE)) if active else 0


def last_step(log: str) -> int:
    found = [line for line in log.splitlines() if line.startswith("step ")]
    return int(found[-1].split()[1].split("/")[0].replace(",", "")) if found else 0


def test_up_brings_the_code_and_none_of_what_is_private(site: Site):
    site.ray("up", str(site.yaml), "-y", "--no-config-cache", timeout=200)
    wait_until(lambda: nodes(site.head) == 2, seconds=120, what=lambda: site.head.ssh("ray status"))
    for host in (site.head, site.worker):
        there = host.ssh("cd ~/app && ls -A . trainers").split()
        assert {"trainers", "streaming", "shards", "train.py"} <= set(there)
        assert not {"data", "runs", "me.pem", ".env", ".git", ".venv"} & set(there)


def test_nobody_runs_code_without_the_token_and_no_port_but_ssh_and_rays_is_open(site: Site):
    said = site.head.ssh(f"RAY_AUTH_TOKEN={'0' * 64} ray list nodes 2>&1; RAY_AUTH_MODE=disabled ray list nodes 2>&1")
    assert said.count("InvalidAuthToken") + said.count("Unauthorized") >= 2, said
    dashboard = [
        line.split()[3] for line in site.head.ssh("ss -Htln").splitlines() if line.split()[3].endswith(":8265")
    ]
    assert dashboard == ["127.0.0.1:8265"]
    token = (site.home / ".ray" / "auth_token").read_text().strip()
    assert len(token) > 20
    assert token not in site.head.ssh(
        "cat /tmp/ray/session_latest/logs/*.log /tmp/ray/session_latest/logs/*.out", timeout=60
    )


def test_submit_trains_over_both_hosts_and_a_lost_host_costs_no_row(site: Site, whole: Run):
    site.slow.touch()
    ranks = ["--world-size", "2", "--min-world-size", "1"]
    out = site.net.base / "submit.log"
    name = "submitted"
    with out.open("w") as file:
        begun = site.begin(
            "submit",
            "--no-config-cache",
            str(site.yaml),
            "trainers/train.py",
            "--",
            *site.flags(name, *ranks),
            out=file,
        )

    def log() -> str:
        assert begun.poll() is None, out.read_text()
        return site.text(f"runs/{name}/log.txt")

    wait_until(lambda: last_step(log()) > 8, seconds=300, what=out.read_text)  # in the midst of the second epoch
    logged = set(locate(site.url(f"runs/{name}/rows")).children())
    assert logged == {"attempt-000-rank-000.jsonl", "attempt-000-rank-001.jsonl"}
    lost = time.monotonic()
    site.worker.lose()
    wait_until(lambda: "on 1 rank(s)" in log(), seconds=200, what=lambda: out.read_text() + log())
    down = time.monotonic() - lost
    site.worker.start()
    back = time.monotonic()
    wait_until(
        lambda: "on 2 rank(s)" in log(), seconds=300, what=lambda: out.read_text() + log() + site.head.ssh("ray status")
    )
    up = time.monotonic() - back
    site.slow.unlink()
    assert begun.wait(timeout=300) == 0, out.read_text()
    print(f"\nlost host: steps again after {down:.0f} s; returned host: both ranks after {up:.0f} s")
    found = site.run(name)
    assert rows_of(found) == rows_of(whole)
    assert len(rows_of(found)) == STEPS
    assert found.report.exists()
    assert checkpoint.read_state(found.last)["finished"]
    said = out.read_text()
    assert f"step     {STEPS}/{STEPS}" in said, "the log of rank 0 is shown where the run was submitted"
    assert "report: " in said


def test_a_job_that_is_stopped_ends_with_a_checkpoint_and_goes_on_exactly(site: Site, whole: Run):
    site.slow.touch()
    port = "18265"
    with (site.net.base / "dashboard.log").open("w") as file:
        tunnel = site.begin("dashboard", "--no-config-cache", "--port", port, str(site.yaml), out=file)
    address = {"RAY_ADDRESS": f"http://127.0.0.1:{port}"}
    train = ["--", "python", "-m", "trainers", "train", "--world-size", "2"]
    try:
        wait_until(lambda: site.call("job", "list", **address).returncode == 0, seconds=90, what="no tunnel")
        site.ray(
            "job", "submit", "--no-wait", "--submission-id", "first", "--working-dir", ".", *train,
            *site.flags("job", quoted=False), **address,
        )  # fmt: skip

        def told() -> str:
            return site.call("job", "logs", "first", **address).stdout

        wait_until(lambda: last_step(site.text("runs/job/log.txt")) >= 3, seconds=300, what=told)
        site.ray("job", "stop", "first", timeout=150, **address)
        assert "stopping at the next logging step, with a checkpoint" in told()
        assert "go on with --resume job" in told()
        state = json.loads(site.text("runs/job/checkpoints/last/state.json"))
        assert state["cursor"] >= 3 * 8
        assert not state["finished"]
        site.slow.unlink()
        said = site.ray(
            "job", "submit", "--submission-id", "second", "--working-dir", ".", *train,
            *site.flags("job", resume=True, quoted=False), timeout=400, **address,
        )  # fmt: skip
        assert f"going on at step {state['cursor'] // 8} of {STEPS} on 2 rank(s)" in said
        found = site.run("job")
        assert rows_of(found) == rows_of(whole)
        assert found.report.exists()
        shipped = site.head.ssh("ls -A /tmp/ray/session_latest/runtime_resources/working_dir_files/*/").split()
        assert "trainers" in shipped
        assert not {"data", "runs", "me.pem", ".env"} & set(shipped)
    finally:
        tunnel.terminate()
        tunnel.wait()


def test_down_ends_ray_on_the_head(site: Site):
    site.ray("down", str(site.yaml), "-y")
    wait_until(lambda: "raylet" not in site.head.ssh("ps -A"), seconds=60, what=lambda: site.head.ssh("ps -A"))
