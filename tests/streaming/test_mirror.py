"""Remote rows, by the mirror and by ranged requests: every row right over a network that fails, or an error by name.

One fetch a shard and node, budgets that hold while readers read, and nothing left behind by a kill.
"""

import collections
import contextlib
import dataclasses
import errno
import http.server
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pytest
import xxhash

from shards import connect
from shards.bijection import permute, uniforms
from shards.errors import DataError, UsageError
from shards.index import Pack, open_pack
from shards.listing import gather
from shards.remote import Location
from streaming import mirror as module
from streaming import room
from streaming.fetch import patiently
from streaming.mirror import Mirror, open_mirror
from streaming.store import Store, expect

PAUSES = (0.0,) * 8
SPAWN = multiprocessing.get_context("spawn")


class Site(http.server.ThreadingHTTPServer):
    """A pack's files on a web server; `faults` maps (path, number of the request for it) to what goes wrong."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.faults, self.slow = folder, lambda path, number: None, threading.Event()
        self.asked: collections.Counter = collections.Counter()
        self.lock = threading.Lock()

    def handle_error(self, *args):
        """Clients that are killed hang up."""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.rpartition("/")[2]
        with self.server.lock:
            number = self.server.asked[name]
            self.server.asked[name] += 1
        fault = self.server.faults(name, number)
        if fault == "500" or not (self.server.folder / name).exists():
            self.send_error(500 if fault else 404)
            return
        if fault == "slow":
            time.sleep(0.1)
        if fault == "time out":
            time.sleep(0.4)
            return
        content = (self.server.folder / name).read_bytes()
        given = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "") if fault != "whole" else None
        first = int(given[1]) if given else 0
        last = min(int(given[2]) if given and given[2] else len(content) - 1, len(content) - 1)
        part = bytearray(content[first : last + 1])
        if fault == "wrong":
            part[len(part) // 2] ^= 1
        self.send_response(206 if given else 200)
        if given:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if fault == "stuck":
            self.wfile.write(part[: len(part) // 2])
            self.server.slow.set()
            time.sleep(30)
            return
        self.wfile.write(part[: len(part) // 2] if fault == "cut" else part)

    def log_message(self, *args):
        """Keep quiet."""


@pytest.fixture
def site(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The train split on a web server, and a mirror folder of the test's own."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("NOTESTREAM_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setattr(connect, "TIMEOUT_SECONDS", 0.2)
    with Site(data / "train") as server:
        server.pack = at(data, f"http://127.0.0.1:{server.server_port}/train")
        server.local = Store(open_pack(data, split="train"))
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.local.close()
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(site: Site) -> Path:
    return room.mirror_folder()


def at(data: Path, url: str) -> Pack:
    """Return the pack with its shards at a URL."""
    return dataclasses.replace(open_pack(data, split="train"), folder=Location(url))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def wholes(pack: Pack, *numbers: int) -> list[str]:
    return sorted([*(f"{pack.shards[number].hash}.tar" for number in numbers), "lock"])


def open_at(site: Site, **options) -> Store:
    return Store(site.pack, **({"pauses": PAUSES} | options))


def first_row(pack: Pack, shard: int) -> int:
    return int(pack.starts[shard])


def shard_bytes(pack: Pack) -> int:
    return max(shard.bytes for shard in pack.shards)


def check_all(site: Site, store: Store) -> None:
    for row in permute(np.arange(site.pack.rows), site.pack.rows, 5, "rows").tolist():
        assert store.read(row) == site.local.read(row)
        assert site.local.name(row).rpartition("/")[2] == store.name(row).rpartition("/")[2]


def wait_for(condition) -> None:
    until = time.monotonic() + 60  # a busy machine took more than 10
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.005)


@pytest.mark.parametrize("remote", ["mirror", "ranged"])
def test_a_store_gives_the_rows_of_the_disk(
    store: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: str
):
    monkeypatch.setenv("NOTESTREAM_MIRROR", str(tmp_path / "mirror"))
    filesystem, _ = pafs.FileSystem.from_uri(store.replace("/PATH", ""))
    pafs.copy_files(str(data / "train"), "bucket/mirrored/train", destination_filesystem=filesystem)
    there = open_pack(store.replace("PATH", "mirrored"), split="train")
    ours, theirs = Store(there, remote=remote), Store(open_pack(data, split="train"))
    assert (ours.reads, theirs.reads) == (remote, "local")
    for row in range(there.rows):
        assert ours.read(row) == theirs.read(row)
    ours.close()
    theirs.close()
    assert (tmp_path / "mirror").exists() == (remote == "mirror")


def test_a_file_url_is_read_where_it_lies(data: Path):
    for url in (f"file://{data}", str(data)):
        found = Store(open_pack(url, split="train"))
        assert found.reads == "local"
        found.read(0)
        found.close()


def test_a_mirror_asks_once_a_shard_and_a_restart_not_at_all(site: Site, folder: Path):
    for _ in range(2):
        found = open_at(site)
        assert found.reads == "mirror"
        check_all(site, found)
        check_all(site, pickle.loads(pickle.dumps(found)))
        found.close()
    assert set(site.asked.values()) == {1}
    assert names(folder) == wholes(site.pack, *range(7))


FAULTS = ("500", "time out", "cut", "wrong", "whole")


@pytest.mark.parametrize(("remote", "share"), [("mirror", 0.5), ("ranged", 0.2)])
def test_every_row_is_right_over_a_network_that_fails(site: Site, folder: Path, remote: str, share: float):
    met, wrong = collections.Counter(), 0
    for seed in range(3):

        def faults(name: str, number: int, seed: int = seed) -> str | None:
            bad, kind = uniforms(2, seed, name, number)
            met[fault := FAULTS[int(kind * len(FAULTS))] if bad < share else None] += 1
            return fault

        site.faults = faults
        found = open_at(site, remote=remote)
        for row in range(site.pack.rows):
            try:
                assert found.read(row) == site.local.read(row)
            except DataError as error:  # wrong each time that it was asked for: named, never given out
                assert f"/{site.pack.shards[row // 10].name}, {site.pack.take([row])[0][0]}, offset " in str(error)
                assert "\n" not in str(error)
                wrong += 1
        found.close()
        shutil.rmtree(folder, ignore_errors=True)
        site.asked.clear()
    assert wrong <= 3
    assert set(met) == {None, *FAULTS}


@pytest.mark.parametrize(("fault", "status"), [("500", "HTTP Error 500"), ("time out", "timed out|closed connection")])
@pytest.mark.parametrize("remote", ["mirror", "ranged"])
def test_a_server_that_stays_broken_is_given_up_by_name(site: Site, remote: str, fault: str, status: str):
    site.faults = lambda name, number: fault
    found = open_at(site, remote=remote, pauses=(0.0, 0.0))
    with pytest.raises(DataError, match=rf"train-000002\.tar, \S+, offset \d+ can't be read \(.*({status})") as caught:
        found.read(22)
    assert "\n" not in str(caught.value)
    assert site.asked == {"train-000002.tar": 3}
    found.close()


@pytest.mark.parametrize("remote", ["mirror", "ranged"])
def test_what_no_pause_mends_is_told_at_once(site: Site, remote: str):
    site.folder = site.folder / "nowhere"
    found = open_at(site, remote=remote, pauses=(60.0,))
    with pytest.raises(DataError, match=r"train-000000\.tar, \S+, offset \d+ can't be read \(.*HTTP Error 404"):
        found.read(0)
    assert site.asked == {"train-000000.tar": 1}
    found.close()


def test_a_shard_that_is_another_is_named_with_both_hashes(site: Site, folder: Path):
    site.faults = lambda name, number: "wrong"
    found, shard = open_at(site), site.pack.shards[1]
    told = rf"shard http://.*/train-000001\.tar has {shard.bytes:,} bytes with xxh3-128 [0-9a-f]{{32}}, the index says "
    with pytest.raises(DataError, match=told + rf"{shard.bytes:,} bytes with xxh3-128 {shard.hash}: upload it again"):
        found.read(10)
    assert site.asked == {shard.name: 3}
    assert names(folder) == ["lock"]
    found.close()


def test_a_shard_that_is_longer_is_not_fetched_whole(site: Site, tmp_path: Path, folder: Path):
    site.folder = tmp_path / "other"
    shutil.copytree(site.local.pack.folder.path, site.folder)
    with (site.folder / "train-000001.tar").open("ab") as file:
        file.write(bytes(10_240))
    found = open_at(site)
    with pytest.raises(DataError, match=r"train-000001\.tar has [0-9,]+ bytes with xxh3-128 unread, the index says"):
        found.read(10)
    assert names(folder) == ["lock"]
    found.close()


def test_ranged_bytes_that_stay_wrong_are_asked_for_twice_and_named(site: Site):
    site.faults = lambda name, number: "wrong"
    found = open_at(site, remote="ranged")
    with pytest.raises(DataError, match=r"train-000001\.tar, \S+, offset \d+ doesn't match its crc32"):
        found.read(10)
    assert site.asked == {"train-000001.tar": 2}
    found.close()


@pytest.mark.parametrize("damage", ["rot", "power cut", "empty"])
def test_a_copy_that_was_damaged_on_the_disk_is_fetched_anew(site: Site, folder: Path, damage: str):
    check_all(site, first := open_at(site))
    first.close()
    path = folder / f"{site.pack.shards[3].hash}.tar"
    content = path.read_bytes()
    rotten = b"".join(bytes([byte ^ 1]) if at % 997 == 0 else bytes([byte]) for at, byte in enumerate(content))
    path.write_bytes({"rot": rotten, "power cut": content[:1000], "empty": b""}[damage])
    check_all(site, again := open_at(site))
    again.close()
    assert path.read_bytes() == content
    assert site.asked["train-000003.tar"] == 2


def test_the_shards_needed_last_go_first(site: Site, folder: Path):
    size = shard_bytes(site.pack)
    mirror = Mirror(site.pack, folder=folder, budget_bytes=3 * size, pauses=PAUSES)
    room.prepare_folder(folder)
    for number in (0, 1, 2):
        mirror.read(number, offset=0, size=1)
    mirror._expected = (), mirror.places((3, 0, 2, 1))
    mirror.read(3, offset=0, size=1)
    assert names(folder) == wholes(site.pack, 0, 2, 3)  # 1 is needed last
    mirror._expected = (), mirror.places((4, 2, 3))
    mirror.read(4, offset=0, size=1)
    assert names(folder) == wholes(site.pack, 2, 3, 4)  # 0 isn't needed
    assert mirror.read(0, offset=0, size=100) == (site.folder / "train-000000.tar").read_bytes()[:100]
    mirror.close()


def test_a_shard_deleted_while_it_is_open_takes_no_room_and_is_read_anew(site: Site, folder: Path):
    found, other = open_at(site), open_at(site, mirror_bytes=shard_bytes(site.pack), working_bytes=1)
    found.read(0)
    found.read(10)
    other.read(20)
    assert names(folder) == wholes(site.pack, 2)
    held = [os.fstat(file) for file, _ in found._remote._open.values()]
    assert [(told.st_nlink, told.st_blocks) for told in held] == [(0, 0)] * 2
    assert found.read(1) == site.local.read(1)
    assert site.asked["train-000000.tar"] == 2
    found.close()
    other.close()


def test_what_was_not_used_longest_goes_first_where_nothing_is_known(site: Site, folder: Path, monkeypatch):
    monkeypatch.setattr(module, "TOUCH_SECONDS", 0.0)
    mirror = Mirror(site.pack, folder=folder, budget_bytes=3 * shard_bytes(site.pack), pauses=PAUSES)
    room.prepare_folder(folder)
    for number in (0, 1, 2, 0, 3, 0):
        mirror.read(number, offset=0, size=1)
        time.sleep(0.02)
    assert names(folder) == wholes(site.pack, 0, 2, 3)
    other = dataclasses.replace(site.pack, shards=site.pack.shards[::-1])  # of another pack, as far as it knows
    found = Mirror(other, folder=folder, budget_bytes=2 * shard_bytes(site.pack), pauses=PAUSES)
    found.read(0, offset=0, size=1)
    assert names(folder) == wholes(site.pack, 0, 6)
    mirror.close()
    found.close()


def test_shards_are_fetched_ahead_as_far_as_there_is_room(site: Site, folder: Path):
    found = open_at(site, mirror_bytes=3 * shard_bytes(site.pack), working_bytes=1)
    expect([found], [(4, 1, 5, 0, 2)])
    wait_for(lambda: names(folder) == wholes(site.pack, 4, 1, 5))
    expect([found], [(4, 1, 5, 0, 2)])
    expect([found], [(1, 5, 0, 2)])
    wait_for(lambda: names(folder) == wholes(site.pack, 1, 5, 0))
    found.close()
    assert site.asked == {f"train-{n:06d}.tar": 1 for n in (4, 1, 5, 0)}


def test_packs_that_are_read_together_leave_each_other_what_they_need(site: Site, folder: Path):
    """Two parts of the pack as two packs of a mix, and room for four shards: each keeps what both need soonest."""
    parts = [dataclasses.replace(site.pack, shards=site.pack.shards[at : at + 3]) for at in (0, 3)]
    options = {"mirror_bytes": 4 * shard_bytes(site.pack), "working_bytes": 1, "pauses": PAUSES}
    stores = [Store(pack, **options) for pack in parts]
    expect(stores[1:], [(1, 0)])
    wait_for(lambda: names(folder) == wholes(site.pack, 4, 3))
    expect(stores, [(2, 1), (1, 0)])
    wait_for(lambda: names(folder) == wholes(site.pack, 2, 1, 3, 4))
    expect(stores, [(1, 0), (1, 2)])  # the first pack would drop 4, which was used longest ago
    wait_for(lambda: names(folder) == wholes(site.pack, 1, 0, 4, 5))
    for store in stores:
        store.close()
    assert set(site.asked.values()) == {1}


def test_a_fault_ahead_is_told_to_who_needs_the_shard(site: Site, folder: Path):
    site.faults = lambda name, number: "wrong" if name == "train-000001.tar" else None
    found = open_at(site)
    expect([found], [(1, 2)])
    wait_for(lambda: wholes(site.pack, 2) == names(folder))
    assert found.read(20) == site.local.read(20)
    with pytest.raises(DataError, match=r"train-000001\.tar has .* with xxh3-128"):
        found.read(10)
    found.close()


def test_closing_stops_what_is_fetched_ahead(site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connect, "TIMEOUT_SECONDS", 1.0)
    site.faults = lambda name, number: "stuck"
    found = open_at(site, pauses=())
    expect([found], [range(7)])
    assert site.slow.wait(5)
    started = time.monotonic()
    found.close()
    assert time.monotonic() - started < 3
    wait_for(lambda: names(folder) == ["lock"])


def test_too_little_room_is_refused_before_the_run_or_read_by_ranges(site: Site, capsys, tmp_path: Path, monkeypatch):
    small = 2 * shard_bytes(site.pack)
    told = (
        r"mirror .*/mirror may take 0\.000\d+ GB of the [\d.e+]+ that its disk has for it, and http://.*/train needs "
    )
    way = r"0\.00\d+ at a time: raise --mirror-gb, set NOTESTREAM_MIRROR to a larger disk, or take --remote ranged"
    with pytest.raises(UsageError, match=told + way):
        open_at(site, remote="mirror", mirror_bytes=small)
    with pytest.raises(UsageError, match="may take"):
        open_at(site, remote="mirror", mirror_bytes=small // 4, working_bytes=1)
    found = open_at(site, mirror_bytes=small)
    assert re.search(told + way, line := capsys.readouterr().err)
    assert line.count("\n") == 1
    assert found.reads == "ranged"
    check_all(site, found)
    found.close()
    assert open_at(site, remote="mirror", mirror_bytes=small, working_bytes=small).reads == "mirror"

    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("NOTESTREAM_MIRROR", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"mirror .*/file can't be used \(File exists\): set NOTESTREAM_MIRROR to a f"):
        open_at(site, remote="mirror")


def test_a_disk_that_fills_up_makes_shards_go_whatever_the_budget(site: Site, small_disk: Path):
    mirror = Mirror(site.pack, folder=small_disk / "mirror", budget_bytes=1 << 40, pauses=PAUSES)
    room.prepare_folder(mirror.folder)
    for number in (0, 1, 2, 3, 0, 6, 5):
        assert (
            mirror.read(number, offset=512, size=99)
            == (site.folder / site.pack.shards[number].name).read_bytes()[512:611]
        )
    assert 1 <= len(names(mirror.folder)) - 1 <= 3
    mirror.close()
    (small_disk / "other").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    for path in mirror.folder.glob("*.tar"):
        room.delete(path)
    (small_disk / "more").write_bytes(bytes(shutil.disk_usage(small_disk).free - 100_000))
    with pytest.raises(OSError, match="No space left") as caught:
        mirror.read(1, offset=0, size=1)
    assert caught.value.errno == errno.ENOSPC
    assert names(mirror.folder) == ["lock"]
    mirror.close()


@pytest.mark.parametrize("found", ["../../../etc/x", "a" * 31, "A" * 32, "a" * 32 + "\n", ""])
def test_an_index_names_no_file_outside_the_mirror(site: Site, found: str):
    shards = (dataclasses.replace(site.pack.shards[0], hash=found), *site.pack.shards[1:])
    with pytest.raises(DataError, match=r"shard train-000000\.tar has hash .*, no xxh3-128: index again"):
        open_mirror(dataclasses.replace(site.pack, shards=gather(shards)))


def test_a_link_in_the_mirror_is_not_followed(site: Site, folder: Path, tmp_path: Path):
    (tmp_path / "precious").write_bytes(b"precious")
    found = open_at(site)
    for suffix in (room.WHOLE, room.UNDER_WAY):
        (folder / f"{site.pack.shards[0].hash}{suffix}").symlink_to(tmp_path / "precious")
        with pytest.raises(DataError, match=r"train-000000\.tar, .* can't be read \(.*symbolic links"):
            found.read(0)
        (folder / f"{site.pack.shards[0].hash}{suffix}").unlink()
    assert (tmp_path / "precious").read_bytes() == b"precious"
    found.close()


def test_only_what_may_pass_is_waited_for():
    for error, calls in ((TimeoutError(), 3), (FileNotFoundError(), 1), (DataError("x"), 1), (ValueError(), 1)):
        count = 0

        def work(error=error):
            nonlocal count
            count += 1
            raise error

        with pytest.raises(type(error)):
            patiently(work, pauses=(0.0, 0.0))
        assert count == calls


def read_rows(store: Store, seed: int, rounds: int, ready, results) -> None:
    """Read all rows in an order of one's own, in a process of its own, and hash them."""
    total = 0
    ready.wait()
    for around in range(rounds):
        for row in permute(np.arange(store.pack.rows), store.pack.rows, seed, around).tolist():
            total += hash_of(store.read(row))
    store.close()
    results.put(total)


def hash_of(data: bytes) -> int:
    return xxhash.xxh3_64_intdigest(data)


@contextlib.contextmanager
def readers(store: Store, *, count: int, rounds: int, seed=lambda number: number) -> Iterator[tuple[list, object]]:
    results = SPAWN.Queue()
    ready = SPAWN.Barrier(count)
    found = [SPAWN.Process(target=read_rows, args=(store, seed(i), rounds, ready, results)) for i in range(count)]
    for process in found:
        process.start()
    try:
        yield found, results
    finally:
        for process in found:
            process.kill()
            process.join()
        results.close()
        results.join_thread()


@pytest.mark.slow
def test_many_processes_fetch_each_shard_once(site: Site, folder: Path):
    """All in one order, over a slow network: they want each shard at the same time."""
    site.faults = lambda name, number: "slow"
    expected = sum(hash_of(site.local.read(row)) for row in range(site.pack.rows))
    with readers(open_at(site), count=4, rounds=1, seed=lambda number: 0) as (_, results):
        assert [results.get(timeout=60) for _ in range(4)] == [expected] * 4
    assert site.asked == {shard.name: 1 for shard in site.pack.shards}
    assert names(folder) == wholes(site.pack, *range(7))


def on_disk(folder: Path) -> int:
    total = 0
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):
            total += entry.stat().st_blocks * 512
    return total


@pytest.mark.slow
def test_the_budget_holds_while_processes_read(site: Site, folder: Path):
    """Each shard is fetched over and over: a budget of 3 shards of 7, four readers with orders of their own."""
    expected = sum(hash_of(site.local.read(row)) for row in range(site.pack.rows))
    size, most = shard_bytes(site.pack), 0
    budget = 3 * size
    with readers(open_at(site, mirror_bytes=budget, working_bytes=1), count=4, rounds=2) as (processes, results):
        while any(process.is_alive() for process in processes) and results.qsize() < 4:
            most = max(most, on_disk(folder))
            time.sleep(0.001)
        assert [results.get(timeout=60) for _ in range(4)] == [2 * expected] * 4
    assert sum(site.asked.values()) > 20
    assert 2 * size < most <= budget + 4 * size
    assert on_disk(folder) <= budget
    assert not [name for name in names(folder) if name.endswith(".part")]


@pytest.mark.faults
def test_a_killed_fetcher_leaves_nothing_that_stands_in_the_way(site: Site, folder: Path, monkeypatch):
    monkeypatch.setattr(connect, "TIMEOUT_SECONDS", 20.0)
    site.faults = lambda name, number: "stuck" if (name, number) == ("train-000004.tar", 0) else None
    with readers(open_at(site), count=1, rounds=1) as ((process,), _):
        assert site.slow.wait(30)
        assert f"{site.pack.shards[4].hash}.part" in names(folder)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    had = dict(site.asked)
    assert f"{site.pack.shards[4].hash}.part" in names(folder)
    found = open_at(site)
    assert not [name for name in names(folder) if name.endswith(".part")]  # swept at once
    check_all(site, found)
    found.close()
    assert names(folder) == wholes(site.pack, *range(7))
    for name, count in had.items():
        assert site.asked[name] == count + (name == "train-000004.tar")  # whole ones were not fetched again


@pytest.mark.faults
def test_who_waits_for_a_killed_fetcher_takes_over(site: Site, folder: Path, monkeypatch):
    monkeypatch.setattr(connect, "TIMEOUT_SECONDS", 20.0)
    site.faults = lambda name, number: "stuck" if sum(site.asked.values()) == 1 else None
    with readers(open_at(site), count=1, rounds=1) as ((fetching,), _):
        assert site.slow.wait(30)
        with readers(open_at(site), count=1, rounds=1) as (_, results):
            wait_for(lambda: is_waited_for(next(iter(folder.glob("*.part")))))
            fetching.kill()
            results.get(timeout=30)
    assert names(folder) == wholes(site.pack, *range(7))


def is_waited_for(path: Path) -> bool:
    """Tell whether someone waits for a file's lock, by Linux's own list."""
    told = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and f":{path.stat().st_ino} " in line for line in told)
