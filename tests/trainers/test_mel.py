"""The log-mel: against a ten-line reference, blind to neighbours, finite on exact silence."""

import librosa
import numpy as np
import pytest
import torch

from shards.errors import UsageError
from trainers.mel import LogMel
from trainers.options import MelConfig

RATE = 16_000


def reference(wave: np.ndarray, *, n_fft=1024, hop=256, n_mels=40, f_min=20.0, f_max=8000.0, floor=80.0) -> np.ndarray:
    """The whole feature in ten lines of numpy: frames, power, HTK triangles, dB below the maximum, 0..1."""
    padded = np.pad(wave.astype(np.float64), n_fft // 2, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    frames = np.stack([padded[i : i + n_fft] * window for i in range(0, len(padded) - n_fft + 1, hop)])
    power = np.abs(np.fft.rfft(frames)) ** 2
    to_mel, to_hz = lambda f: 2595 * np.log10(1 + f / 700), lambda m: 700 * (10 ** (m / 2595) - 1)
    edges = to_hz(np.linspace(to_mel(f_min), to_mel(f_max), n_mels + 2))
    slopes = edges[:, None] - np.linspace(0, RATE / 2, n_fft // 2 + 1)
    width = np.diff(edges)[:, None]
    bands = np.maximum(0, np.minimum(-slopes[:-2] / width[:-1], slopes[2:] / width[1:]))
    level = 10 * np.log10(np.maximum(bands @ power.T, 1e-10))
    return np.maximum(level - level.max(), -floor) / floor + 1


def notes(rows: int, length: int = 16_000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(length) / RATE
    pitch = 110 * 2 ** (torch.rand(rows, 1, generator=generator) * 3)
    tones = sum(torch.sin(2 * torch.pi * k * pitch * time) / k for k in range(1, 6))
    return tones * torch.exp(-3 * time) * 0.3 + torch.randn(rows, length, generator=generator) * 1e-3


@pytest.mark.parametrize(("hop", "n_mels", "f_max", "floor"), [(256, 40, 8000.0, 80.0), (200, 64, 7000.0, 60.0)])
def test_equals_a_ten_line_reference(hop, n_mels, f_max, floor):
    waves = notes(3)
    mel = LogMel(MelConfig(hop_length=hop, n_mels=n_mels, f_max=f_max, floor_db=floor), sample_rate=RATE)
    for wave, picture in zip(waves, mel(waves), strict=True):
        expected = reference(wave.numpy(), hop=hop, n_mels=n_mels, f_max=f_max, floor=floor)
        assert picture.shape == (1, n_mels, 16_000 // hop + 1)
        # 1e-3 dB where a note sounds; bands 60 dB down hold float32's rounding of the loudest bin
        assert np.abs(picture[0].numpy() - expected).max() * floor < 5e-3


@pytest.mark.parametrize(
    ("options", "rate"),
    [
        ({}, 16_000),
        ({"n_fft": 2048, "win_length": 1200, "hop_length": 300, "n_mels": 64}, 16_000),
        ({"n_fft": 2048, "n_mels": 128, "f_max": 22_050.0, "mel_scale": "slaney", "norm": "slaney"}, 44_100),
        ({"power": 1, "n_mels": 32, "floor_db": 60.0}, 16_000),
    ],
)  # fmt: skip
def test_equals_librosa_within_a_thousandth_of_a_decibel(options, rate):
    config = MelConfig(**options)
    waves, power = notes(3), config.power
    pictures = LogMel(config, sample_rate=rate)(waves)[:, 0].numpy()
    for wave, picture in zip(waves.double().numpy(), pictures, strict=True):
        bands = librosa.feature.melspectrogram(
            y=wave, sr=rate, n_fft=config.n_fft, win_length=config.win_length, hop_length=config.hop_length,
            n_mels=config.n_mels, fmin=config.f_min, fmax=config.f_max, htk=config.mel_scale == "htk", norm=config.norm,
            power=power, pad_mode="reflect", dtype=np.float64,
        )  # fmt: skip
        to_db = librosa.power_to_db if power == 2 else librosa.amplitude_to_db
        level = to_db(bands, ref=np.max, top_db=config.floor_db, amin=1e-10 if power == 2 else 1e-5)
        off = np.abs((picture - 1) * config.floor_db - level)
        assert off[level > -50].max() < 1e-3
        assert off.max() < 2e-2, "bands far down hold float32's rounding of the loudest bin"


@pytest.mark.parametrize("options", [{}, {"win_length": 801, "hop_length": 123}, {"n_fft": 511, "n_mels": 16}])
def test_powers_are_torchaudios(options):
    mel, waves = LogMel(MelConfig(**options), sample_rate=RATE), notes(3)
    expected = mel.spectrogram(waves)
    torch.testing.assert_close(mel._bands(waves), expected, rtol=1e-4, atol=float(expected.max()) * 1e-7)


def test_a_fixed_reference_keeps_loudness_and_a_network_gets_its_mean_and_std():
    waves = notes(2)
    fixed = LogMel(MelConfig(reference="fixed"), sample_rate=RATE)
    torch.testing.assert_close(fixed(waves * 10) - fixed(waves), torch.full((2, 1, 40, 63), 20 / 80), rtol=0, atol=1e-4)
    assert fixed(torch.zeros(1, 8_000)).eq(0).all()
    config = MelConfig(mean=0.4, std=0.2)
    scaled, plain = (LogMel(one, sample_rate=RATE)(waves) for one in (config, MelConfig()))
    torch.testing.assert_close(scaled, (plain - 0.4) / 0.2)
    assert config.lowest == LogMel(config, sample_rate=RATE)(torch.zeros(1, 8_000)).max()


def test_a_note_does_not_depend_on_its_neighbours():
    waves = notes(9)
    waves[3] *= 100
    mel = LogMel(sample_rate=RATE)
    together = mel(waves)
    for i in range(9):
        torch.testing.assert_close(mel(waves[i : i + 1])[0], together[i], rtol=0, atol=1e-6)


def test_loudness_does_not_matter_and_values_lie_in_0_1():
    waves = notes(2)
    mel = LogMel(sample_rate=RATE)
    torch.testing.assert_close(mel(waves), mel(waves * 0.25), rtol=0, atol=1e-4)
    assert mel(waves).min() >= 0
    assert mel(waves).amax(dim=(1, 2, 3)).tolist() == [1.0, 1.0]


def test_exact_silence_gives_finite_values_and_gradients():
    waves = torch.zeros(2, 8_000)
    waves[0, :4_000] = notes(1, 4_000)[0]
    waves.requires_grad_()
    picture = LogMel(sample_rate=RATE)(waves)
    picture.square().sum().backward()
    assert picture.isfinite().all()
    assert waves.grad is not None
    assert waves.grad.isfinite().all()
    assert picture[1].eq(0).all(), "as dark as silence between notes"


@pytest.mark.parametrize("length", [1, 100, 512, 513, 1023])
def test_a_note_shorter_than_a_frame_is_one_that_falls_silent(length: int):
    """The last window of a long clip may hold a single sample; a reflected edge would need 513."""
    waves = notes(5, 1024)[:, :length]
    mel = LogMel(sample_rate=RATE)
    padded = torch.nn.functional.pad(waves, (0, 1024 - length))
    assert torch.equal(mel(waves), mel(padded))
    expected = np.stack([reference(wave.numpy()) for wave in padded])
    assert np.abs(mel(waves)[:, 0].numpy() - expected).max() * 80 < 5e-3
    assert mel(notes(2, 1024)).shape == (2, 1, 40, 5), "just long enough"


def test_errors_speak():
    with pytest.raises(UsageError, match=r"f_max must be at most 4000 Hz, half the rate, got 8000"):
        LogMel(sample_rate=8_000)
    with pytest.raises(UsageError, match=r"mel hop_length must be positive, got 0"):
        MelConfig(hop_length=0)
    with pytest.raises(UsageError, match=r"mel win_length must lie in 1\.\.n_fft \(1024\), got 2048"):
        MelConfig(win_length=2048)
    with pytest.raises(UsageError, match=r"mel mel_scale must be htk or slaney, got 'bark'"):
        MelConfig(mel_scale="bark")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match=r"mel n_mels \(200\) is too high for an n_fft of 512 at 16000 Hz"):
        LogMel(MelConfig(n_mels=200, n_fft=512), sample_rate=16_000)
    with pytest.raises(UsageError, match=r"mel f_min must lie in 0\.\.f_max \(100 Hz\), got 200"):
        MelConfig(f_min=200, f_max=100)
