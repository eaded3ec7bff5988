"""The launcher's files pass Ray's validator and keep their promises; train.py finds its code when copied alone."""

import copy
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray._private.label_utils import validate_node_labels
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[2]
AWS, LOCAL = ROOT / "ray_cluster.yaml", ROOT / "cluster" / "local.yaml"
PRIVATE = {"data/", "runs/", "*.pem", "*.key", ".env"}
both = pytest.mark.parametrize("path", [AWS, LOCAL], ids=lambda path: path.name)


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load(AWS.read_text())


def check(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(copy.deepcopy(cluster)))


def option(cluster: dict[str, Any], name: str) -> str:
    found = [one for one in cluster["docker"]["run_options"] if one.startswith(name)]
    assert len(found) == 1, f"docker.run_options must have one {name}, got {found}"
    return found[0].removeprefix(name).lstrip("= ")


@both
def test_rays_own_validator_takes_the_file(path: Path):
    cluster = yaml.safe_load(path.read_text())
    check(cluster)
    for kind in cluster.get("available_node_types", {}).values():
        validate_node_labels(kind.get("labels", {}))


def test_the_local_file_with_node_types_or_an_unknown_key_is_refused():
    cluster = yaml.safe_load(LOCAL.read_text())
    with pytest.raises(jsonschema.ValidationError, match="worker_nods"):
        check(cluster | {"worker_nods": 1})
    with pytest.raises(Exception, match="available_node_types"):
        check(cluster | {"available_node_types": {"head": {}}, "head_node_type": "head"})


@pytest.mark.parametrize("place", [(), ("docker",), ("available_node_types", "gpu")])
def test_an_unknown_key_is_caught(cluster, place):
    part = cluster
    for name in place:
        part = part[name]
    part["worker_nods"] = {}
    with pytest.raises(jsonschema.ValidationError, match="worker_nods"):
        check(cluster)


def test_a_head_type_that_does_not_exist_and_too_many_workers_are_caught(cluster):
    with pytest.raises(ValueError, match="head_node_type"):
        check(cluster | {"head_node_type": "haed"})
    cluster["available_node_types"]["gpu"]["min_workers"] = cluster["max_workers"] + 1
    with pytest.raises(ValueError, match="max_workers"):
        check(cluster)


def test_the_image_has_the_ray_and_the_python_that_are_installed(cluster):
    version = re.fullmatch(r"rayproject/ray:(\d+\.\d+\.\d+)-py(\d)(\d+)-gpu", cluster["docker"]["image"])
    assert version, cluster["docker"]["image"]
    assert version[1] == ray.__version__
    assert (int(version[2]), int(version[3])) == sys.version_info[:2]


@both
def test_the_checkout_goes_to_app_without_what_git_ignores_and_without_keys(path: Path):
    cluster = yaml.safe_load(path.read_text())
    assert cluster["file_mounts"]["~/app"] == "."
    assert cluster["rsync_filter"] == [".gitignore"]
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {".venv/", *PRIVATE} <= set(ignored)
    assert {"**/.git", *(PRIVATE - {"data/", "runs/"})} <= set(cluster["rsync_exclude"])
    assert any("~/app" in command and "pip install" in command for command in cluster["setup_commands"])


def test_nothing_is_scheduled_on_the_head_and_workers_come_when_asked_for(cluster):
    kinds = cluster["available_node_types"]
    assert kinds[cluster["head_node_type"]]["resources"] == {"CPU": 0}
    workers = {name: kind for name, kind in kinds.items() if name != cluster["head_node_type"]}
    assert set(workers) == {"gpu", "cpu"}
    for kind in workers.values():
        assert kind["min_workers"] == 0
        assert kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert len({kind["node_config"]["ImageId"] for kind in kinds.values()}) == 1
    assert cluster["idle_timeout_minutes"] > 0


@both
def test_the_dashboard_is_on_loopback_and_every_node_has_the_token(path: Path):
    cluster = yaml.safe_load(path.read_text())
    heads, workers = (cluster[f"{kind}_start_ray_commands"] for kind in ("head", "worker"))
    assert "--dashboard-host=127.0.0.1" in heads[-1]
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in heads[-1]
    assert "--address=$RAY_HEAD_IP:6379" in workers[-1]
    for command in (heads[-1], workers[-1]):
        assert command.startswith("ulimit -n 65536 || true; RAY_AUTH_MODE=token ")
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    if path == AWS:
        assert option(cluster, "--env") == "RAY_AUTH_MODE=token"
    else:  # what `ray submit` runs reads it there
        assert any("RAY_AUTH_MODE=token" in command and ".bashrc" in command for command in cluster["setup_commands"])


@both
def test_a_job_has_time_for_its_checkpoint_and_a_lost_node_is_found_in_seconds(path: Path):
    head = yaml.safe_load(path.read_text())["head_start_ray_commands"][-1]
    given = {name: int(value) for name, value in re.findall(r"\b(RAY_\w+)=(\d+)", head)}
    assert given["RAY_JOB_STOP_WAIT_TIME_S"] >= 60
    silent = given["RAY_health_check_period_ms"] + given["RAY_health_check_timeout_ms"]
    assert silent * given["RAY_health_check_failure_threshold"] < 15_000


@both
def test_no_file_holds_a_secret_or_opens_a_port(path: Path):
    text = re.sub(r"#.*", "", path.read_text())
    assert not re.search(r"(?i)(secret|password|AKIA|access_key|BEGIN)", text)
    assert not re.search(r"0\.0\.0\.0|IpPermissions|--(dashboard|node-ip)-host=(?!127)", text)


def test_the_local_file_starts_workers_by_the_first_autoscaler():
    """The second never starts workers of the `local` provider."""
    cluster = yaml.safe_load(LOCAL.read_text())
    assert "RAY_enable_autoscaler_v2=0 " in cluster["head_start_ray_commands"][-1]
    assert cluster["min_workers"] == cluster["max_workers"] == len(cluster["provider"]["worker_ips"])
    assert f"Python {sys.version_info[0]}.{sys.version_info[1]}" in LOCAL.read_text()
    assert f"python{sys.version_info[0]}.{sys.version_info[1]} -m venv" in cluster["setup_commands"][0]


def test_what_a_run_ships_to_its_workers_leaves_out_what_is_private(tmp_path: Path):
    from ray._private.runtime_env.packaging import create_package

    from trainers.train import EXCLUDES

    private = ("data/x.wav", "runs/a/config.json", "me.pem", "deep/me.key", ".env", ".git/HEAD", ".venv/bin/python")
    for name in (*private, "trainers/train.py"):
        (tmp_path / "app" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "app" / name).write_text("x")
    for excludes, ignored in ((EXCLUDES, False), ([], True)):  # `ray submit`'s, and `ray job submit --working-dir .`
        if ignored:
            shutil.copy(ROOT / ".rayignore", tmp_path / "app")
        create_package(str(tmp_path / "app"), tmp_path / "sent.zip", include_gitignore=ignored, excludes=excludes)
        names = zipfile.ZipFile(tmp_path / "sent.zip").namelist()
        assert "trainers/train.py" in names
        assert not set(names) & set(private), names


def test_workers_may_use_the_bucket_and_have_shared_memory_for_readers(cluster):
    kinds = cluster["available_node_types"]
    assert {kinds[name]["node_config"]["IamInstanceProfile"]["Name"] for name in ("gpu", "cpu")} == {"notestream-s3"}
    assert option(cluster, "--shm-size").endswith("g")


@pytest.mark.slow
def test_train_finds_its_code_when_it_is_shipped_alone(tmp_path):
    copied = shutil.copy(ROOT / "trainers" / "train.py", tmp_path)
    (tmp_path / "app").symlink_to(ROOT)
    env = os.environ | {"HOME": str(tmp_path), "TERM": "dumb"}
    command = [sys.executable, copied, "--help"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for flag in ("--data", "--runs", "--world-size", "--resume", "--optim.lr"):
        assert flag in done.stdout
    (tmp_path / "app").unlink()
    lost = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert lost.returncode == 1
    assert "keep file_mounts in ray_cluster.yaml" in lost.stderr
