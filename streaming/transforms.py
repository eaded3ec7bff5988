"""transforms: callables of one's own, a crop, what names it -> the crop as they leave it, in their order.

    transform(waveform, draw) -> waveform of the same shape       (time,) float32, in the readers, after the effects

They see the whole crop, padding too. The waveform is the row's own memory: it may be written to, and not kept.
"""

import pickle
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shards.errors import UsageError
from streaming.draws import Draw, Key

Waveform: TypeAlias = NDArray[np.float32]
Transform: TypeAlias = Callable[[Waveform, Draw], Waveform]


def run_transforms(transforms: Sequence[Transform], waveform: Waveform, *, name: Key, sample_rate: int) -> None:
    """Run them one after the other on a crop (time,), in place; `name` is seed, epoch, pack, key and repeat.

    Raises:
        UsageError: one gave something else than finite float32 of the same shape.
    """
    seed, epoch, pack, key, repeat = name
    for place, transform in enumerate(transforms):
        draw = Draw(
            seed=seed, epoch=epoch, pack=pack, key=key, repeat=repeat, place=place, sample_rate=sample_rate
        )  # fmt: skip
        given = transform(waveform, draw)
        if fault := _find_fault(given, shape=waveform.shape):
            raise UsageError(
                f"transform {title(transform)} must give finite float32 of shape {waveform.shape}, got {fault} "
                f"for {key}: end it with .astype(np.float32), np.resize or np.nan_to_num"
            )
        if given is not waveform:
            waveform[:] = given


def _find_fault(given: Any, *, shape: tuple[int, ...]) -> str | None:
    if not isinstance(given, np.ndarray):
        return type(given).__name__
    if given.dtype != np.float32 or given.shape != shape:
        return f"{given.dtype} of shape {given.shape}"
    return None if np.isfinite(given).all() else "NaN or inf"


def title(own: Callable[..., Any]) -> str:
    """Tell what a callable of the user's is called."""
    return getattr(own, "__qualname__", type(own).__name__)


def check_picklable(kind: str, own: Sequence[Callable[..., Any]]) -> None:
    """Refuse callables that can't be sent to a reader; `kind` is what they are called."""
    for one in own:
        try:
            pickle.dumps(one)
        except Exception as error:  # pickle raises whatever the object raises
            raise UsageError(
                f"{kind} {title(one)} can't be sent to a reader ({error}): "
                "define it at the top of a module, or use readers=0"
            ) from error
