"""loader: pack, plan, world, cursor -> batches. Its only state is the cursor, so resuming is a seek.

plan ──> views ──> read ──> decode ──> augment ──> your stages ──┐  in each of `readers` DataLoader processes,
  reader k of n makes the rank's steps k, k + n, ...             │  or in this one (readers=0)
epoch of batches <── device <── in step order <──────────────────┘
"""

import itertools
import multiprocessing
import pickle
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.context import BaseContext
from typing import Any, cast

import torch
import torch.utils.data
from webdataset.pipeline import DataPipeline

from shards import linux
from shards.errors import NotestreamError, UsageError
from shards.index import Pack
from streaming import vocoder
from streaming.augment import Augment
from streaming.batch import Batch
from streaming.device import to_device
from streaming.plan import Plan, make_plan, steps_in
from streaming.stages import Rows, Source, collate, draw_views, plan_rows, render_rows
from streaming.store import Store
from streaming.world import World, find_world

PREFETCH = 2  # batches ahead a reader
Stage = Callable[[Batch], Batch]
FIXED = ("seed", "batch_size", "lanes", "window", "fingerprint")


class Loader:
    """Streams a pack to one rank. Iterating is one epoch; iterating again is the next one.

    Args:
        pack: an opened split.
        batch_size: rows of the global batch, over all ranks.
        seed: names the order and all augmentation.
        label: the text column to learn.
        classes: label names in order of their ids; the pack's own (train's) unless given.
        crop_seconds: length of each waveform.
        augment: what happens to notes on the CPU; nothing unless given.
        world: rank and world_size; torch.distributed's or the environment's unless given.
        readers: DataLoader processes of this rank; 0 reads in this process.
        cursor: where to begin, in rows since the run began.
        device: where batches are delivered.
        lanes, window: how far the shuffle reaches; leave them alone where the data fits the node's disk.
        stages: your own callables from Batch to Batch, run in the readers; they must be picklable.

    Raises:
        UsageError: an argument that doesn't fit the pack, or a stage that can't be sent to a reader.
    """

    def __init__(
        self,
        pack: Pack,
        *,
        batch_size: int,
        seed: int,
        label: str,
        crop_seconds: float,
        classes: Sequence[str] | None = None,
        augment: Augment | None = None,
        world: World | None = None,
        readers: int = 0,
        cursor: int = 0,
        device: torch.device | str = "cpu",
        lanes: int = 1,
        window: int | None = None,
        stages: Sequence[Stage] = (),
    ) -> None:
        self.pack, self.batch_size, self.cursor, self.readers = pack, batch_size, cursor, readers
        self.classes = tuple(pack.classes.get(label, ()) if classes is None else classes)
        self.plan = make_plan([shard.rows for shard in pack.shards], seed=seed, lanes=lanes, window=window)
        self.plan.check_batch(batch_size=batch_size, cursor=cursor)
        world = world or find_world()
        length = round(crop_seconds * pack.sample_rate)
        _check(batch_size=batch_size, world=world, readers=readers, length=length, stages=stages)
        self.device = torch.device(device)
        self.stages = tuple(stages)
        self._source = Source(
            store=Store(pack),
            labels=pack.label_ids(label, self.classes),
            augment=augment or Augment(),
            length=length,
            seed=seed,
        )
        self._slots = world.share(batch_size)
        self._batches: Iterator[Batch] | None = None
        self._workers: torch.utils.data.DataLoader | None = None

    def __len__(self) -> int:
        """Count the steps of the epoch in which the cursor stands: those whose first row lies in it."""
        return steps_in(self.plan, epoch=self.epoch, batch_size=self.batch_size)

    @property
    def epoch(self) -> int:
        """Tell the epoch in which the cursor stands."""
        return self.plan.epoch(self.cursor)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the rest of this epoch's batches. The cursor moves when a batch is handed out, not when it is read."""
        epoch = self.epoch
        while self.epoch == epoch:
            batch = self._next()
            self.cursor = batch.cursor + self.batch_size
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the cursor and what it depends on."""
        return {
            "cursor": self.cursor,
            "seed": self.plan.seed,
            "batch_size": self.batch_size,
            "lanes": self.plan.lanes,
            "window": self.plan.window,
            "fingerprint": self.pack.fingerprint,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a saved cursor: a seek, nothing is replayed.

        Raises:
            UsageError: the state is of another pack, seed, batch size, lanes or window; it is named.
        """
        mine = self.state_dict()
        for name in FIXED:
            if state[name] != mine[name]:
                raise UsageError(
                    f"{name} was {state[name]} when this state was saved, but is {mine[name]} now: "
                    "take the old one, or begin a new run"
                )
        self.close()
        self.cursor = int(state["cursor"])

    def close(self) -> None:
        """Stop the readers and close the shards; iterating again starts them anew."""
        self._batches = None
        self._workers = None
        self._source.store.close()

    def _next(self) -> Batch:
        if self._batches is None:
            self._batches = to_device(self._start(), device=self.device)
        return next(self._batches)

    def _start(self) -> Iterator[Batch]:
        pipeline = make_pipeline(
            self.plan, self._source, batch_size=self.batch_size, slots=self._slots, cursor=self.cursor,
            stages=self.stages,
        )  # fmt: skip
        if self.readers == 0:
            linux.keep_heap()
            return _raise_faults(iter(pipeline))
        self._workers = torch.utils.data.DataLoader(
            cast("torch.utils.data.Dataset", pipeline),
            batch_size=None,
            num_workers=self.readers,
            prefetch_factor=PREFETCH,
            multiprocessing_context=reader_context(),
            worker_init_fn=_prepare_reader,
            collate_fn=_as_it_is,
        )
        return _raise_faults(iter(self._workers))


def make_pipeline(
    plan: Plan, source: Source, *, batch_size: int, slots: range, cursor: int, stages: Sequence[Stage]
) -> DataPipeline:
    """Join the stages into a webdataset pipeline that never ends; faults travel as items, since a reader's raise
    would reach the user as a page of traceback."""
    return DataPipeline(
        _Planned(plan, batch_size, slots, cursor),
        _Each(source, (draw_views, render_rows)),
        _Finish(source, tuple(stages)),
    )


class _Planned:
    """The first stage: this reader's steps, for ever."""

    def __init__(self, plan: Plan, batch_size: int, slots: range, cursor: int) -> None:
        self.plan, self.batch_size, self.slots, self.cursor = plan, batch_size, slots, cursor

    def __call__(self) -> Iterator[Rows]:
        reader = torch.utils.data.get_worker_info()
        number, readers = (reader.id, reader.num_workers) if reader else (0, 1)
        for step in itertools.count(number, readers):
            cursor = self.cursor + step * self.batch_size
            yield plan_rows(self.plan, cursor=cursor, batch_size=self.batch_size, slots=self.slots)


class _Each:
    """Stages that fill in a batch's rows, one after another."""

    def __init__(self, source: Source, steps: Sequence[Callable[[Source, Rows], None]]) -> None:
        self.source, self.steps = source, steps

    def __call__(self, batches: Iterator[Rows]) -> Iterator[Rows | NotestreamError]:
        for rows in batches:
            try:
                for step in self.steps:
                    step(self.source, rows)
            except NotestreamError as error:
                yield error
                return
            yield rows


class _Finish:
    """The last stages: tensors, then the user's own."""

    def __init__(self, source: Source, stages: Sequence[Stage]) -> None:
        self.source, self.stages = source, stages

    def __call__(self, batches: Iterator[Rows | NotestreamError]) -> Iterator[Batch | NotestreamError]:
        for rows in batches:
            if isinstance(rows, NotestreamError):
                yield rows
                return
            batch = collate(self.source, rows)
            for stage in self.stages:
                batch = stage(batch)
            yield batch


def _raise_faults(items: Iterator[Batch | NotestreamError]) -> Iterator[Batch]:
    for item in items:
        if isinstance(item, NotestreamError):
            raise item
        yield item


def reader_context() -> BaseContext:
    """Return how readers are started: never by fork, which copies locked locks beside gRPC's and S3's threads."""
    return multiprocessing.get_context("forkserver" if linux.ON else "spawn")


def _prepare_reader(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the rank, which needs its readers to end
    linux.keep_heap()
    vocoder.warm_up()


def _as_it_is(item: Any) -> Any:
    return item


def _check(*, batch_size: int, world: World, readers: int, length: int, stages: Sequence[Stage]) -> None:
    if world.world_size > batch_size:
        raise UsageError(f"batch_size must be at least world_size ({world.world_size}), got {batch_size}: raise it")
    if readers < 0:
        raise UsageError(f"readers must not be negative, got {readers}: 0 reads in the training process")
    if length < 1:
        raise UsageError(f"crop_seconds must give at least one sample, got {length}: 2.5 is usual")
    for stage in stages if readers else ():
        try:
            pickle.dumps(stage)
        except Exception as error:  # pickle raises whatever the object raises
            name = getattr(stage, "__qualname__", type(stage).__name__)
            raise UsageError(
                f"stage {name} can't be sent to a reader ({error}): define it at the top of a module, or use readers=0"
            ) from error
