"""Readers: kills, stops and exceptions change nothing of what is handed out, and nothing stays behind."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from shards import linux
from shards.errors import DataError, NotestreamError
from shards.index import open_pack
from streaming.augment import Augment, preset
from streaming.batch import Batch
from streaming.evaluation import whole_notes
from streaming.loader import Loader
from streaming.readers import MOST_DEATHS, Readers
from streaming.world import World

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
FAMILY = "instrument_family_str"


def make(data: Path, **options) -> Loader:
    options = {"batch_size": 12, "seed": 4, "label": FAMILY, "crop_seconds": 0.5} | options
    return Loader(open_pack(data, split="train"), **options)


def endless(loader: Loader):
    while True:
        yield from loader


def same(left: Batch, right: Batch) -> bool:
    tensors = all(torch.equal(getattr(left, n), getattr(right, n)) for n in ("waveform", "label", "length", "weight"))
    return tensors and (left.key, left.row, left.cursor) == (right.key, right.row, right.cursor)


def wait_until_gone(pid: int) -> None:
    """Wait for its last thread: until then its sockets are open, though the first one may be a zombie."""
    for _ in range(100):
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1:
                time.sleep(0.05)
                continue
        return
    pytest.fail(f"{pid} lives on")


def test_a_batch_stays_as_it_is_until_the_next_is_asked_for(data: Path):
    expected = endless(make(data))
    loader = make(data, readers=2)
    batches = endless(loader)
    for _ in range(60):  # every slot is used several times
        batch, wanted = next(batches), next(expected)
        time.sleep(0.005)  # the readers go on meanwhile
        assert same(batch, wanted)
    loader.close()


@pytest.mark.faults
def test_killed_readers_are_started_anew_and_nobody_notices(data: Path, capfd):
    loader, expected = (
        make(data, readers=2, augment=Augment(pitch_semitones=2)),
        make(data, augment=Augment(pitch_semitones=2)),
    )
    batches, wanted = endless(loader), endless(expected)
    rank = os.getpid()
    for step in range(60):
        if step % 10 == 3:
            os.kill(pid := loader.pool.pids[step // 10 % 2], signal.SIGKILL)
            wait_until_gone(pid)
        assert same(next(batches), next(wanted)), step
    assert os.getpid() == rank
    told = capfd.readouterr().err
    assert told.count("of 2 was killed by signal 9, making the batch at ") == 6
    loader.close()


@pytest.mark.faults
@pytest.mark.timeout(60)
def test_a_seek_after_a_kill_waits_for_nobody(data: Path):
    """What a killed reader was asked of a job that is over, nobody asks again: so nobody may wait for it either."""
    loader = make(data, readers=2)
    next(iter(loader))
    for pid in loader.pool.pids:
        os.kill(pid, signal.SIGKILL)
        wait_until_gone(pid)
    loader.load_state_dict({**loader.state_dict(), "cursor": 36})
    assert same(next(iter(loader)), next(iter(make(data, cursor=36))))
    loader.close()


@pytest.mark.timeout(60)
def test_after_ctrl_c_while_waiting_the_loader_goes_on_at_its_cursor(data: Path):
    loader = make(data, readers=2, stages=[dawdle])
    next(iter(loader))
    interrupt = threading.Timer(0.25, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT])
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        for _ in endless(loader):
            pass
    interrupt.join()
    reached = loader.cursor
    expected = endless(make(data, cursor=reached))
    batches = endless(loader)
    for _ in range(4):
        assert same(next(batches), next(expected))
    loader.close()


def dawdle(batch: Batch) -> Batch:
    time.sleep(0.1)
    return batch


@pytest.mark.faults
def test_a_reader_that_dies_again_and_again_is_given_up(data: Path):
    loader = make(data, readers=1, stages=[die])
    with pytest.raises(NotestreamError, match=rf"reader 0 of 1 was killed by signal 9.* {MOST_DEATHS + 1} times"):
        next(iter(loader))
    loader.close()


@pytest.mark.timeout(60)
def test_readers_that_end_by_themselves_tell_what_a_script_needs(data: Path):
    """As in a script without the guard, which each reader runs once more."""
    loader = make(data, readers=1, stages=[leave])
    with pytest.raises(NotestreamError, match=r"ended with exit code 3.* a script that starts them needs `if __name__"):
        next(iter(loader))
    loader.close()


def leave(batch: Batch) -> Batch:
    os._exit(3)


def die(batch: Batch) -> Batch:
    os.kill(os.getpid(), signal.SIGKILL)
    return batch


def stumble(batch: Batch) -> Batch:
    if batch.cursor == 24:
        raise ZeroDivisionError("stage of one's own")
    return batch


def test_what_a_stage_raises_in_a_reader_is_raised_here_and_the_loader_goes_on_at_its_cursor(data: Path):
    loader = make(data, readers=2, stages=[stumble])
    with pytest.raises(ZeroDivisionError, match="one's own") as caught:
        list(loader)
    assert loader.cursor == 24
    assert "in stumble" in caught.value.__notes__[0]
    with pytest.raises(ZeroDivisionError):
        next(iter(loader))
    pids = loader.pool.pids
    loader.load_state_dict({**loader.state_dict(), "cursor": 36})
    assert same(next(iter(loader)), next(iter(make(data, cursor=36))))
    assert loader.pool.pids == pids  # started once
    loader.close()


def test_one_set_of_readers_serves_training_and_evaluation(data: Path):
    valid = open_pack(data, split="valid")
    notes = {"label": FAMILY, "classes": valid.classes[FAMILY], "batch_size": 4, "world": World()}
    here = [batch.clone() for batch in whole_notes(valid, **notes)]
    loader, expected = make(data, readers=2), endless(make(data))
    batches = endless(loader)
    for _ in range(3):
        assert same(next(batches), next(expected))
        there = [batch.clone() for batch in whole_notes(valid, **notes, readers=loader.pool)]
        assert all(same(left, right) for left, right in zip(there, here, strict=True))
        assert same(next(batches), next(expected))
    assert sum(len(batch.key) for batch in here) == 17
    loader.close()


def shrink(batch: Batch) -> Batch:
    return Batch(**{**vars(batch), "waveform": batch.waveform[:, 1:101]})


def grow(batch: Batch) -> Batch:
    return Batch(**{**vars(batch), "waveform": torch.cat([batch.waveform] * 40, dim=1).double()})


def halve_type(batch: Batch) -> Batch:
    return dataclasses.replace(batch, waveform=batch.waveform.bfloat16(), label=batch.label.float())


@pytest.mark.parametrize("stage", [shrink, grow, halve_type])
def test_stages_may_change_the_waveforms_shape_and_type(data: Path, stage):
    loader = make(data, readers=1, stages=[stage])
    expected = [batch.clone() for batch in make(data, stages=[stage])]
    assert all(same(left, right) for left, right in zip(loader, expected, strict=True))
    loader.close()


@pytest.mark.skipif(not linux.ON, reason="what a process has loaded is told by /proc")
def test_a_reader_loads_torch_for_a_users_stages_alone(data: Path):
    """Torch is seconds and hundreds of megabytes, for each reader of each rank."""
    pack = open_pack(data, split="valid")

    def loaded(readers: Readers | None) -> bool:
        assert readers is not None
        return any("libtorch" in Path(f"/proc/{pid}/maps").read_text() for pid in readers.pids)

    loader = make(data, readers=2, augment=preset("strong"))
    assert len(list(loader)) == 6
    notes = whole_notes(
        pack, label=FAMILY, classes=pack.classes[FAMILY], batch_size=4, world=World(), readers=loader.pool
    )
    assert sum(len(batch.key) for batch in notes) == 17
    assert not loaded(loader.started)
    loader.close()
    loader = make(data, readers=1, stages=[shrink])
    assert next(iter(loader)).waveform.shape == (12, 100)
    assert loaded(loader.started)
    loader.close()


def test_damage_in_a_reader_can_be_masked(damaged: Path):
    loader = make(damaged, readers=2, on_bad_row="mask")
    weights = [weight for batch in loader for weight in batch.weight.tolist()]
    assert (len(weights), sum(weights), loader.masked) == (72, 71, 1)
    loader.close()
    with pytest.raises(DataError, match="doesn't match its crc32"):
        list(make(damaged, readers=2))


@pytest.fixture
def damaged(data: Path, tmp_path: Path) -> Path:
    import shutil

    shutil.copytree(data / "train", tmp_path / "train")
    with (tmp_path / "train/train-000000.tar").open("r+b") as tar:
        tar.seek(int(open_pack(data, split="train").take([0])[1]["offset"][0]) + 999)
        tar.write(b"\x55\xaa\x55")
    return tmp_path


def shared_memory() -> set[Path]:
    return set(Path("/dev/shm").iterdir()) if Path("/dev/shm").exists() else set()


RANK = """
import signal, sys, time
from pathlib import Path
from tests.streaming.test_readers import endless, make
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts by & ignores it
    loader = make(Path(sys.argv[1]), readers=2)
    batches = endless(loader)
    next(batches)
    try:
        print(*loader.pool.pids, flush=True)
        for _ in batches:
            time.sleep(0.01)
    except KeyboardInterrupt:
        loader.close()
        print("ended", flush=True)
"""


@pytest.mark.faults
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_rank_that_ends_leaves_no_reader_and_no_shared_memory(data: Path, tmp_path: Path, how: int):
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    before = shared_memory()
    rank = subprocess.Popen(
        [sys.executable, str(script), str(data)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    readers = [int(pid) for pid in rank.stdout.readline().split()]
    assert len(readers) == 2
    if how == signal.SIGINT:
        os.killpg(rank.pid, how)  # as a terminal does: to all of them
        assert rank.communicate(timeout=20) == ("ended\n", "")
        assert rank.returncode == 0
    else:
        rank.kill()
        rank.communicate(timeout=20)
    for pid in readers:
        wait_until_gone(pid)
    assert not {path for path in shared_memory() - before if path.name.startswith(("torch", "psm"))}
