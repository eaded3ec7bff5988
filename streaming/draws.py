"""draws: what names a note's augmentation -> numbers, the same on any rank, in any reader and after any resume.

key = (seed, epoch, pack, key of the note, repeat)
      ├─ blocks 0, 1                     the policy's own draws (streaming.view)
      └─ "transform", place, name        those of your own transforms (Draw)
"""

import dataclasses
from hashlib import blake2b
from struct import unpack
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from shards.bijection import encode_words, uniforms

Key: TypeAlias = tuple[int, int, int, str, int]
BLOCKS = tuple(encode_words((block,)) for block in range(2))


def draw_uniforms(key: Key, *, blocks: int) -> list[float]:
    """Draw up to 2 blocks of eight uniforms in [0, 1), (8 * blocks,): the bits of `shards.bijection.uniforms`.

    So few are too few for numpy, which takes twice as long.
    """
    name = encode_words(key)
    words = b"".join(blake2b(name + block, digest_size=64, person=b"uniforms").digest() for block in BLOCKS[:blocks])
    return [(word >> 11) * 2.0**-53 for word in unpack(f"<{8 * blocks}Q", words)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draw:
    """What a transform of one's own may draw from, for one note: nothing else decides what it does.

    `place` is the transform's in the list, so two of a kind draw apart. `pack` is the number of the note's pack.
    """

    seed: int
    epoch: int
    pack: int
    key: str
    repeat: int
    place: int
    sample_rate: int

    def uniforms(self, count: int, name: str = "") -> NDArray[np.float64]:
        """Draw uniforms in [0, 1), (count,); each `name` has its own, and asking for more changes none before."""
        note = (self.seed, self.epoch, self.pack, self.key, self.repeat)
        return uniforms(count, *note, "transform", self.place, name)

    def integer(self, name: str = "") -> int:
        """Draw a whole number below 2**53, to seed another generator with."""
        return int(self.uniforms(1, name)[0] * 2**53)

    def generator(self, name: str = "") -> np.random.Generator:
        """Make a numpy generator for whatever uniforms are no good for."""
        return np.random.Generator(np.random.Philox(key=self.integer(name)))
