"""Masks on the mel: stripes of the widths asked for, the same for a note on any rank, none unless asked."""

from pathlib import Path

import numpy as np
import pytest
import torch

from shards.bijection import uniforms
from shards.errors import UsageError
from streaming.world import World
from tests.streaming.test_loader import make, same, take
from trainers.masks import mask
from trainers.options import MaskConfig

BOTH = MaskConfig(time_masks=2, time_frames=10, mel_masks=1, mel_bands=6)


def drawn(rows: int, config: MaskConfig) -> torch.Tensor:
    return torch.from_numpy(uniforms(rows * config.draws, "masks").reshape(rows, -1).astype(np.float32))


def test_stripes_are_whole_and_no_wider_than_asked():
    pictures = torch.ones(500, 1, 40, 63)
    masked = mask(
        pictures,
        drawn(500, MaskConfig(time_masks=1, time_frames=10)),
        MaskConfig(time_masks=1, time_frames=10),
        silence=-2.0,
    )
    silent = (masked == -2.0)[:, 0]
    assert (silent.all(1) == silent.any(1)).all(), "over all bands"
    widths = silent[:, 0].sum(1)
    assert sorted(set(widths.tolist())) == list(range(11))
    edges = silent[:, 0].int().diff(dim=1).abs().sum(1)
    assert edges.max() <= 2, "in one piece"
    assert silent[:, 0].float().mean(0).min() > 0, "and anywhere"
    masked = mask(pictures, drawn(500, MaskConfig(mel_masks=1)), MaskConfig(mel_masks=1), silence=0.0)
    silent = (masked == 0)[:, 0]
    assert (silent.all(2) == silent.any(2)).all(), "over all frames"
    assert silent[:, :, 0].sum(1).max() == 6


def test_nothing_is_masked_unless_asked_for():
    pictures = torch.rand(3, 1, 40, 63)
    assert torch.equal(mask(pictures, torch.zeros(3, 0), MaskConfig(), silence=0.0), pictures)


def test_wider_than_the_picture_is_all_of_it():
    config = MaskConfig(mel_masks=1, mel_bands=99)
    masked = mask(torch.ones(50, 1, 4, 5), drawn(50, config), config, silence=0.0)
    assert set(masked.sum(dim=(1, 2, 3)).tolist()) == {0.0, 5.0, 10.0, 15.0, 20.0}


def test_a_note_has_its_masks_at_any_rank_reader_and_resume(data: Path):
    whole = take(make(data, draws=BOTH.draws), 4)
    assert whole[0].draws.shape == (12, 6)
    assert all((batch.draws >= 0).all() and (batch.draws < 1).all() for batch in whole)
    assert len(set(whole[0].draws.flatten().tolist())) == 72
    parts = [take(make(data, draws=BOTH.draws, world=World(rank=rank, world_size=3)), 4) for rank in range(3)]
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([part[step].draws for part in parts]), batch.draws)
    late = make(data, draws=BOTH.draws)
    late.load_state_dict(make(data, draws=BOTH.draws, cursor=24).state_dict())
    assert all(same(*pair) for pair in zip(take(late, 2), whole[2:], strict=True))


@pytest.mark.slow
def test_readers_hand_on_the_draws(data: Path):
    pairs = zip(take(make(data, draws=4, readers=2), 4), take(make(data, draws=4), 4), strict=True)
    assert all(same(*pair) for pair in pairs)


def test_errors_speak():
    with pytest.raises(UsageError, match=r"masks time_frames must not be negative, got -1: 0 is none"):
        MaskConfig(time_frames=-1)
