"""Claim: whole notes, globally shuffled and checked, stream as fast as stock webdataset's, which are neither.

The floor is a bare loop of pread, crc32 and int16 to float32. A second claim: the plan costs the same at NSynth's size
and at 10^12 rows. Run: python -m benchmarks.ingest
"""

import itertools
import os

import numpy as np
import torch
import webdataset
from isal import isal_zlib

from benchmarks import harness
from benchmarks.harness import Method, Section, figure, spread, spread_rate
from shards import linux
from shards.bijection import uniforms
from shards.index import Pack
from streaming import stages
from streaming.augment import Augment
from streaming.evaluation import whole_notes
from streaming.loader import Loader
from streaming.plan import Plan, make_plan
from streaming.store import Store
from streaming.world import World

BATCH, ROUNDS, SECONDS = 32, 9, 4.0
LABEL = "instrument_family_str"
BARE, LOADER, EVALUATION, STOCK = "bare loop", "streaming Loader", "streaming.evaluation", "webdataset, numpy decode"
WAV_HEADER = 44
NSYNTH, HUGE, PLANNED = 289_205, 10**12, 256


def bare(pack: Pack, batch: np.ndarray) -> None:
    """Read, check and decode every row in a shuffled order into one reused batch, (BATCH, time)."""
    descriptors = [os.open(harness.folder(pack) / shard.name, os.O_RDONLY) for shard in pack.shards]
    shard = np.repeat(np.arange(len(pack.shards)), [one.rows for one in pack.shards])
    offset, size, crc = (column.to_numpy() for column in pack.read("offset", "size", "crc32").columns)
    for i, row in enumerate(np.random.default_rng(0).permutation(pack.rows)):
        data = os.pread(descriptors[shard[row]], int(size[row]), int(offset[row]))
        assert isal_zlib.crc32(data) == crc[row]
        np.multiply(np.frombuffer(data, "<i2", offset=WAV_HEADER), np.float32(1 / 32768), out=batch[i % BATCH])
    for descriptor in descriptors:
        os.close(descriptor)


def stock(pack: Pack) -> int:
    """Stream the shards with webdataset, shuffled through a buffer of 256 notes; count the rows."""

    def decode(sample) -> np.ndarray:
        return np.frombuffer(sample["wav"], "<i2", offset=WAV_HEADER).astype(np.float32) / 32768

    urls = [str(harness.folder(pack) / shard.name) for shard in pack.shards]
    notes = webdataset.WebDataset(urls, shardshuffle=False).shuffle(256).map(decode)
    return sum(len(torch.from_numpy(np.stack(batch))) for batch in notes.batched(BATCH, collation_fn=None))


def per_stage(pack: Pack, *, crop_seconds: float, augment: Augment, kept: dict) -> dict[str, Method]:
    """Return the loader's stages as methods, to be run in turn; each round leaves its batch in `kept["batch"]`."""
    plan, classes = make_plan([shard.rows for shard in pack.shards], seed=0), pack.classes[LABEL]
    length, labels = round(crop_seconds * pack.sample_rate), pack.label_ids(LABEL, classes)
    source = stages.Source(store=Store(pack), labels=labels, augment=augment, length=length, seed=0)
    cursors = itertools.count(0, BATCH)

    def start() -> None:
        kept["rows"] = stages.plan_rows(plan, cursor=next(cursors), batch_size=BATCH, slots=range(BATCH))

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


def compare(pack: Pack, *, title: str) -> Section:
    """Measure whole passes over the pack."""
    loader = Loader(pack, batch_size=BATCH, seed=0, label=LABEL, crop_seconds=SECONDS)
    batch = np.zeros((BATCH, round(SECONDS * pack.sample_rate)), np.float32)
    notes = {"label": LABEL, "classes": pack.classes[LABEL], "batch_size": BATCH, "world": World()}
    works = {
        BARE: lambda: bare(pack, batch),
        LOADER: lambda: [None for _ in loader],
        EVALUATION: lambda: [None for _ in whole_notes(pack, **notes)],
        STOCK: lambda: stock(pack),
    }
    found = harness.measure({name: harness.stopwatch(work) for name, work in works.items()}, rounds=ROUNDS)
    middle = harness.medians(found)
    order = {BARE: "shuffled", LOADER: "shuffled, all rows", EVALUATION: "index", STOCK: "shuffled, 256 rows"}
    return Section(
        title=title,
        claim=f"A pass over {pack.rows:,} notes of {SECONDS:g} s (16-bit WAV), batches of {BATCH}, {ROUNDS} rounds; "
        "processor time, files in the page cache. The bare loop reuses one batch, the others make theirs; "
        "webdataset checks no crc32.",
        columns=("reader", "samples/s", "in all rounds", "us a sample", "time against bare", "order"),
        rows=[
            (
                name, figure(pack.rows / middle[name]), spread_rate(seconds, count=pack.rows),
                figure(1e6 * middle[name] / pack.rows), f"{middle[name] / middle[BARE]:.2f}x", order[name],
            )
            for name, seconds in found.items()
        ],
        summary=f"The Loader takes {middle[LOADER] / middle[BARE]:.2f}x the bare loop's time "
        f"and {middle[LOADER] / middle[STOCK]:.2f}x webdataset's.",
    )  # fmt: skip


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
    pack = harness.packed(split="train")
    plain = compare(pack, title="Whole notes, in process (readers=0)")
    linux.keep_heap()  # for good: what follows runs as in a reader
    kept = compare(pack, title="Whole notes, in process, with a reader's allocator (linux.keep_heap)")
    return [plain, kept, share(pack), cost_of_plan()]


if __name__ == "__main__":
    harness.show("Ingest", run(), packages=("webdataset", "torch", "numpy", "isal"))
