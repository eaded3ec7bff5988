"""site: a pack -> two hosts that are up, a bucket that both reach, and what `ray up` needs on this machine.

`ray up` takes cluster/local.yaml with other addresses, and with one CPU a host, so that two ranks are on two hosts.
"""

import contextlib
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow.fs as pafs
import pytest
import yaml

from shards.remote import Location, locate
from tests.cluster.hosts import VENV, Network, network, run
from tests.trainers.runs import ROOT
from trainers.run import Run

EPOCHS, STEPS = 10, 77
OPTIONS = [
    "--epochs", str(EPOCHS), "--batch-size", "8", "--crop-seconds", "0.5", "--log-every", "1", "--log-rows",
    "--model.name", "test_resnet", "--augment.pitch-semitones", "2", "--augment.speed", "1.1",
    "--augment.random-start", "--baseline-rows", "20", "--readers", "1", "--device", "cpu", "--transforms",
    "tests.cluster.slow:slow",
]  # fmt: skip
PLANTED = {"data/private.wav": "x", "runs/old/config.json": "{}", "me.pem": "secret", ".env": "secret"}


class Site:
    """Two hosts, a bucket that they reach, and the launcher's files on this machine."""

    def __init__(self, net: Network, store: str, data: Path) -> None:
        self.net, self.store, self.data = net, store, data
        self.head, self.worker = net.host("head", 10), net.host("worker", 11)
        self.home, self.checkout, self.yaml = net.base / "home", net.base / "checkout", net.base / "cluster.yaml"
        self.slow = net.base / "slow"

    def url(self, path: str) -> str:
        return self.store.replace("PATH", path)

    def command(self, *words: str) -> list[str]:
        return [str(VENV / "bin" / "ray"), *words]

    @property
    def env(self) -> dict[str, str]:
        path = f"{VENV}/bin:{os.environ['PATH']}"
        return {"HOME": str(self.home), "PATH": path, "TERM": "dumb", "RAY_AUTH_MODE": "token", "LANG": "C.UTF-8"}

    def call(self, *words: str, timeout: float = 120, **env: str) -> subprocess.CompletedProcess[str]:
        """Run one of Ray's commands in the checkout, to its end."""
        return subprocess.run(
            self.command(*words), cwd=self.checkout, env=self.env | env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout,
        )  # fmt: skip

    def ray(self, *words: str, timeout: float = 120, **env: str) -> str:
        """Run one that must work, and return what it says."""
        done = self.call(*words, timeout=timeout, **env)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def begin(self, *words: str, out: IO[str], **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*words), cwd=self.checkout, env=self.env | env, stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def flags(self, name: str, *more: str, resume: bool = False, quoted: bool = True) -> list[str]:
        """A run's options; `ray submit` hands them to a shell as they are, so its URLs are quoted."""
        places = [self.url("pack"), self.url("runs")]
        data, runs = (f"'{place}'" for place in places) if quoted else places
        return ["--data", data, "--runs", runs, "--resume" if resume else "--name", name, *OPTIONS, *more]

    def text(self, path: str) -> str:
        """Read a file of the bucket; nothing where it isn't there."""
        place = locate(self.url(path))
        return place.read_bytes().decode() if place.size() is not None else ""

    def run(self, name: str) -> Run:
        """The run as the bucket has it."""
        found = Run.at(self.url("runs"), name)
        shutil.rmtree(found.folder, ignore_errors=True)
        found.pull()
        return found


def write_checkout(site: Site) -> None:
    """Copy the checkout, with what must not leave it."""
    rules = ["--exclude", ".git", "--exclude", ".venv*", "--filter", ":- .gitignore"]
    run("rsync", "-a", *rules, f"{ROOT}/", f"{site.checkout}/")
    for name, text in PLANTED.items():
        (site.checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (site.checkout / name).write_text(text)


def write_cluster(site: Site) -> dict[str, Any]:
    """cluster/local.yaml, edited as its EDIT marks say; what pip would install is there already, by a link."""
    cluster = yaml.safe_load((ROOT / "cluster" / "local.yaml").read_text())
    cluster["cluster_name"] = f"hosts-{os.getpid()}"
    cluster["provider"] |= {"head_ip": site.head.address, "worker_ips": [site.worker.address]}
    cluster["auth"] = {"ssh_user": "root", "ssh_private_key": str(site.net.base / "keys" / "id")}
    cluster["setup_commands"] = [command for command in cluster["setup_commands"] if "pip install" not in command]
    small = " --num-cpus=1 --object-store-memory=200000000"
    for kind in ("head", "worker"):
        commands = cluster[f"{kind}_start_ray_commands"]
        commands[-1] = commands[-1].strip() + small
    site.yaml.write_text(yaml.safe_dump(cluster))
    return cluster


@contextlib.contextmanager
def site_of(data: Path) -> Iterator[Site]:
    """Two hosts that are up, the pack in a bucket, and what the launcher needs; all of it is gone afterwards."""
    from moto.server import ThreadedMotoServer

    with network() as net, pytest.MonkeyPatch.context() as env:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request
        server = ThreadedMotoServer(ip_address=net.gateway, port=0)
        server.start()
        _, port = server.get_host_and_port()
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        for name, value in keys.items():
            env.setenv(name, value)
        store = f"s3://bucket/PATH?endpoint_override=http://{net.gateway}:{port}&region=us-east-1"
        pafs.FileSystem.from_uri(store.replace("/PATH", "") + "&allow_bucket_creation=true")[0].create_dir("bucket")
        site = Site(net, store, data)
        net.profile = "".join(f"export {name}={value}\n" for name, value in keys.items())
        net.profile += f"export NOTESTREAM_SLOW={site.slow} PYTHONWARNINGS=ignore OMP_NUM_THREADS=1\n"
        filesystem, path = Location(site.url("pack")).resolve()
        pafs.copy_files(str(data), path, destination_filesystem=filesystem)
        site.home.mkdir()
        write_checkout(site)
        site.ray("get-auth-token", "--generate")
        cluster = write_cluster(site)
        for host in (site.head, site.worker):
            host.start()
        try:
            yield site
        finally:
            server.stop()
            for kind in ("lock", "state"):
                Path(f"/tmp/ray/cluster-{cluster['cluster_name']}.{kind}").unlink(missing_ok=True)
