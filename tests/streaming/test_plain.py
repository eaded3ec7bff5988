"""The slow twins: they agree with the compiled engines, and serve where numba can't be had, with one line about it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from shards.index import open_pack
from streaming import plain, vocoder
from streaming.augment import Augment
from streaming.layout import Engine, lay_out
from streaming.loader import Loader
from streaming.scratch import cut_piece
from tests.streaming import quality, sounds

AUGMENT = Augment(pitch_semitones=4, speed=1.2, random_start=True, low_pass=0.7, noise_probability=0.5)
WITHOUT = """
import sys

sys.modules["numba"] = None
import numpy as np

from shards.index import open_pack
from streaming.augment import Augment
from streaming.loader import Loader

data, out, engine = sys.argv[1:]
augment = Augment(pitch_semitones=4, speed=1.2, random_start=True, low_pass=0.7, noise_probability=0.5, engine=engine)
loader = Loader(
    open_pack(data, split="train"), batch_size=6, label="instrument_family_str", crop_seconds=0.8, seed=3,
    augment=augment,
)
np.save(out, next(iter(loader)).waveform.numpy())
loader.close()
"""


def render(waveform, *, engine: Engine, **options):
    """Render by the slow twin what vocoder.render would."""
    layout = lay_out(engine=engine, **({"band": 1.0} | options))
    output = np.empty(options["length"], np.float32)
    plain.render(cut_piece(waveform, layout.first, layout.last).copy(), layout, output)
    return output, layout.ratio


@pytest.mark.parametrize(
    ("semitones", "speed", "band"), [(-4, 1.25, 1.0), (-1.3, 0.8, 0.5), (0, 1.2, 1.0), (5, 0.9, 0.9), (0, 1, 0.6)]
)
def test_the_vocoders_agree(semitones, speed, band):
    time = np.arange(48_000) / 16_000
    waveform = sum(np.sin(2 * np.pi * 196 * k * time + k * k) / k for k in range(1, 20)) * (time > 0.7)
    waveform = (0.1 * waveform + 0.01 * np.random.default_rng(8).standard_normal(48_000)).astype(np.float32)
    options = {"pitch_ratio": 2 ** (semitones / 12), "speed": speed, "start": 9000.3, "length": 16_000, "band": band}
    expected, ratio = render(waveform, engine="vocoder", **options)
    output, applied = vocoder.render(waveform, **options)
    assert applied == ratio
    np.testing.assert_allclose(output, expected, atol=1e-3)


def test_wsolas_agree_where_a_frame_can_go_on_as_it_was():
    waveform = 0.1 * np.random.default_rng(8).standard_normal(48_000).astype(np.float32)
    ratio = lay_out(pitch_ratio=1.12, speed=1.0, start=0, length=1, band=1.0, engine="wsola").ratio
    options = {"pitch_ratio": 1.12, "speed": ratio * 1.005, "start": 9000.3, "length": 8000}
    expected, _ = render(waveform, engine="wsola", **options)
    output, _ = vocoder.render(waveform, engine="wsola", **options)
    np.testing.assert_allclose(output, expected, atol=1e-4)


def test_the_slow_wsola_keeps_harmonics_above_the_rest():
    rests = []
    for crop in sounds.tones()[::4]:
        options = {"pitch_ratio": 2 ** (crop.semitones / 12), "speed": crop.speed, "start": float(crop.start)}
        output, ratio = render(crop.waveform, engine="wsola", length=crop.length, **options)
        rests.append(quality.partials_to_rest(output, crop.partials * ratio))
    assert min(rests) >= 30, np.round(rests)


@pytest.mark.parametrize("engine", ["vocoder", "wsola"])
def test_without_numba_a_loader_serves_and_says_so_once(data: Path, tmp_path: Path, engine: Engine):
    script, out = tmp_path / "without.py", tmp_path / "out.npy"
    script.write_text(WITHOUT)
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, script, data, out, engine], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr.count("numba can't be imported") == 1, done.stderr
    loader = Loader(
        open_pack(data, split="train"), batch_size=6, label="instrument_family_str", crop_seconds=0.8, seed=3,
        augment=Augment(**{**vars(AUGMENT), "engine": engine}),
    )  # fmt: skip
    expected, found = next(iter(loader)).waveform, torch.from_numpy(np.load(out))
    if engine == "vocoder":
        # a weak bin can be a peak by less than float32's rounding, and then takes another turn
        assert ((found - expected).abs() > 2e-3).float().mean() < 0.01
    # where frames went may differ: as loud as it was, row by row
    torch.testing.assert_close(found.square().mean(1).sqrt(), expected.square().mean(1).sqrt(), atol=2e-3, rtol=0.1)
