"""start: a loader with one reader, in a process of its own -> seconds to the first augmented batch, and what compiled.

The first loader of a process also starts the server that readers are forked from, which imports torch; later ones find
it there, as evaluation and the next run of a sweep do.
"""

import dataclasses
import itertools
import json
import subprocess
import sys
import time

from benchmarks import harness
from benchmarks.harness import Section, figure, spread
from shards.index import Pack
from streaming.augment import Augment
from streaming.batch import Batch
from streaming.loader import Loader

ROUNDS = 3
LABEL = "instrument_family_str"
CHILD = "from benchmarks.start import tell; tell()"


def count_compiled(batch: Batch) -> Batch:
    """A stage: note how many loops this reader has compiled so far, rather than loaded from numba's cache."""
    from numba.core.dispatcher import Dispatcher  # not where readers are started

    modules = [module for name, module in sys.modules.items() if name.startswith(("streaming", "shards"))]
    loops = {id(loop): loop for module in modules for loop in vars(module).values() if isinstance(loop, Dispatcher)}
    missed = sum(sum(loop.stats.cache_misses.values()) for loop in loops.values())
    return dataclasses.replace(batch, seconds={**batch.seconds, "compiled": float(missed)})


def first_batch(pack: Pack, *, augment: Augment) -> dict[str, float]:
    """Stream an epoch by one reader: seconds to its first batch, loops compiled before it and after it."""
    loader = Loader(
        pack, batch_size=1, seed=0, label=LABEL, crop_seconds=2.5, augment=augment, readers=1, stages=[count_compiled],
    )  # fmt: skip
    started = time.perf_counter()
    batches = iter(loader)
    before = next(batches).seconds["compiled"]
    seconds = time.perf_counter() - started
    steps = [before, *(batch.seconds["compiled"] for batch in batches)]
    loader.close()
    late = sum(now > last for last, now in itertools.pairwise(steps))
    return {"seconds": seconds, "compiled": before, "late": late, "steps": len(steps)}


def tell() -> None:
    """Print what two loaders in a row found, as JSON: the process that `section` starts."""
    pack, augment = Pack.open(sys.argv[1], split="train"), Augment(**json.loads(sys.argv[2]))
    print(json.dumps([first_batch(pack, augment=augment) for _ in range(2)]))


def section(pack: Pack, *, augment: Augment) -> Section:
    """Measure the first loader of a process, and one that follows it."""
    command = [sys.executable, "-c", CHILD, str(harness.folder(pack).parent), json.dumps(dataclasses.asdict(augment))]
    rounds = []
    for _ in range(1 + ROUNDS):
        said = subprocess.run(command, cwd=harness.ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
        rounds.append(json.loads(said))
    del rounds[0]  # it fills numba's cache, as any first run does
    found = {
        name: [one[k] for one in rounds] for k, name in enumerate(("first loader of a process", "one that follows"))
    }
    middle = harness.medians({name: [one["seconds"] for one in values] for name, values in found.items()})
    compiled = max(one["compiled"] + one["late"] for values in found.values() for one in values)
    return Section(
        title="The first batch",
        claim=f"From asking a loader with one reader for its first augmented batch, of one note, to having it: wall "
        f"time, {ROUNDS} processes, numba's cache on disk. Then the epoch's other steps: does any compile?",
        columns=("loader", "seconds", "in all rounds", "loops compiled before it", "later steps that compile"),
        rows=[
            (
                name, figure(middle[name]), spread([one["seconds"] for one in values]),
                f"{max(one['compiled'] for one in values):.0f}",
                f"{max(one['late'] for one in values)} of {values[0]['steps'] - 1}",
            )
            for name, values in found.items()
        ],
        summary=f"The first batch is there after {' s, and after '.join(map(figure, middle.values()))} s where readers "
        f"were before; {f'{compiled:.0f} loops are' if compiled else 'nothing is'} compiled.",
    )  # fmt: skip
