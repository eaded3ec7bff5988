"""bijection: a keyed permutation of [0, n), evaluated where it is needed. No array, the same cost at any n.

A generalised Feistel network over Z_a x Z_b with a * b just above n (Black and Rogaway, "Ciphers with arbitrary
finite domains", 2002), 8 rounds, walked on while it lands in the gap past n, which is smaller than a: rare.
Keys are hashed from fixed-width integers and UTF-8, so the same key gives the same order on any machine, for ever:
golden vectors in the tests pin it.
"""

import hashlib
import math
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

ROUNDS = 8
U64 = np.uint64
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
    # splitmix64's finaliser (Steele, Lea and Flood 2014): every output bit depends on every input bit
    x = (x ^ (x >> U64(30))) * U64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> U64(27))) * U64(0x94D049BB133111EB)
    return x ^ (x >> U64(31))


def permute(positions: ArrayLike, n: int, *key: Word) -> NDArray[np.int64]:
    """Where each position in [0, n) goes under the permutation named by `key`; (k,) -> (k,)."""
    y = np.array(positions, dtype=U64)
    if n <= 1 or not len(y):
        return np.zeros(len(y), np.int64)
    keys = np.frombuffer(digest_words(key, purpose=b"permutation"), "<u8").astype(U64)
    a = math.isqrt(n - 1) + 1
    b = -(-n // a)
    rows, columns = U64(a), U64(b)
    todo: NDArray[np.intp] | slice = slice(None)
    while True:
        left, right = np.divmod(y[todo], columns)
        for i in range(0, ROUNDS, 2):
            left = (left + _mix(right + keys[i]) % rows) % rows
            right = (right + _mix(left + keys[i + 1]) % columns) % columns
        y[todo] = left * columns + right
        todo = np.flatnonzero(y >= U64(n))
        if not len(todo):
            return y.astype(np.int64)


def uniforms(count: int, *key: Word) -> NDArray[np.float64]:
    """Draw `count` uniforms in [0, 1) named by `key`: 53 bits each of a hash, eight to a block, blocks counted."""
    blocks = -(-count // 8)
    words = b"".join(digest_words((*key, block), purpose=b"uniforms") for block in range(blocks))
    return (np.frombuffer(words, "<u8")[:count] >> U64(11)).astype(np.float64) * 2.0**-53
