"""owner: make sure that shards, streaming and trainers are ours. mosaicml-streaming owns the name `streaming` too."""

import importlib.metadata
import importlib.util
from pathlib import Path

from shards.errors import UsageError

ROOMS = ("shards", "streaming", "trainers")
ROOT = Path(__file__).resolve().parent.parent


def check_owner() -> None:
    """Refuse to start where another package could be imported in place of ours.

    Raises:
        UsageError: a room is imported from elsewhere, or another installed distribution owns its name.
    """
    for room in ROOMS:
        spec = importlib.util.find_spec(room)
        found = Path(spec.origin).resolve().parent if spec and spec.origin else None
        if found != ROOT / room:
            raise UsageError(f"the package {room!r} is imported from {found}, not {ROOT / room}: run from {ROOT}")
    for distribution in importlib.metadata.distributions():
        taken = set((distribution.read_text("top_level.txt") or "").split()) & set(ROOMS)
        name = distribution.metadata["Name"]
        if taken and name != "notestream":
            raise UsageError(
                f"the distribution {name!r} owns the import name {min(taken)!r} as well, and either may be imported: "
                f"use an environment of its own, or pip uninstall {name}"
            )
