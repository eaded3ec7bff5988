"""quality: what came out, what should have -> figures in dB, cents and ms.

The definitions were chosen so that Signalsmith's figures come out as they were known, then kept for every engine.
"""

import numpy as np
import torch

from tests.streaming.sounds import ATTACK, RATE, Audio, Crop
from trainers.mel import LogMel


def log_mel(waveform: Audio) -> Audio:
    """Return the trainers' log-mel, (40, frames), in dB below the crop's own maximum, down to -80."""
    mel = LogMel(sample_rate=RATE)
    return (mel(torch.from_numpy(np.asarray(waveform, np.float32))[None])[0, 0].numpy() - 1) * mel.config.floor_db


def mel_distance(mel: Audio, reference: Audio) -> float:
    """Return the mean absolute difference of two log-mels over all bands and frames, in dB."""
    return float(np.abs(mel - reference).mean())


def cents_off(output: Audio, partials: Audio) -> float:
    """Return how far the partials of a steady sound lie from those expected (Hz), in cents, weighted by amplitude."""
    middle, size = _middle(output), 1 << 18
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), size))
    reach = np.clip(0.012 * partials, 6, partials[0] / 2)
    found, weights = [], []
    for hz, width in zip(partials, reach, strict=True):
        low, high = (int(edge * size / RATE) for edge in (hz - width, hz + width))
        k = low + int(spectrum[low : high + 2].argmax())
        left, top, right = np.log(spectrum[k - 1 : k + 2])
        at = (k + 0.5 * (left - right) / (left - 2 * top + right)) * RATE / size  # of the parabola through the three
        found.append(1200 * np.log2(at / hz))
        weights.append(spectrum[k])
    return float(np.average(found, weights=weights))


def partials_to_rest(output: Audio, partials: Audio) -> float:
    """Return the energy within 10 cents (and a window's main lobe, 4 Hz) of the partials (Hz) to all other, in dB."""
    middle = _middle(output)
    turn = 2 * np.pi * np.arange(len(middle)) / len(middle)
    # Blackman-Harris: side lobes at -92 dB, so that a loud partial isn't counted among the rest
    window = 0.35875 - 0.48829 * np.cos(turn) + 0.14128 * np.cos(2 * turn) - 0.01168 * np.cos(3 * turn)
    power, hz = np.abs(np.fft.rfft(middle * window)) ** 2, np.fft.rfftfreq(len(middle), 1 / RATE)
    lobe = 4 * RATE / len(middle)
    near = np.zeros(len(hz), bool)
    for partial in partials:
        near |= np.abs(hz - partial) <= max(lobe, partial * (2 ** (10 / 1200) - 1))
    return decibels(power[near].sum(), power[~near].sum())


def rise_ms(output: Audio, onset: float) -> float:
    """Return how long the envelope takes from 10 to 90 % of its maximum in the 60 ms after an onset, in ms."""
    top, low, high = (_crossing(output, onset, level) for level in (1.0, 0.1, 0.9))
    assert low < high <= top
    return (high - low) / RATE * 1000


def pre_echo(output: Audio, onset: float) -> float:
    """Return the power from 50 to 2 ms before an onset (output sample) to that of the 50 ms after it, in dB."""
    at = int(onset)
    before, after = output[at - 800 : at - 32], output[at : at + 800]
    return decibels(np.mean(np.square(before, dtype=np.float64)), np.mean(np.square(after, dtype=np.float64)))


def late_ms(output: Audio, crop: Crop) -> float:
    """Return how much later than it should a burst's envelope passes half of its maximum, in ms."""
    expected = crop.heard(crop.onset + ATTACK / 2)
    return (_crossing(output, crop.heard(crop.onset), 0.5) - expected) / RATE * 1000


def alias(output: Audio, waveform: Audio) -> float:
    """Return the level of what should be silent to that of its input, in dB."""
    middle = output[2000:-2000]  # a window's edge cuts the sine, and a cut holds all frequencies
    return decibels(np.mean(np.square(middle, dtype=np.float64)), np.mean(np.square(waveform, dtype=np.float64)))


def decibels(power: float | np.floating, reference: float | np.floating) -> float:
    """Return a ratio of powers in dB, -200 at least."""
    return 10 * float(np.log10(power / reference + 1e-20))


def _middle(output: Audio) -> Audio:
    return output[4000:20_000].astype(np.float64)


def _crossing(output: Audio, onset: float, level: float) -> int:
    """Return the sample after which the envelope (magnitude of the analytic signal) stays above a share of its top."""
    spectrum = np.fft.fft(output.astype(np.float64))
    spectrum[1 : len(output) // 2] *= 2
    spectrum[len(output) // 2 + 1 :] = 0
    begin = int(onset) - 800
    envelope = np.abs(np.fft.ifft(spectrum))[begin : begin + 800 + 960]
    reached = int((envelope >= 0.9 * envelope.max()).argmax()) if level < 1 else int(envelope.argmax())
    return begin + reached - (int((envelope[reached::-1] < level * envelope.max()).argmax()) if level < 0.9 else 0)
