"""Claim: on a GPU the mel costs a few hundredths of a step, nothing waits for the device, and readers keep it busy.

Not part of `make bench`: run it where a GPU is, by `make bench-gpu`, which prints Markdown for docs/benchmarks.md.
NCCL at two or more GPUs is not measured by anything here.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import harness
from benchmarks.harness import Section, figure
from shards.index import Pack
from streaming.batch import Batch
from trainers.journal import read_records
from trainers.learner import choose_dtype
from trainers.mel import LogMel
from trainers.model import build_model
from trainers.network import Pooled
from trainers.optim import make_optimizer
from trainers.options import MaskConfig, ModelConfig, OptimConfig
from trainers.run import Run
from trainers.step import Learner, train_step

ROWS, SECONDS, STEPS, CLASSES = 256, 2.5, 50, 11
MODELS = ("resnet18", "resnet50")


def make_learner(name: str, *, device: torch.device, sample_rate: int) -> Learner:
    """Build what a run's step changes, as training builds it."""
    model = build_model(ModelConfig(name=name), num_classes=CLASSES, seed=0).to(device)
    if device.type == "cuda":
        model.to(memory_format=torch.channels_last)
    pooled = Pooled(model)
    return Learner(
        mel=LogMel(sample_rate=sample_rate).to(device),
        masks=MaskConfig(time_masks=1, mel_masks=1),
        model=pooled,
        network=pooled,
        optimizer=make_optimizer(model, OptimConfig()),
        config=OptimConfig(),
        dtype=choose_dtype("auto", device),
    )


def random_batch(*, rows: int, sample_rate: int, device: torch.device) -> Batch:
    """Make a batch of noise on a device."""
    length = round(SECONDS * sample_rate)
    generator = torch.Generator().manual_seed(0)
    return Batch(
        waveform=torch.rand(rows, length, generator=generator) - 0.5,
        label=torch.arange(rows) % CLASSES,
        length=torch.full((rows,), length),
        weight=torch.ones(rows),
        semitones=torch.zeros(rows),
        draws=torch.rand(rows, 4, generator=generator),
        key=tuple(map(str, range(rows))),
        cursor=0,
    ).to(device)


def timed(work, *, device: torch.device, steps: int) -> float:
    """Return a call's seconds, the device's work included: the mean over `steps` calls, after five."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for _ in range(5):
        work()
    wait()
    started = time.perf_counter()
    for _ in range(steps):
        work()
    wait()
    return (time.perf_counter() - started) / steps


def asked(work, *, device: torch.device, steps: int) -> float:
    """Return the seconds that calls take to be asked of the device: near the above where something waits for it."""
    started = time.perf_counter()
    for _ in range(steps):
        work()
    taken = (time.perf_counter() - started) / steps
    if device.type == "cuda":
        torch.cuda.synchronize()
    return taken


def step_parts(device: torch.device, *, rows: int = ROWS, steps: int = STEPS, models=MODELS) -> Section:
    """Measure a step and its mel, for each network."""
    batch, table = random_batch(rows=rows, sample_rate=16_000, device=device), []
    for name in models:
        learner = make_learner(name, device=device, sample_rate=16_000)

        def step(learner: Learner = learner) -> None:
            train_step(learner, batch, batch_size=rows, world_size=1, lr=1e-3)

        def hear(learner: Learner = learner) -> None:
            learner.mel(batch.waveform)

        whole, mel = (timed(work, device=device, steps=steps) for work in (step, hear))
        waiting = asked(hear, device=device, steps=5)
        told = str(learner.dtype).removeprefix("torch.")
        table.append(
            (name, told, figure(1e3 * whole), figure(1e3 * mel), f"{100 * mel / whole:.1f} %",
             figure(1e3 * waiting), f"{rows / whole:,.0f}")
        )  # fmt: skip
    return Section(
        title="A step on the device",
        claim=f"{rows} rows of {SECONDS:g} s, already there; means over {steps} steps. `asked` is the time until the "
        "call for a mel returns: a wait for the device would make it as long as the mel.",
        columns=("network", "precision", "step, ms", "mel, ms", "mel's share", "mel asked, ms", "samples/s"),
        rows=table,
        summary=f"The mel is {table[0][4]} of a step of {table[0][0]}, which takes {table[0][6]} samples/s.",
    )


def whole_run(pack: Pack, *, device: str, ranks: int) -> tuple[float, float]:
    """Train by the command itself: samples/s and wait share, medians of its own log lines."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "--data",
            str(harness.folder(pack).parent),
            "--runs",
            folder,
            "--name",
            "run",
            "--model.name",
            MODELS[0],
        ]
        more = ["--device", device, "--epochs", "10", "--batch-size", "256", "--log-every", "2", "--baseline-rows", "0"]
        start = [sys.executable, "-m", "trainers", "train", "--local"]
        if ranks > 1:
            start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}",
                     "-m", "trainers", "train"]  # fmt: skip
        subprocess.run([*start, *words, *more], cwd=harness.ROOT, check=True, stdout=subprocess.DEVNULL)
        lines = [one for one in read_records(Run(Path(folder) / "run").metrics) if "train/wait_share" in one][2:]
    middle = (
        statistics.median(line[f"train/{name}"] for line in lines) for name in ("samples_per_second", "wait_share")
    )
    rate, wait = middle
    return rate, wait


def runs(pack: Pack, *, device: str) -> Section:
    """Measure whole runs: one rank, and two that share the GPU over gloo."""
    rows = []
    for ranks in (1, 2):
        rate, wait = whole_run(pack, device=device, ranks=ranks)
        rows.append((f"{ranks}", f"{rate:,.0f}", f"{100 * wait:.1f} %", f"{100 * (1 - wait):.1f} %"))
    return Section(
        title="Whole runs on the device",
        claim=f"`trainers train` with {MODELS[0]}, batches of 256, readers chosen from {os.cpu_count()} cores, the "
        "default augmentation; two ranks share one GPU over gloo, which shows that they work, not how they scale.",
        columns=("ranks", "samples/s", "waits for data", "busy"),
        rows=rows,
        summary=f"One rank trains on {rows[0][1]} samples/s and waits {rows[0][2]} of its time.",
    )


def main() -> None:
    """Measure where there is a GPU; say so where there is none."""
    if not torch.cuda.is_available():
        sys.exit("benchmarks.gpu needs a CUDA GPU, and torch sees none here: run `make bench-gpu` where one is")
    print(f"{torch.cuda.get_device_name()}\n")
    device = torch.device("cuda", 0)
    harness.show("On a GPU", [step_parts(device), runs(harness.packed_many(4096), device="cuda")], packages=("torch",))


if __name__ == "__main__":
    main()
