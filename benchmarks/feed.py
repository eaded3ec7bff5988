"""Claim: a resume is a seek, and a step that takes 80 % of what the readers give waits for less than 1 % of its time.

Waits are wall time: what else runs on the machine shows in them. Run on a quiet one: python -m benchmarks.feed
"""

import os

from benchmarks import harness
from benchmarks.harness import Method, Section, figure, spread
from shards.index import Pack
from streaming.augment import preset
from streaming.loader import Loader
from streaming.measure import measure

BATCH, CROP_SECONDS, LABEL = 64, 2.5, "instrument_family_str"


def first_batch(pack: Pack, *, cursor: int) -> Method:
    """Build a Loader at a cursor and take one batch."""

    def work() -> None:
        loader = Loader(pack, batch_size=BATCH, seed=0, label=LABEL, crop_seconds=CROP_SECONDS, cursor=cursor)
        next(iter(loader))
        loader.close()

    return harness.stopwatch(work)


def resume(pack: Pack) -> Section:
    """Measure the first batch of a run, and of one resumed late in its epoch."""
    late = int(0.9 * pack.rows) // BATCH * BATCH
    methods = {"0 %": first_batch(pack, cursor=0), "90 %": first_batch(pack, cursor=late)}
    found = harness.measure(methods, rounds=41)
    middle = harness.medians(found)
    return Section(
        title="Resume",
        claim=f"From an opened pack to the first batch of {BATCH} crops, at a cursor, 41 rounds; processor time.",
        columns=("at", "ms", "in all rounds"),
        rows=[(name, figure(1e3 * one), spread(found[name], scale=1e3)) for name, one in middle.items()],
        summary=f"At 90 % of an epoch the first batch takes {middle['90 %'] / middle['0 %']:.2f}x its time at 0 %.",
    )


def waits(pack: Pack) -> Section:
    """Measure what a step waits for, where it takes 80 % of what the readers give."""
    told = {
        (name, readers): measure(
            pack, augment=preset(name), readers=readers, consumer_rate=None, seconds=15, batch_size=BATCH,
            crop_seconds=CROP_SECONDS,
        )
        for name in ("none", "default")
        for readers in (0, 1, 2)
    }  # fmt: skip
    served = {key: one for key, one in told.items() if key[1]}
    worst = max(one["wait_share"] for one in served.values())
    return Section(
        title="Waiting",
        claim=f"streaming.measure: crops of {CROP_SECONDS:g} s, batches of {BATCH}, a step that sleeps so that it "
        f"takes 80 % of the ceiling; wall time, {os.cpu_count()} cores. Without readers a step waits for all of it.",
        columns=("augment, readers", "ceiling, samples/s", "MB/s", "consumer, samples/s", "delivered", "wait share"),
        rows=[
            (
                f"{name}, {readers}", figure(one["ceiling_samples_per_second"]),
                figure(one["ceiling_megabytes_per_second"]), figure(one["consumer_samples_per_second"]),
                figure(one["delivered_samples_per_second"]), f"{100 * one['wait_share']:.1f} %",
            )
            for (name, readers), one in told.items()
        ],
        summary=f"At 80 % of the ceiling a step waits {100 * worst:.1f} % of its time at the most.",
    )  # fmt: skip


def run() -> list[Section]:
    """Measure resuming, and waiting."""
    harness.one_thread()
    pack = harness.packed(split="train")
    return [resume(pack), waits(pack)]


if __name__ == "__main__":
    harness.show("Feeding", run(), packages=("torch", "numpy", "isal"))
