"""Claim: whole notes, globally shuffled and checked, stream at 0.9 of a bare loop's speed or more.

The bare loop reads, checks and turns int16 into float32 in one reused batch. A second claim: the plan costs the same at
NSynth's size and at 10^12 rows. Run: python -m benchmarks.ingest
"""

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator

import numpy as np
from isal import isal_zlib

from benchmarks import harness
from benchmarks.harness import Method, Section, figure, spread, spread_rate
from shards import linux
from shards.bijection import uniforms
from shards.index import Pack
from streaming import stages
from streaming.augment import Augment
from streaming.batch import Batch
from streaming.decode import decode_into, find_header
from streaming.evaluation import whole_notes
from streaming.loader import Loader
from streaming.mix import make_order
from streaming.plan import Plan, make_plan
from streaming.store import Store
from streaming.world import World

NOTES, BATCH, ROUNDS, SECONDS, WORKERS = 4096, 64, 7, 4.0, 2
LABEL = "instrument_family_str"
BARE, KERNEL = "bare loop", "bare loop, streaming.decode"
LOADER, STARTED, EVALUATION = "streaming Loader", "streaming Loader, started anew", "streaming.evaluation"
PEERS = {
    "DALI": "256 rows", "litdata": "all rows of a chunk", "mosaicml": "all rows of some shards",
    "webdataset": "256 rows",
}  # fmt: skip
WAV_HEADER = 44
NSYNTH, HUGE, PLANNED = 289_205, 10**12, 256


def numpy_decode(data: bytes, out: np.ndarray) -> None:
    """Turn int16 into float32 as anybody would."""
    np.multiply(np.frombuffer(data, "<i2", offset=WAV_HEADER), np.float32(1 / 32768), out=out)


def our_decode(data: bytes, out: np.ndarray) -> None:
    """Turn int16 into float32 by the loader's own loop."""
    decode_into(out, data, header=find_header(data, name=lambda: "a note"), first=0)


def bare(pack: Pack, batch: np.ndarray, decode: Callable[[bytes, np.ndarray], None] = numpy_decode) -> None:
    """Read, check and decode every row in a shuffled order into one reused batch, (BATCH, time)."""
    descriptors = [os.open(harness.folder(pack) / shard.name, os.O_RDONLY) for shard in pack.shards]
    shard = np.repeat(np.arange(len(pack.shards)), pack.shards.rows)
    offset, size, crc = (column.to_numpy() for column in pack.read("offset", "size", "crc32").columns)
    for i, row in enumerate(np.random.default_rng(0).permutation(pack.rows)):
        data = os.pread(descriptors[shard[row]], int(size[row]), int(offset[row]))
        assert isal_zlib.crc32(data) == crc[row]
        decode(data, batch[i % BATCH])
    for descriptor in descriptors:
        os.close(descriptor)


def per_stage(pack: Pack, *, crop_seconds: float, augment: Augment, kept: dict) -> dict[str, Method]:
    """Return the loader's stages as methods, to be run in turn; each round leaves its batch in `kept["batch"]`."""
    order, classes = make_order([pack], seed=0), pack.classes[LABEL]
    length, labels = round(crop_seconds * pack.sample_rate), pack.label_ids(LABEL, classes)
    source = stages.Source(stores=(Store(pack),), labels=(labels,), augment=augment, length=length, seed=0)
    cursors, out = itertools.count(0, BATCH), np.empty(BATCH * length, np.float32)

    def start() -> None:
        kept["rows"] = stages.plan_rows(order, cursor=next(cursors), batch_size=BATCH, slots=range(BATCH), out=out)

    steps = {
        "plan": start,
        "draw": lambda: stages.draw_views(source, kept["rows"]),
        "read, decode, augment": lambda: stages.render_rows(source, kept["rows"]),
        "collate": lambda: kept.update(batch=stages.collate(source, kept["rows"])),
    }
    return {name: harness.stopwatch(step) for name, step in steps.items()}


def in_turn(methods: dict[str, Method], *, batches: int) -> dict[str, list[float]]:
    """Run stages that feed each other in their order: {name: seconds a batch}, a first batch left out."""
    found = {name: [] for name in methods}
    for _ in range(batches + 1):
        for name, method in methods.items():
            found[name].append(method())
    return {name: seconds[1:] for name, seconds in found.items()}


def ours(pack: Pack) -> dict[str, Method]:
    """Return a pass over the pack by a bare loop, by the loader and by evaluation."""
    loader = Loader(pack, batch_size=BATCH, seed=0, label=LABEL, crop_seconds=SECONDS)
    batch = np.zeros((BATCH, round(SECONDS * pack.sample_rate)), np.float32)
    notes = {"label": LABEL, "classes": pack.classes[LABEL], "batch_size": BATCH, "world": World()}
    works = {
        BARE: lambda: bare(pack, batch),
        KERNEL: lambda: bare(pack, batch, our_decode),
        LOADER: lambda: [None for _ in loader],
        EVALUATION: lambda: [None for _ in whole_notes(pack, **notes)],
    }
    return {name: harness.stopwatch(work) for name, work in works.items()}


def in_process(pack: Pack, ask: Callable[[str], float]) -> Section:
    """Measure whole passes by one process."""
    methods = ours(pack) | {name: lambda name=name: ask(f"{name} 0") for name in PEERS}
    found = harness.measure(methods, rounds=ROUNDS)
    middle = harness.medians(found)
    order = {BARE: "all rows", KERNEL: "all rows", LOADER: "all rows", EVALUATION: "not shuffled"} | PEERS
    mine = middle[LOADER]
    return Section(
        title="Whole notes, in process",
        claim=f"A pass over {pack.rows:,} notes of {SECONDS:g} s (16-bit WAV) as float32 batches of {BATCH}, {ROUNDS} "
        "rounds; processor time of all threads, files in the page cache. Ours reuse one batch and check each note's "
        "crc32, the others do neither. litdata and mosaicml read formats of their own, webdataset and DALI our tars; "
        "DALI decodes by itself, by one thread.",
        columns=("reader", "samples/s", "in all rounds", "us a sample", "speed against bare", "shuffled"),
        rows=[
            (
                name, figure(pack.rows / middle[name]), spread_rate(seconds, count=pack.rows),
                figure(1e6 * middle[name] / pack.rows), f"{middle[BARE] / middle[name]:.2f}x", order[name],
            )
            for name, seconds in found.items()
        ],
        summary=f"The Loader runs at {middle[BARE] / mine:.2f} of the bare loop's speed, "
        + ", ".join(f"{middle[name] / mine:.1f}x {name}'s" for name in PEERS) + ".",
    )  # fmt: skip


def by_workers(pack: Pack, ask: Callable[[str], float]) -> Section:
    """Measure whole passes through two processes; ours have started already, as after a run's first epoch."""
    loader = Loader(pack, batch_size=BATCH, seed=0, label=LABEL, crop_seconds=SECONDS, readers=WORKERS)
    mine = harness.stopwatch(lambda: [None for _ in loader], clock=time.perf_counter)
    anew = harness.stopwatch(lambda: [None for _ in fresh()], clock=time.perf_counter)

    def fresh() -> Iterator[Batch]:
        with contextlib.closing(
            Loader(pack, batch_size=BATCH, seed=0, label=LABEL, crop_seconds=SECONDS, readers=WORKERS)
        ) as one:
            yield from one

    methods = {LOADER: mine, STARTED: anew} | {name: lambda name=name: ask(f"{name} {WORKERS}") for name in PEERS}
    found = harness.measure(methods, rounds=ROUNDS)
    loader.close()
    middle = harness.medians(found)
    best = min(PEERS, key=lambda name: middle[name])
    return Section(
        title=f"Whole notes, by {WORKERS} readers",
        claim=f"The same notes through {WORKERS} processes ({WORKERS} threads of DALI's) on {os.cpu_count()} cores, "
        f"{ROUNDS} rounds; wall time, the start of the others' workers included, and of ours in the second line.",
        columns=("reader", "samples/s", "in all rounds"),
        rows=[
            (name, figure(pack.rows / middle[name]), spread_rate(seconds, count=pack.rows))
            for name, seconds in found.items()
        ],
        summary=f"{WORKERS} readers give {middle[best] / middle[LOADER]:.1f}x the best other's, {best}'s; "
        f"{middle[best] / middle[STARTED]:.1f}x with their start.",
    )


def share(pack: Pack) -> Section:
    """Measure the loader's stages."""
    found = in_turn(per_stage(pack, crop_seconds=SECONDS, augment=Augment(), kept={}), batches=3 * pack.rows // BATCH)
    middle = harness.medians(found)
    total, largest = sum(middle.values()), max(middle, key=lambda name: middle[name])
    return Section(
        title="Where the Loader's time goes",
        claim="The loader's stages batch by batch, whole notes, no augmentation, a reader's allocator; "
        f"processor time, medians of {len(found['plan'])} batches.",
        columns=("stage", "us a sample", "share"),
        rows=[
            (name, figure(1e6 * one / BATCH), f"{100 * one / total:.0f} %") for name, one in middle.items()
        ],
        summary=f"Of {1e6 * total / BATCH:,.0f} us a sample, {100 * middle[largest] / total:.0f} % is {largest}.",
    )  # fmt: skip


def planned(plan: Plan) -> Method:
    """Plan 20 batches of PLANNED rows somewhere in the first two epochs."""
    cursors = np.random.default_rng(0).integers(0, 2 * plan.span // PLANNED, 20) * PLANNED
    slots = range(PLANNED)
    return harness.stopwatch(lambda: [plan.slots(c, batch_size=PLANNED, slots=slots) for c in cursors.tolist()])


def cost_of_plan() -> Section:
    """Measure the plan and the keyed draws, without reading anything."""
    shards = [1024] * (NSYNTH // 1024) + [NSYNTH % 1024]
    methods = {
        "plan, 289,205 rows": planned(make_plan(shards, seed=0)),
        "plan, 10^12 rows": planned(make_plan([HUGE], seed=0)),
        "plan, 289,205 rows, 8 lanes, window 8,192": planned(make_plan(shards, seed=0, lanes=8, window=8192)),
        "four uniforms a row, keyed": harness.stopwatch(
            lambda: [uniforms(4, 0, 0, 0, f"bass_{i}", 0) for i in range(20 * PLANNED)]
        ),
    }
    found = {name: [s / 20 for s in seconds] for name, seconds in harness.measure(methods, rounds=25).items()}
    middle = harness.medians(found)
    near, far = middle["plan, 289,205 rows"], middle["plan, 10^12 rows"]
    return Section(
        title="The plan",
        claim=f"Which rows make up a batch of {PLANNED}, at random cursors, 25 rounds of 20 batches; processor time.",
        columns=("what", "us a batch", "in all rounds", "us a row"),
        rows=[
            (name, figure(1e6 * one), spread(found[name], scale=1e6), figure(1e6 * one / PLANNED))
            for name, one in middle.items()
        ],
        summary=f"A batch's order costs {1e6 * near:,.0f} us, and {far / near:.2f}x that at 10^12 rows.",
    )


def run() -> list[Section]:
    """Measure reading, its stages, and the plan."""
    harness.one_thread()
    linux.keep_heap()  # as in a reader
    pack = harness.packed_many(NOTES)
    with harness.peers("readers.py", harness.many(NOTES), harness.folder(pack), harness.BENCH / "peers") as ask:
        found = [in_process(pack, ask), by_workers(pack, ask)]
    return [*found, share(pack), cost_of_plan()]


if __name__ == "__main__":
    harness.show("Ingest", run(), packages=("torch", "numpy", "isal"))
