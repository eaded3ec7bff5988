"""trial: flags, a seed -> one kept line: what a run scores on valid, test and a pack of other sounds, and its seconds.

A trial is `python -m trainers train --local` on one thread, in a process of its own. Its line is kept as soon as it is
done, so a study that was killed goes on with the trials that it lacks.
"""

import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT
from trainers.journal import read_records

Flags = Mapping[str, str | None]  # None is a switch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """A run to make: its flags, as words of a command line, and its seed."""

    flags: tuple[str, ...]
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Told:
    """What came of a trial: shares of right answers, and seconds of the processor and of the clock."""

    trial: Trial
    accuracy: Mapping[str, float]
    cpu_seconds: float
    seconds: float


def make_trial(flags: Flags, *, seed: int) -> Trial:
    """Write flags as words, in one order, so that equal flags are one trial."""
    words = [word for name in sorted(flags) for word in (name, *(flags[name] or "").split())]
    return Trial(flags=tuple(words), seed=seed)


def read_told(path: Path) -> list[Told]:
    """Read the kept lines; a last one that was cut short is left out."""
    return [
        Told(
            trial=Trial(flags=tuple(line["flags"]), seed=line["seed"]),
            accuracy=line["accuracy"],
            cpu_seconds=line["cpu_seconds"],
            seconds=line["seconds"],
        )
        for line in read_records(path)
    ]


def keep(told: Told, path: Path) -> None:
    """Add a line; what a kill left of the one before is cut off first."""
    whole = path.read_bytes() if path.exists() else b""
    line = {**dataclasses.asdict(told.trial), **{k: v for k, v in vars(told).items() if k != "trial"}}
    with path.open("r+b" if whole else "wb") as file:
        file.truncate(whole.rfind(b"\n") + 1)
        file.seek(0, os.SEEK_END)
        file.write(json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


Make = Callable[[Trial], Told]


def run_missing(trials: Sequence[Trial], *, path: Path, make: Make, jobs: int, until: float) -> bool:
    """Make the trials that no line tells of, `jobs` at a time, none begun after `until` (monotonic); True if all are.

    One that fails is said on stderr and left out.
    """
    known = {told.trial for told in read_told(path)}
    missing = [trial for trial in dict.fromkeys(trials) if trial not in known]
    lock, done = threading.Lock(), []

    def work(trial: Trial) -> None:
        if time.monotonic() >= until:
            return
        try:
            told = make(trial)
        except subprocess.CalledProcessError as error:
            print(f"seed {trial.seed}, {' '.join(trial.flags)}: failed, {error.stderr[-500:]}", file=sys.stderr)
            return
        with lock:
            keep(told, path)
            done.append(trial)
            shown = ", ".join(f"{name} {100 * share:.1f} %" for name, share in told.accuracy.items())
            print(f"{len(done)} of {len(missing)}, {told.seconds:.0f} s: {shown}", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            list(pool.map(work, missing))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)  # else those that wait would begin now
            raise
    return len(done) == len(missing)


def make_in_process(trial: Trial, *, data: Path, other: Path, left_out: Sequence[str]) -> Told:
    """Make one trial in a process of one thread; `left_out` are instruments of `other` that aren't asked about."""
    places = {"data": str(data), "other": str(other), "left_out": list(left_out)}
    asked = json.dumps({"flags": trial.flags, "seed": trial.seed, **places})
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, "-m", "benchmarks.trial", asked]
    said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return Told(trial=trial, **json.loads(said.stdout.splitlines()[-1]))


def run(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Train and evaluate, in this process."""
    from trainers.__main__ import main as door
    from trainers.finish import evaluate_run

    started = time.monotonic()
    with tempfile.TemporaryDirectory() as runs:
        words = ["train", "--local", "--device", "cpu", "--readers", "0", "--loggers", "--baseline-rows", "0"]
        words += ["--data", asked["data"], "--runs", runs, "--name", "trial", "--seed", str(asked["seed"])]
        if code := door([*words, *asked["flags"]]):
            sys.exit(code)
        place = Path(runs) / "trial"
        best = {
            name: share
            for record in read_records(place / "metrics.jsonl")
            for name, share in record.items()
            if record.get("checkpoint") == "best"
        }
        others = [
            evaluate_run(str(place), data=asked["other"], split=split, device="cpu")
            for split in ("train", "valid", "test")
        ]
        right = [
            target == answer
            for one in others
            for instrument, target, answer in zip(one.group, one.target, one.probabilities.argmax(1), strict=True)
            if instrument not in asked["left_out"]
        ]
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "accuracy": {
            "valid": best["valid/accuracy"],
            "test": best["test/accuracy"],
            "other": statistics.mean(map(float, right)),
        },
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "seconds": time.monotonic() - started,
    }


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
