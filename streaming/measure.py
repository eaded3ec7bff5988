"""measure: a pack, a policy, readers -> how fast this machine feeds a consumer, and how many cores one would need."""

import time
from collections.abc import Iterator
from typing import Any

import torch

from shards.errors import UsageError
from shards.index import Pack
from streaming.augment import Augment
from streaming.batch import Batch
from streaming.loader import Loader

WARM = 3  # batches a reader that aren't counted: imports, compiled loops, cold files


def measure(
    pack: Pack,
    *,
    augment: Augment,
    readers: int,
    consumer_rate: float | None,
    seconds: float,
    batch_size: int = 64,
    crop_seconds: float = 2.5,
    seed: int = 0,
) -> dict[str, Any]:
    """Stream crops for about `seconds`: flat out, on one core, and to a consumer of `consumer_rate` samples/s.

    Without a rate the consumer takes 80 % of the ceiling. Rates are samples/s, MB those of the audio files;
    `us_a_sample` tells a reader's time by stage. Takes as long as it takes to read the batches left out, and then
    `seconds` in all.

    Raises:
        UsageError: a rate or time that isn't positive, or a pack without a text column.
    """
    for name, value in (("consumer_rate", consumer_rate), ("seconds", seconds)):
        if value is not None and not value > 0:
            raise UsageError(f"{name} must be positive, got {value}")
    if not pack.classes:
        raise UsageError(f"{pack.home} has no text column to be the label: pack it with one")
    options: dict[str, Any] = {
        "batch_size": batch_size,
        "seed": seed,
        "label": next(iter(pack.classes)),
        "crop_seconds": crop_seconds,
        "augment": augment,
    }
    one_core = 1 / _core_seconds(Loader(pack, readers=0, **options), seconds=seconds / 3)
    loader = Loader(pack, readers=readers, **options)
    try:
        batches = _endless(loader)
        for _ in range(WARM * max(readers, 1)):
            next(batches)
        ceiling, stages = _flat_out(batches, seconds=seconds / 3)
        rate = consumer_rate or 0.8 * ceiling
        delivered, wait = _consume(batches, rate=rate, seconds=seconds / 3)
    finally:
        loader.close()
    megabytes = int(pack.shards.bytes.sum()) / pack.rows / 1e6
    return {
        "readers": readers,
        "batch_size": batch_size,
        "ceiling_samples_per_second": ceiling,
        "ceiling_megabytes_per_second": ceiling * megabytes,
        "samples_per_second_a_core": one_core,
        "us_a_sample": {name: 1e6 * one for name, one in stages.items()},
        "consumer_samples_per_second": rate,
        "delivered_samples_per_second": delivered,
        "wait_share": wait,
        "cores_needed": rate / one_core,
    }


def _endless(loader: Loader) -> Iterator[Batch]:
    while True:
        yield from loader


def _core_seconds(loader: Loader, *, seconds: float) -> float:
    """Return the processor's seconds a sample takes, made in this process."""
    batches, threads = _endless(loader), torch.get_num_threads()
    torch.set_num_threads(1)  # as in a reader; threads that wait for each other would count too
    try:
        for _ in range(WARM):
            next(batches)
        ends, rows, begun = time.perf_counter() + seconds, 0, time.process_time()
        while not rows or time.perf_counter() < ends:
            rows += len(next(batches).key)
        return (time.process_time() - begun) / rows
    finally:
        torch.set_num_threads(threads)
        loader.close()


def _flat_out(batches: Iterator[Batch], *, seconds: float) -> tuple[float, dict[str, float]]:
    """Return samples/s with nothing to wait for them, and a sample's seconds by stage."""
    begun, rows, told = time.perf_counter(), 0, dict[str, float]()
    while not rows or time.perf_counter() - begun < seconds:
        batch = next(batches)
        rows += len(batch.key)
        for name, one in batch.seconds.items():
            told[name] = told.get(name, 0.0) + one
    return rows / (time.perf_counter() - begun), {name: one / rows for name, one in told.items()}


def _consume(batches: Iterator[Batch], *, rate: float, seconds: float) -> tuple[float, float]:
    """Return samples/s and the share of the time spent waiting for data, where a step takes rows / rate seconds.

    The step sleeps: it leaves this process's core to the readers no more than a GPU's step does.
    """
    begun, rows, waited = time.perf_counter(), 0, 0.0
    while not rows or time.perf_counter() - begun < seconds:
        batch = next(batches)
        rows += len(batch.key)
        waited += batch.seconds["wait"]
        time.sleep(len(batch.key) / rate)
    taken = time.perf_counter() - begun
    return rows / taken, waited / taken
