"""Claim: an archive becomes shards in one pass, at a speed near that of isal's bare decompression of it.

Run: python -m benchmarks.archive
"""

import subprocess
import tarfile
from pathlib import Path

from isal import igzip

from benchmarks import harness
from benchmarks.harness import Section, figure, spread_rate
from benchmarks.pack import OUT, fresh, ours, wall

NOTES, ROUNDS = 4096, 5
READ_BYTES = 1 << 17
BARE = "isal, decompression alone"
FIRST, LAST = "examples.json first", "examples.json last"


def make_archive(folder: Path, *, last: bool) -> Path:
    """Pack NSynth's layout as a tar.gz, once; notes in the order of their names."""
    out = harness.BENCH / f"many-{NOTES}-{'last' if last else 'first'}.tar.gz"
    if not out.exists():
        plain = out.with_suffix("")
        with tarfile.open(plain, "w") as tar:
            audio = [f"audio/{path.name}" for path in sorted((folder / "audio").iterdir())]
            for name in (*audio, "examples.json") if last else ("examples.json", *audio):
                tar.add(folder / name, arcname=f"nsynth-train/{name}")
        subprocess.run(["gzip", "-6", plain], check=True)
    return out


def decompress(archive: Path) -> None:
    """Read all of it and keep nothing."""
    with igzip.open(archive, "rb") as file:
        while file.read(READ_BYTES):
            pass


def run() -> list[Section]:
    """Measure packing of archives against their decompression."""
    folder = harness.many(NOTES)
    first, last = (make_archive(folder, last=last) for last in (False, True))
    found = harness.measure(
        {
            BARE: wall(lambda: decompress(first)),
            f"{FIRST}, one core": fresh(lambda: ours(first, jobs=1)),
            f"{FIRST}, --jobs 2": fresh(lambda: ours(first, jobs=2)),
            f"{LAST}, one core": fresh(lambda: ours(last, jobs=1)),
            f"{LAST}, --jobs 2": fresh(lambda: ours(last, jobs=2)),
            "folder, one core": fresh(lambda: ours(folder, jobs=1)),
        },
        rounds=ROUNDS,
    )
    middle = harness.medians(found)
    share = {name: middle[BARE] / value for name, value in middle.items()}
    plain = NOTES * 128_044 / 1e6
    return [
        Section(
            title="A tar.gz into shards",
            claim=f"{NOTES:,} notes of 4 s, {first.stat().st_size / 1e6:,.0f} MB by gzip -6, cached, {ROUNDS} rounds.",
            columns=("method", "notes/s", "in all rounds", "MB/s of audio", "of decompression's speed"),
            rows=[
                (
                    name, figure(NOTES / middle[name]), spread_rate(values, count=NOTES),
                    figure(plain / middle[name]), f"{share[name]:.2f}",
                )
                for name, values in found.items()
            ],
            summary=f"Packing has {share[f'{FIRST}, one core']:.2f} of decompression's speed on one core and "
            f"{share[f'{FIRST}, --jobs 2']:.2f} on two; with examples.json last {share[f'{LAST}, one core']:.2f} and "
            f"{share[f'{LAST}, --jobs 2']:.2f}.",
        )
    ]  # fmt: skip


if __name__ == "__main__":
    OUT.parent.mkdir(parents=True, exist_ok=True)
    harness.show("Packing an archive", run(), packages=("isal", "numpy", "pyarrow", "xxhash"))
