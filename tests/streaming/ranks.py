"""ranks: what a trial of kills is made of: ranks that stream, log and save, and what can be seen of their processes.

Each rank is forked from the harness, which has imported everything, and its readers come from one forkserver: an
attempt takes a fraction of a second. Loader, Readers and RowLog are the real ones, and so is every SIGKILL.
"""

import contextlib
import dataclasses
import gc
import importlib
import json
import mmap
import os
import time
import traceback
from collections.abc import Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from shards.index import open_pack
from streaming import decode, readers, vocoder
from streaming.loader import Loader
from streaming.world import World
from tests.streaming.sequences import BATCH, CASES, endless, make, pause
from trainers.rowlog import RowLog

STEPS, SAVED_EVERY = 16, 3
MOST_RANKS, MOST_READERS = 5, 5
POLL_SECONDS = 0.0005


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """How large an attempt is, and how far its readers may be ahead."""

    world_size: int
    readers: int
    prefetch: int


class Board:
    """What ranks and the harness tell each other: memory without a name.

    taken (ranks,): steps; pids (ranks, readers); may (1,): the step that no rank goes past, lest it outruns its kill.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 * (1 + MOST_RANKS * (1 + MOST_READERS)))
        cells = np.frombuffer(self._memory, np.int64)
        self.may, table = cells[:1], cells[1:].reshape(MOST_RANKS, 1 + MOST_READERS)
        self.taken, self.pids = table[:, 0], table[:, 1:]

    def clear(self, step: int) -> None:
        self.taken[:], self.pids[:] = step, 0


def run_rank(folder: Path, places: Sequence[str], *, case: str, size: Size, rank: int, attempt: int, board: Board):
    """Stream to the end, in step with the other ranks; rank 0 saves what all of them have logged."""
    readers.MOST_SLOTS = size.prefetch
    packs = [open_pack(place, split="train") for place in places]
    world = World(rank=rank, world_size=size.world_size)
    loader: Loader = make(packs, CASES[case], world=world, stages=[pause])
    loader.readers = size.readers
    saved = folder / "checkpoint.json"
    if saved.exists():
        loader.load_state_dict(json.loads(saved.read_text()))
    log = RowLog(folder / "rows", rank=rank, attempt=attempt)
    batches = endless(loader)
    while loader.cursor < STEPS * BATCH:
        while loader.cursor // BATCH >= board.may[0]:
            time.sleep(POLL_SECONDS)
        if loader.pool is not None:
            board.pids[rank, : size.readers] = loader.pool.pids
        batch = next(batches)
        step = loader.cursor // BATCH
        log.write(batch, step=step)
        board.taken[rank] = step
        while board.taken[: size.world_size].min() < step:  # the step's all-reduce
            time.sleep(POLL_SECONDS)
        if rank == 0 and step % SAVED_EVERY == 0:
            under_way = saved.with_suffix(".part")
            under_way.write_text(json.dumps(loader.state_dict()))
            under_way.rename(saved)
    loader.close()


def fork_rank(log: Path, **options: Any) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        forkserver._forkserver.ensure_running = lambda: None  # it is our parent's child, not ours to wait for
        os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), 2)
        run_rank(**options)
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def reader_processes() -> list[psutil.Process]:
    """List all readers that the forkserver has, of whatever rank."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(forkserver._forkserver._forkserver_pid).children()
    return []


def mend_forkserver() -> None:
    """Start it again if it fell: it may where a rank is killed in the middle of a word to it. Each run has its own."""
    until = time.monotonic() + 10
    while time.monotonic() < until:  # one that falls is still there for a moment, and takes no more words
        with contextlib.suppress(OSError, EOFError):
            asked = readers.reader_context().Process(target=int)
            asked.start()  # what it was told before is done with then
            asked.join()
            if asked.exitcode == 0:
                return
        time.sleep(POLL_SECONDS)
    raise TimeoutError("the forkserver doesn't start again")


def held_in_shm(pids: Sequence[int]) -> list[str]:
    """List the named shared memory that processes hold: a SIGKILL would leave it behind."""
    found = []
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
            found += [line for line in lines if "/dev/shm/" in line and not line.endswith("(deleted)")]
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):
                    name = str(link.readlink())
                    found += [name] if name.startswith("/dev/shm/") and not name.endswith("(deleted)") else []
    return found


def is_alive(pid: int) -> bool:
    """Tell whether a child has not ended; it is not waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def is_running(process: psutil.Process) -> bool:
    """Tell whether a process of another's has not ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def warm_up() -> None:
    """Load what each rank would load anew, without a thread: a fork has but one."""
    importlib.import_module("pandas")  # pyarrow imports it where there is one
    torch.set_num_threads(1)
    decode.warm_up()
    vocoder.warm_up()
    gc.freeze()  # a fork then copies fewer pages
    readers.reader_context()  # says what is imported once; here it is a little more
    forkserver.set_forkserver_preload(["streaming.warm", pause.__module__])
    forkserver.ensure_running()
