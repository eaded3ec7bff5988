"""Laws of the gauges: under Ray Prometheus finds what metrics.jsonl says, and without Ray nothing happens."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from streaming import room
from tests.trainers.runs import ROOT, as_flags, config
from trainers.gauges import MIRROR, OF_RECORD, show_gauges
from trainers.run import Run

RECORD = dict.fromkeys(OF_RECORD, 1.0)
NAMES = {name for name, _ in OF_RECORD.values()} | {MIRROR[0]}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextlib.contextmanager
def ray_node(folder: Path) -> Iterator[tuple[str, str]]:
    """A Ray of this test's own: its address, and where its metrics are served. It dies with the process that we start,
    since `ray stop` would kill everybody's."""
    port, metrics = free_port(), free_port()
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--node-ip-address=127.0.0.1",
        f"--port={port}", f"--metrics-export-port={metrics}", "--include-dashboard=false", "--num-cpus=2",
        f"--temp-dir={folder}", "--disable-usage-stats",
    ]  # fmt: skip
    env = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_metrics_report_interval_ms": "500", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            told = []
            for line in process.stdout:
                told.append(line)
                if "Ray runtime started" in line:
                    break
            assert process.poll() is None, "".join(told)
            threading.Thread(target=process.stdout.read, daemon=True).start()
            yield f"127.0.0.1:{port}", f"http://127.0.0.1:{metrics}/metrics"
        finally:
            process.terminate()


def scrape(address: str) -> dict[str, dict[str, float]]:
    """Read our gauges as Prometheus does: values by name, then by run."""
    found: dict[str, dict[str, float]] = {}
    with urllib.request.urlopen(address, timeout=5) as page:
        for line in page.read().decode().splitlines():
            if told := re.fullmatch(r'ray_(notestream_\w+)\{.*\brun="([^"]*)".*\} (\S+)', line):
                found.setdefault(told[1], {})[told[2]] = float(told[3])
    return found


@pytest.mark.cluster
def test_prometheus_finds_on_the_node_what_the_run_writes(data: Path, tmp_path: Path):
    folder = Path("/tmp") / f"gauges-{os.getpid()}"  # a socket's path is at most 107 bytes long
    with ray_node(folder) as (address, metrics):
        flags = [*as_flags(config(data, tmp_path), local=False), "--epochs", "500", "--name", "watched"]
        command = [sys.executable, "-m", "trainers", *flags, "--address", address, "--world-size", "1"]
        env = os.environ | {"RAY_AUTH_MODE": "disabled"}
        train = subprocess.Popen([*command, "--device", "cpu"], cwd=ROOT, stdout=subprocess.DEVNULL, env=env)
        until, found = time.monotonic() + 100, {}
        while set(found) != NAMES:
            assert train.poll() is None, "it ended before it could be watched"
            assert time.monotonic() < until, found
            time.sleep(0.5)
            with contextlib.suppress(OSError):
                found = scrape(metrics)
        train.kill()  # a clean end takes Ray half a minute without its dashboard
        train.wait()
    run = Run(tmp_path / "watched")
    records = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert all(list(values) == ["watched"] for values in found.values())
    for field, (name, _) in OF_RECORD.items():
        assert found[name]["watched"] in [record.get(field) for record in records], field
    assert found[MIRROR[0]]["watched"] == 0  # the data lies on this disk


def test_without_ray_nothing_happens():
    code = f"import sys; from trainers.gauges import show_gauges; show_gauges({RECORD!r}, run='x')"
    code += "; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, check=True)
    import ray

    assert not ray.is_initialized()
    show_gauges(RECORD, run="x")
    assert not ray.is_initialized()


def test_a_mirrors_bytes_are_those_of_its_files(tmp_path: Path):
    assert room.held_bytes(tmp_path / "nowhere") == 0
    for name, size in (("a.tar", 8192), ("b.part", 4096), ("lock", 100)):
        (tmp_path / name).write_bytes(b"x" * size)
    assert room.held_bytes(tmp_path) == 12_288
