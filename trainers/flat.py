"""flat: nested settings -> their dotted names, as reports and loggers tell them. Imports no torch."""

from collections.abc import Mapping
from typing import Any


def flatten(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """List nested values by dotted names, in their own order; what is empty stands as it is."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, Mapping) and value
        found |= flatten(value, f"{before}{name}.") if nested else {before + name: value}
    return found
