"""The adapter: audiomentations' transforms give the same bits in any reader, and move no generator of anybody's."""

import pickle
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from streaming.adapter import Audiomentations
from streaming.draws import Draw
from tests.streaming.test_generators import stand, stir
from tests.streaming.test_loader import make, same, take

audiomentations = pytest.importorskip("audiomentations")
DRAW = Draw(seed=1, epoch=0, pack=0, key="a-note", repeat=0, place=0, sample_rate=16_000)


def chain() -> Audiomentations:
    return Audiomentations(
        audiomentations.Compose(
            [
                audiomentations.AddGaussianNoise(min_amplitude=0.001, max_amplitude=0.05, p=0.7),
                audiomentations.TanhDistortion(min_distortion=0.1, max_distortion=0.6, p=0.6),
            ],
            shuffle=True,
        )
    )


def test_the_key_decides_and_no_global_generator_is_moved():
    wave = np.sin(np.arange(4_000) / 9).astype(np.float32)
    found = []
    for _ in range(3):
        stir()
        before = stand()
        found.append(chain()(wave.copy(), DRAW))
        assert stand() == before
    assert all(np.array_equal(found[0], other) for other in found)
    noise = Audiomentations(audiomentations.AddGaussianNoise(p=1.0))
    assert not np.array_equal(noise(wave, DRAW), noise(wave, Draw(**{**vars(DRAW), "place": 1})))


def test_generators_are_put_back_after_an_error_too():
    def fail(samples, sample_rate):
        random.random()
        np.random.random()
        raise OSError("no impulse responses here")

    stir()
    before = stand()
    with pytest.raises(OSError, match="no impulse"):
        Audiomentations(fail)(np.zeros(9, np.float32), DRAW)
    assert stand() == before


@pytest.mark.slow
def test_the_same_bits_in_readers_and_after_a_resume(data: Path):
    plain, whole = take(make(data), 6), take(make(data, transforms=[chain()]), 6)
    moved = [not torch.equal(*pair) for pair in zip(plain[0].waveform, whole[0].waveform, strict=True)]
    assert 0 < sum(moved) <= 12
    assert all(same(*pair) for pair in zip(take(make(data, transforms=[chain()], readers=2), 6), whole, strict=True))
    late = make(data, transforms=[chain()])
    late.load_state_dict(make(data, cursor=36).state_dict())
    assert all(same(*pair) for pair in zip(take(late, 3), whole[3:], strict=True))


def test_it_is_named_in_errors_and_can_be_sent():
    assert pickle.loads(pickle.dumps(chain())).__qualname__ == "Audiomentations(Compose)"
    assert "audiomentations" in sys.modules
