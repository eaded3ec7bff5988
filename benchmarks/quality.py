"""Claim: what the engines of pitch and tempo do to a sound is no worse than what the libraries used for it do.

Sounds and metrics are the tests' (tests/streaming/sounds.py, quality.py, and r3.py for the reference). Signalsmith runs
in .venv-peers, by benchmarks/peers.py; R3 is heard where rubberband (rubberband-cli) is on PATH, and else not listed.
Both get whole sounds between silences, and the ratio that the vocoder applied, so that they render the same crops.

Run: python -m benchmarks.quality             the table
     python -m benchmarks.quality --remake    R3's mels that the tests read; needs rubberband
"""

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile

from benchmarks import harness
from benchmarks.harness import Section
from tests.streaming import quality, r3, sounds
from tests.streaming.sounds import RATE, Crop

PYTHON = harness.ROOT / ".venv-peers" / "bin" / "python"
SILENCE = 8000  # samples before a sound, twice that after it: no library is judged by how it starts or ends

Heard = list[tuple[np.ndarray, float]]  # (crop, applied pitch ratio)
Engine = Callable[[Sequence[Crop]], Heard]


def ours(engine: str) -> Engine:
    """Play crops by an engine of ours."""
    return lambda crops: [sounds.play(crop, engine=engine) for crop in crops]


def signalsmith(crops: Sequence[Crop]) -> Heard:
    """Play crops by python-stretch, in the peers' process."""
    ratios = [ratio for _, ratio in ours("vocoder")(crops)]
    with tempfile.TemporaryDirectory() as folder:
        notes, draws, heard = (Path(folder) / name for name in ("notes.npy", "draws.json", "heard.npz"))
        padded = [_padded(crop) for crop in crops]
        np.save(notes, np.stack(padded))
        told = [
            {"note": i, "semitones": 12 * math.log2(ratio), "speed": crop.speed, "start": 0,
             "length": round(len(padded[i]) / crop.speed)}
            for i, (crop, ratio) in enumerate(zip(crops, ratios, strict=True))
        ]  # fmt: skip
        draws.write_text(json.dumps(told))
        asked = json.dumps({"method": "python-stretch", "draws": list(range(len(crops))), "save": str(heard)})
        command = [PYTHON, Path(__file__).with_name("peers.py"), notes, draws]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, input=asked, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        with np.load(heard) as whole:
            return [(_cut(whole[f"arr_{i}"], crop), ratios[i]) for i, crop in enumerate(crops)]


def rubberband(crops: Sequence[Crop]) -> Heard:
    """Play crops by rubberband R3, at the vocoder's ratios."""
    return [(hear_r3(crop, ratio=ratio), ratio) for crop, (_, ratio) in zip(crops, ours("vocoder")(crops), strict=True)]


def hear_r3(crop: Crop, *, ratio: float) -> np.ndarray:
    """Return (length,): the crop by `rubberband -3`, whose offline mode makes up for its own delay."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "source.wav", Path(folder) / "target.wav"
        soundfile.write(source, _padded(crop), RATE, subtype="FLOAT")
        options = ["-3", "-q", "--time", repr(float(1 / crop.speed)), "--frequency", repr(float(ratio))]
        subprocess.run(["rubberband", *options, source, target], stderr=subprocess.DEVNULL, check=True)
        return _cut(soundfile.read(target, dtype="float32")[0], crop)


def _padded(crop: Crop) -> np.ndarray:
    return np.pad(crop.waveform, (SILENCE, 2 * SILENCE))


def _cut(whole: np.ndarray, crop: Crop) -> np.ndarray:
    begin = round((SILENCE + crop.start) / crop.speed)
    return whole[begin : begin + crop.length]


def remake() -> None:
    """Write R3's mels of the notes' crops, at each ratio that an engine of ours applies."""
    mels = {}
    for engine in sounds.ENGINES:
        for number, (crop, (_, ratio)) in enumerate(zip(sounds.notes(), ours(engine)(sounds.notes()), strict=True)):
            name = r3.name_mel(number, ratio)
            if name not in mels:
                mels[name] = quality.log_mel(hear_r3(crop, ratio=ratio))
    r3.write_mels(mels)
    print(f"{r3.MELS}: {len(mels)} mels, {r3.MELS.stat().st_size / 1000:.0f} kB", file=sys.stderr)


def row(name: str, engine: Engine) -> tuple[str, ...]:
    """Measure one engine on all sounds."""
    mels = r3.mel_distances(engine(sounds.notes()))
    tones = [(output, crop.partials * ratio) for crop, (output, ratio) in _pairs(engine, sounds.tones())]
    cents = [abs(quality.cents_off(*tone)) for tone in tones]
    rests = [quality.partials_to_rest(*tone) for tone in tones]
    played = _pairs(engine, sounds.bursts())
    bursts = [(output, crop.heard(crop.onset)) for crop, (output, _) in played]
    late = [quality.late_ms(output, crop) for crop, (output, _) in played]
    chords = [
        quality.partials_to_rest(output, crop.partials * ratio)
        for crop, (output, ratio) in _pairs(engine, sounds.chords())
    ]
    aliases = [quality.alias(output, crop.waveform) for crop, (output, _) in _pairs(engine, sounds.high_tones())]
    return (
        name,
        f"{np.median(mels):.2f} / {np.percentile(mels, 90):.2f}",
        f"{np.mean(cents):.1f} / {max(cents):.1f}",
        f"{np.median(rests):.0f} / {min(rests):.0f}",
        f"{np.median([quality.rise_ms(*burst) for burst in bursts]):.1f}",
        f"{np.median([quality.pre_echo(*burst) for burst in bursts]):.0f}",
        f"{np.abs(late).max():.1f}",
        f"{np.median(chords):.0f} / {min(chords):.0f}",
        f"{max(aliases):.0f}",
    )


def _pairs(engine: Engine, crops: Sequence[Crop]) -> list[tuple[Crop, tuple[np.ndarray, float]]]:
    return list(zip(crops, engine(crops), strict=True))


def run() -> list[Section]:
    """Measure our engines, and the libraries that are here."""
    harness.one_thread()
    engines: dict[str, Engine] = {f"streaming, {name}": ours(name) for name in sounds.ENGINES}
    if PYTHON.exists():
        engines["python-stretch (Signalsmith)"] = signalsmith
    if shutil.which("rubberband"):
        engines["rubberband R3"] = rubberband
    rows = [row(name, engine) for name, engine in engines.items()]
    return [
        Section(
            title="What is left of the sound",
            claim=f"Pitch within {sounds.SEMITONES:g} semitones and speed within {1 / sounds.SPEED:g} to "
            f"{sounds.SPEED:g} at 16 kHz. Log-mels of {len(sounds.NOTES)} rendered notes against those of rubberband "
            "R3; harmonic tones, sine bursts, dense inharmonic chords, and tones that move past half the sample rate.",
            columns=("engine", "log-mel distance to R3, dB, median / p90", "cents off, mean / max",
                     "partials to the rest, dB, median / worst", "10-90 % rise, ms (4.0 before)", "pre-echo, dB",
                     "onset off, ms", "chords, dB, median / worst", "aliasing, dB"),
            rows=rows,
            summary=f"The vocoder lies {rows[0][1]} dB from R3, median / 90 % of notes.",
        )
    ]  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:] == ["--remake"]:
        remake()
    else:
        harness.show("Quality of pitch and tempo", run(), packages=("torch", "numpy", "numba"))
