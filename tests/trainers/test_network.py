"""What a network hears in training: a note's padding changes neither its picture nor what is averaged over time."""

import pytest
import timm
import torch

from trainers.mel import LogMel
from trainers.model import build_model
from trainers.network import Pooled, averages, weigh
from trainers.options import MelConfig, ModelConfig

RATE = 16_000


def notes(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(length, generator=generator) * 0.1 for length in lengths]


def padded(waves: list[torch.Tensor], length: int) -> torch.Tensor:
    return torch.stack([torch.nn.functional.pad(wave, (0, length - len(wave))) for wave in waves])


@pytest.mark.parametrize("options", [{}, {"reference": "fixed"}, {"power": 1, "mean": 0.4, "std": 0.2}])
def test_a_padded_notes_picture_is_its_own_and_then_silence(options):
    lengths = 8_000, 7_999, 5_000, 1_024, 300, 1
    waves, mel = notes(*lengths), LogMel(MelConfig(**options), sample_rate=RATE)
    length = torch.tensor(lengths)
    pictures = mel(padded(waves, 8_000), length)
    assert pictures.shape[-1] == 8_000 // 256 + 1
    for wave, picture, frames in zip(waves, pictures, mel.sounding_frames(length).tolist(), strict=True):
        alone = mel(wave[None])[0]
        assert alone.shape[-1] == frames
        torch.testing.assert_close(picture[..., :frames], alone, rtol=0, atol=1e-5)
        assert picture[..., frames:].eq(mel.config.lowest).all()


def test_without_padding_lengths_change_nothing():
    waves, mel = padded(notes(8_000, 8_000), 8_000), LogMel(sample_rate=RATE)
    assert torch.equal(mel(waves, torch.tensor([8_000, 8_000])), mel(waves))


def test_a_padded_notes_answer_is_its_answer_alone():
    lengths = 8_000, 5_000, 1_024
    waves, mel, length = notes(*lengths), LogMel(sample_rate=RATE), torch.tensor(lengths)
    model = build_model(ModelConfig(name="tests.trainers.worlds:Pointwise"), num_classes=3, seed=0)
    pictures = mel(padded(waves, 8_000), length)
    sounding = mel.sounding_frames(length) / pictures.shape[-1]
    alone = torch.cat([model(mel(wave[None])) for wave in waves])
    torch.testing.assert_close(Pooled(model)(pictures, sounding), alone, rtol=0, atol=1e-5)
    assert (model(pictures) - alone)[1:].abs().min() > 1e-3, "plain pooling hears the padding"


def test_a_column_that_the_end_runs_through_counts_by_its_share():
    features = torch.tensor([1.0, 2.0, 4.0, 8.0]).expand(2, 3, 5, 4)
    mean = weigh(features, torch.tensor([1.0, 2.5 / 4])).mean((2, 3))
    torch.testing.assert_close(mean, torch.tensor([[15 / 4], [(1 + 2 + 0.5 * 4) / 2.5]]).expand(2, 3))


@pytest.mark.parametrize(
    ("name", "knows"),
    [("test_resnet", True), ("test_efficientnet", True), ("test_convnext", True), ("test_vit", False)],
)
def test_timms_averaging_networks_leave_padding_out(name: str, knows: bool):
    model = timm.create_model(name, in_chans=1, num_classes=3).eval()
    assert averages(model) is knows
    if knows:
        pictures = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            whole, half = (Pooled(model)(pictures, torch.full((2,), share)) for share in (1.0, 0.5))
            torch.testing.assert_close(whole, model(pictures), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(half, whole, atol=1e-4)
