"""loader: packs, order, world, cursor -> batches. Its only state is the cursor, so resuming is a seek.

order ─> views ─> read ─> decode ─> augment ─> your transforms ─> your stages ─┐  in each of `readers` processes,
  reader k of n makes the rank's steps k, k + n, ...                           │  or in this one (readers=0)
epoch of batches <── device <── in step order <── shared memory ───────────────┘
"""

import dataclasses
import itertools
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast, get_args

import torch
from webdataset.pipeline import DataPipeline

from shards import linux
from shards.errors import DataError, UsageError
from shards.index import Pack
from streaming.augment import Augment
from streaming.batch import Batch
from streaming.device import to_device
from streaming.labels import find_labels, is_pitch
from streaming.mix import make_order, mix_classes
from streaming.order import Order
from streaming.pipeline import Stage, stream
from streaming.plan import steps_in
from streaming.readers import Readers
from streaming.stages import OnBadRow, Pad, Source
from streaming.store import Remote
from streaming.stores import open_stores
from streaming.tensors import read_here
from streaming.transforms import Transform, check_picklable
from streaming.world import World, find_world

LEAST_BAD = 10  # rows that are masked whatever their share


class Loader:
    """Streams packs to one rank. Iterating is one epoch; iterating again is the next one.

    A batch is valid until the next is asked for: its memory is used again. `batch.clone()` is for those who keep one.
    The readers start with the first batch and live until `close`; `pool` lends them to others, such as evaluation.

    Args:
        packs: an opened split, or several that are mixed.
        batch_size: rows of the global batch, over all ranks.
        label: the column to learn, of text or whole numbers, or of lists where a row has any number of classes (see
            shards.classes); `pitch` is MIDI's, and moves when the note's pitch does.
        crop_seconds: length of each waveform.
        order: which rows come when, if not all of them: streaming.mix.make_order, of these packs.
        seed: names the order and all augmentation; an order that is given brings its own.
        classes: label names in order of their ids; those of all packs, sorted, unless given.
        augment: what happens to notes on the CPU; nothing unless given.
        transforms: your own callables, (waveform, draw) to waveform, run on each row after that, in the readers; they
            must be picklable (see streaming.transforms).
        draws: uniforms of each row's own that come with the batch, for what you draw on the device (Batch.draws).
        world: rank and world_size; torch.distributed's or the environment's unless given.
        readers: processes of this rank that read; 0 reads in this process.
        cursor: where to begin, in rows since the run began.
        device: where batches are delivered.
        stages: your own callables from Batch to Batch, run in the readers; they must be picklable.
        pad: what follows a note that is shorter than the crop: `zero`, or `repeat` of the note, which counts as sound.
        on_bad_row: `raise`, or `mask`: silence of weight 0 in its place, counted in `masked`, told in Batch.masked.
        bad_share: masking gives up past this share of the rows handed out so far, and past 10 rows.
        verify_reads: read rows whole and check their crc32; else only the crop is read, and damage is heard, not seen.
        remote: how packs at a URL are read: by a `mirror` on this node, or `ranged` requests; chosen unless given.
        mirror_bytes: what this node's mirror may take; half of what its disk has for it unless given.

    Raises:
        UsageError: an argument that doesn't fit the packs, or a stage that can't be sent to a reader.
        DataError: packs of different sample rates.
    """

    def __init__(
        self,
        packs: Pack | Sequence[Pack],
        *,
        batch_size: int,
        label: str,
        crop_seconds: float,
        order: Order | None = None,
        seed: int = 0,
        classes: Sequence[str] | None = None,
        augment: Augment | None = None,
        transforms: Sequence[Transform] = (),
        draws: int = 0,
        world: World | None = None,
        readers: int = 0,
        cursor: int = 0,
        device: torch.device | str = "cpu",
        stages: Sequence[Stage] = (),
        pad: Pad = "zero",
        on_bad_row: OnBadRow = "raise",
        bad_share: float = 0.01,
        verify_reads: bool = True,
        remote: Remote | None = None,
        mirror_bytes: int | None = None,
    ) -> None:
        self.packs = (packs,) if isinstance(packs, Pack) else tuple(packs)
        self.batch_size, self.cursor, self.readers = batch_size, cursor, readers
        self.order = order or make_order(self.packs, seed=seed)
        self.order.check_batch(batch_size=batch_size, cursor=cursor)
        self.classes = mix_classes(self.packs, label) if classes is None else tuple(classes)
        world = world or find_world()
        length = round(crop_seconds * self.packs[0].sample_rate)
        _check(batch_size=batch_size, world=world, readers=readers, length=length)
        for kind, own in (("transform", transforms), ("stage", stages)) if readers else ():
            check_picklable(kind, own)
        _check_choices(pad=pad, on_bad_row=on_bad_row, bad_share=bad_share)
        self.device = torch.device(device)
        self.stages, self.bad_share = tuple(stages), bad_share
        self.masked, self._handed_out = 0, 0
        self._source = Source(
            stores=open_stores(self.packs, self.order, remote=remote, mirror_bytes=mirror_bytes),
            labels=tuple(find_labels(pack, label, classes=self.classes) for pack in self.packs),
            augment=augment or Augment(),
            transforms=tuple(transforms),
            draws=draws,
            label_moves=is_pitch(self.packs, label, classes=self.classes),
            length=length,
            seed=self.order.seed,
            pad=pad,
            on_bad_row=on_bad_row,
            verify_reads=verify_reads,
        )
        self._slots = world.share(batch_size)
        self._pool: Readers | None = None
        self._made: Generator[Batch] | None = None
        self._batches: Generator[Batch] | None = None

    def __len__(self) -> int:
        """Count the steps of the epoch in which the cursor stands: those whose first row lies in it."""
        return steps_in(self.order, epoch=self.epoch, batch_size=self.batch_size)

    @property
    def epoch(self) -> int:
        """Tell the epoch in which the cursor stands."""
        return self.order.epoch(self.cursor)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the rest of this epoch's batches. The cursor moves when a batch is handed out, not when it is read."""
        epoch = self.epoch
        while self.epoch == epoch:
            batch = self._next()
            self.cursor = batch.cursor + self.batch_size
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the cursor and what it depends on."""
        return {"cursor": self.cursor, "batch_size": self.batch_size, **self.order.state()}

    def load_state_dict(self, state: Mapping[str, Any], *, rebatch: bool = False) -> None:
        """Go to a saved cursor: a seek, nothing is replayed. `rebatch` lets the batch size be another from here on.

        Raises:
            UsageError: the state is of other data, another selection, seed, batch size, lanes or window; it is named.
        """
        mine = self.state_dict()
        if missing := [name for name in mine if name not in state]:
            raise UsageError(f"this state has no {', '.join(missing)}: give one that a loader's state_dict returned")
        self.order.check_batch(batch_size=self.batch_size, cursor=int(state["cursor"]))
        for name in mine:
            if name != "cursor" and state[name] != mine[name] and not (rebatch and name == "batch_size"):
                raise UsageError(
                    f"{name} was {state[name]} when this state was saved, but is {mine[name]} now: "
                    "take the old one, or begin a new run"
                )
        self._leave()
        self.cursor = int(state["cursor"])

    @property
    def pool(self) -> Readers | None:
        """Return the reader processes, started if need be; None where this process reads."""
        if self.readers and self._pool is None:
            self._pool = Readers(self.readers)
        return self._pool

    @property
    def started(self) -> Readers | None:
        """Return the reader processes as they are; None where none were started."""
        return self._pool

    def close(self) -> None:
        """Stop the readers and close the shards; iterating again starts them anew."""
        self._leave()
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _leave(self) -> None:
        """Drop what is made ahead of the cursor."""
        for made in (self._batches, self._made):
            if made is not None:
                made.close()
        self._batches = self._made = None

    def _next(self) -> Batch:
        started = time.perf_counter()
        if self._batches is None:
            self._made = self._begin()
            pipeline = DataPipeline(lambda: self._made, partial(to_device, device=self.device))
            self._batches = cast(Generator[Batch], iter(pipeline))
        try:
            batch = next(self._batches)
            self._count(batch)
        except BaseException:
            self._leave()  # a generator that has raised is at its end: the next one begins at the cursor
            raise
        return dataclasses.replace(batch, seconds={**batch.seconds, "wait": time.perf_counter() - started})

    def _begin(self) -> Generator[Batch]:
        """Begin at the cursor."""
        job = partial(
            stream, order=self.order, source=self._source, batch_size=self.batch_size, slots=self._slots,
            stages=self.stages,
        )  # fmt: skip
        cursors, samples = itertools.count(self.cursor, self.batch_size), len(self._slots) * self._source.length
        pinned = self.device.type == "cuda"
        if self.pool is not None:
            return self.pool.read(job, cursors, samples=samples, pinned=pinned)
        linux.keep_heap()
        return read_here(job, cursors, samples=samples, pinned=pinned)

    def _count(self, batch: Batch) -> None:
        """Give up where too many rows are masked: a share of what was handed out, so that one bad shard isn't it."""
        self._handed_out += len(batch.key)
        self.masked += len(batch.masked)
        if batch.masked and self.masked > max(LEAST_BAD, self.bad_share * self._handed_out):
            raise DataError(
                f"{self.masked} of {self._handed_out} rows can't be read, over the share of {self.bad_share:g} that "
                f"may be masked (bad_share); the last: {batch.masked[-1].what}"
            )


def _check_choices(*, pad: str, on_bad_row: str, bad_share: float) -> None:
    for name, value, choices in (("pad", pad, get_args(Pad)), ("on_bad_row", on_bad_row, get_args(OnBadRow))):
        if value not in choices:
            raise UsageError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    if not 0 <= bad_share <= 1:
        raise UsageError(f"bad_share must lie in 0..1, got {bad_share}: 0.01 is a hundredth of the rows")


def _check(*, batch_size: int, world: World, readers: int, length: int) -> None:
    if world.world_size > batch_size:
        raise UsageError(f"batch_size must be at least world_size ({world.world_size}), got {batch_size}: raise it")
    if readers < 0:
        raise UsageError(f"readers must not be negative, got {readers}: 0 reads in the training process")
    if length < 1:
        raise UsageError(f"crop_seconds must give at least one sample, got {length}: 2.5 is usual")
