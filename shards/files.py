"""files: a note's key -> the bytes of its file, as a shard can hold them.

What is listed here crosses to packing processes, and each of them imports this: no pyarrow (see packers).
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from shards import audio
from shards.errors import DataError


class Files(Protocol):
    """Where the audio of a source is read from, by any thread."""

    def read(self, key: str) -> bytes:
        """Read one note's file."""
        ...

    def name(self, key: str) -> str:
        """Say where that file is, for messages."""
        ...


@dataclasses.dataclass(frozen=True)
class FolderFiles:
    """Notes as files of a folder: AUDIO/KEY.wav. `renamed` tells which keys' files have another name."""

    folder: Path
    renamed: Mapping[str, str]

    def read(self, key: str) -> bytes:
        """Read one note's file; by system calls, since Path.read_bytes takes half as long again."""
        descriptor = os.open(self.name(key), os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            return os.read(descriptor, os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)

    def only(self, keys: Sequence[str]) -> "FolderFiles":
        """Return what it takes to read some keys' files: of 300,000, a shard needs 1,024."""
        return FolderFiles(self.folder, {key: self.renamed[key] for key in keys if key in self.renamed})

    def name(self, key: str) -> str:
        """Say where that file is."""
        return f"{self.folder}/{self.renamed.get(key, key)}.wav"


@dataclasses.dataclass(frozen=True)
class AudioFiles:
    """Notes as files of any kind beneath a folder, read as 16-bit mono WAV or FLAC at one rate."""

    folder: Path
    paths: Mapping[str, str]
    sample_rate: int
    mono: bool
    resample: bool

    def read(self, key: str) -> bytes:
        """Read one note's file: byte for byte where a shard can hold it, else made a WAV.

        Raises:
            DataError: it can't be decoded, is cut short, or would have to be mixed down or resampled and may not be.
        """
        data, name = (self.folder / self.paths[key]).read_bytes(), self.name(key)
        try:
            header = audio.read_header(data, name=name)
        except DataError as error:
            return self._convert(data, name=name, fault=error)
        self._check(name=name, sample_rate=header.sample_rate, channels=header.channels, length=header.length)
        fits = header.channels == 1 and header.bits == 16 and header.sample_rate == self.sample_rate
        return data if fits else self._convert(data, name=name, fault=None)

    def only(self, keys: Sequence[str]) -> "AudioFiles":
        """Return what it takes to read some keys' files (see FolderFiles)."""
        return dataclasses.replace(self, paths={key: self.paths[key] for key in keys})

    def name(self, key: str) -> str:
        """Say where that file is."""
        return str(self.folder / self.paths[key])

    def _check(self, *, name: str, sample_rate: int, channels: int, length: int) -> None:
        if not 0 < length * max(channels * sample_rate, self.sample_rate) <= audio.MAX_POINTS * sample_rate:
            raise DataError(
                f"length must be 1 to {audio.MAX_POINTS} samples in all channels, got {length} in {channels} ({name}): "
                "make it anew, cut it up, or leave it out"
            )
        if sample_rate != self.sample_rate and not self.resample:
            raise DataError(
                f"sample_rate must be {self.sample_rate} for this pack, got {sample_rate} ({name}): "
                f"pack with --resample {self.sample_rate}, or leave the file out"
            )
        if channels != 1 and not self.mono:
            raise DataError(f"channels must be 1, got {channels} ({name}): pack with --mono to mix them down")

    def _convert(self, data: bytes, *, name: str, fault: DataError | None) -> bytes:
        """Decode any file to float, mix down, resample; round and clip to 16 bits. `fault`: why it is not plain."""
        import soundfile  # here, as in audio: plain WAV files don't need it

        try:
            with soundfile.SoundFile(audio.Memory(data)) as file:
                if fault and file.format in ("WAV", "WAVEX") and file.subtype == "PCM_16":
                    raise fault  # libsndfile mends a cut file in silence
                self._check(name=name, sample_rate=file.samplerate, channels=file.channels, length=file.frames)
                # as float, since libsndfile's integers of a float or Vorbis file wrap round where they are too loud
                points, rate = file.read(dtype="float64", always_2d=True), file.samplerate
                if len(points) != file.frames or audio.is_cut(data, frames=len(points), log=file.extra_info):
                    raise DataError(f"{name} ends after {len(points)} samples: it is cut short, make it anew")
        except soundfile.LibsndfileError as error:
            raise audio.undecodable(name, error.error_string) from error
        with np.errstate(over="ignore", invalid="ignore"):  # of numbers near the largest
            wave = points.mean(axis=1)
        if rate != self.sample_rate:
            import soxr  # here, since only the extra `demo` installs it

            wave = soxr.resample(wave, rate, self.sample_rate)
        return audio.encode(audio.as_pcm16(wave, name=name), sample_rate=self.sample_rate, codec="wav")
