"""bijection: a keyed permutation of [0, n), evaluated where it is needed. No array, the same cost at any n.

A generalised Feistel network over Z_a x Z_b with a * b just above n (Black and Rogaway, "Ciphers with arbitrary
finite domains", 2002), 8 rounds, walked on while it lands in the gap past n, which is smaller than a: rare.
Keys are hashed from fixed-width integers and UTF-8, so the same key gives the same order on any machine, for ever:
golden vectors in the tests pin it.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

ROUNDS = 8
U64 = np.uint64
_MIXING = ((U64(30), U64(0xBF58476D1CE4E5B9)), (U64(27), U64(0x94D049BB133111EB)))
_LAST_SHIFT = U64(31)
Word: TypeAlias = int | str


def encode_words(words: tuple[Word, ...]) -> bytes:
    """Encode a key unambiguously: a tag, then 16 bytes of an integer, or a length and UTF-8 of a string."""
    parts = []
    for word in words:
        if isinstance(word, str):
            text = word.encode()
            parts.append(b"s" + len(text).to_bytes(8, "little") + text)
        else:
            parts.append(b"i" + int(word).to_bytes(16, "little", signed=True))
    return b"".join(parts)


def digest_words(words: tuple[Word, ...], *, purpose: bytes) -> bytes:
    """Hash a key to 64 bytes. `purpose` (at most 16 bytes) keeps permutations and draws of one key apart."""
    return hashlib.blake2b(encode_words(words), digest_size=64, person=purpose).digest()


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix x, which is used up: splitmix64's finaliser (Steele, Lea and Flood 2014), all bits depend on all bits."""
    for shift, factor in _MIXING:
        x ^= x >> shift
        x *= factor
    x ^= x >> _LAST_SHIFT
    return x


def permute(positions: ArrayLike, n: int, *key: Word) -> NDArray[np.int64]:
    """Where each position in [0, n) goes under the permutation named by `key`; (k,) -> (k,)."""
    whole = np.zeros(1, np.intp)  # one group, over which all positions broadcast
    return permute_groups(positions, whole, sizes=[n], keys=[key])


def permute_groups(
    positions: ArrayLike, group: NDArray[np.intp], *, sizes: Sequence[int], keys: Sequence[tuple[Word, ...]]
) -> NDArray[np.int64]:
    """Where positions go, each under its own group's permutation of [0, sizes[g]), named by keys[g]; (k,) -> (k,).

    As if `permute` were called for each group, at the cost of one call. `group` is (k,), or (1,) for all.
    """
    y = np.array(positions, dtype=U64)
    if not len(y):
        return y.astype(np.int64)
    digests = b"".join(digest_words(key, purpose=b"permutation") for key in keys)
    sides = [math.isqrt(max(n, 1) - 1) + 1 for n in sizes]
    words = np.frombuffer(digests, "<u8").astype(U64).reshape(-1, ROUNDS)[group]
    rows = np.array(sides, U64)[group]
    columns = np.array([max(1, -(-n // a)) for n, a in zip(sizes, sides, strict=True)], U64)[group]
    n = np.maximum(1, np.array(sizes)).astype(U64)[group]
    todo: NDArray[np.intp] | slice = slice(None)
    while True:
        y[todo] = _rounds(y[todo], words.T, rows=rows, columns=columns)
        astray = np.flatnonzero(y[todo] >= n)
        if not len(astray):
            return y.astype(np.int64)
        todo = astray if isinstance(todo, slice) else todo[astray]
        if len(group) > 1:
            words, rows, columns, n = words[astray], rows[astray], columns[astray], n[astray]


def _rounds(
    y: NDArray[np.uint64], words: NDArray[np.uint64], *, rows: NDArray[np.uint64], columns: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    left, right = np.divmod(y, columns)
    for i in range(0, ROUNDS, 2):
        left = (left + _mix(right + words[i]) % rows) % rows
        right = (right + _mix(left + words[i + 1]) % columns) % columns
    return left * columns + right


def uniforms(count: int, *key: Word) -> NDArray[np.float64]:
    """Draw `count` uniforms in [0, 1) named by `key`: 53 bits each of a hash, eight to a block, blocks counted."""
    blocks = -(-count // 8)
    words = b"".join(digest_words((*key, block), purpose=b"uniforms") for block in range(blocks))
    return (np.frombuffer(words, "<u8")[:count] >> U64(11)).astype(np.float64) * 2.0**-53
