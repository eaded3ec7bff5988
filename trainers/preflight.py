"""preflight: a config, ranks on their nodes -> what each node has, or the one line that says why they can't train.

The first thing in every run, and all of a `--dry-run`. Each rank opens the data, writes a file where runs lie and reads
what rank 0 wrote there; rank 0's node is what the others are held against. All ranks come to the same verdict, from the
same answers: none waits in a collective for one that has given up.
"""

import dataclasses
import functools
import importlib.metadata
import platform
import secrets
import shutil
import socket

import torch
import xxhash

from shards import linux
from shards.errors import DataError, NotestreamError, UsageError
from shards.owner import ROOMS, ROOT
from shards.remote import Location, locate
from streaming.room import mirror_folder
from streaming.stores import open_stores
from trainers.config import TrainConfig
from trainers.data import Data, open_data
from trainers.session import Session

SAME = ("python", "torch", "ray", "notestream")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What one rank found on its node; `versions` and `fingerprints` are by name.

    `problem` is what can't be: a UsageError, or a DataError where trying again may help, as with a store that is away.
    """

    rank: int
    node: str
    device: str
    cores: int
    versions: dict[str, str]
    fingerprints: dict[str, str] = dataclasses.field(default_factory=dict)
    mirror: str = ""
    problem: NotestreamError | None = None


def preflight(config: TrainConfig, *, place: str, session: Session) -> tuple[str, ...]:
    """Look at every rank's node before the first step; return what there is, a line a rank.

    Args:
        config: the run's options.
        place: the folder or URL that runs lie in, as every node is to see it.
        session: this rank; all ranks call this together.

    Raises:
        UsageError: a node can't train, or isn't like rank 0's; on all ranks alike.
        DataError: a store can't be reached, or a pack is damaged; likewise.
    """
    token = locate(place) / f".preflight-{session.broadcast(secrets.token_hex(8) if session.is_first else None)}"
    lead = _write(token) if session.is_first else None
    lead = session.broadcast(lead)
    mine = Found(
        rank=session.world.rank, node=node_name(), device=_device(session), cores=linux.cores(), versions=_versions()
    )
    try:
        found = session.gather(_look(mine, config, token=token) if lead is None else mine)
    finally:
        if session.is_first and lead is None:
            token.remove()
    first = found[0]
    if lead is not None:
        raise _at(first, lead)
    for one in found:
        if problem := one.problem or difference(one, first):
            raise _at(one, problem)
    return tuple(_line(one) for one in found)


def _at(one: Found, problem: NotestreamError) -> NotestreamError:
    return type(problem)(f"node {one.node}: {_told(problem)}")


def node_name() -> str:
    """Name this machine as a user knows it: its host name and its address."""
    name = platform.node()
    try:
        return f"{name} ({socket.gethostbyname(name)})"
    except OSError:
        return name


def _device(session: Session) -> str:
    if session.device.type != "cuda":
        return session.device.type
    return f"cuda {torch.cuda.get_device_name(session.device)}"


def _versions() -> dict[str, str]:
    told = {name: importlib.metadata.version(name) for name in ("torch", "ray")}
    return {"python": platform.python_version(), **told, "notestream": code_hash()}


@functools.cache
def code_hash() -> str:
    """Name the code of the three rooms by its bytes: there is no git where a working_dir was shipped."""
    hashed = xxhash.xxh3_64()
    for room in ROOMS:
        for path in sorted((ROOT / room).glob("*.*")):
            if path.suffix in (".py", ".j2"):
                hashed.update(f"{room}/{path.name}\0".encode() + path.read_bytes())
    return hashed.hexdigest()


def _write(place: Location) -> NotestreamError | None:
    """Write a small file; return what is wrong where that fails."""
    try:
        place.write_bytes(place.name.encode())
    except (NotestreamError, OSError) as error:
        told = f"{place.parent} can't be written ({_told(error)}): give --runs a folder or URL that all nodes write to"
        return DataError(told) if isinstance(error, DataError) else UsageError(told)
    return None


def _look(mine: Found, config: TrainConfig, *, token: Location) -> Found:
    """Fill in what this rank finds, up to the first problem."""
    if problem := _storage_problem(token, rank=mine.rank):
        return dataclasses.replace(mine, problem=problem)
    try:
        data = open_data(config)
        mirror = _mirror(config, data)
    except NotestreamError as error:
        return dataclasses.replace(mine, problem=error)
    except OSError as error:
        return dataclasses.replace(mine, problem=UsageError(_told(error)))
    return dataclasses.replace(mine, fingerprints=data.fingerprints, mirror=mirror)


def _storage_problem(token: Location, *, rank: int) -> NotestreamError | None:
    """Read what rank 0 wrote, and write beside it: a folder of this node's own shows as one that lacks the file."""
    try:
        seen = token.size() is not None and token.read_bytes() == token.name.encode()
    except (NotestreamError, OSError) as error:
        return DataError(f"{token.parent} can't be read ({_told(error)})")
    if not seen:
        return UsageError(
            f"{token.parent} is not the folder that rank 0's node writes to: "
            "--runs must be a disk that all nodes share, or a URL such as s3://"
        )
    own = token.parent / f"{token.name}-{rank}"
    problem = _write(own)
    if problem is None:
        own.remove()
    return problem


def _mirror(config: TrainConfig, data: Data) -> str:
    """Tell how shards at a URL will be read here; opening the mirror is what checks its disk."""
    if all(pack.folder.local() is not None for pack in data.train.packs):
        return ""
    stores = open_stores(data.train.packs, data.order, remote=config.remote, mirror_bytes=config.mirror_bytes)
    reads = {store.reads for store in stores}
    for store in stores:
        store.close()
    folder = mirror_folder()
    if "mirror" not in reads:
        return ", a request a row"
    return f", mirror in {folder} ({shutil.disk_usage(folder).free / 1e9:,.1f} GB free)"


def difference(one: Found, first: Found) -> UsageError | None:
    """Say in what a node differs from rank 0's, where both must be alike."""
    for name in SAME:
        if one.versions[name] != first.versions[name]:
            what = "code of notestream" if name == "notestream" else name
            return UsageError(
                f"{what} is {one.versions[name]}, and {first.versions[name]} on {first.node}: "
                "install the same on all nodes (`ray up` again, or the same image)"
            )
    for split, fingerprint in first.fingerprints.items():
        if (there := one.fingerprints.get(split)) != fingerprint:
            return UsageError(
                f"{split} of --data is another pack ({there}) than on {first.node} ({fingerprint}): "
                "give all nodes the same one, or a URL"
            )
    if one.device.split()[0] != first.device.split()[0]:
        return UsageError(f"device is {one.device}, and {first.device} on {first.node}: name one with --device")
    return None


def _line(one: Found) -> str:
    return f"rank {one.rank} on {one.node}: {one.device}, {one.cores} cores{one.mirror}"


def _told(error: Exception) -> str:
    return " ".join(str(error).split())
