"""rendering: one row, its view -> its samples, where they belong. No more is decoded than the view needs."""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from shards.audio import Header
from streaming import hand
from streaming.crops import read_crop
from streaming.decode import decode_into, header_of
from streaming.store import Store
from streaming.view import View, apply_view, input_range


def render_row(
    store: Store, row: int, view: View, *, out: NDArray[np.float32], verify: bool, seconds: dict[str, float]
) -> float:
    """Render one row's view into `out`, (time,), before effects; return the pitch ratio that was really applied.

    Only what the view needs of the note is decoded. `verify` reads the whole row and checks its crc32; else just the
    crop. Time is added to `seconds`.
    """
    started = time.perf_counter()
    hand.take(store, row)
    if verify or store.pack.codec != "wav":
        data = store.read(row)
        header = header_of(store, row, data)
        begin = 0
    else:
        data, header, begin = read_crop(store, row, *input_range(view))
    name, read = partial(store.name, row), time.perf_counter()
    if view.is_cut:
        ratio = 1.0
        cut(data, header=header, first=view.start, begin=begin, out=out, name=name)
        decoded = time.perf_counter()
    else:
        first, last = (min(max(0, at), header.length) for at in input_range(view))
        piece = np.empty(last - first, np.float32)
        decode_into(piece, data, header=header, first=first - begin, name=name)
        decoded = time.perf_counter()
        ratio = apply_view(piece, view, first=first, out=out)
    seconds["read"] += read - started
    seconds["decode"] += decoded - read
    seconds["augment"] += time.perf_counter() - decoded
    return ratio


def cut(
    data: bytes,
    *,
    header: Header,
    first: int,
    out: NDArray[np.float32],
    name: Callable[[], str],
    begin: int = 0,
) -> None:
    """Decode the samples from `first` on into `out`, and silence after the last one; data's first one is `begin`."""
    there = max(0, min(len(out), header.length - first))
    decode_into(out[:there], data, header=header, first=first - begin, name=name)
    out[there:] = 0


def play_again(out: NDArray[np.float32], valid: int) -> None:
    """Repeat what lies in the note, the first `valid` samples, to the end of `out`."""
    if 0 < valid < len(out):
        out[valid:] = np.resize(out[:valid], len(out) - valid)
