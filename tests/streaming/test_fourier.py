"""The transform's laws: numpy's results at every size that an engine may take, one signal whatever lies beside it."""

import numpy as np
import pytest

from streaming import layout
from streaming.fourier import lay_frames, lay_spectra, plan, transform

SIZES = {overlap: [overlap * number for number in layout._friendly(overlap)] for overlap in (2, 3)}
SOME = sorted({*SIZES[2][::29], *SIZES[3][::29], *SIZES[2][:2], *SIZES[3][-2:]})


def noise(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def transformed(signals):
    """Transform two complex signals, (2, size)."""
    size = signals.shape[1]
    waveform = np.concatenate([part for signal in signals for part in (signal.real, signal.imag)]).astype(np.float32)
    rows, planes = np.empty(4 * size, np.float32), np.empty((4, size), np.float32)
    lay_frames(waveform, 0, size, 2 * size, 3 * size, np.ones(size, np.float32), rows)
    transform(rows, plan(size), planes)
    return planes[::2] + 1j * planes[1::2]


def test_every_radix_is_in_some_size():
    assert {radix for size in SOME for radix in plan(size).radices} == set(layout.COSTS)


@pytest.mark.parametrize("size", SOME)
def test_it_is_numpys_transform(size):
    a, b, c, d = noise(4, size).astype(np.float64)
    signals = np.stack((a + 1j * b, c + 1j * d))
    expected = np.fft.fft(signals)
    np.testing.assert_allclose(transformed(signals), expected, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("size", SOME)
def test_back_and_forth_is_the_signal(size):
    planes, rows, back = noise(4, size), np.empty(4 * size, np.float32), np.empty((4, size), np.float32)
    lay_frames(planes.ravel(), 0, size, 2 * size, 3 * size, np.ones(size, np.float32), rows)
    transform(rows, plan(size), back)
    lay_spectra(back, rows)
    transform(rows, plan(size), back)
    np.testing.assert_allclose(back[[1, 0, 3, 2]] / size, planes, atol=1e-5)


def test_a_signals_bits_do_not_depend_on_its_neighbour():
    a, b, c, d, e, f = noise(6, 1500).astype(np.float64)
    one, two = transformed(np.stack((a + 1j * b, c + 1j * d))), transformed(np.stack((a + 1j * b, 1e6 * (e + 1j * f))))
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(transformed(np.stack((c + 1j * d, a + 1j * b)))[1], one[0])


def test_an_impulse_is_a_wave_of_its_own_place():
    size = 1716  # 4 * 3 * 11 * 13
    for place in (0, 1, 3, 4, size - 1):
        signals = np.zeros((2, size), complex)
        signals[1, place] = 1j
        expected = 1j * np.exp(-2j * np.pi * place * np.arange(size) / size)
        found = transformed(signals)
        assert not found[0].any()
        np.testing.assert_allclose(found[1], expected, atol=1e-6)
