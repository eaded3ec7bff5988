"""The other libraries' side of benchmarks.augment and quality, run by the python of .venv-peers: it has none of ours.

    peers.py NOTES.npy DRAWS.json     first says {"versions": {...}}, then answers each line of stdin by one of stdout:
    {"method": name, "draws": [numbers]}  ->  {"seconds": [one a draw]}
    and with "save": PATH.npz, the crops too are written there, arr_0, arr_1, ...

Every method gets just the input that its crop needs, mono float32, and returns the crop at another pitch and speed.
Seconds are the processor's.
"""

import functools
import importlib.metadata
import json
import math
import sys
import time

import audiomentations
import librosa
import numpy as np
import python_stretch
import soundtouch

SAMPLE_RATE = 16_000

_stretch = python_stretch.Signalsmith.Stretch()
_stretch.preset(1, SAMPLE_RATE)


def signalsmith(piece: np.ndarray, *, semitones: float, speed: float) -> np.ndarray:
    """Do both in one pass, by one object that is used again (the same bits as a new one's, and faster)."""
    _stretch.reset()
    _stretch.setTransposeSemitones(semitones)
    _stretch.timeFactor = speed
    return _stretch.process(piece[None])[0]


def audiomentations_both(piece: np.ndarray, *, semitones: float, speed: float) -> np.ndarray:
    """Do one after the other, by its default method (Signalsmith)."""
    pitch = audiomentations.PitchShift(min_semitones=semitones, max_semitones=semitones, p=1.0)
    tempo = audiomentations.TimeStretch(min_rate=speed, max_rate=speed, leave_length_unchanged=False, p=1.0)
    return tempo(pitch(piece, sample_rate=SAMPLE_RATE), sample_rate=SAMPLE_RATE)


def librosa_both(piece: np.ndarray, *, semitones: float, speed: float) -> np.ndarray:
    """Do one after the other, by a phase vocoder and a resampler."""
    shifted = librosa.effects.pitch_shift(piece, sr=SAMPLE_RATE, n_steps=semitones)
    return librosa.effects.time_stretch(shifted, rate=speed)


METHODS = {"python-stretch": signalsmith, "audiomentations": audiomentations_both, "librosa": librosa_both}
VERSIONS = {name: importlib.metadata.version(name) for name in METHODS}

if soundtouch.version():  # optional: Debian's, not PyPI's
    METHODS["SoundTouch"], VERSIONS["SoundTouch"] = (
        functools.partial(soundtouch.stretch, soundtouch.start(SAMPLE_RATE)),
        soundtouch.version(),
    )


def timed(method, waveform: np.ndarray, draw: dict) -> tuple[float, np.ndarray]:
    """Return the seconds of one draw and its crop, checked to have about the length wanted."""
    started = time.process_time()
    piece = waveform[draw["start"] : draw["start"] + math.ceil(draw["length"] * draw["speed"])]
    crop = method(piece, semitones=draw["semitones"], speed=draw["speed"])
    seconds = time.process_time() - started
    assert abs(crop.shape[-1] - draw["length"]) < 2048, (crop.shape, draw)
    return seconds, crop


def main() -> None:
    """Answer until stdin ends."""
    waveforms = np.load(sys.argv[1])
    with open(sys.argv[2]) as file:  # noqa: PTH123
        draws = json.load(file)
    answer, sys.stdout = sys.stdout, sys.stderr  # what a library prints isn't an answer
    print(json.dumps({"versions": VERSIONS}), file=answer, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        method, chosen = METHODS[asked["method"]], [draws[i] for i in asked["draws"]]
        done = [timed(method, waveforms[draw["note"]], draw) for draw in chosen]
        if "save" in asked:
            np.savez(asked["save"], *(crop for _, crop in done))
        print(json.dumps({"seconds": [seconds for seconds, _ in done]}), file=answer, flush=True)


if __name__ == "__main__":
    main()
