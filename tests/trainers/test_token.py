"""A cluster that a run starts for itself asks for its token: who reaches the machine's ports runs no code here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainers.runs import ROOT

ASK = "from ray._raylet import GcsClient; print(GcsClient(address={address!r}).get_all_node_info())"
OWN = f"""
import os, subprocess, sys
from trainers.cluster import connected
from trainers.config import TrainConfig
with connected(TrainConfig(world_size=1)):
    import ray
    ask = {ASK!r}.format(address=ray.get_runtime_context().gcs_address)
    token = os.environ["RAY_AUTH_TOKEN"]
    for mode, given in (("disabled", ""), ("token", "0" * 64), ("token", token)):
        env = os.environ | {{"RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN": given}}
        done = subprocess.run([sys.executable, "-c", ask], env=env, capture_output=True, text=True)
        print(mode, len(given), done.returncode, "InvalidAuthToken" in done.stderr)
    session = ray._private.worker._global_node.get_session_dir_path()
    places = [session, os.path.expanduser("~/.ray")]
    ray.shutdown()
    held = subprocess.run(["grep", "-rl", token, *places], capture_output=True, text=True).stdout
    print("held by", held.split())
"""


@pytest.mark.slow
def test_only_who_has_the_token_reaches_a_runs_own_cluster_and_no_file_holds_it(tmp_path: Path):
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OWN], cwd=ROOT, env=env | {"HOME": str(tmp_path)}, capture_output=True,
        text=True, timeout=200,
    )  # fmt: skip
    told = done.stdout.splitlines()
    assert told[:3] == ["disabled 0 1 True", "token 64 1 True", "token 64 0 False"], done.stdout + done.stderr
    assert told[3] == "held by []"
