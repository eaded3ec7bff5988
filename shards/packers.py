"""packers: contents of shards -> their tars, in the same order, written by this process or by several.

Processes begin at once, and import while the parent reads its source. Each is handed one shard's notes after another,
and a few shards are under way at a time: memory doesn't grow with the pack.

Nothing that this imports imports pyarrow, which would take each process longer to start than everything else. The
import contract holds that.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any, TypeAlias

from shards.contents import Contents, Facts, write_tar
from shards.errors import DataError

Advance: TypeAlias = Callable[[int], Any]
Packers: TypeAlias = Callable[[Iterable[Contents], Advance], Iterator[Facts]]


@contextlib.contextmanager
def open_packers(jobs: int) -> Iterator[Packers]:
    """Begin packing processes, or none for one job; they end with the block.

    Raises:
        DataError: one of them was killed.
    """
    if jobs == 1:
        yield _write_here
        return
    spawn = multiprocessing.get_context("spawn")  # a fork beside threads may lock up
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_begin) as pool:
        try:
            with _one_thread():
                pool.submit(int)  # the first call begins all of them
            yield partial(_write_by, pool, jobs)
        except BrokenProcessPool as error:
            told = "a packing process was killed, as happens where memory runs out"
            raise DataError(f"{told}: run again with fewer --jobs, whole shards are kept") from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Have processes that begin in the block load numpy without a thread a core, which takes as long as the rest."""
    name = "OPENBLAS_NUM_THREADS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _write_here(contents: Iterable[Contents], advance: Advance) -> Iterator[Facts]:
    for one in contents:
        yield write_tar(one, advance=partial(advance, 1))


def _write_by(pool: ProcessPoolExecutor, jobs: int, contents: Iterable[Contents], advance: Advance) -> Iterator[Facts]:
    under_way: deque[Future[Facts]] = deque()
    for one in contents:
        under_way.append(pool.submit(write_tar, one))
        if len(under_way) == 2 * jobs:  # each has its next shard when it has done with one
            yield _await(under_way.popleft(), advance)
    for tar in under_way:
        yield _await(tar, advance)


def _await(tar: Future[Facts], advance: Advance) -> Facts:
    facts = tar.result()
    advance(len(facts.places))
    return facts


def _begin() -> None:
    """Make this process end with the one that began it, and at Ctrl-C without a word: the parent has one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    # the pool of one that was killed waits for ever, having first written what was queued: beside a run that goes on
    parent = multiprocessing.parent_process()
    assert parent is not None, "only a pool's process follows one"
    parent.join()
    os._exit(1)
