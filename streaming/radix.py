"""radix: rows of complex lanes -> the same rows, one pass of their transform further. Eight columns side by side.

Row j is 16 floats: real parts, then imaginary parts, of element j of eight columns. A pass of radix r takes each block
of n = r * m rows, and with W = exp(-2 pi i / n) writes in their place, for every p < m and k < r,

    y[p + m k] = W^(p k) * sum over j < r of  x[p + m j] * exp(-2 pi i j k / r)

so that block k' = [m k, m k + m) of y goes on alone: decimation in frequency (Gentleman and Sande 1966). A pass's
`table` holds what its sums are made with, then W^(p k), cosine and sine, for every p and k from 1.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from streaming.compiled import compiled
from streaming.lanes import LANES, Lanes, load, splat, store

ROW = 2 * LANES
Floats = NDArray[np.float32]


@compiled("contract")
def radix_2(rows: Floats, blocks: int, m: int, table: Floats) -> None:
    """Pass over `blocks` blocks of 2 m rows."""
    far = ROW * m
    for b in range(blocks):
        for p in range(m):
            at = ROW * (2 * m * b + p)
            ar, ai = load(rows, at), load(rows, at + LANES)
            br, bi = load(rows, at + far), load(rows, at + far + LANES)
            store(rows, at, ar + br)
            store(rows, at + LANES, ai + bi)
            _put(rows, at + far, ar - br, ai - bi, table, 2 * p)


@compiled("contract")
def radix_3(rows: Floats, blocks: int, m: int, table: Floats) -> None:
    """Pass over `blocks` blocks of 3 m rows; the table begins with the cosine and the sine of a third."""
    far, cosine, sine = ROW * m, splat(table, 0), splat(table, 1)
    for b in range(blocks):
        for p in range(m):
            at, w = ROW * (3 * m * b + p), 2 + 4 * p
            ar, ai = load(rows, at), load(rows, at + LANES)
            br, bi = load(rows, at + far), load(rows, at + far + LANES)
            cr, ci = load(rows, at + 2 * far), load(rows, at + 2 * far + LANES)
            sum_r, sum_i = br + cr, bi + ci
            dr, di = sine * (br - cr), sine * (bi - ci)
            er, ei = ar + cosine * sum_r, ai + cosine * sum_i
            store(rows, at, ar + sum_r)
            store(rows, at + LANES, ai + sum_i)
            _put(rows, at + far, er + di, ei - dr, table, w)
            _put(rows, at + 2 * far, er - di, ei + dr, table, w + 2)


@compiled("contract")
def radix_4(rows: Floats, blocks: int, m: int, table: Floats) -> None:
    """Pass over `blocks` blocks of 4 m rows."""
    far = ROW * m
    for b in range(blocks):
        for p in range(m):
            at, w = ROW * (4 * m * b + p), 6 * p
            ar, ai = load(rows, at), load(rows, at + LANES)
            br, bi = load(rows, at + far), load(rows, at + far + LANES)
            cr, ci = load(rows, at + 2 * far), load(rows, at + 2 * far + LANES)
            dr, di = load(rows, at + 3 * far), load(rows, at + 3 * far + LANES)
            er, ei, fr, fi = ar + cr, ai + ci, ar - cr, ai - ci
            gr, gi, hr, hi = br + dr, bi + di, br - dr, bi - di
            store(rows, at, er + gr)
            store(rows, at + LANES, ei + gi)
            _put(rows, at + far, fr + hi, fi - hr, table, w)
            _put(rows, at + 2 * far, er - gr, ei - gi, table, w + 2)
            _put(rows, at + 3 * far, fr - hi, fi + hr, table, w + 4)


@compiled("contract")
def _put(rows: Floats, at: int, real: Lanes, imag: Lanes, table: Floats, w: int) -> None:
    """Turn a row by the table's angle, and write it."""
    cosine, sine = splat(table, w), splat(table, w + 1)
    store(rows, at, real * cosine - imag * sine)
    store(rows, at + LANES, real * sine + imag * cosine)


def _odd(r: int) -> Callable[[Floats, int, int, Floats], None]:
    """Make the pass of an odd radix; its table begins with cosines and sines of j k / r, j and k from 1 to r / 2.

    Rows j and r - j are taken together: exp(-2 pi i j k / r) of one is the other's conjugate. `r` is a constant to the
    compiler, which writes the inner loops out.
    """
    half = r // 2

    @compiled("contract")
    def radix_odd(rows: Floats, blocks: int, m: int, table: Floats) -> None:
        far, pairs = ROW * m, np.empty(2 * half * ROW, np.float32)
        for b in range(blocks):
            for p in range(m):
                at, w = ROW * (r * m * b + p), 2 * half * half + 2 * (r - 1) * p
                ar, ai = load(rows, at), load(rows, at + LANES)
                sum_r, sum_i = ar, ai
                for j in range(half):
                    low, high, to = at + (j + 1) * far, at + (r - 1 - j) * far, 2 * ROW * j
                    br, bi = load(rows, low), load(rows, low + LANES)
                    cr, ci = load(rows, high), load(rows, high + LANES)
                    er, ei = br + cr, bi + ci
                    sum_r, sum_i = sum_r + er, sum_i + ei
                    store(pairs, to, er)
                    store(pairs, to + LANES, ei)
                    store(pairs, to + 2 * LANES, br - cr)
                    store(pairs, to + 3 * LANES, bi - ci)
                store(rows, at, sum_r)
                store(rows, at + LANES, sum_i)
                for k in range(half):
                    c = 2 * half * k
                    er, ei = ar + splat(table, c) * load(pairs, 0), ai + splat(table, c) * load(pairs, LANES)
                    dr, di = splat(table, c + 1) * load(pairs, ROW), splat(table, c + 1) * load(pairs, ROW + LANES)
                    for j in range(1, half):
                        cosine, sine, of = splat(table, c + 2 * j), splat(table, c + 2 * j + 1), 2 * ROW * j
                        er, ei = er + cosine * load(pairs, of), ei + cosine * load(pairs, of + LANES)
                        dr, di = dr + sine * load(pairs, of + 2 * LANES), di + sine * load(pairs, of + 3 * LANES)
                    _put(rows, at + (k + 1) * far, er + di, ei - dr, table, w + 2 * k)
                    _put(rows, at + (r - 1 - k) * far, er - di, ei + dr, table, w + 2 * (r - 2 - k))

    return radix_odd


radix_5, radix_7, radix_11, radix_13 = map(_odd, (5, 7, 11, 13))
