"""adapter: a transform of audiomentations -> one of ours, which draws from what names the note.

audiomentations draws from Python's and numpy's global generators. They are seeded for the call and put back after it,
so the same note sounds the same in any reader, and nobody else's draws move: the one place here that touches them.
"""

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from streaming.draws import Draw
from streaming.transforms import Waveform


class Audiomentations:
    """Takes a transform of audiomentations, such as a Compose, as one of `Loader(transforms=...)`.

    One that changes the length, or that draws in threads of its own, doesn't fit.
    """

    def __init__(self, transform: Callable[..., Any]) -> None:
        self.transform = transform
        self.__qualname__ = f"Audiomentations({type(transform).__name__})"  # for errors

    def __call__(self, waveform: Waveform, draw: Draw) -> Waveform:
        """Run it on a crop (time,)."""
        with _seeded(draw.integer()):
            return self.transform(samples=waveform, sample_rate=draw.sample_rate)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Lend out the global generators, seeded, and put them back as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed([seed >> 32, seed & 0xFFFFFFFF])
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
