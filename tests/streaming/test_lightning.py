"""A Loader in other people's loops: a plain one and Lightning's, stopped in the middle of an epoch and resumed."""

from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from shards.index import open_pack
from streaming.loader import Loader

FAMILY = "instrument_family_str"


def make(data: Path) -> Loader:
    pack = open_pack(data, split="train")
    return Loader(pack, batch_size=12, seed=4, label=FAMILY, crop_seconds=0.1)


class Listener(lightning.LightningModule):
    """Learns nothing of use, and writes down what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1600, 3)
        self.heard: list[tuple[str, ...]] = []

    def training_step(self, batch, number: int) -> torch.Tensor:
        self.heard.append(batch.key)
        losses = torch.nn.functional.cross_entropy(self.layer(batch.waveform), batch.label, reduction="none")
        return (losses * batch.weight).sum() / len(batch.key)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(data: Path, folder: Path, *, steps: int, resume: Path | None = None) -> list[tuple[str, ...]]:
    listener, kept = Listener(), ModelCheckpoint(folder, save_top_k=-1, every_n_train_steps=1, filename="{step}")
    trainer = lightning.Trainer(
        default_root_dir=folder, max_steps=steps, max_epochs=-1, accelerator="cpu", devices=1, logger=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[kept],
    )  # fmt: skip
    trainer.fit(listener, make(data), ckpt_path=resume, weights_only=False)
    return listener.heard


def plain(data: Path, *, steps: int) -> list[tuple[str, ...]]:
    loader, heard = make(data), []
    while len(heard) < steps:
        for batch in loader:
            heard.append(batch.key)
            if len(heard) == steps:
                break
    return heard


def test_a_plain_loop_resumes_in_the_middle_of_an_epoch(data: Path):
    whole = plain(data, steps=14)
    for stop in (1, 4, 6, 9):
        first, second = make(data), make(data)
        heard = []
        while len(heard) < stop:
            heard += [batch.key for _, batch in zip(range(stop - len(heard)), first, strict=False)]
        second.load_state_dict(first.state_dict())
        while len(heard) < 14:
            heard += [batch.key for _, batch in zip(range(14 - len(heard)), second, strict=False)]
        assert heard == whole


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning's and its own dependencies' advice, which isn't ours to mend
@pytest.mark.parametrize("stop", [3, 6, 8])
def test_a_lightning_trainer_resumes_in_the_middle_of_an_epoch(data: Path, tmp_path: Path, stop: int):
    whole = plain(data, steps=11)
    assert fit(data, tmp_path / "whole", steps=11) == whole
    assert fit(data, tmp_path / "cut", steps=stop) == whole[:stop]
    assert fit(data, tmp_path / "cut", steps=11, resume=tmp_path / f"cut/step={stop}.ckpt") == whole[stop:]
