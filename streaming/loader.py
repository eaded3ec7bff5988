"""loader: pack, plan, world, cursor -> batches. Its only state is the cursor, so resuming is a seek.

plan ──> views ──> read ──> decode ──> augment ──> your stages ──┐  in each of `readers` DataLoader processes,
  reader k of n makes the rank's steps k, k + n, ...             │  or in this one (readers=0)
epoch of batches <── device <── in step order <──────────────────┘
"""

import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
import torch.utils.data

from shards import linux
from shards.errors import UsageError
from shards.index import Pack
from streaming.augment import Augment
from streaming.batch import Batch
from streaming.device import to_device
from streaming.pipeline import Stage, as_it_is, make_pipeline, prepare_reader, raise_faults, reader_context
from streaming.plan import make_plan, steps_in
from streaming.stages import Source
from streaming.store import Store
from streaming.world import World, find_world

PREFETCH = 2  # batches ahead a reader
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
            return raise_faults(iter(pipeline))
        self._workers = torch.utils.data.DataLoader(
            cast("torch.utils.data.Dataset", pipeline),
            batch_size=None,
            num_workers=self.readers,
            prefetch_factor=PREFETCH,
            multiprocessing_context=reader_context(),
            worker_init_fn=prepare_reader,
            collate_fn=as_it_is,
        )
        return raise_faults(iter(self._workers))


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
