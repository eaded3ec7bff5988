"""Data runs no code: whatever is written into an index, a tar or a sound gives one line, or the true rows."""

import dataclasses
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from shards.errors import DataError, NotestreamError
from shards.index import open_pack
from streaming.store import Remote, Store
from tests.conftest import serve
from tests.streaming.attacked import AFAR, FAMILY, SPLIT, WAYS, unopened
from tests.streaming.attacks import (
    BAD_BASES,
    BAD_NAMES,
    ESCAPES,
    TAR,
    Bomb,
    Change,
    beside,
    claim,
    every_key,
    first_shard,
    flac,
    header_for_sound,
    link,
    link_all,
    linked,
    many_rows,
    npy,
    pipe,
    place,
    pth,
    put,
    script,
    sentinel,
    wav,
)

ROOT = Path(__file__).resolve().parents[2]
MOST_TAKEN = 256 << 20  # bytes: the largest index here has 8 MB of names
MOST_TOLD = 5000  # characters in a line: a key of 4,096 bytes, and a place

# Links are made by whoever unpacked it, not by the index, and followed (see shards.claims)
LINKS = ("a shard that leads out", "an index that leads out", "a pack of links")

ELSEWHERE = "shards said to lie in"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="needs inotify and /proc")]


@dataclasses.dataclass(frozen=True)
class Attack:
    """What is done to a pack, and what one way of reading it must say; with None, all give the true rows."""

    change: Change
    message: str | None = None
    renames: bool = False
    """Keys are others, and so is what is drawn by them, where crc32s aren't looked at."""
    is_local: bool = False
    """It is about this machine's files, which a web server doesn't hand out."""


def _names(*given: str) -> dict[str, Attack]:
    def name_it(name: str) -> Change:
        return lambda split: first_shard(split, name=name)

    return {f"a shard named {name!r}": Attack(name_it(name), "not a plain file name") for name in given}


def _bases(*given: str) -> dict[str, Attack]:
    def lay_at(base: str) -> Change:
        return lambda split: claim(split, base=base)

    refused = r"is missing, not the|is gone: fetch|which no reader can go to from here|can't be read \("
    return {f"{ELSEWHERE} {base!r}": Attack(lay_at(base), refused) for base in given}


def _rates(*given: Any) -> dict[str, Attack]:
    def say(rate: Any) -> Change:
        return lambda split: claim(split, sample_rate=rate)

    return {f"a rate of {rate!r}": Attack(say(rate), "says sample_rate") for rate in given}


OUTSIDE, FOREIGN, NAMED = "outside its shard", "which is neither WAV nor FLAC", r"valid-000000\.tar, .*, offset \d+ "

ATTACKS: dict[str, Attack] = {
    **_names(*BAD_NAMES),
    **_bases(*BAD_BASES),
    **_rates(0, -1, 10**9, 2**64, 1.5, True, float("nan"), float("inf"), "16000", None),
    "a shard that isn't there": Attack(lambda s: first_shard(s, name="x.tar"), "is missing, not the"),
    "a shard that leads out": Attack(lambda s: link(s, TAR, linked(s)), "doesn't match its crc32"),
    "a shard that is a pipe": Attack(pipe, "is missing, not the"),
    "a shard that is a device": Attack(lambda s: link(s, TAR, Path("/dev/zero")), "is missing, not the"),
    "an index that leads out": Attack(lambda s: link(s, "index.parquet", linked(s)), "is not a parquet file"),
    "a pack of links": Attack(link_all, is_local=True),
    "an index that is a device": Attack(lambda s: link(s, "index.parquet", Path("/dev/zero")), "no finished split"),
    # what else may lie in a tar
    "code beside the sounds": Attack(beside, is_local=True),
    "a pickle for a sound": Attack(lambda s: put(s, pickle.dumps(Bomb(s))), FOREIGN),
    "an npy of a pickle for a sound": Attack(lambda s: put(s, npy(s)), FOREIGN),
    "a pth for a sound": Attack(lambda s: put(s, pth(s)), FOREIGN),
    "a script for a sound": Attack(lambda s: put(s, script(s)), FOREIGN),
    "a library for a sound": Attack(lambda s: put(s, b"\x7fELF" + bytes(200)), FOREIGN),
    "an ogg for a sound": Attack(lambda s: put(s, b"OggS" + bytes(200)), FOREIGN),
    "a tar's header for a sound": Attack(header_for_sound, FOREIGN),
    # places and sizes
    "a negative offset": Attack(lambda s: place(s, offset=-1), OUTSIDE),
    "the largest offset": Attack(lambda s: place(s, offset=2**63 - 1), OUTSIDE),
    "a negative size": Attack(lambda s: place(s, size=-5), OUTSIDE),
    "the largest size": Attack(lambda s: place(s, size=2**31 - 1), OUTSIDE),
    "an offset in another's sound": Attack(lambda s: place(s, offset=4096), "doesn't match its crc32"),
    "the largest length": Attack(lambda s: place(s, length=2**31 - 1), "as a sound of no samples or over"),
    "a shard of 2**50 bytes": Attack(lambda s: first_shard(s, bytes=1 << 50), "not the 1125899906842624 bytes"),
    "a row of a gigabyte": Attack(
        lambda s: (first_shard(s, bytes=1 << 50), place(s, size=1 << 30)), "is cut short: the shard is damaged"
    ),
    "billions of rows claimed": Attack(lambda s: first_shard(s, rows=4 * 10**9), "has 17 rows, its shards 4000000007"),
    "rows that no shard has room for": Attack(many_rows, "100,?000 rows"),
    "a length far too long": Attack(lambda s: place(s, length=1 << 27, sounding_length=1 << 27), "134,?217,?728"),
    "a length too short": Attack(lambda s: place(s, length=10, sounding_length=10), r"\b10\b.*16,?000"),
    # a sound's own header
    "a sound of another rate": Attack(lambda s: wav(s, rate=44_100), "44,?100"),
    "a sound of an absurd rate": Attack(lambda s: wav(s, rate=2**32 - 1), "4,?294,?967,?295"),
    "a WAV that says it is longer": Attack(lambda s: wav(s, data=2**32 - 2), "holds 4294967294 bytes of sound but"),
    "a WAV that says it is shorter": Attack(lambda s: wav(s, data=200), r"\b100\b.*16,?000|16,?000.*\b100\b"),
    "a WAV that says it is empty": Attack(lambda s: wav(s, data=0), r"\b0\b.*16,?000|16,?000.*\b0\b"),
    "a WAV of no channels": Attack(lambda s: wav(s, channels=0), "says it holds"),
    "a WAV of two channels": Attack(lambda s: wav(s, channels=2), "2 channels"),
    "a WAV of 65,535 channels": Attack(lambda s: wav(s, channels=65_535), "65,?535 channels"),
    "a WAV of other bits": Attack(lambda s: wav(s, bits=24), "not 16-bit PCM"),
    "a WAV of floats": Attack(lambda s: wav(s, format=3), "not 16-bit PCM"),
    "a WAV whose chunk is endless": Attack(lambda s: wav(s, fmt=2**32 - 1), "without a data chunk"),
    "a WAV of empty chunks": Attack(lambda s: put(s, b"RIFF\0\0\0\0WAVE" + bytes(64_000)), "without a data chunk"),
    "a FLAC among WAVs": Attack(flac),
    "a FLAC of 2**36 samples": Attack(lambda s: flac(s, total=2**36 - 1), "68,719,476,735 samples, over"),
    "a FLAC of 2**26 samples": Attack(lambda s: flac(s, total=2**26), f"{NAMED}.*67,?108,?864"),
    "a FLAC of unknown length": Attack(lambda s: flac(s, total=0), NAMED),
    "a FLAC of no rate": Attack(lambda s: flac(s, rate=0), NAMED),
    "a FLAC cut in its header": Attack(lambda s: flac(s, cut=30), "is not a FLAC file that can be read"),
    "a FLAC cut in its frames": Attack(lambda s: flac(s, cut=600), NAMED),
    # labels and other text
    "a million classes": Attack(lambda s: claim(s, classes={FAMILY: [*map(str, range(10**6))]}), "up to 10,000 names"),
    "classes that are no text": Attack(lambda s: claim(s, classes={FAMILY: [float("nan")]}), "up to 10,000 names"),
    "a row without a label": Attack(
        lambda s: claim(s, columns={FAMILY: lambda old: [*old[:3], None, *old[4:]]}), "1 rows of split"
    ),
    "labels that are no class": Attack(
        lambda s: claim(s, columns={FAMILY: lambda old: ["x"] * len(old)}), "17 rows of split"
    ),
    "keys that act on a terminal": Attack(every_key(ESCAPES), r"\\x1b\[2J", renames=True),
    "keys that lead out": Attack(every_key("/../../etc/passwd"), "/etc/passwd, offset", renames=True),
    "keys of a megabyte": Attack(every_key("x" * 10**6), r"a key of 1,000,\d+ bytes"),
    "a label that acts on a terminal": Attack(lambda s: claim(s, classes={ESCAPES: []}), r"\\x1b\[2J"),
    "a split that acts on a terminal": Attack(lambda s: claim(s, split=ESCAPES), r"\\x1b\[2J"),
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What each way of reading gave for one pack, where its files may lie, and the web server that has it too."""

    folder: Path
    mirror: Path
    site: str
    ways: Mapping[str, Mapping[str, Any]]


@pytest.fixture(scope="module")
def outcomes(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Every attacked pack, and a whole one, read by one process in every way."""
    root = tmp_path_factory.mktemp("attacks")
    (root / "outside").mkdir()
    (root / "outside/secret.tar").write_bytes(b"SECRET" * 10_000)
    changes: dict[str, Callable[[Path], Any]] = {"whole": lambda split: None, "warm": flac}
    changes |= {name: attack.change for name, attack in ATTACKS.items()}
    folders = {name: root / (name if name in ("whole", "warm") else f"pack-{at}") for at, name in enumerate(changes)}
    for name, change in changes.items():
        shutil.copytree(data / SPLIT, folders[name] / SPLIT)
        change(folders[name] / SPLIT)
    warm, *others = (str(folders[name]) for name in ("warm", "whole", *ATTACKS))
    env = os.environ | {"NOTESTREAM_MIRROR": str(root / "mirror")}
    with unopened(root / "outside"), serve(root) as site:
        command = [sys.executable, "-m", "tests.streaming.attacked", site, warm, *others]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    told = [json.loads(line) for line in done.stdout.splitlines()]
    return {
        name: Outcome(folder, root / "mirror", site, {one["way"]: one for one in told if one["pack"] == str(folder)})
        for name, folder in folders.items()
    }


def test_a_whole_pack_is_read_in_every_way(outcomes: dict[str, Outcome]):
    whole = outcomes["whole"].ways
    assert sorted(whole) == sorted(WAYS)
    assert all("rows" in told for told in whole.values()), whole


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_gives_one_line_or_the_true_rows(outcomes: dict[str, Outcome], name: str):
    attack, ways = ATTACKS[name], outcomes[name].ways
    for way, told in ways.items():
        assert "crash" not in told, told
        if "rows" in told:  # the store hands out what the index says, which may be no sound
            is_its_own = way == "store" or (way == "crops" and attack.renames)
            assert is_its_own or told["rows"] == outcomes["whole"].ways[way]["rows"], f"{way} gave other rows"
        else:
            assert told["error"].isprintable()
            assert "SECRET" not in told["error"]
            assert len(told["error"]) < MOST_TOLD, len(told["error"])
    errors = [told["error"] for way, told in ways.items() if "error" in told and not (attack.is_local and way in AFAR)]
    if attack.message is None:
        assert not errors
    else:
        assert any(re.search(attack.message, error) for error in errors), errors or "no way of reading minds it"


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_runs_nothing_and_reads_nothing_outside_the_pack(outcomes: dict[str, Outcome], name: str):
    found = outcomes[name]
    for way, told in found.ways.items():
        for event, what in told["noted"]:
            if event == "open":
                assert _may_open(found, what, name=name), what
            elif way in AFAR and event in ("socket.connect", "urllib.Request"):
                host, port = found.site.removeprefix("http://").split(":")
                assert what == f"('{host}', {port})" or what.startswith(f"{found.site}/{found.folder.name}/"), what
            elif way == "mirror" and event.startswith("os."):
                assert what.isdecimal() or Path(os.path.realpath(what)).is_relative_to(found.mirror), (event, what)
            else:
                assert (event, what) == ("ctypes.dlopen", "None"), (event, what)
    assert not sentinel(found.folder / SPLIT).exists()


def _may_open(found: Outcome, what: str, *, name: str) -> bool:
    ours = (found.folder, found.mirror, ROOT, sys.prefix, sys.base_prefix)
    if any(Path(os.path.realpath(what)).is_relative_to(folder) for folder in ours):
        return True
    # an index on this disk may say that its shards lie elsewhere on it; no name but a shard's is ever asked for there
    return name in LINKS or (name.startswith(ELSEWHERE) and Path(what).name.startswith("valid-0000"))


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_takes_no_memory_to_speak_of(outcomes: dict[str, Outcome], name: str):
    for way, told in outcomes[name].ways.items():
        assert told["taken"] < MOST_TAKEN, f"{way}: {told['taken'] >> 20} MiB"


@pytest.mark.parametrize("base", ["file:///etc", "FILE:///etc", " file:///etc", "/etc", "file://localhost/etc", "../x"])
def test_an_index_on_the_web_leads_to_no_file_of_this_machine(data: Path, tmp_path: Path, base: str):
    shutil.copytree(data / SPLIT, tmp_path / SPLIT)
    claim(tmp_path / SPLIT, base=base)
    with serve(tmp_path) as address, pytest.raises(DataError, match="which no reader can go to from here"):
        open_pack(address, split=SPLIT)


@pytest.mark.parametrize("remote", ["mirror", "ranged"])
@pytest.mark.parametrize("asked", ["index.parquet", TAR])
def test_a_server_leads_to_no_file_of_this_machine(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: Remote, asked: str
):
    monkeypatch.setenv("NOTESTREAM_MIRROR", str(tmp_path / "mirror"))  # other tests' may have the shard already
    (tmp_path / "outside").mkdir()
    secret = tmp_path / "outside" / asked
    shutil.copyfile(data / SPLIT / asked, secret)

    @web.middleware
    async def lead_away(request: web.Request, handler: Any) -> Any:
        if request.path.endswith(asked):
            raise web.HTTPFound(secret.as_uri())
        return await handler(request)

    with (
        serve(data, middlewares=[lead_away]) as address,
        unopened(secret.parent),
        pytest.raises(NotestreamError) as told,
    ):
        Store(open_pack(address, split=SPLIT), remote=remote, pauses=()).read(0)
    assert "\n" not in str(told.value)
