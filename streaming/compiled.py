"""compiled: numba's compiler where it can be had, and whether it can. Without it slow twins serve.

Loops worth compiling stand in modules of their own, under `@compiled()`; whoever calls them asks HAS_NUMBA first.
numba is late for new versions of Python, and has no wheels for some machines.
"""

import sys
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, cast

try:
    from numba import njit
except ImportError as error:
    njit, WHY = None, str(error)

HAS_NUMBA = njit is not None
F = TypeVar("F", bound=Callable[..., Any])


def compiled(*flags: str) -> Callable[[F], F]:
    """Compile a loop for the types it is called with, cached on disk, without the GIL; `flags` are LLVM's fast-math."""

    def decorate(function: F) -> F:
        return cast(F, njit(cache=True, nogil=True, fastmath=set(flags))(function)) if njit else function

    return decorate


@cache  # once a process
def warn_slow() -> None:
    """Say that the slow twins serve."""
    print(f"numba can't be imported ({WHY}): augmentation is many times slower, pip install numba", file=sys.stderr)  # noqa: T201
