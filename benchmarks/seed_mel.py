"""seed_mel: a pack's notes -> what a log-mel costs by one note and by batch, and how far librosa's lies from ours."""

import time
from collections.abc import Callable

import torch
from torchaudio.transforms import AmplitudeToDB, MelSpectrogram

from benchmarks import harness
from benchmarks.beforehand import picture
from shards.index import Pack
from streaming.evaluation import whole_notes
from streaming.world import World
from trainers.mel import LogMel
from trainers.options import MelConfig

ROWS, ROUNDS, CONFIG = 64, 5, MelConfig()


def waveforms(pack: Pack, *, rows: int) -> torch.Tensor:
    """Return whole notes, (rows, time)."""
    classes = pack.classes["instrument_family_str"]
    batches = whole_notes(pack, label="instrument_family_str", classes=classes, batch_size=rows, world=World())
    return next(batches).waveform.clone()


def agreement(pack: Pack, *, rows: int) -> float:
    """Return the mean distance of librosa's pictures from ours, in levels of 256."""
    heard = waveforms(pack, rows=rows)
    ours = LogMel(CONFIG, sample_rate=pack.sample_rate)(heard)[:, 0] * 255
    theirs = torch.stack([torch.from_numpy(picture(one.numpy(), CONFIG)) for one in heard])
    return float((ours - theirs).abs().mean())


def mel_costs(pack: Pack) -> dict[str, float | None]:
    """Return the microseconds a note of each way; None where there is no GPU. One thread, medians, wall time."""
    heard = waveforms(pack, rows=ROWS)
    notes, mel = heard.numpy(), LogMel(CONFIG, sample_rate=pack.sample_rate)
    theirs = torch.nn.Sequential(
        MelSpectrogram(
            sample_rate=pack.sample_rate, n_fft=CONFIG.n_fft, hop_length=CONFIG.hop_length, n_mels=CONFIG.n_mels,
            f_min=CONFIG.f_min, f_max=CONFIG.f_max,
        ),
        AmplitudeToDB(top_db=CONFIG.floor_db),
    )  # fmt: skip
    methods: dict[str, Callable[[], object]] = {
        "CPU, librosa, note by note": lambda: [picture(note, CONFIG) for note in notes],
        "CPU, torchaudio, note by note": lambda: [theirs(note) for note in heard],
        "CPU, ours, note by note": lambda: [mel(note[None]) for note in heard],
        f"CPU, ours, a batch of {ROWS}": lambda: mel(heard),
    }
    timed = {name: harness.stopwatch(work, clock=time.perf_counter) for name, work in methods.items()}
    with torch.no_grad():
        middle = harness.medians(harness.measure(timed, rounds=ROUNDS))
        found: dict[str, float | None] = {name: 1e6 * seconds / ROWS for name, seconds in middle.items()}
        return found | {f"GPU, ours, a batch of {ROWS}": _on_gpu(mel, heard) if torch.cuda.is_available() else None}


def _on_gpu(mel: LogMel, heard: torch.Tensor) -> float:
    """Return the microseconds a note on the first GPU, copying included."""
    mel, pinned = mel.to("cuda"), heard.pin_memory()

    def work() -> None:
        mel(pinned.to("cuda", non_blocking=True))
        torch.cuda.synchronize()

    timed = harness.stopwatch(work, clock=time.perf_counter)
    return 1e6 * harness.medians(harness.measure({"gpu": timed}, rounds=50, warm=5))["gpu"] / len(heard)
