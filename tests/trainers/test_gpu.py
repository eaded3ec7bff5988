"""What only a GPU can show: the mel is the CPU's, and neither mel nor step waits for the device."""

import pytest
import torch

from benchmarks.gpu import make_learner, random_batch
from trainers.mel import LogMel
from trainers.step import train_step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and torch sees none here")


@pytest.fixture
def cuda() -> torch.device:
    return torch.device("cuda", 0)


def test_the_mel_on_the_device_is_the_cpus(cuda: torch.device):
    here, there = (random_batch(rows=5, sample_rate=16_000, device=torch.device(name)) for name in ("cpu", "cuda"))
    lengths = torch.tensor([40_000, 39_999, 20_000, 1_000, 1])
    mel = LogMel(sample_rate=16_000)
    expected = mel(here.waveform, lengths)
    found = mel.to(cuda)(there.waveform, lengths.to(cuda)).cpu()
    assert (found - expected).abs().max() * mel.config.floor_db < 1e-2


def test_a_step_never_waits_for_the_device(cuda: torch.device):
    batch, learner = random_batch(rows=32, sample_rate=16_000, device=cuda), make_learner(
        "test_resnet", device=cuda, sample_rate=16_000
    )  # fmt: skip
    train_step(learner, batch, batch_size=32, world_size=1, lr=1e-3)  # what is made once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = train_step(learner, batch, batch_size=32, world_size=1, lr=1e-3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert result.loss.isfinite()
    assert learner.dtype == torch.bfloat16
