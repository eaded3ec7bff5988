"""pipeline: plan, source -> an endless iterator of one rank's batches, as a webdataset pipeline that a reader can run.

A fault travels through as an item: raised in a reader, it would reach the user as a page of traceback.
"""

import itertools
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.context import BaseContext
from typing import Any

import torch.utils.data
from webdataset.pipeline import DataPipeline

from shards import linux
from shards.errors import NotestreamError
from streaming import vocoder
from streaming.batch import Batch
from streaming.plan import Plan
from streaming.stages import Rows, Source, collate, draw_views, plan_rows, render_rows

Stage = Callable[[Batch], Batch]


def make_pipeline(
    plan: Plan, source: Source, *, batch_size: int, slots: range, cursor: int, stages: Sequence[Stage]
) -> DataPipeline:
    """Join the stages: plan, views, rows rendered, tensors, and the user's own."""
    return DataPipeline(
        partial(_plan, plan, batch_size=batch_size, slots=slots, cursor=cursor),
        partial(_fill_in, source),
        partial(_finish, source, stages=tuple(stages)),
    )


def _plan(plan: Plan, *, batch_size: int, slots: range, cursor: int) -> Iterator[Rows]:
    """Yield this reader's steps, for ever: reader k of n makes steps k, k + n, ..."""
    reader = torch.utils.data.get_worker_info()
    number, readers = (reader.id, reader.num_workers) if reader else (0, 1)
    for step in itertools.count(number, readers):
        yield plan_rows(plan, cursor=cursor + step * batch_size, batch_size=batch_size, slots=slots)


def _fill_in(source: Source, batches: Iterator[Rows]) -> Iterator[Rows | NotestreamError]:
    for rows in batches:
        try:
            draw_views(source, rows)
            render_rows(source, rows)
        except NotestreamError as error:
            yield error
            return
        yield rows


def _finish(
    source: Source, batches: Iterator[Rows | NotestreamError], *, stages: Sequence[Stage]
) -> Iterator[Batch | NotestreamError]:
    for rows in batches:
        if isinstance(rows, NotestreamError):
            yield rows
            return
        batch = collate(source, rows)
        for stage in stages:
            batch = stage(batch)
        yield batch


def raise_faults(items: Iterator[Batch | NotestreamError]) -> Iterator[Batch]:
    """Yield batches; raise the fault that a reader sent in place of one."""
    for item in items:
        if isinstance(item, NotestreamError):
            raise item
        yield item


def reader_context() -> BaseContext:
    """Return how readers are started: never by fork, which copies locked locks beside gRPC's and S3's threads."""
    return multiprocessing.get_context("forkserver" if linux.ON else "spawn")


def prepare_reader(_: int) -> None:
    """Make a fresh reader ready: its first batch then costs what the next ones do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the rank, which needs its readers to end
    linux.keep_heap()
    vocoder.warm_up()


def as_it_is(item: Any) -> Any:
    """Collate nothing: a pipeline's items are batches already."""
    return item
