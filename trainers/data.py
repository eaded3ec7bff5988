"""data: a config -> its splits, the rows chosen of each, one set of classes, and the order of training.

`--where` chooses in every split; `--limit` and `--balance` are for training alone, so a score is about all rows that
were asked for, each once.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shards.errors import DataError, UsageError
from shards.format import INDEX_NAME
from shards.index import Pack, open_pack
from shards.remote import locate
from streaming.balance import parse_balance
from streaming.clips import read_note
from streaming.labels import ShardLabels, check_labels, count_classes, find_labels, has_many
from streaming.mix import make_order, mix_classes, parse_data
from streaming.order import Order
from streaming.select import Selection, select_rows
from streaming.store import Store
from trainers.config import TrainConfig
from trainers.task import choose_monitor

HELD_OUT = ("valid", "test")
Kept = NDArray[np.int64] | range


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """A split of one pack or of several, end to end: of each the rows that were chosen, (rows,) in index order.

    Where all rows of a pack are, they're a range, which takes no memory.
    """

    name: str
    packs: tuple[Pack, ...]
    kept: tuple[Kept, ...]

    def __len__(self) -> int:
        """Count the rows."""
        return sum(map(len, self.kept))

    @property
    def fingerprint(self) -> str:
        """Name what is in the packs."""
        return "+".join(pack.fingerprint for pack in self.packs)

    def targets(self, label: str, classes: Sequence[str], *, rows: Sequence[int] | None = None) -> NDArray[Any]:
        """Return the rows' targets in `classes` (see streaming.labels.Labels): of all, or of some rows, in order.

        For some rows no more is held than their shards.
        """
        if rows is None:
            found = ((find_labels(pack, label, classes=classes), np.asarray(kept, np.int64)) for pack, kept in self)
        else:
            places = [self.find(row) for row in rows]
            found = (
                (
                    ShardLabels(pack, label, classes=classes),
                    np.array([at for own, at in places if own is pack], np.int64),
                )
                for pack in self.packs
            )
        return np.concatenate([labels.take(wanted) for labels, wanted in found])

    def count(self, label: str, classes: Sequence[str]) -> NDArray[np.int64]:
        """Count the rows of each class, (classes,); they are gone through, never held."""
        chosen = ((pack, None if isinstance(kept, range) else kept) for pack, kept in self)
        return np.sum([count_classes(pack, label, classes=classes, kept=kept) for pack, kept in chosen], axis=0)

    def column(self, name: str) -> tuple[Any, ...]:
        """Return a column's values, (rows,); nothing unless all packs have it."""
        if any(name not in pack.schema.names for pack in self.packs):
            return ()
        columns = ((pack.read(name)[name], kept) for pack, kept in self)
        taken = (column if isinstance(kept, range) else column.take(kept) for column, kept in columns)
        return tuple(value for column in taken for value in column.to_pylist())

    def find(self, row: int) -> tuple[Pack, int]:
        """Find one of the rows: its pack, and its number there."""
        for pack, kept in self:
            if row < len(kept):
                return pack, int(kept[row])
            row -= len(kept)
        raise IndexError(row)

    def __iter__(self) -> Iterator[tuple[Pack, Kept]]:
        """Yield each pack with its rows."""
        return zip(self.packs, self.kept, strict=True)


class Notes:
    """Reads whole notes of a split, one by one."""

    def __init__(self, split: Split) -> None:
        self._split = split
        self._stores = {pack.home: Store(pack, working_bytes=0) for pack in split.packs}

    def read(self, row: int) -> torch.Tensor:
        """Read one of the split's rows: (time,) float32."""
        pack, number = self._split.find(row)
        return torch.from_numpy(read_note(self._stores[pack.home], number))

    def close(self) -> None:
        """Close the shards."""
        for store in self._stores.values():
            store.close()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """What a run learns and is judged by: train, valid and test as there are, and the order of train."""

    splits: Mapping[str, Split]
    classes: tuple[str, ...]
    many: bool
    """Whether a row has any number of the classes, not one."""
    order: Order

    @property
    def train(self) -> Split:
        """The split that is learned."""
        return self.splits["train"]

    @property
    def sample_rate(self) -> int:
        """The sample rate of all of it, Hz."""
        return self.train.packs[0].sample_rate

    @property
    def fingerprints(self) -> dict[str, str]:
        """What names each split's packs."""
        return {name: split.fingerprint for name, split in self.splits.items()}

    @property
    def held_out(self) -> tuple[Split, ...]:
        """The splits that a run is judged by."""
        return tuple(split for name, split in self.splits.items() if name != "train")


def open_data(config: TrainConfig) -> Data:
    """Open what DATA has, choose rows, and check that all splits' labels fit train's classes.

    Raises:
        UsageError: no data was named, it isn't there, it has no train split, the label is no column that can be one
            or the monitor none of its metrics, or an option that chooses rows doesn't fit.
        DataError: an index is damaged, a split holds a class that train doesn't know, or rates differ.
    """
    if config.data is None:
        raise UsageError("data must be named: --data DST, a pack made by `python -m shards pack SRC DST --split train`")
    places = parse_data(config.data)
    packs = tuple(open_pack(place, split="train") for place, _ in places)
    classes, many = mix_classes(packs, config.label), has_many(packs[0], config.label)
    choose_monitor(config, many=many)
    order = make_order(
        packs, seed=config.seed, weights=[weight for _, weight in places], where=config.where, limit=config.limit,
        balance=parse_balance(config.balance) if config.balance else None, lanes=config.lanes, window=config.window,
    )  # fmt: skip
    splits = {"train": _join("train", packs, order.selections)}
    splits |= {name: open_split(config, name) for name in HELD_OUT if _places(config, name)}
    data = Data(splits=splits, classes=classes, many=many, order=order)
    for split in data.splits.values():
        check_split(split, label=config.label, classes=classes, many=many, sample_rate=data.sample_rate)
    return data


def open_split(config: TrainConfig, name: str) -> Split:
    """Open a split of all places that have it, and choose its rows.

    Raises:
        UsageError: none has it, or `where` leaves nothing of it.
    """
    places = _places(config, name) or [place for place, _ in parse_data(config.data or "")]
    packs = tuple(open_pack(place, split=name) for place in places)
    return _join(name, packs, [select_rows(pack, seed=config.seed, where=config.where) for pack in packs])


def _places(config: TrainConfig, split: str) -> list[str]:
    """List the places that have a split."""
    places = [place for place, _ in parse_data(config.data or "")]
    return [place for place in places if (locate(place) / split / INDEX_NAME).size() is not None]


def check_split(split: Split, *, label: str, classes: Sequence[str], many: bool, sample_rate: int) -> None:
    """Refuse a split whose labels or rates aren't train's (see open_data). Labels are gone through, never held."""
    for pack in split.packs:
        if has_many(pack, label) != many:
            had, has = ("lists", "one class") if many else ("one class", "lists")
            raise UsageError(f"label {label!r} must have {had} a row, as in train, got {has} in {pack.home}")
        check_labels(pack, label, classes=classes)
        if pack.sample_rate != sample_rate:
            told = f"sample_rate must be train's {sample_rate} in every split, got {pack.sample_rate} in {pack.home}"
            raise DataError(f"{told}: re-pack with --resample")


def _join(name: str, packs: tuple[Pack, ...], chosen: Sequence[Selection]) -> Split:
    kept = (range(pack.rows) if one.kept is None else one.kept for pack, one in zip(packs, chosen, strict=True))
    return Split(name=name, packs=packs, kept=tuple(kept))
