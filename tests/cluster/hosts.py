"""Hosts made of one machine: each with a network, processes and a disk of its own, so that one can be lost for real.

        this machine, x.1: pytest, an S3 server, `ray up`, `ray submit`, `ray job`
              │ bridge
      ┌───────┴─────────┐
    head, x.10        worker, x.11
      each: eth0, pids, hostname, /tmp, /dev/shm, HOME and /etc/hosts of its own, and an sshd, which is its process 1.
      They share / with this machine, so Python and Ray are there; nothing that a run writes is.

A host is lost as by a power cut: its network goes first, so nobody is told, then all its processes at once. It comes
back as after one, too: its disk holds what was written, and nothing runs. Needs root, namespaces, sshd, rsync and ip.
"""

import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

TOOLS = ("ip", "unshare", "ssh", "ssh-keygen", "rsync", "/usr/sbin/sshd")
VENV = Path(sys.prefix)

SSHD = """
Port 22
HostKey {keys}/host
AuthorizedKeysFile {keys}/id.pub
PidFile {disk}/sshd.pid
UsePAM no
StrictModes no
PasswordAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
MaxSessions 100
"""

# The first command of a host. Mounts stay in it; /tmp is last, since its scripts may lie below.
INIT = """
mount --make-rprivate /
mount --bind {disk}/passwd /etc/passwd
mount --bind {disk}/etc-hosts /etc/hosts
mount -t tmpfs -o size=2g tmpfs /dev/shm
hostname {name}
mount --bind {disk}/tmp /tmp
cd {disk}/home
exec env -i HOME={disk}/home PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin LANG=C.UTF-8 \
    /usr/sbin/sshd -D -e -f {disk}/sshd_config
"""


def missing() -> str | None:
    """Tell why hosts can't be made here, or None."""
    if os.geteuid():
        return "needs root"
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    if lacking:
        return f"needs {', '.join(lacking)} (Debian: apt-get install openssh-server rsync iproute2)"
    tried = subprocess.run(["unshare", "--net", "--pid", "--mount", "--uts", "--fork", "true"], capture_output=True)
    return "needs namespaces, which this machine refuses" if tried.returncode else None


def run(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60)
    assert not check or done.returncode == 0, f"{command}: {done.stderr}"
    return done


def wait_until(true: Callable[[], object], *, seconds: float, what: Callable[[], str] | str) -> None:
    """Poll until it holds; fail with what there is to say."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, f"not within {seconds:.0f} s: {what if isinstance(what, str) else what()}"
        time.sleep(0.2)


@dataclasses.dataclass(kw_only=True)
class Host:
    """One host: its name, its address, its disk, and the process whose end is the end of all in it."""

    name: str
    address: str
    network: "Network"
    process: subprocess.Popen[bytes] | None = None

    @property
    def disk(self) -> Path:
        return self.network.base / self.name

    @property
    def space(self) -> str:
        """Its network namespace."""
        return f"{self.network.bridge}-{self.name}"

    def start(self) -> None:
        """Plug it in: its disk, empty at first, a network, a running sshd."""
        if not self.disk.exists():
            self._format()
        self._plug_in()
        with (self.disk / "sshd.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.space, "unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child",
                 "--mount-proc", "bash", "-e", str(self.disk / "init.sh")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        wait_until(self.answers, seconds=20, what=lambda: (self.disk / "sshd.log").read_text())

    def _format(self) -> None:
        for folder in ("home/.ssh", "tmp"):
            (self.disk / folder).mkdir(parents=True)
        (self.disk / "home" / ".bashrc").write_text(self.network.profile)
        (self.disk / "home" / ".bash_profile").write_text(". ~/.bashrc\n")
        (self.disk / "home" / ".notestream").symlink_to(VENV)  # what its first setup command would make
        passwd = Path("/etc/passwd").read_text().replace(":/root:", f":{self.disk}/home:")
        (self.disk / "passwd").write_text(passwd)
        known = "".join(f"{host.address} {host.name}\n" for host in self.network.hosts)
        (self.disk / "etc-hosts").write_text(f"127.0.0.1 localhost\n{known}")
        names = {"disk": self.disk, "keys": self.network.base / "keys", "name": self.name}
        (self.disk / "sshd_config").write_text(SSHD.format(**names))
        (self.disk / "init.sh").write_text(INIT.format(**names))

    @property
    def plug(self) -> str:
        """Its end of the cable at the bridge."""
        return f"{self.space}-v"

    def _plug_in(self) -> None:
        there = self.space
        card = f"02:00:0a:4d:{self.network.number:02x}:{int(self.address.rpartition('.')[2]):02x}"
        run("ip", "netns", "add", there)
        run("ip", "link", "add", self.plug, "type", "veth", "peer", "name", "eth0", "netns", there)
        run("ip", "link", "set", self.plug, "master", self.network.bridge, "up")
        # a card that others know from before: finding a new one can take them a minute
        for words in (
            f"link set eth0 address {card}",
            f"addr add {self.address}/24 dev eth0",
            "link set eth0 up",
            "link set lo up",
        ):
            run("ip", "-n", there, *words.split())
        run("ip", "-n", there, "route", "add", "default", "via", self.network.gateway)

    def answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self.address, 22), timeout=1):
            return True
        return False

    def lose(self) -> None:
        """Cut its power: the network is dead before any process is."""
        run("ip", "link", "del", self.plug, check=False)
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
        run("ip", "netns", "del", self.space, check=False)

    def ssh(self, command: str, *, timeout: float = 60) -> str:
        """Run a command in a login shell of the host, and return what it says."""
        done = subprocess.run(
            [*self.network.ssh, f"root@{self.address}", f"bash --login -c {_quoted(command)}"],
            capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip
        return done.stdout + done.stderr


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _removed(folder: Path) -> bool:
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


@dataclasses.dataclass(kw_only=True)
class Network:
    """A bridge with this machine at one end; `profile` is what every host's shells read."""

    base: Path
    number: int
    profile: str = ""
    hosts: list[Host] = dataclasses.field(default_factory=list)

    @property
    def bridge(self) -> str:
        return f"ns{self.number}"

    @property
    def gateway(self) -> str:
        """This machine's address on it."""
        return f"10.77.{self.number}.1"

    @property
    def ssh(self) -> list[str]:
        options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR")
        return ["ssh", "-i", str(self.base / "keys" / "id"), *(word for option in options for word in ("-o", option))]

    def host(self, name: str, last: int) -> Host:
        """Name a host; its interface's name must stay below 16 letters."""
        self.hosts.append(Host(name=name, address=f"10.77.{self.number}.{last}", network=self))
        return self.hosts[-1]


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """Make a network; what lies below its `base` is gone afterwards."""
    number = os.getpid() % 250 + 1  # beside other runs of this test on the machine
    found = Network(base=Path(f"/var/tmp/notestream-hosts-{os.getpid()}"), number=number)
    (found.base / "keys").mkdir(parents=True)
    for name in ("id", "host"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", found.base / "keys" / name)
    Path("/run/sshd").mkdir(exist_ok=True)  # where sshd wants to be, in Debian
    run("ip", "link", "add", found.bridge, "type", "bridge")
    try:
        run("ip", "addr", "add", f"{found.gateway}/24", "dev", found.bridge)
        run("ip", "link", "set", found.bridge, "up")
        yield found
    finally:
        for host in found.hosts:
            host.lose()
        run("ip", "link", "del", found.bridge, check=False)
        wait_until(lambda: _removed(found.base), seconds=20, what=f"{found.base} can't be removed")
