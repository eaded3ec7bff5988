"""kills: seeds -> trials: ranks that stream and log, killed at a random moment and begun again at another size.

    kill a reader   the rank goes on          kill a rank   the others are killed too, as a launcher does;
                                                            the next attempt has another world size and other readers

Run as COMMAND + FOLDER FIRST LAST PACK ..., prints one JSON line a trial of the seeds: what was done, what was left.
How ranks are made: tests.streaming.ranks.
"""

import contextlib
import dataclasses
import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from streaming.room import mirror_folder, prepare_folder
from tests.streaming.ranks import (
    POLL_SECONDS,
    STEPS,
    Board,
    Size,
    fork_rank,
    held_in_shm,
    is_alive,
    is_running,
    mend_forkserver,
    reader_processes,
    warm_up,
)
from tests.streaming.sequences import BATCH, CASES

# not by -m: each reader would import it again
COMMAND = (sys.executable, "-c", "import sys; from tests.streaming.kills import main; main(sys.argv[1:])")
AHEAD = 2  # steps past its own at which a kill may meet a rank
PATIENCE_SECONDS = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kill:
    """Whom to kill, once so many steps were taken by all, and how much later."""

    reader: bool
    step: int
    seconds: float
    chosen: float


def draw_size(draw: random.Random) -> Size:
    world_size = draw.choice((1, 1, 1, 2, 2, 3, 5))
    number = draw.choice({1: (0, 1, 1, 2, 5), 2: (0, 1, 1, 2), 3: (0, 1), 5: (0,)}[world_size])
    return Size(world_size=world_size, readers=number, prefetch=draw.choice((3, 16)))


def draw_kills(draw: random.Random) -> list[Kill]:
    steps = sorted(draw.randrange(STEPS) for _ in range(draw.choice((1, 1, 1, 2, 3))))
    return [
        Kill(reader=draw.random() < 0.65, step=step, seconds=draw.random() ** 2 * 0.03, chosen=draw.random())
        for step in steps
    ]


class Trial:
    """One seed's trial: attempts until the last step is taken."""

    def __init__(self, seed: int, *, folder: Path, places: Sequence[str], board: Board) -> None:
        self.draw, self.folder, self.places, self.board = random.Random(seed), folder, places, board
        self.case = list(CASES)[seed % len(CASES)]
        self.told: dict[str, Any] = {"seed": seed, "case": self.case, "attempts": [], "kills": [], "left": []}
        self.readers: set[psutil.Process] = set()
        folder.mkdir(parents=True)

    def run(self) -> dict[str, Any]:
        kills = draw_kills(self.draw)
        self.board.may[0] = kills[0].step + AHEAD
        pids = self._begin()
        for kill, following in zip(kills, [*kills[1:], None], strict=True):
            if not self._reach(kill.step, pids):
                break
            time.sleep(kill.seconds)
            self.readers |= set(reader_processes())
            self.told["left"] += held_in_shm([*pids, *(reader.pid for reader in self.readers)])
            goes_on = self._kill(kill, pids)
            self.board.may[0] = STEPS if following is None else following.step + AHEAD
            if not goes_on:
                was_starting = not self.board.pids[: len(pids), : self.told["attempts"][-1]["readers"]].all()
                self._end(pids)
                if was_starting:
                    mend_forkserver()
                pids = self._begin()
        codes = self._wait(pids)
        self._check_end()
        return {**self.told, "codes": codes}

    def _begin(self) -> list[int]:
        saved, size = self.folder / "checkpoint.json", draw_size(self.draw)
        cursor = json.loads(saved.read_text())["cursor"] if saved.exists() else 0
        self.told["attempts"].append({"cursor": cursor, **dataclasses.asdict(size)})
        self.board.clear(cursor // BATCH)
        options = {"places": self.places, "case": self.case, "size": size, "board": self.board}
        attempt = len(self.told["attempts"]) - 1
        return [
            fork_rank(self.folder / "stderr", folder=self.folder, rank=rank, attempt=attempt, **options)
            for rank in range(size.world_size)
        ]

    def _reach(self, step: int, pids: Sequence[int]) -> bool:
        """Wait until all have taken so many steps; False where a rank ends before."""
        while self.board.taken[: len(pids)].min() < step:
            if not all(is_alive(pid) for pid in pids):
                return False
            time.sleep(POLL_SECONDS)
        return is_alive(pids[0])

    def _kill(self, kill: Kill, pids: Sequence[int]) -> bool:
        """Kill; True where the attempt goes on."""
        there = {reader.pid for reader in reader_processes()}  # what the board tells may have been killed since
        known = [int(pid) for pid in self.board.pids[: len(pids)].flat if pid in there]
        is_reader = kill.reader and bool(known)
        victims = known if is_reader else pids
        with contextlib.suppress(ProcessLookupError):
            os.kill(victims[int(kill.chosen * len(victims))], signal.SIGKILL)
            self.told["kills"].append("reader" if is_reader else "rank")
        return is_reader

    def _end(self, pids: Sequence[int]) -> None:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)  # a zombie until it is waited for, so the number is still its own
            os.waitpid(pid, 0)
        self._check_end()

    def _wait(self, pids: Sequence[int]) -> list[int]:
        until, codes = time.monotonic() + PATIENCE_SECONDS, {}
        while len(codes) < len(pids):
            for pid in [pid for pid in pids if pid not in codes]:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    codes[pid] = os.waitstatus_to_exitcode(status)
            if time.monotonic() > until or any(codes.values()):
                for pid in [pid for pid in pids if pid not in codes]:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    codes[pid] = -9
            time.sleep(POLL_SECONDS)
        return list(codes.values())

    def _check_end(self) -> None:
        """See that no reader outlives its rank."""
        until = time.monotonic() + 10
        self.readers |= set(reader_processes())
        while self.readers:
            self.readers = {one for one in self.readers if is_running(one)}
            if time.monotonic() > until:
                self.told["left"] += [f"reader {one.pid}" for one in self.readers]
                return
            time.sleep(POLL_SECONDS)


def leftovers() -> list[str]:
    """List what is left in the mirror once it was opened again, but for whole shards and its lock."""
    prepare_folder(mirror_folder())
    return [path.name for path in mirror_folder().iterdir() if path.suffix != ".tar" and path.name != "lock"]


def main(arguments: Sequence[str]) -> None:
    """Run the trials of seeds FIRST..LAST-1."""
    folder, first, last, *places = arguments
    warm_up()
    board = Board()
    for seed in range(int(first), int(last)):
        done = Trial(seed, folder=Path(folder) / str(seed), places=places, board=board).run()
        print(json.dumps({**done, "left": done["left"] + leftovers()}), flush=True)
