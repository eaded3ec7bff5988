"""A body's bytes are the file's, however often the way to it breaks; a file that changed or lies is refused by name."""

import dataclasses
import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xxhash

from shards import body as module
from shards.body import Body, Official, identity_of, open_body
from shards.errors import DataError
from shards.remote import Location

CONTENT = np.random.default_rng(0).bytes((1 << 21) + 12_345)
PAUSES = (0.0, 0.0, 0.0)


@dataclasses.dataclass
class Site:
    """What a server gives, and how badly; each entry of `turns` changes it before one request."""

    content: bytes = CONTENT
    etag: str = '"one"'
    allowed: int = 1 << 30  # bytes a connection
    ranges: bool = True
    conditions: bool = True
    lengths: bool = True
    shift: int = 0  # of what it says about where it begins
    status: int = 200
    turns: list[dict] = dataclasses.field(default_factory=list)
    asked: list[str | None] = dataclasses.field(default_factory=list)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers ranges and If-Range as RFC 9110 says, and hangs up where the site wants it to."""

    def do_GET(self):
        site: Site = self.server.site
        if site.turns:
            vars(site).update(site.turns.pop(0))
        asked = self.headers["Range"]
        site.asked.append(asked)
        if site.status != 200:
            self.send_error(site.status)
            return
        wanted = self.headers["If-Range"]
        same = not site.conditions or wanted is None or (wanted == site.etag and not wanted.startswith("W/"))
        given = re.fullmatch(r"bytes=(\d+)-(\d*)", asked) if asked and site.ranges and same else None
        first, total = int(given[1]) if given else 0, len(site.content)
        if first >= total:
            self.send_error(416)
            return
        last = min(int(given[2]) if given and given[2] else total - 1, total - 1)
        self.send_response(206 if given else 200)
        if given:
            self.send_header("Content-Range", f"bytes {first + site.shift}-{last}/{total}")
        if site.etag:
            self.send_header("ETag", site.etag)
        if site.lengths:
            self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(site.content[first : min(last + 1, first + site.allowed)])

    def log_message(self, *args):
        """Keep quiet."""


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A server on loopback; its file is at site.url."""
    monkeypatch.setenv("no_proxy", "*")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.site = site = Site()
        site.place = Location(f"http://127.0.0.1:{server.server_port}/nsynth-tiny.jsonwav.tar.gz?token=x")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield site
        server.shutdown()
        thread.join()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "nsynth-tiny.jsonwav.tar.gz"
    path.write_bytes(CONTENT)
    return path


def drain(body: Body, *, size: int = 1 << 19) -> bytes:
    """Read to the end in pieces of at most `size`, and finish."""
    with body:
        pieces = iter(lambda: body.read(size), b"")
        whole = b"".join(pieces)
        assert body.at == body.size == len(whole)
        body.finish()
    return whole


def open_at(site: Site) -> Body:
    return open_body(site.place, pauses=PAUSES)


def test_a_file_is_read_once_front_to_back(file: Path):
    assert drain(open_body(Location(str(file))), size=100_000) == CONTENT
    assert drain(open_body(Location(f"file://{file}"))) == CONTENT


@pytest.mark.parametrize("allowed", [1 << 30, 700_001, 99_999])
@pytest.mark.parametrize("etag", ['"one"', 'W/"one"', ""])
def test_a_connection_that_breaks_goes_on_where_it_broke(site: Site, allowed: int, etag: str):
    site.allowed, site.etag = allowed, etag
    assert drain(open_at(site)) == CONTENT
    assert site.asked == [f"bytes={at}-" if at else None for at in range(0, len(CONTENT), allowed)]


def test_a_server_without_ranges_is_read_over_again(site: Site):
    site.ranges, site.turns = False, [{"allowed": 900_000}, {"allowed": 2_000_000}, {"allowed": 1 << 30}]
    assert drain(open_at(site)) == CONTENT
    assert len(site.asked) == 3


def test_a_server_without_ranges_that_always_breaks_is_given_up(site: Site):
    site.ranges, site.allowed = False, 900_000
    with pytest.raises(DataError, match=r"broke off at byte 900,000 of 2,109,497 \(it ended early\), 3 attempts"):
        drain(open_at(site))


def test_a_server_that_is_busy_for_a_while_is_waited_for(site: Site):
    site.allowed = 1_100_000
    site.turns = [{}, {"status": 503}, {"status": 429}, {"status": 200}, {"status": 500}, {}, {"status": 200}]
    assert drain(open_at(site)) == CONTENT


def test_a_server_that_brings_nothing_more_is_given_up(site: Site):
    site.turns = [{"allowed": 1_000_000}, {"allowed": 0}]
    told = (
        rf"{re.escape(str(site.place))} broke off at byte 1,000,000 of 2,109,497 \(.+\), 3 attempts to go on failed: "
    )
    with pytest.raises(DataError, match=told + "check it and the way to it, then run this again"):
        drain(open_at(site))
    assert site.asked == [None, *["bytes=1000000-"] * 3]


def test_a_server_that_is_gone_is_given_up(site: Site):
    site.turns = [{"allowed": 1_000_000}, {"status": 503}]
    with pytest.raises(DataError, match=r"broke off at byte 1,000,000 of 2,109,497 \(HTTP Error 503: Service Unavail"):
        drain(open_at(site))
    site.turns, site.status = [{"allowed": 1_000_000}, {"status": 404}], 200
    with pytest.raises(DataError, match=r"was read to byte 1,000,000, and now can't be read \(HTTP Error 404: Not F"):
        drain(open_at(site))
    assert len(site.asked) == 4 + 2  # a 404 stays one


@pytest.mark.parametrize(
    "changed",
    [
        {"etag": '"two"'},
        {"etag": '"two"', "conditions": False},
        {"etag": '"two"', "ranges": False},
        {"etag": '"two"', "content": CONTENT[::-1]},
        {"content": CONTENT + b"x", "etag": ""},
        {"content": CONTENT[:1_500_000], "conditions": False},
        {"content": CONTENT[:1_500_000], "ranges": False},
    ],
)
def test_a_file_that_changed_meanwhile_is_refused(site: Site, changed: dict):
    site.turns = [{"allowed": 1_000_000}, changed]
    with pytest.raises(
        DataError, match=r"tar\.gz\?token=x changed while it was read \(from 2,109,497 bytes \"one\" to"
    ):
        drain(open_at(site))


def test_a_server_that_leaves_bytes_out_is_refused(site: Site):
    site.turns = [{"allowed": 1_000_000}, {"shift": 1}]
    with pytest.raises(DataError, match=r"changed while it was read"):
        drain(open_at(site))
    with pytest.raises(DataError, match=r"isn't given in parts"):
        identity_of(site.place)


def test_a_file_that_is_shorter_than_what_was_read_is_refused(site: Site):
    site.turns = [{"allowed": 1_000_000}, {"content": CONTENT[:5000], "conditions": False}]
    with pytest.raises(DataError, match=r"was read to byte 1,000,000, and now can't be read \(HTTP Error 416"):
        drain(open_at(site))


@pytest.mark.parametrize("read", [lambda place: open_body(place, pauses=PAUSES), identity_of])
def test_what_is_not_there_is_told_at_once(site: Site, tmp_path: Path, read):
    gone = Location("http://127.0.0.1:1/x.tar.gz")
    for place, told in (
        (gone, r"\(.*Connection refused.*\)"),
        (Location("http://no.such.host.invalid/x.tar.gz"), r"\(.+\)"),
        (Location("http://127.0.0.1:port/x"), r"\(.+\)"),
        (Location(str(tmp_path / "x.tar.gz")), r"\(.*No such file.*\)"),
        (Location(f"file://{tmp_path}/x.tar.gz"), r"\(.*\)"),
    ):
        with pytest.raises(
            DataError, match=rf"{re.escape(str(place))} can't be read {told}: check the address"
        ) as error:
            read(place)
        assert "\n" not in str(error.value)
    for status in (404, 403, 500):
        site.status = status
        with pytest.raises(DataError, match=rf"token=x can't be read \(HTTP Error {status}: .*\): check the address"):
            read(site.place)
    assert len(site.asked) == 3


def test_a_server_must_tell_the_size(site: Site):
    site.lengths = False
    with pytest.raises(DataError, match=r"token=x comes without its size, and a break looks like its end: fetch it"):
        open_at(site)


@pytest.mark.parametrize("url", [False, True])
def test_an_official_archive_is_held_against_its_md5(
    site: Site, file: Path, monkeypatch: pytest.MonkeyPatch, url: bool
):
    place = site.place if url else Location(str(file))
    site.allowed = 700_001
    md5, size = hashlib.md5(CONTENT).hexdigest(), len(CONTENT)
    known = Official(md5=md5, least_bytes=size - 1, most_bytes=size + 1)
    monkeypatch.setattr(module, "OFFICIAL", {file.name: known})
    assert drain(open_body(place, pauses=PAUSES)) == CONTENT
    with open_body(place, pauses=PAUSES) as body:
        body.read(1000)
        body.finish()  # reads what is left
        assert body.at == size
    monkeypatch.setattr(module, "OFFICIAL", {file.name: dataclasses.replace(known, md5="0" * 32)})
    with pytest.raises(DataError, match=rf"tar\.gz.* has md5 {md5}, NSynth's own has {'0' * 32}: fetch it anew"):
        drain(open_body(place, pauses=PAUSES))
    for other in ({"least_bytes": size + 1}, {"most_bytes": size - 1}):  # it only has the name
        monkeypatch.setattr(module, "OFFICIAL", {file.name: dataclasses.replace(known, md5="0" * 32, **other)})
        assert drain(open_body(place, pauses=PAUSES)) == CONTENT


def test_the_official_archives_are_known():
    told = {name: (known.least_bytes, known.most_bytes) for name, known in module.OFFICIAL.items()}
    assert told == {
        "nsynth-train.jsonwav.tar.gz": (23_700_000_000, 23_900_000_000),
        "nsynth-valid.jsonwav.tar.gz": (1_068_767_009, 1_068_767_009),
        "nsynth-test.jsonwav.tar.gz": (349_501_546, 349_501_546),
    }
    assert all(re.fullmatch("[0-9a-f]{32}", known.md5) for known in module.OFFICIAL.values())


@pytest.mark.parametrize("size", [1, 1000, 1 << 20, (1 << 20) + 1, len(CONTENT)])
def test_a_file_has_one_identity_wherever_it_lies(site: Site, file: Path, size: int):
    site.content = CONTENT[:size]
    file.write_bytes(site.content)
    wanted = size.to_bytes(8, "little") + site.content[: 1 << 20] + site.content[max(0, size - (1 << 20)) :]
    found = identity_of(Location(str(file)))
    assert found == xxhash.xxh3_128_hexdigest(wanted)
    assert identity_of(Location(f"file://{file}")) == found
    assert identity_of(site.place) == found
    assert site.asked == ["bytes=0-1048575", f"bytes={max(0, size - (1 << 20))}-{max(size, 1 << 20) - 1}"]
    for at in (0, size - 1):
        changed = bytearray(site.content)
        changed[at] ^= 1
        file.write_bytes(changed)
        assert identity_of(Location(str(file))) != found


def test_no_identity_without_ranges_or_of_a_part_cut_short(site: Site):
    site.ranges = False
    for site.content in (CONTENT, b"small"):
        with pytest.raises(DataError, match=r"token=x isn't given in parts, and a broken download must go on: fetch i"):
            identity_of(site.place)
    site.ranges, site.allowed, site.content = True, 1000, CONTENT
    with pytest.raises(DataError, match=r"token=x can't be read \(it ended early|IncompleteRead"):
        identity_of(site.place)


def put(url: str, content: bytes) -> None:
    filesystem, path = Location(url).resolve()
    filesystem.create_dir(path.rpartition("/")[0], recursive=True)
    with filesystem.open_output_stream(path, compression=None) as out:
        out.write(content)


class Broken:
    """A connection that gives one byte more."""

    def __init__(self, file) -> None:
        self.file, self.left = file, 1

    def readinto(self, buffer) -> int:
        if not self.left:
            raise OSError("AWS Error NETWORK_CONNECTION")
        self.left = 0
        return self.file.readinto(memoryview(buffer)[:1])

    def close(self) -> None:
        self.file.close()


def test_a_store_goes_on_too_and_has_the_same_identity(store: str, file: Path, monkeypatch: pytest.MonkeyPatch):
    url = store.replace("PATH", "bodies/x.tar.gz")
    put(url, CONTENT)
    assert identity_of(Location(url)) == identity_of(Location(str(file)))
    assert drain(open_body(Location(url), pauses=PAUSES)) == CONTENT
    body = open_body(Location(url), pauses=PAUSES)
    body._connection = dataclasses.replace(body._connection, file=Broken(body._connection.file))
    assert drain(body) == CONTENT
    body = open_body(Location(url), pauses=PAUSES)
    body._connection = dataclasses.replace(body._connection, file=Broken(body._connection.file))
    put(url, CONTENT[:-1])
    with pytest.raises(DataError, match=r"x\.tar\.gz\?.* changed while it was read \(from 2,109,497 bytes"):
        drain(body)
    with pytest.raises(DataError, match=r"s3://bucket/bodies/y.* can't be read \(there is no such file\)"):
        open_body(Location(url.replace("/x.", "/y.")))
