"""Claim: a run of two ranks takes its first step three seconds after Ray could have, and a rank's memory is known.

From the command to the end of the first step, against Ray Train's own floor: a script whose two workers only say that
they're there. Run: python -m benchmarks.begin
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import harness
from benchmarks.harness import Section, figure, spread
from shards.index import Pack
from trainers.cluster import QUIET
from trainers.journal import read_records
from trainers.run import Run

RANKS, ROUNDS = 2, 3
FLOOR, OURS = "Ray Train: two workers that say that they're there", "trainers train --world-size 2, first step done"
EMPTY = """
import os, sys, time
os.environ.update({quiet!r})
import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
ray.init(address="local", num_cpus={cores}, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
def there(config):
    import time, pathlib, ray.train
    rank = ray.train.get_context().get_world_rank()
    pathlib.Path(config["folder"], f"rank-{{rank}}").write_text(str(time.time()))
TorchTrainer(
    there, train_loop_config={{"folder": sys.argv[1]}}, scaling_config=ScalingConfig(num_workers={ranks}),
    run_config=RunConfig(name="empty", storage_path=sys.argv[1]),
).fit()
"""


def begin_empty(folder: Path) -> float:
    """Start two workers that do nothing: seconds until both are there."""
    script = EMPTY.format(
        quiet=QUIET | {"RAY_AUTH_MODE": "disabled"}, cores=max(RANKS, os.cpu_count() or 1), ranks=RANKS
    )
    started = time.time()
    _run([sys.executable, "-c", script, str(folder)])
    return max(float(path.read_text()) for path in folder.glob("rank-*")) - started


def begin_run(folder: Path, pack: Pack) -> float:
    """Start a run of two ranks: seconds until its first step is done."""
    words = ["--preset", "demo", "--data", str(harness.folder(pack).parent), "--runs", str(folder), "--name", "run"]
    more = ["--world-size", str(RANKS), "--readers", "1", "--log-every", "1", "--epochs", "1", "--baseline-rows", "0"]
    started = time.time()
    _run([sys.executable, "-m", "trainers", "train", *words, *more, "--device", "cpu"])
    return read_records(Run(folder / "run").metrics)[0]["time"] - started


def _run(command: list[str]) -> None:
    subprocess.run(command, cwd=harness.ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def starts(pack: Pack) -> Section:
    """Measure both, in turn."""

    def method(begin) -> harness.Method:
        def timed() -> float:
            with tempfile.TemporaryDirectory() as folder:
                return begin(Path(folder))

        return timed

    methods = {FLOOR: method(begin_empty), OURS: method(lambda folder: begin_run(folder, pack))}
    found = harness.measure(methods, rounds=ROUNDS, warm=0)
    middle = harness.medians(found)
    return Section(
        title="The start of a run of two ranks",
        claim=f"From the command to its mark, wall time, {ROUNDS} rounds on one machine, Ray started and ended in "
        "each. Ours imports torch in the command and in both ranks, opens the pack, makes the run's folder, wraps "
        "the model in DDP, starts two readers and takes a step.",
        columns=("command", "seconds", "in all rounds"),
        rows=[(name, figure(middle[name]), spread(seconds)) for name, seconds in found.items()],
        summary=f"The first step is done {figure(middle[OURS] - middle[FLOOR])} s after Ray's own floor.",
    )


def peak_memory(pack: Pack, *, model: str, batch_size: int) -> int:
    """Train a few steps in one process: its peak of memory by the run's own record, bytes."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--data", str(harness.folder(pack).parent), "--runs", folder, "--name", "run", "--model.name", model]
        sizes = ["--batch-size", str(batch_size), "--epochs", "1", "--limit", "300", "--readers", "1"]
        quiet = ["--local", "--device", "cpu", "--log-every", "1", "--baseline-rows", "0"]
        _run([sys.executable, "-m", "trainers", "train", *words, *sizes, *quiet])
        records = read_records(Run(Path(folder) / "run").metrics)
    return max(int(record["train/memory_bytes"]) for record in records if "train/memory_bytes" in record)


def memory(pack: Pack) -> Section:
    """Measure a rank's memory for two networks."""
    cases = [("test_resnet", 32), ("test_resnet", 256), ("resnet18", 32), ("resnet18", 64)]
    rows = []
    for model, batch_size in cases:
        taken = peak_memory(pack, model=model, batch_size=batch_size)
        rows.append((model, f"{batch_size}", f"{taken / 1e6:,.0f}"))
    return Section(
        title="A rank's memory",
        claim="Peak of resident memory of a rank on a CPU, torch and all, its reader not counted (a reader takes what "
        "`Reading` above says); crops of 2.5 s.",
        columns=("network", "rows a rank", "MB"),
        rows=rows,
        summary=f"A rank of {cases[0][0]} takes {rows[0][2]} MB, of {cases[-1][0]} with {cases[-1][1]} rows "
        f"{rows[-1][2]} MB.",
    )


def run() -> list[Section]:
    """Measure starts, then memory."""
    pack = harness.packed(split="train")
    harness.packed(split="valid")
    return [starts(pack), memory(pack)]


if __name__ == "__main__":
    harness.show("Beginning a run", run(), packages=("torch", "ray"))
