"""peek: a run's config -> a batch as the network will see it, before and after augmentation, on one HTML page.

The batch is the loader's own, and its mel the run's. The notes before it and the draws between them are made anew from
what names them, so nothing has to be carried out of the readers.
"""

import contextlib
import dataclasses
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from shards.errors import DataError, UsageError
from shards.format import write_whole
from shards.remote import locate
from streaming.batch import Batch
from streaming.clips import read_note
from streaming.loader import Loader
from streaming.mix import make_order, parse_data
from streaming.store import Store
from streaming.stores import open_stores
from streaming.view import View, apply_view, draw_view, valid_length
from streaming.world import World
from trainers.config import TrainConfig
from trainers.data import Data, check_split, open_data, open_split
from trainers.mel import LogMel
from trainers.network import see
from trainers.peek_page import Peek, Row, Sound, render_peek
from trainers.predictions import tell
from trainers.training import make_loader

TOLD = ("label", "seed", "where", "batch_size", "crop_seconds", "pad", "on_bad_row", "verify_reads", "transforms")
TOLD_OF_TRAIN = ("limit", "balance", "lanes", "window")  # they hold for no other split


def write_peek(config: TrainConfig, *, out: Path, split: str = "train", rows: int = 8, cursor: int = 0) -> None:
    """Write the page of the batch at `cursor` to `out`, making its folder; the file appears whole, by rename.

    Raises:
        UsageError: an argument that doesn't fit, or there are no such data, split or label.
        DataError: the data is damaged.
    """
    if out.is_dir():
        raise UsageError(f"out must be a file, got the folder {out}: take {out / 'peek.html'}")
    page = render_peek(look(config, split=split, rows=rows, cursor=cursor))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, page.encode("utf-8", errors="backslashreplace"))


def look(config: TrainConfig, *, split: str, rows: int, cursor: int) -> Peek:
    """Take the first `rows` rows of the global batch at `cursor`, as a run with this config gets them (see write_peek).

    No world size changes a row, so they are had as the share of a rank that has no more than it must.
    """
    if rows < 1:
        raise UsageError(f"rows must be at least 1, got {rows}: 8 are shown unless you say")
    data = _open(config, split=split)
    world = World(rank=0, world_size=max(1, config.batch_size // rows))
    loader = make_loader(config, data, world=world, readers=0, device="cpu", cursor=cursor)
    with contextlib.closing(loader):
        batch = next(iter(loader))
        shown = _rows(loader, batch, config=config, count=min(rows, len(batch.key)))
    return Peek(
        split=split,
        cursor=cursor,
        batch_size=config.batch_size,
        sample_rate=data.sample_rate,
        mel=config.mel,
        rows=shown,
        settings=_settings(config, data=data, split=split, cursor=cursor),
    )


def _open(config: TrainConfig, *, split: str) -> Data:
    """Open the data so that the run would learn `split`: all rows of it that `where` keeps, each once."""
    data = open_data(config)
    if split == "train":
        return data
    found = open_split(config, split)
    check_split(found, label=config.label, classes=data.classes, many=data.many, sample_rate=data.sample_rate)
    order = make_order(found.packs, seed=config.seed, where=config.where)
    return dataclasses.replace(data, splits={**data.splits, "train": found}, order=order)


@torch.no_grad()
def _rows(loader: Loader, batch: Batch, *, config: TrainConfig, count: int) -> tuple[Row, ...]:
    mel = LogMel(config.mel, sample_rate=loader.packs[0].sample_rate)
    pictures, _ = see(batch.map(lambda tensor: tensor[:count]), mel=mel, masks=config.masks)
    pictures = config.mel.draw(pictures[:, 0].numpy())
    slots = loader.order.slots(batch.cursor, batch_size=config.batch_size, slots=range(count))
    stores = open_stores(loader.packs, loader.order, remote=config.remote, mirror_bytes=config.mirror_bytes)
    rows = []
    with contextlib.ExitStack() as until:
        for store in stores:
            until.callback(store.close)
        for at, (epoch, repeat) in enumerate(zip(slots.epoch.tolist(), slots.repeat.tolist(), strict=True)):
            name = (loader.order.seed, epoch, batch.pack[at], batch.key[at], repeat)
            row = _row(loader, batch, at, name=name, store=stores[name[2]], config=config, mel=mel, mels=pictures[at])
            rows.append(row)
    return tuple(rows)


def _row(
    loader: Loader,
    batch: Batch,
    at: int,
    *,
    name: tuple[int, int, int, str, int],
    store: Store,
    config: TrainConfig,
    mel: LogMel,
    mels: NDArray[np.float32],
) -> Row:
    (key,), places = store.pack.take([batch.row[at]])
    assert key == batch.key[at], "the batch tells where its rows are from"
    rate, waveform, length = store.pack.sample_rate, batch.waveform[at].numpy(), int(places["length"][0])
    view = draw_view(
        config.augment,
        length=len(waveform),
        note_length=length,
        sounding_length=int(places["sounding_length"][0]),
        key=name,
    )
    note, fault = _read(store, batch.row[at])
    masked = not float(batch.weight[at])
    end = len(waveform) if masked else valid_length(view, note_length=length)
    place = {"pack": str(store.pack.home.parent)} if len(loader.packs) > 1 else {}
    place |= {"row": f"{batch.row[at]:,}", "epoch": str(name[1])}
    place |= {"repeat": str(name[4])} if config.balance else {}
    return Row(
        key=key,
        label=tell(loader.classes, batch.label[at].numpy()),
        view=view,
        name=name,
        draws=(
            *place.items(),
            *_draws(view, note_length=length, sample_rate=rate),
            *_effects(view),
        ),
        before=None if note is None else _before(note, view, mel=mel),
        after=Sound(waveform=waveform, mel=mels, first=0, last=end / rate),
        rest="padding" if config.pad == "zero" else "repeated",
        fault=fault,
        masked=masked,
    )


def _read(store: Store, row: int) -> tuple[NDArray[np.float32] | None, str | None]:
    """Read a whole note, or tell why not: a run that masks such rows, or reads crops unchecked, goes on too."""
    try:
        return read_note(store, row), None
    except DataError as error:
        return None, str(error)


def _before(note: NDArray[np.float32], view: View, *, mel: LogMel) -> Sound:
    rate = mel.spectrogram.sample_rate
    # a frame is reflected at its ends, so a note shorter than one has no mel of its own
    heard = np.pad(note, (0, max(0, mel.config.n_fft - len(note))))
    last = min(len(note), view.start + view.length * view.speed)
    picture = mel.config.draw(mel(torch.from_numpy(heard)[None])[0, 0].numpy())
    return Sound(waveform=note, mel=picture, first=view.start / rate, last=last / rate)


def _draws(view: View, *, note_length: int, sample_rate: int) -> tuple[tuple[str, str], ...]:
    """Tell in words what an engine makes of a note."""
    rendered = ""
    if not view.is_cut:  # an engine takes a pitch to be a ratio of two whole numbers, up to 5 cents away
        # of silence: the row's own waveform may be masked
        applied = apply_view(
            np.zeros(1, np.float32), dataclasses.replace(view, start=0, length=1), first=0, out=np.empty(1, np.float32)
        )
        rendered = f" (rendered {_cents(applied)})"
    begin, end = view.start / sample_rate, min(note_length, view.start + view.length * view.speed) / sample_rate
    return (
        ("start", f"{begin:.3f} s (sample {view.start:,})"),
        ("pitch", f"{_cents(view.pitch_ratio)} cents{rendered}"),
        ("speed", f"{view.speed:.4f}"),
        ("hears", f"{begin:.3f} to {end:.3f} s of the note"),
        ("low-pass", f"{view.band * sample_rate / 2:,.0f} Hz" if view.band < 1 else "none"),
    )


def _effects(view: View) -> tuple[tuple[str, str], ...]:
    """Tell in words what is done to a crop."""
    return (
        ("gain", f"{20 * math.log10(abs(view.gain)):+.1f} dB"),
        ("polarity", "turned" if view.gain < 0 else "kept"),
        ("noise", "none" if view.noise_snr_db is None else f"{view.noise_snr_db:.1f} dB below"),
    )


def _cents(ratio: float) -> str:
    return f"{1200 * math.log2(ratio):+.1f}"


def _settings(config: TrainConfig, *, data: Data, split: str, cursor: int) -> tuple[tuple[str, str], ...]:
    places = parse_data(config.data or "")
    weighed = len(places) > 1 and split == "train"
    told = {
        # a Location tells a URL without its password
        "data": ", ".join(f"{locate(place)}{f' = {weight}' if weighed else ''}" for place, weight in places),
        "split": split,
        "fingerprint": data.order.fingerprint,
        "cursor": cursor,
        "sample_rate": data.sample_rate,
    }
    names = (*TOLD, *(TOLD_OF_TRAIN if split == "train" else ()))
    told |= {name: value for name in names if (value := getattr(config, name)) not in (None, ())}
    parts = {name: dataclasses.asdict(getattr(config, name)) for name in ("augment", "mel", "masks")}
    nested = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
    return tuple((name, str(value)) for name, value in (told | nested).items())
