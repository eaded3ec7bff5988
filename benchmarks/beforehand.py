"""beforehand: a folder of notes -> mel pictures as PNG, one a note, and the plain DataLoader that reads them.

The way of most repositories, and of the 2018 experiment: librosa, a note at a time, on the CPU; then no sound any more.
"""

import json
from pathlib import Path

import librosa
import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from trainers.options import MelConfig

RATE = 16_000


def picture(waveform: NDArray[np.float32], config: MelConfig) -> NDArray[np.uint8]:
    """Return the log-mel of a note, uint8 (n_mels, frames): dB below its own maximum, as trainers.mel makes it."""
    power = librosa.feature.melspectrogram(
        y=waveform, sr=RATE, n_fft=config.n_fft, hop_length=config.hop_length, n_mels=config.n_mels,
        fmin=config.f_min, fmax=config.f_max, htk=True, norm=None, pad_mode="reflect",
    )  # fmt: skip
    level = librosa.power_to_db(power, ref=np.max, top_db=config.floor_db)
    return np.rint((level / config.floor_db + 1) * 255).astype(np.uint8)


def write_pictures(notes: Path, folder: Path, *, config: MelConfig) -> None:
    """Write KEY.png of every note of nsynth-SPLIT."""
    folder.mkdir(parents=True)
    for path in sorted((notes / "audio").glob("*.wav")):
        waveform, _ = soundfile.read(path, dtype="float32")
        Image.fromarray(picture(waveform, config)).save(folder / f"{path.stem}.png")


class Pictures(Dataset):
    """Pictures (1, n_mels, frames) float32 in 0..1 with their class."""

    def __init__(self, notes: Path, folder: Path, *, label: str, classes: tuple[str, ...]) -> None:
        examples = json.loads((notes / "examples.json").read_bytes())
        self.folder, self.rows = folder, [(key, classes.index(examples[key][label])) for key in sorted(examples)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        key, target = self.rows[row]
        with Image.open(self.folder / f"{key}.png") as image:
            return torch.from_numpy(np.array(image))[None].float() / 255, target


def load(pictures: Pictures, *, batch_size: int, seed: int | None, workers: int) -> DataLoader:
    """Return a loader of batches: shuffled by `seed` and whole, or in order and all of them."""
    return DataLoader(
        pictures,
        batch_size=batch_size,
        shuffle=seed is not None,
        drop_last=seed is not None,
        generator=None if seed is None else torch.Generator().manual_seed(seed),
        num_workers=workers,
        persistent_workers=workers > 0,
    )
