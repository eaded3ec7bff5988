"""arms: what a study compares, as flags. First arms of augmentation at equal steps, then candidates to tune by valid.

Candidates differ from the last arm in one thing each. The best of each kind, where it is better than that arm, are put
together as one more candidate: `combine`. Only accuracies on valid are asked for here, never those on test.
"""

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.trial import Flags, Told, make_trial

BASE: Flags = {
    "--batch-size": "32",
    "--crop-seconds": "2",
    "--model.name": "benchmarks.networks:small",
    "--optim.lr": "3e-3",
}
STILL: Flags = {"--augment.pitch-semitones": "0", "--augment.speed": "1", "--augment.low-pass": "1"}
STARTS, ANYWHERE = {"--augment.no-random-start": None}, {"--augment.random-start": None}
PITCH: Flags = {"--augment.pitch-semitones": "3", "--augment.low-pass": "0.8"}  # the low-pass hides a shift's edge
TEMPO: Flags = {"--augment.speed": "1.25"}
MASKS: Flags = {"--masks.time-masks": "1", "--masks.mel-masks": "1"}
AUGMENTED: Flags = {**BASE, **STILL, **ANYWHERE, **PITCH, **TEMPO, **MASKS}
ARMS: Mapping[str, Flags] = {
    "none": {**BASE, **STILL, **STARTS},
    "crop": {**BASE, **STILL, **ANYWHERE},
    "crop, pitch": {**BASE, **STILL, **ANYWHERE, **PITCH},
    "crop, tempo": {**BASE, **STILL, **ANYWHERE, **TEMPO},
    "crop, both": {**BASE, **STILL, **ANYWHERE, **PITCH, **TEMPO},
    "crop, both, masks": AUGMENTED,
}
STRONG: Flags = {
    "--augment.pitch-semitones": "5", "--augment.speed": "1.5", "--augment.low-pass": "0.7", "--augment.gain-db": "6",
    "--augment.polarity-probability": "0.5", "--augment.noise-probability": "0.5",
}  # fmt: skip
CHANGES: Mapping[str, Mapping[str, Flags]] = {  # kind -> name -> what differs from AUGMENTED
    "rate": {"rate 6e-3": {"--optim.lr": "6e-3"}},
    "loss": {"label smoothing 0.1": {"--optim.label-smoothing": "0.1"}},
    "mel": {
        "64 mels": {"--mel.n-mels": "64"},
        "fixed reference": {"--mel.reference": "fixed"},
    },
    "masks": {
        "two masks each way": {"--masks.time-masks": "2", "--masks.mel-masks": "2", "--masks.mel-bands": "8"},
    },
    "policy": {"strong": STRONG},
    "transforms": {
        "colour": {"--transforms": "benchmarks.transforms:colour"},
        "colour, fade": {"--transforms": "benchmarks.transforms:colour benchmarks.transforms:fade"},
    },
    "crop": {"crops of 3 s": {"--crop-seconds": "3"}},
    "hearing": {"3 views": {"--views": "3"}},
    "network": {
        "dropout 0.3": {"--model.name": "benchmarks.networks:small_dropout"},
        "GroupNorm": {"--model.name": "benchmarks.networks:small_group"},
        "bands apart": {"--model.name": "benchmarks.networks:small_bands"},
        "twice as wide": {"--model.name": "benchmarks.networks:wide"},
    },
    "length": {"twice the epochs": {"--epochs": "{double}"}},
}
START, COMBINED = "crop, both, masks", "the best of each kind"


def at_length(flags: Flags, *, epochs: int) -> Flags:
    """Fill in how long a run is."""
    told = {"--epochs": str(epochs), **flags}
    return {name: value and value.format(double=2 * epochs) for name, value in told.items()}


def candidates() -> dict[str, Flags]:
    """Return the arm to start from, and each change of it."""
    singles = {name: {**AUGMENTED, **flags} for kind in CHANGES.values() for name, flags in kind.items()}
    return {START: AUGMENTED, **singles}


def valid_mean(told: Sequence[Told], flags: Flags, *, epochs: int, seeds: range) -> float | None:
    """Return the mean accuracy on valid over `seeds`; None while one of them isn't there."""
    known = {one.trial: one.accuracy["valid"] for one in told}
    found = [known.get(make_trial(at_length(flags, epochs=epochs), seed=seed)) for seed in seeds]
    there = [share for share in found if share is not None]
    return statistics.mean(there) if len(there) == len(seeds) else None


def combine(told: Sequence[Told], *, epochs: int, seeds: range) -> Flags | None:
    """Put together the best change of each kind that is better than none of its kind; None before all are measured."""
    start = valid_mean(told, AUGMENTED, epochs=epochs, seeds=seeds)
    flags = dict(AUGMENTED)
    for kind in CHANGES.values():
        means = {
            name: valid_mean(told, {**AUGMENTED, **change}, epochs=epochs, seeds=seeds) for name, change in kind.items()
        }
        if start is None or None in means.values():
            return None
        best = max(kind, key=lambda name: means[name] or 0.0)
        if (means[best] or 0.0) > start:
            flags |= kind[best]
    return flags


def finalists(told: Sequence[Told], *, epochs: int, seeds: range, most: int) -> dict[str, Flags]:
    """Return the combination, the arm to start from, and the best single changes; empty before all are measured."""
    combined = combine(told, epochs=epochs, seeds=seeds)
    if combined is None:
        return {}
    listed = candidates()
    ranked = sorted(listed, key=lambda name: -(valid_mean(told, listed[name], epochs=epochs, seeds=seeds) or 0.0))
    return {COMBINED: combined, START: AUGMENTED} | {name: listed[name] for name in ranked[:most]}
