"""Claim: tar -> decode -> augment 2.5 s -> 40 mels runs at over 700 samples/s a core, usual stacks at 50 to 120.

All read the very same shards, on one core, each to the end of its pass. The others run in .venv-peers by
benchmarks/chain_peers.py. Run: python -m benchmarks.chain
"""

import time
from collections.abc import Callable, Mapping

from benchmarks import harness, start
from benchmarks.harness import Method, Section, figure, spread_rate
from shards.index import Pack
from streaming.augment import Augment
from streaming.layout import Engine
from streaming.loader import Loader
from trainers.mel import LogMel

NOTES, BATCH, SECONDS, ROUNDS = 256, 64, 2.5, 5
LABEL = "instrument_family_str"
OURS: dict[str, Engine] = {"notestream, vocoder": "vocoder", "notestream, wsola": "wsola"}
USUAL, CAREFUL = "webdataset, audiomentations, torchaudio", "webdataset, python-stretch crop-first, torchaudio"
PEERS = {USUAL: "usual", CAREFUL: "careful"}
MADE = ("read", "decode", "augment")


def policy(engine: Engine) -> Augment:
    """Return what all are asked for: no low-pass, since the others have none."""
    return Augment(pitch_semitones=4.0, speed=1.25, random_start=True, engine=engine)


def make_pass(pack: Pack, *, engine: Engine) -> Callable[[], dict[str, float]]:
    """Return a pass over the pack, from tars to mels, that returns what each part took, in seconds."""
    loader = Loader(pack, batch_size=BATCH, seed=0, label=LABEL, crop_seconds=SECONDS, augment=policy(engine))
    mel = LogMel(sample_rate=pack.sample_rate)

    def once() -> dict[str, float]:
        begun, found, rows = time.perf_counter(), dict.fromkeys((*MADE, "mel"), 0.0), 0
        for batch in loader:
            started = time.perf_counter()
            rows += len(mel(batch.waveform))
            found["mel"] += time.perf_counter() - started
            for name in MADE:
                found[name] += batch.seconds[name]
        assert rows == pack.rows, rows  # of an epoch's: 256 is a multiple of 64
        return {**found, "plan, draws, collate": time.perf_counter() - begun - sum(found.values())}

    return once


def whole(pack: Pack, ask: Callable[[str], float]) -> Section:
    """Measure passes by all, in turn."""
    ours = {name: harness.stopwatch(make_pass(pack, engine=engine)) for name, engine in OURS.items()}
    methods: Mapping[str, Method] = ours | {name: lambda short=short: ask(short) for name, short in PEERS.items()}
    found = harness.measure(methods, rounds=ROUNDS)
    middle = harness.medians(found)
    rates = {name: pack.rows / one for name, one in middle.items()}
    return Section(
        title="From tar to mel",
        claim=f"{pack.rows} notes of 4 s (16-bit WAV) in tars, to crops of {SECONDS:g} s, pitch +-4 semitones, speed "
        f"0.8 to 1.25, and 40 mels, {ROUNDS} rounds; processor time on one core, files in the page cache. Ours check "
        "each note's crc32 and shuffle all rows; the others do neither. The usual stack augments whole notes, then "
        "cuts, and makes mels by batches of 64; the careful one decodes and moves what the crop needs, note by note.",
        columns=("chain", "samples/s", "in all rounds", "ms a sample", *(f"{name} is faster" for name in OURS)),
        rows=[
            (
                name, figure(rate), spread_rate(found[name], count=pack.rows), figure(1e3 / rate),
                *(f"{rates[one] / rate:.1f}x" for one in OURS),
            )
            for name, rate in rates.items()
        ],
        summary=", ".join(f"{name} {rates[name]:,.0f} samples/s" for name in OURS)
        + f": {' and '.join(f'{rates[name] / rates[CAREFUL]:.1f}' for name in OURS)} times the careful stack's, "
        + f"{' and '.join(f'{rates[name] / rates[USUAL]:.1f}' for name in OURS)} times the usual one's.",
    )  # fmt: skip


def shares(pack: Pack) -> Section:
    """Measure the parts of ours."""
    passes, found = {name: make_pass(pack, engine=engine) for name, engine in OURS.items()}, {name: [] for name in OURS}
    for _ in range(1 + ROUNDS):
        for name, once in passes.items():
            found[name].append(once())
    parts = {
        name: harness.medians({part: [one[part] for one in rounds[1:]] for part in rounds[0]})
        for name, rounds in found.items()
    }
    totals = {name: sum(one.values()) for name, one in parts.items()}
    largest = {name: max(one, key=lambda part, one=one: one[part]) for name, one in parts.items()}
    return Section(
        title="Where the chain's time goes",
        claim=f"Ours, part by part, medians of {ROUNDS} passes; wall time on one core.",
        columns=("part", *(title for name in OURS for title in (f"{name}, us a sample", "share"))),
        rows=[
            (part, *(cell for name in OURS for cell in _cells(parts[name][part], totals[name], rows=pack.rows)))
            for part in parts[next(iter(OURS))]
        ],
        summary=", ".join(
            f"{name}: {1e6 * totals[name] / pack.rows:,.0f} us, of which {largest[name]} "
            f"{100 * parts[name][largest[name]] / totals[name]:.0f} %"
            for name in OURS
        ) + ".",
    )  # fmt: skip


def _cells(seconds: float, total: float, *, rows: int) -> tuple[str, str]:
    return figure(1e6 * seconds / rows), f"{100 * seconds / total:.0f} %"


def run() -> list[Section]:
    """Measure the chain, its parts, and how soon it starts."""
    pack = harness.packed_many(NOTES)
    start_section = start.section(pack, augment=policy("vocoder"))  # before this process keeps to one core
    harness.one_thread()
    harness.one_core()  # the peers' process inherits it
    with harness.peers("chain_peers.py", harness.folder(pack)) as ask:
        found = whole(pack, ask)
    return [found, shares(pack), start_section]


if __name__ == "__main__":
    harness.show("From tar to mel", run(), packages=("torch", "torchaudio", "numpy", "numba"))
