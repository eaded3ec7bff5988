"""Rank 0's log reaches who started the run, as it grows, by its URL; a store that is away ends nothing."""

import time
from pathlib import Path

import pytest

from trainers import relay
from trainers.relay import fetched_log, local_log, uploaded_log
from trainers.run import Run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in ("UPLOAD_SECONDS", "FETCH_SECONDS", "SHARE"):
        monkeypatch.setattr(relay, name, 0.02 if name != "SHARE" else 1.0)
    found = Run.at(f"file://{tmp_path}/runs", "far")
    found.folder.mkdir(parents=True, exist_ok=True)
    found.log.unlink(missing_ok=True)
    return found


def wait_for(copy: Path, text: str) -> None:
    until = time.monotonic() + 20
    while not copy.exists() or copy.read_text() != text:
        assert time.monotonic() < until, copy.exists() and copy.read_text()
        time.sleep(0.01)


def test_lines_arrive_as_they_are_written_and_the_last_after_the_end(run: Run):
    copy = local_log(run)
    with fetched_log(run, copy):
        assert copy != run.log, "rank 0 may be on this node, and writes to its own"
        with uploaded_log(run):
            run.log.write_text("one\n")
            wait_for(copy, "one\n")
            run.log.write_text("one\ntwo\n")
            wait_for(copy, "one\ntwo\n")
            run.log.write_text("one\ntwo\nthree\n")
    assert copy.read_text() == "one\ntwo\nthree\n"


def test_what_was_told_before_a_run_goes_on_is_there_at_once(run: Run):
    run.log.write_text("before\n")
    run.push(run.log.name)
    assert local_log(run).read_text() == "before\n"


def test_a_store_that_is_away_for_a_while_costs_no_run_its_end(run: Run, tmp_path: Path):
    copy = local_log(run)
    with fetched_log(run, copy), uploaded_log(run):
        (tmp_path / "runs").write_text("no folder")
        run.log.write_text("one\n")
        time.sleep(0.2)
        assert not copy.exists() or not copy.read_text()
        (tmp_path / "runs").unlink()
        wait_for(copy, "one\n")


def test_a_run_on_a_disk_is_followed_as_it_is(tmp_path: Path):
    run = Run.at(str(tmp_path), "near")
    with fetched_log(run, local_log(run)), uploaded_log(run):
        assert local_log(run) == run.log
    assert not list(tmp_path.iterdir())
