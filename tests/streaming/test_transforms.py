"""Laws of one's own transforms: keyed draws, the same bits in any reader and after a resume, faults told by name."""

import dataclasses
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from shards.errors import UsageError
from shards.index import open_pack
from streaming.augment import Augment
from streaming.draws import Draw
from streaming.evaluation import whole_notes
from streaming.world import World
from tests.streaming.test_loader import FAMILY, make, same, take

NOTE = Draw(seed=1, epoch=2, pack=0, key="a-note", repeat=0, place=0, sample_rate=16_000)


def shade(waveform: NDArray[np.float32], draw: Draw) -> NDArray[np.float32]:
    """Write to the row's own memory."""
    waveform *= np.float32(0.5 + draw.uniforms(1)[0])
    return waveform


def hiss(waveform: NDArray[np.float32], draw: Draw) -> NDArray[np.float32]:
    """Give another array."""
    return waveform + 0.01 * draw.generator("hiss").standard_normal(len(waveform), np.float32)


def backwards(waveform: NDArray[np.float32], draw: Draw) -> NDArray[np.float32]:
    """Give a view of the row's own memory."""
    return waveform[::-1]


@dataclasses.dataclass(frozen=True)
class Wrong:
    """Give what a transform mustn't, for one note."""

    kind: str

    def __call__(self, waveform, draw):
        return {
            "list": waveform.tolist(), "double": waveform.astype(np.float64), "short": waveform[:-1],
            "nan": np.where(np.arange(len(waveform)) == 5, np.float32("nan"), waveform),
        }[self.kind]  # fmt: skip


OWN = [shade, hiss, backwards]
GOLDEN = [0.7882719128606093, 0.4782445114857101]


def test_draws_are_named_by_the_note_the_place_and_the_name():
    drawn = NOTE.uniforms(12).tolist()
    assert NOTE.uniforms(30)[:12].tolist() == drawn, "more of them change none"
    assert all(0 <= one < 1 for one in drawn)
    others = [dataclasses.replace(NOTE, **change) for change in (
        {"seed": 2}, {"epoch": 3}, {"pack": 1}, {"key": "b-note"}, {"repeat": 1}, {"place": 1},
    )]  # fmt: skip
    found = [drawn, NOTE.uniforms(12, "other").tolist(), *(other.uniforms(12).tolist() for other in others)]
    assert len({one for some in found for one in some}) == 12 * 8
    assert dataclasses.replace(NOTE, sample_rate=8_000).uniforms(12).tolist() == drawn
    assert 0 <= NOTE.integer() == int(drawn[0] * 2**53) < 2**53
    assert NOTE.generator().standard_normal() == NOTE.generator().standard_normal()
    assert NOTE.generator().standard_normal() != NOTE.generator("other").standard_normal()


def test_golden_draws():
    """They are the same for ever: a run can be repeated."""
    assert NOTE.uniforms(2, "gain").tolist() == GOLDEN
    assert pickle.loads(pickle.dumps(NOTE)) == NOTE


def test_they_run_in_order_on_the_crop_and_see_its_key(data: Path):
    plain, changed = next(iter(make(data))), next(iter(make(data, transforms=OWN)))
    for row, (before, after) in enumerate(zip(plain.waveform, changed.waveform, strict=True)):
        draws = [
            Draw(seed=4, epoch=0, pack=0, key=plain.key[row], repeat=0, place=place, sample_rate=16_000)
            for place in range(3)
        ]
        expected = before.numpy().copy()
        for transform, draw in zip(OWN, draws, strict=True):
            expected = transform(expected, draw)
        np.testing.assert_array_equal(after.numpy(), expected)
    assert torch.equal(plain.label, changed.label)
    assert torch.equal(plain.semitones, changed.semitones)


def test_they_run_without_any_augmentation_too(data: Path):
    batch = next(iter(make(data, augment=Augment(), transforms=[backwards])))
    assert torch.equal(batch.waveform.flip(1), next(iter(make(data, augment=None))).waveform)


@pytest.mark.slow
def test_the_same_bits_in_readers_and_after_a_resume(data: Path):
    whole = take(make(data, transforms=OWN), 7)
    assert all(same(*pair) for pair in zip(take(make(data, transforms=OWN, readers=2), 7), whole, strict=True))
    late = make(data, transforms=OWN)
    late.load_state_dict(make(data, cursor=36).state_dict())
    assert all(same(*pair) for pair in zip(take(late, 4), whole[3:], strict=True))


def test_a_repeat_and_an_epoch_draw_anew(data: Path):
    first, second = take(make(data, batch_size=61, augment=None, transforms=[shade]), 2)
    peaks = dict(zip(second.key, second.waveform.abs().amax(dim=1).tolist(), strict=True))
    assert not any(
        peaks[key] == peak for key, peak in zip(first.key, first.waveform.abs().amax(1).tolist(), strict=True)
    )


@pytest.mark.parametrize(
    ("kind", "told"),
    [("list", "list"), ("double", r"float64 of shape \(8000,\)"), ("short", r"float32 of shape \(7999,\)"),
     ("nan", "NaN or inf")],
)  # fmt: skip
def test_wrong_results_are_told_with_the_transform_and_the_key(data: Path, kind: str, told: str):
    message = (
        rf"transform Wrong must give finite float32 of shape \(8000,\), got {told} for \w+_\w+_\d+-\d+-\d+: end it"
    )
    with pytest.raises(UsageError, match=message) as caught:
        next(iter(make(data, transforms=[shade, Wrong(kind)])))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_wrong_results_are_told_from_a_reader_too(data: Path):
    loader = make(data, transforms=[Wrong("short")], readers=1)
    with pytest.raises(UsageError, match=r"transform Wrong must give finite"):
        next(iter(loader))
    loader.close()


def test_one_that_cannot_be_sent_is_told(data: Path):
    with pytest.raises(
        UsageError, match=r"transform test_one.*<lambda> can't be sent to a reader .*: define it at the"
    ):
        make(data, readers=1, transforms=[lambda waveform, draw: waveform])
    next(iter(make(data, transforms=[lambda waveform, draw: waveform])))


def test_a_masked_row_stays_silent(data: Path, tmp_path: Path):
    shutil.copytree(data, tmp_path / "bad")
    for tar in (tmp_path / "bad/train").glob("*.tar"):
        tar.write_bytes(bytes(tar.stat().st_size))
    noisy = Augment(noise_probability=1)
    batch = next(iter(make(tmp_path / "bad", augment=noisy, transforms=OWN, on_bad_row="mask", bad_share=1.0)))
    assert not batch.weight.any()
    assert not batch.waveform.any()
    assert not batch.semitones.any()


def test_evaluation_never_runs_them(data: Path):
    """It takes none: whole notes, as they are."""
    pack = open_pack(data, split="valid")
    batch = next(iter(whole_notes(pack, label=FAMILY, classes=pack.classes[FAMILY], batch_size=4, world=World())))
    assert not batch.semitones.any()
    assert len(batch.semitones) == 4
