"""Killed at any point and run again, a pack is the one that was never killed, and no process or file is left."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import psutil
import pytest

from shards.index import open_pack
from shards.pack import pack
from tests.conftest import write_notes
from tests.shards.fuzz import contents

pytestmark = pytest.mark.faults
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 400 notes of a second, its archive, and its pack in forty shards."""
    folder = tmp_path_factory.mktemp("many")
    notes = write_notes(folder, split="train", count=400)
    with tarfile.open(folder / "nsynth-train.jsonwav.tar.gz", "w:gz", compresslevel=1) as tar:
        tar.add(notes, arcname=notes.name)
    pack(notes, folder / "clean", split="train", rows_per_shard=10)
    return folder


def start(src: Path, dst: Path, *, jobs: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "shards", "pack", str(src), str(dst), "--split", "train", "--rows-per-shard", "10"]
    return subprocess.Popen(
        [*command, "--jobs", str(jobs)], cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"TMPDIR": str(dst.parent)},
    )  # fmt: skip


def living(session: int) -> list[psutil.Process]:
    """List what lives of a session, whose leader may be dead."""
    found = []
    for one in psutil.process_iter():
        try:
            if os.getsid(one.pid) == session and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def written(folder: Path) -> int:
    """Count the bytes of the files in a folder that may be changing."""
    sizes = []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            sizes.append(path.stat().st_size)
    return sum(sizes)


@pytest.mark.parametrize(("kind", "jobs"), [("folder", 1), ("folder", 2), ("archive", 1), ("archive", 2)])
def test_killed_at_any_point_and_run_again_gives_the_same_bytes(many: Path, tmp_path: Path, kind: str, jobs: int):
    src = many / ("nsynth-train" if kind == "folder" else "nsynth-train.jsonwav.tar.gz")
    draw, dst, killed, begun = random.Random(f"{kind} {jobs}"), tmp_path / "dst", 0, []
    whole = written(many / "clean/train") * (1 if kind == "folder" else 2)  # an archive's notes are sorted on disk
    for share in sorted(draw.uniform(0, 0.9) for _ in range(5)):  # by what is written: how fast that goes is no matter
        run = start(src, dst, jobs=jobs)  # at once, beside what may still live of the last
        begun.append(run.pid)
        while run.poll() is None and written(dst / "train") <= share * whole:
            time.sleep(0.002)
        run.send_signal(signal.SIGKILL)
        killed += run.wait() == -signal.SIGKILL
        run.stderr.close()
    time.sleep(1)
    assert not [one for session in begun for one in living(session)], "a process outlives the run that began it"
    assert killed > 2
    run = start(src, dst, jobs=jobs)
    told = run.communicate()[1]
    assert run.returncode == 0, told
    index, clean = contents(dst / "train"), contents(many / "clean/train")
    if kind == "archive":  # the index tells the source, which is another
        assert open_pack(dst, split="train").read().equals(open_pack(many / "clean", split="train").read())
        index.pop("index.parquet"), clean.pop("index.parquet")
    assert index == clean
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dst"]
    assert sorted(path.name for path in dst.iterdir()) == ["README.md", "train"]


def test_a_packing_process_that_is_killed_is_told_and_what_is_whole_is_kept(many: Path, tmp_path: Path):
    run = start(many / "nsynth-train", tmp_path / "dst", jobs=2)
    while len(list(tmp_path.glob("dst/train/*.tar"))) < 2:
        time.sleep(0.005)
    packers = [one for one in living(run.pid) if any("spawn_main" in part for part in one.cmdline())]
    packers[0].kill()
    told = run.communicate()[1]
    assert (run.returncode, told.splitlines()[-1][:47]) == (1, "notestream: a packing process was killed, as ha")
    assert list(tmp_path.glob("dst/train/*.tar"))
    assert not list(tmp_path.rglob("*.tmp"))
    done = pack(many / "nsynth-train", tmp_path / "dst", split="train", rows_per_shard=10)
    assert done.fingerprint == open_pack(many / "clean", split="train").fingerprint
