"""Claim: a batch's rows cost the same at any number of rows; the plan of a billion rows starts in seconds.

Rows are planned, none is read, so the shards are numbers only. The start is a process of its own: its peak of memory
above its imports. Run: python -m benchmarks.order
"""

import itertools
import json
import pickle
import subprocess
import sys
import time
import tracemalloc

import numpy as np

from benchmarks import harness
from benchmarks.harness import Method, Section, figure, spread
from benchmarks.scale import peak_mb
from shards.bijection import permute
from streaming.ahead import upcoming
from streaming.balance import class_places
from streaming.order import Order, next_shards
from streaming.plan import make_plan
from streaming.select import Selection

NSYNTH, FAMILIES, BATCH, CALLS, ROUNDS = 289_205, 11, 256, 200, 9
BILLION, MILLION = 10**9, 10**6
PLAIN, HUGE, AHEAD = "NSynth's 289,205 rows", "10^12 rows", "next 64 shards, 8 lanes of windows, 10^9 rows"


def whole(rows: int, *, shards: int) -> Selection:
    """Take all rows of a pack of equal shards (the first holds what is over)."""
    counts = np.full(shards, rows // shards)
    counts[0] += rows % shards
    return Selection(shard_rows=counts, fingerprint="", told="all rows")


def chosen(share: float) -> Selection:
    """Take a share of NSynth's rows, as a condition would."""
    kept = np.sort(permute(np.arange(int(share * NSYNTH)), NSYNTH, "chosen"))
    counts = np.bincount(kept * 283 // NSYNTH, minlength=283)
    return Selection(shard_rows=counts, kept=kept, fingerprint="", told=f"{share:.0%}")


def balanced() -> Selection:
    """Repeat rows of rare families, one twice as frequent as the next, as --balance LABEL does."""
    labels = np.minimum(FAMILIES - 1, -np.log2((np.arange(NSYNTH) + 0.5) / NSYNTH)).astype(np.int64)
    labels = labels[permute(np.arange(NSYNTH), NSYNTH, "families")]
    counts = np.bincount(labels)
    ends = np.cumsum((class_places(counts, power=0.5) // counts)[labels])
    edges = np.concatenate([[0], ends])[np.arange(284) * NSYNTH // 283]
    return Selection(shard_rows=np.diff(edges), ends=ends, fingerprint="", told="balanced")


def order(*selections: Selection, weights: tuple[int, ...] = (1,), lanes: int = 1, window: int | None = None) -> Order:
    """Make an order of selections."""
    plans = [
        make_plan(one.shard_rows, seed=1, lanes=lanes, window=window, pack=number)
        for number, one in enumerate(selections)
    ]
    return Order(plans=tuple(plans), selections=selections, weights=weights)


def orders() -> dict[str, Order]:
    """Return the orders that are compared."""
    nsynth = whole(NSYNTH, shards=283)
    return {
        PLAIN: order(nsynth),
        "10^9 rows in 10^6 shards": order(whole(BILLION, shards=MILLION)),
        HUGE: order(whole(10**12, shards=10**5)),
        "10^9 rows, 8 lanes of windows of 10^6": order(whole(BILLION, shards=MILLION), lanes=8, window=MILLION),
        "NSynth, 30 % chosen": order(chosen(0.3)),
        "NSynth, balanced": order(balanced()),
        "NSynth and 10^9 rows, 7 to 3": order(nsynth, whole(BILLION, shards=MILLION), weights=(7, 3)),
    }


def planned(one: Order) -> Method:
    """Plan CALLS batches, each further on, somewhere in the third epoch."""
    cursors = itertools.count(one.span * 5 // 2 // 8 * 8, BATCH)

    def work() -> None:
        for _ in range(CALLS):
            one.slots(next(cursors), batch_size=BATCH, slots=range(BATCH))

    return harness.stopwatch(work)


def peak_kb(one: Order) -> float:
    """Return the most memory that planning one batch takes, in kB."""
    tracemalloc.start()
    one.slots(0, batch_size=BATCH, slots=range(BATCH))
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    one.slots(BATCH * 8, batch_size=BATCH, slots=range(BATCH))
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    return peak / 1000


def child(name: str) -> None:
    """Start at a billion rows in a million shards in this process; print seconds and memory."""
    before, started = peak_mb(), time.perf_counter()
    lanes, window = (8, MILLION) if name == "windows" else (1, None)
    plan = make_plan(np.full(MILLION, 1000), seed=1, lanes=lanes, window=window)
    plan.slots(BILLION * 9 // 10, batch_size=BATCH, slots=range(BATCH))
    next(upcoming(plan, BILLION * 9 // 10))
    seconds, peak = time.perf_counter() - started, peak_mb() - before
    print(json.dumps({"seconds": seconds, "peak": peak, "imports": before, "pickled": len(pickle.dumps(plan)) / 1e6}))


def starts() -> Section:
    """Measure a rank's start, a process each."""
    rows = {}
    for name in ("global", "windows"):
        command = [sys.executable, "-m", "benchmarks.order", name]
        said = [subprocess.run(command, cwd=harness.ROOT, stdout=subprocess.PIPE, check=True).stdout for _ in range(3)]
        rows[name] = min((json.loads(one) for one in said), key=lambda one: one["seconds"])
    return Section(
        title="Start of the plan at 10^9 rows in 10^6 shards",
        claim="From the counts of the shards to the first batch at 90 % of an epoch and the first shard to fetch.",
        columns=("order", "seconds", "peak above imports, MB", "imports, MB", "sent to a reader, MB"),
        rows=[
            (name, *(figure(one[k]) for k in ("seconds", "peak", "imports", "pickled"))) for name, one in rows.items()
        ],
        summary=f"{figure(max(one['seconds'] for one in rows.values()))} s and "
        f"{figure(max(one['peak'] + one['imports'] for one in rows.values()))} MB in all at most; "
        "opening the index is not in this: benchmarks/scale.py measures it.",
    )


def batches() -> Section:
    """Measure a batch of each order."""
    compared = orders()
    windowed = next(one for name, one in compared.items() if "lanes" in name)
    methods = {name: planned(one) for name, one in compared.items()}
    methods[AHEAD] = harness.stopwatch(lambda: [next_shards(windowed, 0, most=64) for _ in range(CALLS)])
    found = harness.measure(methods, rounds=ROUNDS)
    middle, scale = harness.medians(found), 1e6 / CALLS
    return Section(
        title=f"A batch of {BATCH}",
        claim="Which rows, of which pack, in which repeat and epoch; microseconds of the processor, and peak memory.",
        columns=("order", "us a batch", "all rounds", "to the first", "peak, kB"),
        rows=[
            (
                name,
                figure(middle[name] * scale),
                spread(found[name], scale=scale),
                figure(middle[name] / middle[PLAIN]),
                figure(peak_kb(compared[name])) if name in compared else "",
            )
            for name in methods
        ],
        summary=f"{figure(middle[HUGE] * scale)} us at 10^12 rows, {figure(middle[HUGE] / middle[PLAIN])} of what it "
        "costs at NSynth's size; no array grows with the rows.",
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child(*sys.argv[1:])
    else:
        harness.show("Order", [batches(), starts()], packages=("numpy",))
