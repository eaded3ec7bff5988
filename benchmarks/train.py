"""Claim: feeding and hearing a note costs little beside learning from it, and the training loop adds next to nothing.

Where a step's time goes on one core, and what `trainers train --local` makes of it. Run: python -m benchmarks.train
"""

import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.nn import functional

from benchmarks import harness
from benchmarks.harness import Method, Section, figure, spread_rate
from benchmarks.ingest import BATCH, LABEL, in_turn, per_stage
from shards import linux
from shards.index import Pack
from streaming import vocoder
from streaming.augment import preset
from trainers.config import demo
from trainers.journal import read_records
from trainers.mel import LogMel
from trainers.model import build_model
from trainers.network import Pooled
from trainers.optim import make_optimizer
from trainers.options import MaskConfig, MelConfig, ModelConfig, OptimConfig
from trainers.run import Run
from trainers.step import Learner, train_step

SECONDS, BATCHES, ROUNDS, STEPS, BLOCK = 2.5, 20, 2, 30, 5
DEMO, LARGE = demo().model.name, "resnet18"
PICTURES, WAVEFORMS = "bare loop, synthetic mel pictures", "bare loop, synthetic waveforms, mel"
ALONE, BESIDE = "trainers train --local --readers 0", "trainers train --local --readers 1"


class Pictures(torch.nn.Module):
    """A mel that hands on what it's given: pictures that were made before."""

    config = MelConfig()

    def forward(self, pictures: torch.Tensor, *_: object) -> torch.Tensor:
        return pictures


def learner(name: str, *, num_classes: int) -> Learner:
    """Build what a step changes, without a mel of its own."""
    model = Pooled(build_model(ModelConfig(name=name), num_classes=num_classes, seed=0))
    optimizer, config = make_optimizer(model, OptimConfig()), OptimConfig()
    return Learner(
        mel=Pictures(), masks=MaskConfig(), model=model, network=model, optimizer=optimizer, config=config
    )  # fmt: skip


def whole_step(pack: Pack) -> dict[str, Method]:
    """Return all that a step does, each part fed by the one before, for both models."""
    kept: dict = {}
    methods = per_stage(pack, crop_seconds=SECONDS, augment=preset("default"), kept=kept)
    mel = LogMel(sample_rate=pack.sample_rate)
    for cents in range(-1200, 1201):  # a pitch's layout is searched for once a process: not this benchmark's subject
        vocoder.reach(pitch_ratio=2 ** (cents / 1200), speed=1.1, start=0.0, length=1)

    def hear() -> None:
        kept["batch"] = dataclasses.replace(kept["batch"], waveform=mel(kept["batch"].waveform))

    def learn(learns: Learner) -> Method:
        return harness.stopwatch(lambda: train_step(learns, kept["batch"], batch_size=BATCH, world_size=1, lr=1e-3))

    models = {name: learn(learner(name, num_classes=len(pack.classes[LABEL]))) for name in (DEMO, LARGE)}
    return {**methods, "mel": harness.stopwatch(hear), **models}


def shares(pack: Pack) -> Section:
    """Measure each part of a step."""
    middle = harness.medians(in_turn(whole_step(pack), batches=BATCHES))
    feeding = sum(seconds for name, seconds in middle.items() if name not in ("mel", DEMO, LARGE))
    totals = {name: feeding + middle["mel"] + middle[name] for name in (DEMO, LARGE)}

    def cell(part: str, model: str) -> str:
        return f"{100 * middle[part] / totals[model]:.1f} %" if part not in totals or part == model else ""

    names = {**{name: name for name in middle}, **{n: f"{n}: forward, backward, AdamW" for n in totals}}
    return Section(
        title="Where a step's time goes",
        claim=f"Batches of {BATCH} notes, crops of {SECONDS:g} s, augment `default`, one thread, a reader's allocator; "
        f"processor time, medians of {BATCHES} batches.",
        columns=("part", "us a sample", f"share, {DEMO}", f"share, {LARGE}"),
        rows=[
            (names[part], figure(1e6 * one / BATCH), cell(part, DEMO), cell(part, LARGE))
            for part, one in middle.items()
        ],
        summary=f"A core feeds {BATCH / feeding:,.0f} samples/s; of a step on one core, feeding takes "
        f"{100 * feeding / totals[DEMO]:.0f} % with {DEMO} and {100 * feeding / totals[LARGE]:.1f} % with {LARGE}.",
    )  # fmt: skip


def undisturbed(blocks: list[float]) -> float:
    """Take the faster quartile of some blocks of steps: on a shared machine, what others take only adds."""
    return statistics.quantiles(blocks, n=4)[0]


def bare(pack: Pack, *, waveforms: bool) -> Method:
    """Return a method that trains the demo's model on random tensors for some steps; its seconds are a sample's."""
    mel = LogMel(sample_rate=pack.sample_rate) if waveforms else torch.nn.Identity()
    learns, classes = learner(DEMO, num_classes=len(pack.classes[LABEL])), len(pack.classes[LABEL])
    time_points = round(SECONDS * pack.sample_rate)
    shape = (BATCH, time_points) if waveforms else (BATCH, 1, 40, time_points // 256 + 1)
    inputs, labels = torch.rand(shape), torch.randint(classes, (BATCH,))

    def steps() -> None:
        learns.model.train()
        for _ in range(BLOCK):
            learns.optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(learns.model(mel(inputs)), labels).backward()
            learns.optimizer.step()

    timed = harness.stopwatch(steps, clock=time.perf_counter)
    return lambda: undisturbed([timed() / (BLOCK * BATCH) for _ in range(STEPS // BLOCK)])


def command(pack: Pack, *, readers: int, waits: list[float]) -> Method:
    """Return a method that runs `trainers train --local`; its seconds are a sample's, by the run's own log lines."""
    epochs = max(1, round(STEPS * BATCH / pack.rows))

    def train() -> float:
        with tempfile.TemporaryDirectory() as folder:
            words = [
                sys.executable, "-m", "trainers", "train", "--preset", "demo", "--local", "--device", "cpu",
                "--data", str(harness.folder(pack).parent), "--runs", folder, "--name", "bench", "--baseline-rows", "0",
                "--epochs", str(epochs), "--log-every", str(BLOCK), "--readers", str(readers),
            ]  # fmt: skip
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            subprocess.run(words, cwd=harness.ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
            records = read_records(Run(Path(folder) / "bench").metrics)
        lines = [record for record in records if "train/wait_share" in record][2:]  # the first have the readers' start
        waits.append(statistics.median(line["train/wait_share"] for line in lines))
        return undisturbed([1 / line["train/samples_per_second"] for line in lines])

    return train


def compare(pack: Pack) -> Section:
    """Measure the command against bare loops of the same model."""
    waits: dict[str, list[float]] = {ALONE: [], BESIDE: []}
    methods = {
        PICTURES: bare(pack, waveforms=False),
        WAVEFORMS: bare(pack, waveforms=True),
        ALONE: command(pack, readers=0, waits=waits[ALONE]),
        BESIDE: command(pack, readers=1, waits=waits[BESIDE]),
    }
    found = harness.measure(methods, rounds=ROUNDS, warm=0)
    middle = harness.medians(found)
    told = {name: f"{100 * statistics.median(seen):.0f} %" for name, seen in waits.items()}
    return Section(
        title=f"`trainers train --local` against a bare loop of {DEMO}",
        claim=f"One thread each (readers 1: one more process, which wants a core to itself), "
        f"batches of {BATCH}, {ROUNDS} rounds; wall time. "
        f"Each takes about {STEPS} steps a round; told is the faster quartile of its blocks of {BLOCK} steps "
        "(for the command: its own log lines, the first two left out).",
        columns=("loop", "samples/s", "in all rounds", "of the bare loop with mel", "waits for data"),
        rows=[
            (
                name, figure(1 / middle[name]), spread_rate(seconds, count=1),
                f"{100 * middle[WAVEFORMS] / middle[name]:.0f} %", told.get(name, ""),
            )
            for name, seconds in found.items()
        ],
        summary=f"With one reader the command waits {told[BESIDE]} of its time for data, and trains at "
        f"{100 * middle[WAVEFORMS] / middle[BESIDE]:.0f} % of the speed of a bare loop that reads nothing.",
    )  # fmt: skip


def run() -> list[Section]:
    """Measure a step's parts, then whole runs."""
    harness.one_thread()
    vocoder.warm_up()
    pack = harness.packed(split="train")
    against = compare(pack)
    linux.keep_heap()  # for good, as in a reader
    return [shares(pack), against]


if __name__ == "__main__":
    harness.show("Training", run(), packages=("torch", "torchaudio", "timm", "numba"))
