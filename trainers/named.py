"""named: what is the user's own, package.module:attribute -> the thing itself, imported where it's needed.

A run's config holds names, so it can be written down, repeated and sent to other machines; each rank imports for
itself. The folder that a command is started in is among the places that are looked in.
"""

import importlib
from collections.abc import Sequence
from functools import reduce
from typing import Any

from shards.errors import UsageError
from streaming.transforms import Transform


def load_transforms(names: Sequence[str]) -> tuple[Transform, ...]:
    """Import the transforms of these names.

    Raises:
        UsageError: one can't be had, or isn't callable; it is named.
    """
    return tuple(map(_load_transform, names))


def load(name: str, *, kind: str) -> Any:
    """Import what is named package.module:attribute; `kind` is what errors call it.

    Raises:
        UsageError: it can't be had.
    """
    module, _, attribute = name.partition(":")
    try:
        return reduce(getattr, attribute.split("."), importlib.import_module(module))
    except Exception as error:  # a module raises whatever it raises
        told = " ".join(str(error).split())
        raise UsageError(
            f"{kind} {name!r} can't be imported ({type(error).__name__}: {told}): "
            "name it package.module:attribute, and start where Python finds it or set PYTHONPATH"
        ) from error


def _load_transform(name: str) -> Any:
    found = load(name, kind="transform")
    if not callable(found) or isinstance(found, type):
        kind = "a class" if isinstance(found, type) else type(found).__name__
        raise UsageError(
            f"transform {name!r} must be a callable (waveform, draw) -> waveform, got {kind}: make one of it"
        )
    return found
