"""Claim: pitch, tempo and crop in one pass cost several times less than the libraries that are used for it.

The peers run in a venv of their own (.venv-peers, made by `make bench`), driven over a pipe by benchmarks/peers.py, all
on one core: so rounds are interleaved, and each method can be timed right after another has emptied the caches.

Run: python -m benchmarks.augment
"""

import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks import harness, parts
from benchmarks.harness import Section, figure
from shards import audio
from streaming import vocoder
from streaming.layout import Engine
from streaming.store import Store
from streaming.view import latest_start

PYTHON = harness.ROOT / ".venv-peers" / "bin" / "python"
OURS: dict[str, Engine] = {"streaming.vocoder": "vocoder", "streaming.wsola": "wsola"}
FASTEST_PYTHON = "python-stretch"  # SoundTouch is faster, where it is installed, and must be driven by hand
NOTES, DRAWS, SEMITONES, SPEED, SECONDS = 64, 96, 4.0, 1.25, 2.5
ROUNDS_TOGETHER, ROUNDS_APART = 5, 3

Timer = Callable[[Sequence[int]], list[float]]  # numbers of draws -> seconds of each


def load_waveforms() -> np.ndarray:
    """Decode some notes: (NOTES, time) float32."""
    pack = harness.packed(split="train")
    store = Store(pack)
    files = [store.read(row) for row in range(min(NOTES, pack.rows))]
    store.close()
    return np.stack([audio.decode(data, header=audio.read_header(data, name="")) for data in files])


def make_draws(waveforms: np.ndarray, *, sample_rate: int) -> list[dict]:
    """Draw what each crop is: pitch uniform, speed uniform in its logarithm, start anywhere it fits."""
    random, length = np.random.default_rng(0), round(SECONDS * sample_rate)
    draws = []
    for _ in range(DRAWS):
        speed = SPEED ** random.uniform(-1, 1)
        last = latest_start(length * speed, note_length=waveforms.shape[1], sounding_length=waveforms.shape[1])
        draws.append(
            {
                "note": int(random.integers(len(waveforms))),
                "semitones": random.uniform(-SEMITONES, SEMITONES),
                "speed": speed,
                "start": int(random.uniform(0, last)),
                "length": length,
            }
        )
    return draws


def ours(waveforms: np.ndarray, draws: Sequence[dict], *, engine: Engine) -> Timer:
    """Time an engine draw by draw."""

    def time_draws(numbers: Sequence[int]) -> list[float]:
        found = []
        for draw in [draws[number] for number in numbers]:
            started = time.process_time()
            vocoder.render(
                waveforms[draw["note"]], pitch_ratio=2 ** (draw["semitones"] / 12), speed=draw["speed"],
                start=draw["start"], length=draw["length"], engine=engine,
            )  # fmt: skip
            found.append(time.process_time() - started)
        return found

    return time_draws


@contextlib.contextmanager
def peers(waveforms: np.ndarray, draws: Sequence[dict]) -> Iterator[dict[str, Timer]]:
    """Start the peers' process; yield a timer for each."""
    with tempfile.TemporaryDirectory() as folder:
        notes, drawn = Path(folder) / "notes.npy", Path(folder) / "draws.json"
        np.save(notes, waveforms)
        drawn.write_text(json.dumps(draws))
        command = [PYTHON, Path(__file__).with_name("peers.py"), notes, drawn]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=environment, **pipe) as worker:
            versions = json.loads(worker.stdout.readline())["versions"]
            yield {f"{name} {version}": _ask(worker, name) for name, version in versions.items()}
            worker.stdin.close()


def _ask(worker: subprocess.Popen, method: str) -> Timer:
    def time_draws(numbers: Sequence[int]) -> list[float]:
        print(json.dumps({"method": method, "draws": list(numbers)}), file=worker.stdin, flush=True)
        return json.loads(worker.stdout.readline())["seconds"]

    return time_draws


def together(timers: dict[str, Timer]) -> dict[str, np.ndarray]:
    """Run all draws by one method, then by the next, ...: {name: (rounds, draws)}."""
    found = {name: [] for name in timers}
    for _ in range(ROUNDS_TOGETHER):
        for name, timer in timers.items():
            found[name].append(timer(range(DRAWS)))
    return {name: np.array(seconds) for name, seconds in found.items()}


def apart(timers: dict[str, Timer]) -> dict[str, np.ndarray]:
    """Run each draw by all methods in turn: each finds the caches full of another's. {name: (rounds, draws)}."""
    found = {name: np.empty((ROUNDS_APART, DRAWS)) for name in timers}
    for turn in range(ROUNDS_APART):
        for number in range(DRAWS):
            for name, timer in timers.items():
                found[name][turn, number] = timer([number])[0]
    return found


def section(found: dict[str, np.ndarray], *, title: str, claim: str) -> Section:
    """Tell a sample's cost: each draw's median over the rounds, averaged over the draws."""
    each = {name: 1e3 * np.median(seconds, axis=0) for name, seconds in found.items()}
    mean = {name: float(values.mean()) for name, values in each.items()}
    peer = next(name for name in mean if name.startswith(FASTEST_PYTHON))
    shares = ", ".join(f"{name} {mean[name]:.2f} ms, {mean[peer] / mean[name]:.1f} times cheaper" for name in OURS)
    return Section(
        title=title,
        claim=claim,
        columns=(
            "method", "ms a sample", "draws, 10 to 90 %", "samples/s a core", *(f"{one} is cheaper" for one in OURS),
        ),
        rows=[
            (
                name, figure(mean[name]), " to ".join(figure(v) for v in np.percentile(values, (10, 90))),
                figure(1e3 / mean[name]), *(f"{mean[name] / mean[one]:.1f}x" for one in OURS),
            )
            for name, values in each.items()
        ],
        summary=f"{shares} than {peer}.",
    )  # fmt: skip


def run() -> list[Section]:
    """Measure both orders, then the parts."""
    if not PYTHON.exists():
        raise SystemExit(f"{PYTHON} is missing: `make bench` makes it from benchmarks/requirements-peers.txt")
    harness.one_thread()
    harness.one_core()  # the peers' process inherits it
    waveforms = load_waveforms()
    draws = make_draws(waveforms, sample_rate=16_000)
    with peers(waveforms, draws) as others:
        timers = {name: ours(waveforms, draws, engine=engine) for name, engine in OURS.items()} | others
        for timer in timers.values():
            timer(range(8))  # compiled, warm
        hot, cold = together(timers), apart(timers)
    what = f"{waveforms.shape[1] / 16_000:g} s notes to {SECONDS:g} s at 16 kHz, pitch +-{SEMITONES:g} semitones, "
    what += f"speed {1 / SPEED:g} to {SPEED:g}, {DRAWS} draws, one thread, crop first for all, processor time. "
    return [
        section(hot, title="Back to back", claim=f"{what}Each method does all its draws at once."),
        section(cold, title="Alternating", claim=f"{what}Each draw is done by all methods in turn: cold caches."),
        *(parts.section(waveforms, draws, engine=engine) for engine in OURS.values()),
    ]


if __name__ == "__main__":
    harness.show("Pitch, tempo and crop", run(), packages=("torch", "numpy", "numba"))
