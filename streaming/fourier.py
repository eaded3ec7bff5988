"""fourier: two complex signals, side by side -> their transforms, or back. One core's first cache is enough for them.

A signal x of N = 4 M points is written as M rows of four columns, x[4 j + c] at row j and column c; the columns of two
signals make the eight lanes of a row. Transforming the columns, which needs no shuffling, and then the four of a row,

    X[k + M h] = sum over c < 4 of  exp(-2 pi i c h / 4) * exp(-2 pi i c k / N) * C_c[k],    C_c = transform of column c

gives all of X (Bailey's four steps, 1990). Columns are transformed in place (streaming.radix), which leaves them in
mixed-radix reversed order: the last step looks rows up. Swapping real and imaginary parts before and after inverts.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming.compiled import compiled
from streaming.lanes import (
    HALF,
    LANES,
    Lanes,
    high_halves,
    interleave_high,
    interleave_low,
    join_high,
    join_low,
    load,
    load_halves,
    load_twice,
    low_halves,
    store,
)
from streaming.layout import factor
from streaming.radix import ROW, Floats, radix_2, radix_3, radix_4, radix_5, radix_7, radix_11, radix_13

COLUMNS = HALF
Bins = tuple[Lanes, Lanes]  # real parts, imaginary parts


class Plan(NamedTuple):
    """What a transform of one size is made with: passes, their tables one after another, and the last step's."""

    radices: NDArray[np.int64]  # (passes,)
    tables: Floats
    spots: NDArray[np.int64]  # (passes,): where each pass's table begins
    order: NDArray[np.int64]  # (M,): the row where column element k is in the end
    turns: Floats  # (M, 2, 4): cosine and sine of -2 pi c k / N


@lru_cache(maxsize=256)
def plan(size: int) -> Plan:
    """Make a plan for `size` points: 4 M, M without prime factors above 13."""
    radices = factor(size)
    assert radices is not None, f"{size = } has a prime factor that streaming.layout doesn't let in"
    n = size // COLUMNS
    k = np.arange(n)
    order, digits, tables = np.zeros(n, np.int64), k, []
    for radix in radices:
        tables.append(np.concatenate((_sums(radix), _angles(np.outer(np.arange(n // radix), np.arange(1, radix)) / n))))
        n //= radix
        order += digits % radix * n
        digits = digits // radix
    turns = _angles(np.outer(k, np.arange(COLUMNS)) / size).reshape(len(k), COLUMNS, 2).swapaxes(1, 2)
    spots = np.cumsum([0, *map(len, tables)])[:-1]
    return Plan(np.array(radices), np.concatenate(tables), spots, order, np.ascontiguousarray(turns))


def _angles(turn: NDArray[np.float64]) -> Floats:
    """Return exp(-2 pi i turn), flat, real and imaginary parts in turn."""
    return np.exp(-2j * np.pi * turn).astype(np.complex64).ravel().view(np.float32)


def _sums(radix: int) -> Floats:
    """Return what a pass of this radix sums with."""
    if radix in (2, 4):
        return np.empty(0, np.float32)
    k = np.arange(1, radix // 2 + 1)
    return np.conj(_angles(np.outer(k, k) / radix).view(np.complex64)).view(np.float32)


@compiled("contract")
def lay_frames(waveform: Floats, a: int, b: int, c: int, d: int, window: Floats, rows: Floats) -> None:
    """Write the frames a + i b and c + i d, named by where they start in the waveform, times a window, as rows."""
    for j in range(0, len(window), COLUMNS):
        w = load_twice(window, j)
        store(rows, COLUMNS * j, load_halves(waveform, a + j, c + j) * w)
        store(rows, COLUMNS * j + LANES, load_halves(waveform, b + j, d + j) * w)


@compiled("contract")
def lay_spectra(planes: Floats, rows: Floats) -> None:
    """Write two spectra as rows, real and imaginary parts swapped: their transform is the inverse, swapped too."""
    size = planes.shape[1]
    for j in range(0, size, COLUMNS):
        store(rows, COLUMNS * j, load_halves(planes, size + j, 3 * size + j))
        store(rows, COLUMNS * j + LANES, load_halves(planes, j, 2 * size + j))


@compiled("contract")
def transform(
    rows: Floats,  # (16 * M,), changed
    plan: Plan,
    planes: Floats,  # (4, N), written: real and imaginary parts of one transform, then of the other
) -> None:
    """Transform two signals."""
    blocks, m = 1, planes.shape[1] // COLUMNS
    for i in range(len(plan.radices)):
        radix, table = plan.radices[i], plan.tables[plan.spots[i] :]
        m //= radix
        if radix == 4:
            radix_4(rows, blocks, m, table)
        elif radix == 3:
            radix_3(rows, blocks, m, table)
        elif radix == 2:
            radix_2(rows, blocks, m, table)
        elif radix == 5:
            radix_5(rows, blocks, m, table)
        elif radix == 7:
            radix_7(rows, blocks, m, table)
        elif radix == 11:
            radix_11(rows, blocks, m, table)
        else:
            radix_13(rows, blocks, m, table)
        blocks *= radix
    _join_columns(rows, plan.order, plan.turns, planes)


@compiled("contract")
def _join_columns(rows: Floats, order: NDArray[np.int64], turns: Floats, planes: Floats) -> None:
    """Transform the four columns of each row, eight rows at once, so that eight bins in a row are written."""
    m, size = len(order), planes.shape[1]
    for first in range(0, m, LANES):
        k = min(first, m - LANES)  # the last ones once more
        low, high = _join_rows(rows, order, turns, k), _join_rows(rows, order, turns, k + HALF)
        for h in range(COLUMNS):
            _put_bins(planes, size, k + h * m, low[h], high[h])


@compiled("contract")
def _join_rows(rows: Floats, order: NDArray[np.int64], turns: Floats, k: int) -> tuple[Bins, Bins, Bins, Bins]:
    """Transform the columns of rows k to k + 3: bins k to k + 3 of each quarter, in either half."""
    ar, ai = _turn_row(rows, order[k], turns, k)
    br, bi = _turn_row(rows, order[k + 1], turns, k + 1)
    cr, ci = _turn_row(rows, order[k + 2], turns, k + 2)
    dr, di = _turn_row(rows, order[k + 3], turns, k + 3)
    ar, br, cr, dr = _transpose(ar, br, cr, dr)
    ai, bi, ci, di = _transpose(ai, bi, ci, di)
    er, ei, fr, fi = ar + cr, ai + ci, ar - cr, ai - ci
    gr, gi, hr, hi = br + dr, bi + di, br - dr, bi - di
    return (er + gr, ei + gi), (fr + hi, fi - hr), (er - gr, ei - gi), (fr - hi, fi + hr)


@compiled("contract")
def _turn_row(rows: Floats, row: int, turns: Floats, k: int) -> Bins:
    real, imag = load(rows, ROW * row), load(rows, ROW * row + LANES)
    cosine, sine = load_twice(turns, LANES * k), load_twice(turns, LANES * k + HALF)
    return real * cosine - imag * sine, real * sine + imag * cosine


@compiled()
def _transpose(a: Lanes, b: Lanes, c: Lanes, d: Lanes) -> tuple[Lanes, Lanes, Lanes, Lanes]:
    """Turn four rows of four columns into four columns of four rows, in either half."""
    p, q, r, s = interleave_low(a, b), interleave_high(a, b), interleave_low(c, d), interleave_high(c, d)
    return join_low(p, r), join_high(p, r), join_low(q, s), join_high(q, s)


@compiled()
def _put_bins(planes: Floats, size: int, k: int, low: Bins, high: Bins) -> None:
    for part in range(2):
        store(planes, k + part * size, low_halves(low[part], high[part]))
        store(planes, k + (2 + part) * size, high_halves(low[part], high[part]))
