"""The 2018 seed's four reasons as one table: mel pictures made beforehand on the CPU, against mel per batch.

    the same notes ──┬─ librosa ── PNG ── DataLoader ──┐
                     └─ pack ── Loader ── mel a batch ─┴─ the same network, steps, optimizer and schedule

Writes docs/seed.md, whole. About five minutes on two cores. Run: python -m benchmarks.seed
"""

import argparse
import dataclasses
import itertools
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.nn import functional

from benchmarks import harness
from benchmarks.beforehand import Pictures, load, write_pictures
from benchmarks.seed_mel import agreement, mel_costs
from benchmarks.seed_page import Found, write_page
from shards.index import Pack
from shards.pack import pack
from shards.render import render
from streaming import vocoder
from streaming.augment import Augment, preset
from streaming.evaluation import whole_notes
from streaming.loader import Loader
from streaming.world import World
from trainers.mel import LogMel
from trainers.model import build_model
from trainers.optim import make_optimizer, one_cycle, set_lr
from trainers.options import MelConfig, ModelConfig, OptimConfig

LABEL, BATCH, WHOLE, CROP, SPLITS = "instrument_family_str", 32, 4.0, 2.5, ("train", "valid")
NETWORK, OPTIM, MEL, OTHER_MEL = "benchmarks.networks:small", OptimConfig(lr=3e-3), MelConfig(), MelConfig(n_mels=64)
SIZES = {"notes": 1500, "seeds": 3, "epochs": 12}
PAGE = harness.ROOT / "docs" / "seed.md"
Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]  # pictures, labels; without an end


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sources:
    """The same notes, twice: as a folder, and as packs of both splits."""

    notes: Path
    train: Pack
    valid: Pack

    @property
    def classes(self) -> tuple[str, ...]:
        """The families."""
        return self.train.classes[LABEL]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """A way to get pictures; `open` gives those of training, by a seed, and what closes them."""

    open: Callable[[int], tuple[Batches, Callable[[], None]]]
    valid: Callable[[], Batches]


def beforehand(sources: Sources, pictures: Path) -> Way:
    """Read pictures that lie in `pictures`/SPLIT."""
    made = {
        split: Pictures(sources.notes / f"nsynth-{split}", pictures / split, label=LABEL, classes=sources.classes)
        for split in SPLITS
    }

    def open_(seed: int) -> tuple[Batches, Callable[[], None]]:
        loader = load(made["train"], batch_size=BATCH, seed=seed, workers=1)

        def batches() -> Batches:
            while True:
                yield from loader

        return batches(), lambda: None

    return Way(open=open_, valid=lambda: iter(load(made["valid"], batch_size=64, seed=None, workers=0)))


def per_batch(sources: Sources, *, augment: Augment, crop_seconds: float, config: MelConfig = MEL) -> Way:
    """Read waveforms from the pack, and make their pictures a batch at a time."""
    mel = LogMel(config, sample_rate=sources.train.sample_rate)

    def open_(seed: int) -> tuple[Batches, Callable[[], None]]:
        loader = Loader(
            sources.train, batch_size=BATCH, label=LABEL, seed=seed, crop_seconds=crop_seconds, augment=augment,
            readers=1,
        )  # fmt: skip

        def batches() -> Batches:
            while True:
                for batch in loader:
                    yield mel(batch.waveform, batch.length if batch.is_padded else None), batch.label

        return batches(), loader.close

    def valid() -> Batches:
        world, classes = World(), sources.classes
        for batch in whole_notes(sources.valid, label=LABEL, classes=classes, batch_size=64, world=world):
            yield mel(batch.waveform), batch.label

    return Way(open=open_, valid=valid)


def learn(way: Way, *, classes: int, seed: int, steps: int) -> tuple[float, list[float]]:
    """Train from the first weights of a seed: accuracy on valid, and the moment at which each step was done."""
    model = build_model(ModelConfig(name=NETWORK), num_classes=classes, seed=seed)
    optimizer, done = make_optimizer(model, OPTIM), []
    batches, close = way.open(seed)
    for step in range(steps):
        pictures, labels = next(batches)
        set_lr(optimizer, one_cycle(step / steps, lr=OPTIM.lr, warmup=OPTIM.warmup))
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(model(pictures), labels).backward()
        optimizer.step()
        done.append(time.perf_counter())
    close()
    model.eval()
    with torch.no_grad():
        right = [(model(pictures).argmax(1) == labels) for pictures, labels in way.valid()]
    return float(torch.cat(right).float().mean()), done


def measure(way: Way, *, classes: int, seeds: int, epochs: int, rows: int) -> tuple[list[float], float]:
    """Train by each seed: accuracies, and the median epoch's seconds, the first of each run left out."""
    each, accuracies, seconds = rows // BATCH, [], []
    for seed in range(seeds):
        accuracy, done = learn(way, classes=classes, seed=seed, steps=epochs * each)
        accuracies.append(accuracy)
        borders = done[each - 1 :: each]
        seconds += [(after - before) * rows / (each * BATCH) for before, after in itertools.pairwise(borders)]
    return accuracies, statistics.median(seconds)


def first_step(way: Way, *, classes: int) -> float:
    """Return the seconds until the first batch has gone through the network."""
    started = time.perf_counter()
    batches, close = way.open(0)
    pictures, labels = next(batches)
    functional.cross_entropy(build_model(ModelConfig(name=NETWORK), num_classes=classes, seed=0)(pictures), labels)
    seconds = time.perf_counter() - started
    close()
    return seconds


def write_all(sources: Sources, folder: Path, *, config: MelConfig) -> float:
    """Make all pictures; return the seconds."""
    started = time.perf_counter()
    for split in SPLITS:
        write_pictures(sources.notes / f"nsynth-{split}", folder / split, config=config)
    return time.perf_counter() - started


def prepare(folder: Path, *, notes: int) -> tuple[Sources, float]:
    """Render notes, once, and pack them anew; return the seconds of packing."""
    render(folder / "notes", font=None, notes=notes, seed=0)
    shutil.rmtree(folder / "pack", ignore_errors=True)
    started = time.perf_counter()
    train, valid = (pack(folder / "notes", folder / "pack", split=split) for split in SPLITS)
    return Sources(notes=folder / "notes", train=train, valid=valid), time.perf_counter() - started


def size(folder: Path, *names: str) -> int:
    """Count the bytes of files below some folders."""
    return sum(p.stat().st_size for name in names for p in (folder / name).rglob("*") if p.is_file())


def find(folder: Path, *, notes: int, seeds: int, epochs: int, is_try: bool) -> Found:
    """Measure everything that the page tells."""
    sources, packing = prepare(folder, notes=notes)
    vocoder.warm_up()
    rows, classes = sources.train.rows, len(sources.classes)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        made, changed = Path(place) / "40", Path(place) / "64"
        writing, writing_again = (write_all(sources, to, config=c) for to, c in ((made, MEL), (changed, OTHER_MEL)))
        ways = {
            "pictures": beforehand(sources, made),
            "mel": per_batch(sources, augment=Augment(), crop_seconds=WHOLE),
            "augmented": per_batch(sources, augment=preset("default"), crop_seconds=CROP),
        }
        trained = {}
        for name, way in ways.items():
            print(f"{name} ...", file=sys.stderr, flush=True)
            trained[name] = measure(way, classes=classes, seeds=seeds, epochs=epochs, rows=rows)
        other = per_batch(sources, augment=Augment(), crop_seconds=WHOLE, config=OTHER_MEL)
        change = {
            "pictures": writing_again + first_step(beforehand(sources, changed), classes=classes),
            "mel": first_step(other, classes=classes),
        }
        picture_bytes = size(made, *SPLITS)
    return Found(
        is_try=is_try, notes=notes, rows=(rows, sources.valid.rows), seeds=seeds, epochs=epochs, batch_size=BATCH,
        trained=trained, writing_seconds=writing, packing_seconds=packing, change_seconds=change,
        picture_bytes=picture_bytes, pack_bytes=size(folder / "pack", *SPLITS),
        note_bytes=size(folder / "notes", *(f"nsynth-{split}" for split in SPLITS)),
        agreement=agreement(sources.train, rows=64), costs=mel_costs(sources.train),
    )  # fmt: skip


def main(args: list[str] | None = None) -> None:
    """Measure, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notes", type=int, default=SIZES["notes"], help="over all splits")
    parser.add_argument("--seeds", type=int, default=SIZES["seeds"])
    parser.add_argument("--epochs", type=int, default=SIZES["epochs"])
    parser.add_argument("--dir", type=Path, default=harness.BENCH / "seed")
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args(args)
    harness.one_thread()
    given.dir.mkdir(parents=True, exist_ok=True)
    sizes = {"notes": given.notes, "seeds": given.seeds, "epochs": given.epochs}
    write_page(given.page, find(given.dir, **sizes, is_try=sizes != SIZES))
    print(f"wrote {given.page}", file=sys.stderr)


if __name__ == "__main__":
    main()
