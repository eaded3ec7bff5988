"""pipeline: order, source, tasks -> one rank's batches, as a webdataset pipeline that any process can run.

A task is one batch to make, and the memory for its waveforms. Each stage makes one item of one item, so a batch is
made when it is asked for, wherever that is. A fault travels through as an item: it is no end, and it must reach the
user in one line.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from webdataset.pipeline import DataPipeline

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
Job = Callable[[Iterator[Task]], Iterator[Batch | NotestreamError]]


def stream(
    tasks: Iterator[Task], *, order: Order, source: Source, batch_size: int, slots: range, stages: Sequence[Stage]
) -> Iterator[Batch | NotestreamError]:
    """Join the stages: plan, views, rows rendered, tensors, and the user's own. A task's number is its cursor."""
    pipeline = DataPipeline(
        partial(_plan, tasks, order=order, source=source, batch_size=batch_size, slots=slots),
        partial(_fill_in, source),
        partial(_finish, source, stages=tuple(stages)),
    )
    return iter(pipeline)


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
) -> Iterator[Batch | NotestreamError]:
    for rows in batches:
        if isinstance(rows, NotestreamError):
            yield rows
            continue
        batch = collate(source, rows)
        for stage in stages:
            batch = stage(batch)
        yield batch


class Maker:
    """Runs a job batch by batch; after an exception it begins anew."""

    def __init__(self, job: Job) -> None:
        self._job, self._tasks = job, deque[Task]()
        self._made: Iterator[Batch | NotestreamError] | None = None

    def make(self, task: Task) -> Batch | NotestreamError:
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


def read_here(job: Job, numbers: Iterable[int], *, samples: int, pinned: bool = False) -> Generator[Batch]:
    """Make batches in this process, all in the same memory of `samples` float32; pinned is for a GPU's copies."""
    maker, out = Maker(job), torch.empty(samples, pin_memory=pinned).numpy()
    for number in numbers:
        made = maker.make(Task(number=number, out=out))
        if isinstance(made, NotestreamError):
            raise made
        yield made
