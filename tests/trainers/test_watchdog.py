"""A rank that hangs tells what it hangs in, ends, and loses nothing: the row log is the uninterrupted run's."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.trainers.runs import ROOT, as_flags, config, finished, rows_of
from trainers.run import Run
from trainers.watchdog import EXIT_CODE, LINGER_SECONDS

LIMIT = 10.0  # a step takes as long as that only where many others take the cores


def command(data: Path, runs: Path, *, readers: int, local: bool, world_size: int = 1) -> list[str]:
    flags = as_flags(config(data, runs, readers=readers), local=local)
    return [
        sys.executable, "-m", "trainers", *flags, "--device", "cpu", "--stall-seconds", str(LIMIT),
        "--transforms", "tests.trainers.stalling:stall", *([] if local else ["--world-size", str(world_size)]),
    ]  # fmt: skip


def order(path: Path, whole: Run, how: str) -> tuple[dict[str, str], str]:
    """Order a stall in the middle of the second epoch; the environment that says where, and the key."""
    keys = [key for step, keys, _ in rows_of(whole) if step == 12 for key in keys]
    path.write_text(f"{how} {keys[3]}")
    # of several threads each waits for all, so a busy machine makes a step last for seconds
    return os.environ | {"NOTESTREAM_TEST_STALL": str(path), "OMP_NUM_THREADS": "1"}, keys[3]


def alive(text: str) -> list[int]:
    """Which of the processes that a stall file names are alive."""
    pids = [int(pid) for pid in re.findall(r"pid (\d+)", text)]
    assert pids
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.faults
@pytest.mark.parametrize(("how", "readers"), [("sleep", 0), ("lock", 0), ("sleep", 1), ("lock", 1)])
def test_a_stall_is_told_and_ends_the_process_and_a_resume_loses_nothing(
    whole: Run, data: Path, tmp_path: Path, how: str, readers: int
):
    env, key = order(tmp_path / "order", whole, how)
    begun = time.monotonic()
    stalled = subprocess.run(
        [*command(data, tmp_path, readers=readers, local=True), "--name", "run"], cwd=ROOT, env=env,
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    run = Run(tmp_path / "run")
    text = (run.folder / "stalls" / "attempt-000-rank-000.txt").read_text()
    assert 'stalling.py", line ' in text
    if how == "lock" and not readers:  # no thread of Python's could run: faulthandler's own timer did it
        assert stalled.returncode == 1, stalled.stderr
        assert "Timeout (" in text
    else:
        assert stalled.returncode == EXIT_CODE, stalled.stderr
        last = stalled.stderr.strip().splitlines()[-1]
        assert re.fullmatch(
            r"notestream: no step for \d+ s \(stall_seconds\): .*/run/stalls/attempt-000-rank-000.txt tells what hangs"
            r"; go on with --resume run",
            last,
        )
        assert re.search(r"no sign of life for 1\d\.\d s\nstep \d+ has its batch \(up to row \d+\)", text)
        assert alive(text) == [], "readers end with their rank"
        if how == "sleep":
            assert re.search(rf"shard train-\d+\.tar, key {key}, row \d+ of ", text)
        if readers:
            assert re.search(r"reader \d of \d, pid \d+, asked for the batch at \d+:\n", text)
    assert time.monotonic() - begun < 280
    finished([*command(data, tmp_path, readers=readers, local=True), "--resume", "run"], env=env)
    assert rows_of(run) == rows_of(whole)
    assert [path.name for path in (run.folder / "stalls").iterdir()] == ["attempt-000-rank-000.txt"]


@pytest.mark.faults
def test_a_stall_of_one_rank_under_ray_is_told_by_all_and_the_ranks_are_started_anew(
    whole: Run, data: Path, tmp_path: Path
):
    env, key = order(tmp_path / "order", whole, "sleep")
    finished([*command(data, tmp_path, readers=1, local=False, world_size=2), "--name", "ray"], env=env)
    run = Run(tmp_path / "ray")
    assert (run.folder / ".attempts").read_text() == "2"
    texts = [path.read_text() for path in sorted((run.folder / "stalls").iterdir())]
    assert len(texts) == 2, "both ranks told what they did"
    assert sum(f"key {key}, " in text for text in texts) >= 1
    assert sum("stalling.py" in text for text in texts) == 1
    assert [keys for _, keys, _ in rows_of(run)] == [keys for _, keys, _ in rows_of(whole)]
    assert run.report.exists()
    assert LINGER_SECONDS > 0


def test_a_run_that_does_not_stall_leaves_nothing(whole: Run):
    assert not (whole.folder / "stalls").exists()
