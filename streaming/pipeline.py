"""pipeline: order, source, tasks -> one rank's batches, stage by stage, in any process.

A task is one batch to make, and the memory for its waveforms. Each stage makes one item of one item, so a batch is
made when it is asked for, wherever that is. A fault travels through as an item: it is no end, and it must reach the
user in one line.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import NotestreamError
from streaming.batch import Batch
from streaming.order import Order, next_shards
from streaming.stages import Rows, Source, collate, draw_views, plan_rows, render_rows
from streaming.store import expect


@dataclass(frozen=True, kw_only=True)
class Task:
    """A batch to make: its cursor or number, and flat memory for its waveforms."""

    number: int
    out: NDArray[np.float32]


Stage = Callable[[Batch], Batch]
Made = Batch[NDArray[Any]] | Batch  # of tensors where a user's stages have made them
Job = Callable[[Iterator[Task]], Iterator[Made | NotestreamError]]


def stream(
    tasks: Iterator[Task], *, order: Order, source: Source, batch_size: int, slots: range, stages: Sequence[Stage]
) -> Iterator[Made | NotestreamError]:
    """Join the stages: plan, views, rows rendered, arrays, and the user's own. A task's number is its cursor."""
    planned = _plan(tasks, order=order, source=source, batch_size=batch_size, slots=slots)
    return _finish(source, _fill_in(source, planned), stages=stages)


def _plan(tasks: Iterator[Task], *, order: Order, source: Source, batch_size: int, slots: range) -> Iterator[Rows]:
    is_mirrored = any(store.mirror for store in source.stores)  # else nobody asks, and a million shards take long
    told = -1
    for task in tasks:
        if is_mirrored and (stretch := order.stretch(task.number)) != told:
            told = stretch
            expect(source.stores, next_shards(order, task.number))
        yield plan_rows(order, cursor=task.number, batch_size=batch_size, slots=slots, out=task.out)


def _fill_in(source: Source, batches: Iterator[Rows]) -> Iterator[Rows | NotestreamError]:
    try:
        for rows in batches:
            try:
                draw_views(source, rows)
                render_rows(source, rows)
            except NotestreamError as error:
                yield error
            else:
                yield rows
    finally:
        for store in source.stores:
            store.close()


def _finish(
    source: Source, batches: Iterator[Rows | NotestreamError], *, stages: Sequence[Stage]
) -> Iterator[Made | NotestreamError]:
    for rows in batches:
        if isinstance(rows, NotestreamError):
            yield rows
        elif stages:
            from streaming.tensors import run_stages  # here: a reader needs torch for these alone

            yield run_stages(collate(source, rows), stages)
        else:
            yield collate(source, rows)


class Maker:
    """Runs a job batch by batch; after an exception it begins anew."""

    def __init__(self, job: Job) -> None:
        self._job, self._tasks = job, deque[Task]()
        self._made: Iterator[Made | NotestreamError] | None = None

    def make(self, task: Task) -> Made | NotestreamError:
        """Make one batch."""
        if self._made is None:
            self._tasks.clear()
            self._made = self._job(iter(self._tasks.popleft, None))
        self._tasks.append(task)
        try:
            return next(self._made)
        except BaseException:
            self._made = None
            raise
