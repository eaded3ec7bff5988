"""Claim: with GroupNorm the number of ranks changes rounding alone; with BatchNorm this is how much it changes.

Each rank's BatchNorm sees its own share of the batch. Nothing is promised of it; the spread is shown instead. Rounding
grows too: a hundred steps of AdamW in float32 make it visible (tests/trainers/test_worlds.py holds float64 to 1e-9).
The same run, from the same first weights, by torchrun at several sizes of the world. Run: python -m benchmarks.norms
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import safetensors.torch

from benchmarks import harness
from benchmarks.harness import Section, figure
from shards.index import Pack
from trainers import checkpoint
from trainers.journal import read_records
from trainers.run import Run

RANKS, EPOCHS, NORMS = (1, 2, 3, 4), 4, {"BatchNorm": [], "GroupNorm": ["--model.norm", "group1"]}


def train(pack: Pack, runs: Path, *, norm: str, ranks: int) -> Run:
    """Train the demo's network for some epochs on so many ranks."""
    words = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m", "trainers",
        "train", "--preset", "demo", "--data", str(harness.folder(pack).parent), "--runs", str(runs),
        "--name", f"{norm}-{ranks}", *NORMS[norm], "--epochs", str(EPOCHS), "--device", "cpu", "--readers", "0",
        "--world-size", str(ranks), "--baseline-rows", "0",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(words, cwd=harness.ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    return Run(runs / f"{norm}-{ranks}")


def distance(run: Run, other: Run) -> float:
    """Return the median, over the weights' tensors, of their difference's norm relative to the tensor's."""
    ours, theirs = (safetensors.torch.load_file(one.last / checkpoint.MODEL) for one in (run, other))
    parts = sorted(
        float((ours[name] - theirs[name]).norm() / ours[name].norm()) for name in ours if name.endswith("weight")
    )
    return parts[len(parts) // 2]


def spread(pack: Pack) -> Section:
    """Train with each norm on each number of ranks."""
    rows, accuracies = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for norm in NORMS:
            runs = [train(pack, Path(folder), norm=norm, ranks=ranks) for ranks in RANKS]
            finals = [read_records(run.metrics)[-1] for run in runs]
            accuracies[norm] = [100 * final["valid/accuracy"] for final in finals]
            for ranks, run, final in zip(RANKS, runs, finals, strict=True):
                apart = "" if run is runs[0] else f"{distance(runs[0], run):.1e}"
                accuracy, loss = f"{100 * final['valid/accuracy']:.1f}", f"{final['valid/loss']:.4f}"
                rows.append((norm, f"{ranks}", apart, loss, accuracy))
    wide = {norm: max(values) - min(values) for norm, values in accuracies.items()}
    return Section(
        title="What the number of ranks changes",
        claim=f"The preset demo's network, {EPOCHS} epochs in float32, batches of 32 shared by ranks, the same rows "
        "and first weights. Weights: the median over tensors of |difference| / |tensor|, to one rank.",
        columns=("norm", "ranks", "weights apart", "valid loss", "valid accuracy, %"),
        rows=rows,
        summary=f"Over {RANKS[0]} to {RANKS[-1]} ranks accuracy spreads by {figure(wide['BatchNorm'])} points with "
        f"BatchNorm, by {figure(wide['GroupNorm'])} with GroupNorm.",
    )


def run() -> list[Section]:
    """Train on the demo's notes."""
    pack = harness.packed(split="train")
    harness.packed(split="valid")
    return [spread(pack)]


if __name__ == "__main__":
    harness.show("Norms and the number of ranks", run(), packages=("torch",))
