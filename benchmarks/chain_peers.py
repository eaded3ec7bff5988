"""The other libraries' side of benchmarks.chain, run by the python of .venv-peers.

chain_peers.py SHARDS     the folder of the tars. Says {}, then answers each line of stdin, usual or careful, by one
line of stdout: {"seconds": s}, the processor's for a pass over all notes from tar to 40 mels.
"""

import io
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

import audiomentations
import numpy as np
import python_stretch
import soundfile
import torch
import torchaudio
from webdataset.compat import WebDataset

SAMPLE_RATE, LENGTH = 16_000, 40_000
SEMITONES, SPEED = 4.0, 1.25
BATCH, CAREFUL_BATCH = 64, 1  # the mel of more notes than a few falls out of a core's cache
WAV_HEADER = 44

_mel = torch.nn.Sequential(
    torchaudio.transforms.MelSpectrogram(
        sample_rate=SAMPLE_RATE, n_fft=1024, hop_length=256, n_mels=40, f_min=20.0, f_max=8000.0
    ),
    torchaudio.transforms.AmplitudeToDB("power", top_db=80),
)
_both = audiomentations.Compose(
    [
        audiomentations.PitchShift(min_semitones=-SEMITONES, max_semitones=SEMITONES, p=1.0),
        audiomentations.TimeStretch(min_rate=1 / SPEED, max_rate=SPEED, leave_length_unchanged=False, p=1.0),
    ]
)
_stretch = python_stretch.Signalsmith.Stretch()
_stretch.preset(1, SAMPLE_RATE)
_random = np.random.default_rng(0)


def usual(wav: bytes) -> np.ndarray:
    """Decode by soundfile, augment the whole note, cut it somewhere: (LENGTH,) float32."""
    waveform, _ = soundfile.read(io.BytesIO(wav), dtype="float32")
    moved = _both(np.asarray(waveform, np.float32), sample_rate=SAMPLE_RATE)
    start = int(_random.integers(0, max(1, len(moved) - LENGTH)))
    return fit(moved[start : start + LENGTH])


def careful(wav: bytes) -> np.ndarray:
    """Draw first, decode what the crop needs, move pitch and tempo in one pass: (LENGTH,) float32."""
    speed, length = SPEED ** _random.uniform(-1, 1), (len(wav) - WAV_HEADER) // 2
    count = min(length, math.ceil(LENGTH * speed))
    start = int(_random.integers(0, length - count + 1))
    pcm = np.frombuffer(wav, "<i2", offset=WAV_HEADER + 2 * start, count=count)
    piece = pcm.astype(np.float32) / np.float32(32768)
    _stretch.reset()
    _stretch.setTransposeSemitones(_random.uniform(-SEMITONES, SEMITONES))
    _stretch.timeFactor = speed
    return fit(np.asarray(_stretch.process(piece[None]))[0])


def fit(waveform: np.ndarray) -> np.ndarray:
    """Cut or pad to LENGTH: libraries miss it by some samples."""
    return np.pad(waveform[:LENGTH], (0, max(0, LENGTH - len(waveform))))


METHODS = {"usual": (usual, BATCH), "careful": (careful, CAREFUL_BATCH)}


def mels(shards: Path, method: str) -> Iterator[torch.Tensor]:
    """Yield (batch, 40, frames) over all notes."""
    augment, size = METHODS[method]
    data = WebDataset(sorted(map(str, shards.glob("*.tar"))), shardshuffle=False)
    batches = data.map(lambda sample: augment(sample["wav"])).batched(size, collation_fn=np.stack)
    for notes in cast(Iterable[np.ndarray], batches):
        yield _mel(torch.from_numpy(notes))


def main() -> None:
    """Answer until stdin ends."""
    answer = os.fdopen(os.dup(1), "w")  # what a library prints isn't an answer
    os.dup2(2, 1)
    torch.set_num_threads(1)
    print("{}", file=answer, flush=True)
    for line in sys.stdin:
        started = time.process_time()
        rows = sum(len(batch) for batch in mels(Path(sys.argv[1]), line.strip()))
        seconds = time.process_time() - started
        assert rows, "no notes"
        print(json.dumps({"seconds": seconds, "rows": rows}), file=answer, flush=True)


if __name__ == "__main__":
    main()
