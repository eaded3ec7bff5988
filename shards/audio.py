"""audio: file bytes -> header facts and samples, samples -> file bytes. Nothing here opens a file or a decoder by name.

PCM WAV is decoded by numpy, since a generic reader costs ten times as much (117 against 6 us for a crop); FLAC goes
through soundfile. These two are the whole allow-list of what a shard may hold.
"""

import dataclasses
import io
import re
import struct
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shards.errors import DataError

PCM16_SCALE = np.float32(1 / 32768)
PCM, EXTENSIBLE = 1, 0xFFFE
PCM_GUID = bytes.fromhex("0100000000001000800000aa00389b71")  # what an extensible header calls PCM
CODECS = ("wav", "flac")
TAIL = 16384  # samples in a step of the search for a note's end
MAX_POINTS = 1 << 27  # samples in all channels: a header is foreign input, and nobody gets us to allocate more
# What libsndfile logs of a file that was cut, kind by kind: it decodes what is left, and says so nowhere else.
CUT = re.compile(
    r"^ *(?:data|SSND|riff|Data Size) *: \w+ \(should be|does not match value from 'ds64'"
    r"|Last page lacks an end-of-stream bit|Junk after the last page",
    re.MULTILINE,
)
SPHERE = re.compile(rb"NIST_1A\n.{0,1000}?\nsample_count -i (\d{1,18})\n", re.DOTALL)  # of SPH it logs nothing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of itself. `data_offset` is where a WAV's samples begin, in bytes; 0 for FLAC."""

    codec: str
    sample_rate: int
    channels: int
    bits: int
    length: int
    data_offset: int


def read_header(data: bytes, *, name: str, size: int | None = None) -> Header:
    """Read the header of a WAV (PCM) or FLAC file in memory. `name` is what errors call it.

    A WAV's beginning will do, where `size` tells the bytes of the whole file.
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return _wav_header(data, name=name, file_size=len(data) if size is None else size)
    if data[:4] == b"fLaC":
        import soundfile  # here, since most packs hold WAV only and the import costs 60 ms

        try:
            info = soundfile.info(Memory(data))
        except soundfile.LibsndfileError as error:
            raise DataError(f"{name} is not a FLAC file that can be read ({error}): make it anew") from error
        if info.frames * info.channels > MAX_POINTS:
            raise DataError(f"{name} says it holds {info.frames:,} samples, over {MAX_POINTS:,}: cut it up")
        bits = 24 if info.subtype == "PCM_24" else 16
        return Header(
            codec="flac",
            sample_rate=int(info.samplerate),
            channels=info.channels,
            bits=bits,
            length=info.frames,
            data_offset=0,
        )
    raise DataError(f"{name} starts with {data[:4]!r}, which is neither WAV nor FLAC: convert it to 16-bit PCM WAV")


def _wav_header(data: bytes, *, name: str, file_size: int) -> Header:
    fmt, at = None, 12
    while at + 8 <= len(data):
        tag, size = data[at : at + 4], struct.unpack_from("<I", data, at + 4)[0]
        if tag == b"fmt " and size >= 16 and at + 24 <= len(data):
            fmt = struct.unpack_from("<HHIIHH", data, at + 8)
            if fmt[0] == EXTENSIBLE and data[at + 32 : at + 48] == PCM_GUID:
                fmt = (PCM, *fmt[1:])
        elif tag == b"data":
            if fmt is None or fmt[0] != PCM or fmt[5] != 16:
                said = "no format" if fmt is None else f"format {fmt[0]}, {fmt[5]} bits"
                raise DataError(f"{name} is a WAV with {said}, not 16-bit PCM: convert it to 16-bit PCM WAV")
            if fmt[1] < 1 or at + 8 + size > file_size:
                raise DataError(
                    f"{name} says it holds {size} bytes of sound but {file_size - at - 8} are there: it is cut short"
                )
            return Header(
                codec="wav",
                sample_rate=fmt[2],
                channels=fmt[1],
                bits=16,
                length=size // (2 * fmt[1]),
                data_offset=at + 8,
            )
        at += 8 + size + size % 2
    raise DataError(f"{name} is a WAV without a data chunk: it is cut short, make it anew")


class Memory(io.BytesIO):
    """A file in memory as libsndfile wants it: in damaged ones it seeks to before the beginning."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Seek, or stay: soundfile prints what is raised here as a traceback, and goes on."""
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


def is_cut(data: bytes, *, frames: int, log: str) -> bool:
    """Tell whether a file that libsndfile decodes lacks its end: `frames` is what it gave, `log` its extra_info."""
    sphere = SPHERE.match(data)
    return CUT.search(log) is not None or (sphere is not None and int(sphere[1]) > frames)


def decode(
    data: bytes,
    *,
    header: Header,
    start: int = 0,
    stop: int | None = None,
    out: NDArray[np.float32] | None = None,
    name: str = "a FLAC member",
) -> NDArray[np.float32]:
    """Decode samples [start, stop) of a mono file to float32 in [-1, 1), into `out` (stop - start,) if given.

    `name` is what errors call it.
    """
    stop = header.length if stop is None else stop
    if out is None:
        out = np.empty(stop - start, np.float32)
    if header.codec == "wav":
        pcm = np.frombuffer(data, "<i2", count=stop - start, offset=header.data_offset + 2 * start)
        return np.multiply(pcm, PCM16_SCALE, out=out)
    out[:] = _flac_samples(data, start=start, stop=stop, dtype="float32", name=name)
    return out


def decode_pcm16(data: bytes, *, header: Header, name: str = "a FLAC member") -> NDArray[np.int16]:
    """Decode a whole mono file to int16, for packing. `name` is what errors call it."""
    if header.codec == "wav":
        return np.frombuffer(data, "<i2", count=header.length, offset=header.data_offset)
    return _flac_samples(data, start=0, stop=header.length, dtype="int16", name=name)


def _flac_samples(
    data: bytes, *, start: int, stop: int, dtype: Literal["float32", "int16"], name: str = "a FLAC member"
) -> NDArray:
    import soundfile

    try:
        samples, _ = soundfile.read(Memory(data), start=start, stop=stop, dtype=dtype)
    except soundfile.LibsndfileError as error:
        raise DataError(f"{name} can't be decoded ({error}): make it anew") from error
    if samples.shape != (stop - start,):
        raise DataError(f"{name} gave {len(samples)} samples, not {stop - start}: it is cut short, make it anew")
    return samples


def undecodable(name: object, told: str) -> DataError:
    """Make the error of a file that libsndfile can't decode; `told` is its own word."""
    return DataError(f"{name} can't be decoded ({told.rstrip('.')}): make it anew, or as WAV")


def as_pcm16(wave: NDArray[np.float64], *, name: object) -> NDArray[np.int16]:
    """Round sound in [-1, 1], (time,), to 16 bits; what is louder is cut.

    Raises:
        DataError: it holds what are no numbers.
    """
    if not np.isfinite(wave).all():
        raise DataError(f"{name} holds samples that are not numbers, or too large for one: make it anew")
    return np.clip(np.rint(np.clip(wave, -1, 1) * 32768), -32768, 32767).astype(np.int16)


def encode(samples: NDArray[np.int16], *, sample_rate: int, codec: str) -> bytes:
    """Encode mono int16 samples (length,) as the bytes of a 16-bit WAV (44-byte header) or FLAC file."""
    if codec == "wav":
        size = 2 * len(samples)
        fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, PCM, 1, sample_rate, 2 * sample_rate, 2, 16)
        head = struct.pack("<4sI4s", b"RIFF", 36 + size, b"WAVE") + fmt + struct.pack("<4sI", b"data", size)
        return head + samples.astype("<i2", copy=False).tobytes()
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def sounding_length(samples: NDArray[np.int16]) -> int:
    """Count samples up to the last one above -60 dB of the note's own peak; 0 for a silent note. (length,) int16."""
    if not len(samples):
        return 0
    peak = max(int(np.maximum.reduce(samples)), -int(np.minimum.reduce(samples)))
    if not peak:
        return 0
    quiet = peak // 1000  # 1000 * level > peak is level > quiet, for whole numbers
    end = len(samples)
    while True:  # ends at the peak at the latest; most notes sound into the last TAIL, so one step is enough
        start = max(0, end - TAIL)
        tail = samples[start:end]
        last = ((tail > quiet) | (tail < -quiet)).tobytes().rfind(1)  # numpy has no search from the end as fast
        if last >= 0:
            return start + last + 1
        end = start
