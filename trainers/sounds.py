"""sounds: audio files of any kind -> mono sound at one rate, a window at a time, as a pack would hold it.

Mixed down by the mean of the channels, resampled by soxr and rounded to 16 bits, as `pack --mono --resample` does, so
that a file is heard as its row in a pack would be. A file is never in memory as a whole: any length will do.
"""

import dataclasses
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards import audio
from shards.errors import DataError, UsageError
from shards.folders import AUDIO, KINDS, UNREAD

HEAD_BYTES = 1 << 20  # of a WAV, in which its sound has to begin
BLOCK = 1 << 20  # points that are decoded, or resampled, at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sound:
    """An audio file as it lies there: samples a second, channels, and how many samples each has."""

    path: Path
    sample_rate: int
    channels: int
    length: int

    def notes(self, *, sample_rate: int) -> tuple[str, ...]:
        """Say what has to be done to hear it at another rate, and as one channel."""
        mixed = (f"{self.channels} channels mixed down",) if self.channels > 1 else ()
        moved = (f"resampled from {self.sample_rate} to {sample_rate} Hz",) if self.sample_rate != sample_rate else ()
        return mixed + moved


def find_audio(places: Sequence[Path]) -> list[Path]:
    """List the files that are named, and of a folder all audio beneath it by its path, hidden files left out.

    Raises:
        UsageError: a folder holds no audio.
    """
    found: list[Path] = []
    for place in places:
        if not place.is_dir():
            found.append(place)
            continue
        inside = {path.relative_to(place): path for path in place.rglob("*") if _is_audio(path.relative_to(place))}
        if not inside:
            raise UsageError(f"folder {place} holds no audio files ({KINDS}): give one that does")
        found += [inside[path] for path in sorted(inside, key=Path.as_posix)]
    return found


def _is_audio(path: Path) -> bool:
    # kinds that can't be decoded are named when their turn comes, not passed over
    return path.suffix[1:].lower() in AUDIO | UNREAD and not any(part[0] == "." for part in path.parts)


def open_sound(path: Path) -> Sound:
    """Read what a file says of itself.

    Raises:
        DataError: it isn't there, can't be decoded, is cut short or holds nothing.
    """
    import soundfile  # here: `--help` needn't wait for it

    try:
        with path.open("rb") as raw:
            head = raw.read(HEAD_BYTES)
        with soundfile.SoundFile(str(path)) as file:
            found = Sound(path=path, sample_rate=file.samplerate, channels=file.channels, length=file.frames)
            plain = file.format in ("WAV", "WAVEX") and file.subtype == "PCM_16"
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror}): give an audio file or a folder of them") from error
    except soundfile.LibsndfileError as error:
        raise audio.undecodable(path, error.error_string) from error
    if plain:  # libsndfile mends a cut WAV in silence
        audio.read_header(head, name=str(path), size=path.stat().st_size)
    if not found.length:
        raise DataError(f"{path} holds no sound: make it anew, or leave it out")
    return found


def windows(sound: Sound, *, sample_rate: int, length: int) -> Generator[NDArray[np.float32]]:
    """Yield a sound at `sample_rate` in windows of `length` samples that follow each other; the last may be shorter.

    Raises:
        DataError: it can't be decoded, is cut short, or holds what are no numbers.
        UsageError: it is of another rate, and soxr isn't installed.
    """
    held: list[NDArray[np.float32]] = []
    for block in _resampled(sound, sample_rate=sample_rate):
        held.append(audio.as_pcm16(block, name=sound.path).astype(np.float32) * audio.PCM16_SCALE)
        if sum(map(len, held)) >= length:
            whole = np.concatenate(held)
            ends = range(length, len(whole) + 1, length)
            yield from (whole[end - length : end] for end in ends)
            held = [whole[ends[-1] :]]
    rest = np.concatenate(held) if held else np.zeros(0, np.float32)
    if len(rest):
        yield rest


def _resampled(sound: Sound, *, sample_rate: int) -> Iterable[NDArray[np.float64]]:
    if sound.sample_rate == sample_rate:
        return _mono(sound, block=BLOCK)
    try:
        import soxr  # here, since only the extra `demo` installs it
    except ImportError as error:
        raise UsageError(
            f"{sound.path} has {sound.sample_rate} Hz, the run's sounds {sample_rate}, and soxr, which resamples, "
            "is not installed: pip install 'notestream[demo]'"
        ) from error
    stream = soxr.ResampleStream(sound.sample_rate, sample_rate, 1, dtype="float64")
    blocks = _mono(sound, block=max(1, BLOCK * sound.sample_rate // max(sample_rate, sound.sample_rate)))
    return (part for block in _with_end(blocks) for part in [stream.resample_chunk(block, last=not len(block))])


def _with_end(blocks: Iterable[NDArray[np.float64]]) -> Generator[NDArray[np.float64]]:
    """Yield the blocks, and an empty one at their end: what soxr has kept back comes out then."""
    yield from blocks
    yield np.zeros(0)


def _mono(sound: Sound, *, block: int) -> Generator[NDArray[np.float64]]:
    """Decode the mean of the channels, up to `block` samples at a time."""
    import soundfile

    read = 0
    try:
        with soundfile.SoundFile(str(sound.path)) as file:
            # as float, since libsndfile's integers of a float or Vorbis file wrap round where they are too loud
            while len(points := file.read(max(1, block // sound.channels), dtype="float64", always_2d=True)):
                read += len(points)
                with np.errstate(over="ignore", invalid="ignore"):  # of numbers near the largest
                    mean = points.mean(axis=1)
                yield mean
            log = file.extra_info
    except soundfile.LibsndfileError as error:
        raise audio.undecodable(sound.path, error.error_string) from error
    with sound.path.open("rb") as raw:
        head = raw.read(HEAD_BYTES)
    if read != sound.length or audio.is_cut(head, frames=read, log=log):
        raise DataError(f"{sound.path} ends after {read} samples: it is cut short, make it anew")
