"""fuzz: a seed -> a case: input to which something has happened, a verb of the packing room, and its oracle.

A verb either does what its input justifies or says in one line what is wrong with it; what it leaves behind is whole.
`python -m tests.shards.fuzz --seconds N --seed S` goes through the cases in turn; `--case NAME --seed S --seconds 0`
repeats the one that a failure names.
"""

import contextlib
import dataclasses
import io
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import tyro
import xxhash

from shards import audio
from shards.errors import NotestreamError
from shards.index import Pack
from shards.pack import pack
from shards.remote import Location
from shards.show import describe, show_table
from shards.target import Target
from streaming.store import Store
from tests.conftest import write_notes

SPLIT, ROWS = "train", 3
MEMORY = Path("/dev/shm")  # a case writes a hundred files, and a disk makes it wait for each
RATE = 16_000
# The cases in a round: those of a millisecond stand there more often.
ROUND = ["sound", "pattern"] * 12 + ["table"] * 4 + ["archive", "nsynth", "folders", "damage", "index", "tars"]
SOUNDS = {
    "pcm16.wav": ("WAV", "PCM_16"), "extensible.wav": ("WAVEX", "PCM_16"), "pcm8.wav": ("WAV", "PCM_U8"),
    "pcm24.wav": ("WAV", "PCM_24"), "pcm32.wav": ("WAV", "PCM_32"), "float.wav": ("WAV", "FLOAT"),
    "double.wav": ("WAVEX", "DOUBLE"), "a.flac": ("FLAC", "PCM_16"), "b.flac": ("FLAC", "PCM_24"),
    "a.ogg": ("OGG", "VORBIS"), "a.opus": ("OGG", "OPUS"), "a.mp3": ("MP3", "MPEG_LAYER_III"),
    "a.aif": ("AIFF", "PCM_16"), "b.aif": ("AIFF", "FLOAT"), "a.au": ("AU", "PCM_16"), "a.caf": ("CAF", "PCM_16"),
    "a.w64": ("W64", "PCM_16"), "a.rf64": ("RF64", "PCM_16"), "a.sph": ("NIST", "PCM_16"),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """What has not been touched: notes, their pack, sounds of every kind."""

    root: Path
    notes: Path
    packed: Path
    sounds: dict[str, bytes]

    @property
    def split(self) -> Path:
        """The pack's one split, of two shards."""
        return self.packed / SPLIT


Rng: TypeAlias = np.random.Generator
Case: TypeAlias = Callable[[Rng, World, Path], bool]


@contextlib.contextmanager
def make_world() -> Iterator[World]:
    """Make a world, in memory where there is such a place."""
    with tempfile.TemporaryDirectory(prefix="notestream-fuzz-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        root = Path(folder)
        notes = write_notes(root / "notes", split=SPLIT, count=2 * ROWS, length=300)
        with contextlib.redirect_stderr(io.StringIO()):
            pack(notes, root / "packed", split=SPLIT, rows_per_shard=ROWS)
        sounds = {f"{channels}-{name}": _sound(*kind, channels) for name, kind in SOUNDS.items() for channels in (1, 2)}
        yield World(root=root, notes=notes, packed=root / "packed", sounds=sounds)


def _sound(kind: str, subtype: str, channels: int) -> bytes:
    import soundfile

    time_s = np.arange(40_000 if kind == "OGG" else 2000) / RATE  # of an Ogg several pages
    wave = np.stack([np.sin(2 * np.pi * hz * time_s) * np.exp(-9 * time_s) / 2 for hz in (440, 660)[:channels]], 1)
    out = io.BytesIO()
    soundfile.write(out, wave, RATE, format=kind, subtype=subtype)
    return out.getvalue()


def all_cases() -> dict[str, Case]:
    """Name the cases."""
    from tests.shards import fuzz_packs, fuzz_sources  # here, since they import us

    return {case.__name__: case for case in (*fuzz_sources.CASES, *fuzz_packs.CASES)}


def run_case(name: str, seed: int, *, world: World) -> bool:
    """Run one case in a folder of its own; tell whether its input was taken. All it draws follows from name and seed.

    Raises:
        AssertionError, or anything that is no NotestreamError: a bug.
    """
    rng = np.random.default_rng([*name.encode(), seed])
    folder = world.root / "case"
    (folder / "tmp").mkdir(parents=True)
    before = tempfile.tempdir
    tempfile.tempdir = str(folder / "tmp")
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            taken = all_cases()[name](rng, world, folder)
        left = [path for path in (folder / "tmp").rglob("*") if path.is_file()]
        assert not left, f"left behind: {left}"
        return taken
    finally:
        tempfile.tempdir = before
        shutil.rmtree(folder)


def attempt(work: Callable[[], Any], *, names: Sequence[str | Path]) -> Any:
    """Return what the work gives, or None where it is refused: in one line, which names one of these."""
    try:
        return work()
    except NotestreamError as error:
        told = str(error)
        assert told.isprintable(), f"more than a line of text: {told!r}"
        assert any(str(name) in told for name in names), f"names no file: {told!r}"
        assert len(told) < 20_000, f"goes on and on: {told[:3000]!r}"
        return None


def contents(folder: Path) -> dict[str, bytes]:
    """Read all that is in a folder but the cards."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "README.md")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def check_left(split: Path) -> None:
    """Assert that a pack that failed left nothing, or whole tars, each with its sidecar."""
    if not split.exists():
        return
    target = Target(Location(str(split)), split / ".packing")
    left, whole = set(contents(split)), target.whole()
    shards = [target.read_shard(number) for number in whole]
    assert whole, f"nothing is whole, and {split} stays with {left}"
    wanted = {".packing/plan.json", *(f".packing/{number:06d}.parquet" for number in whole)}
    assert left == wanted | {shard.name for shard in shards}, f"left behind: {left}"
    for shard in shards:
        assert xxhash.xxh3_128_hexdigest((split / shard.name).read_bytes()) == shard.hash


def read_rows(found: Pack) -> list[tuple[str, bytes]]:
    """Read every row's key and file through the store."""
    store = Store(found)
    try:
        keys = [key for number in range(len(found.shards)) for key in found.part(number).keys.to_pylist()]
        return [(key, store.read(row)) for row, key in enumerate(keys)]
    finally:
        store.close()


def describe_all(found: Pack) -> None:
    """Do what `show` does."""
    show_table([describe(found)])


def pick(rng: Rng, *values: Any) -> Any:
    """Draw one of the values."""
    return values[rng.integers(len(values))]


def decode(path: Path, *, sample_rate: int) -> np.ndarray:
    """Decode a file as people would who never saw ours: mean of the channels, resampled, 16 bits. (length,) int16."""
    import soundfile
    import soxr

    with soundfile.SoundFile(path) as file:  # soundfile.read seeks first, after which mpg123 rounds otherwise
        points, rate = file.read(dtype="float64", always_2d=True), file.samplerate
    with np.errstate(over="ignore"):
        wave = points.mean(axis=1)
        wave = wave if rate == sample_rate else soxr.resample(wave, rate, sample_rate)
        return np.clip(np.rint(wave * 32768), -32768, 32767).astype(np.int16)


def samples_of(data: bytes) -> np.ndarray:
    """Decode a row's file, (length,) int16."""
    return audio.decode_pcm16(data, header=audio.read_header(data, name="a row"))


@contextlib.contextmanager
def quiet_decoders() -> Iterator[None]:
    """Keep libsndfile's decoders, which complain on the process's own stderr, from it."""
    kept = os.dup(2)
    sys.stderr.flush()
    with Path(os.devnull).open("w") as sink:
        os.dup2(sink.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def main(*, seconds: float = 60, seed: int = 0, case: Annotated[str, tyro.conf.arg(metavar="NAME")] = "") -> int:
    """Go through the cases in turn for some time, and tell how many ran, were taken, and failed.

    Args:
        seconds: for how long; each case runs at least once.
        seed: of the first case of each name; the next has the next.
        case: only this one.
    """
    end, ran, taken, failed = time.monotonic() + seconds, Counter(), Counter(), Counter()
    with make_world() as world, quiet_decoders() if not case else contextlib.nullcontext():
        while not ran or time.monotonic() < end:
            for name in [case] if case else ROUND:
                given = seed + ran[name]
                ran[name] += 1
                try:
                    taken[name] += run_case(name, given, world=world)
                except Exception as error:
                    failed[name] += 1
                    where = traceback.extract_tb(error.__traceback__)[-1]
                    told = f"{type(error).__name__}: {str(error)[:600]} ({Path(where.filename).name}:{where.lineno})"
                    print(f"--case {name} --seed {given} --seconds 0: {told}", flush=True)
    for name, count in ran.items():
        print(f"{name}: {count:,} cases, {taken[name]:,} taken, {failed[name]:,} failed")
    print(f"{ran.total():,} cases, {failed.total():,} failed")
    return int(failed.total() > 0)


if __name__ == "__main__":
    sys.exit(tyro.cli(main, config=(tyro.conf.FlagCreatePairsOff,)))
