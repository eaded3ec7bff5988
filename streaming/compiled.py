"""compiled: numba's compiler where it can be had, and whether it can. Without it slow twins serve.

Loops worth compiling stand in modules of their own, under `@compiled()`; whoever calls them asks HAS_NUMBA first.
numba is late for new versions of Python, and has no wheels for some machines.
"""

import contextlib
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

try:
    from numba import njit
except ImportError as error:
    njit, WHY = None, str(error)

HAS_NUMBA = njit is not None
F = TypeVar("F", bound=Callable[..., Any])


# numba looks at a loop's own file to tell whether what lies on disk is still it; these hold loops of each other's
TOGETHER = ("compiled", "frames", "fourier", "lanes", "phase_vocoder", "phases", "radix", "wsola")


def compiled(*flags: str) -> Callable[[F], F]:
    """Compile a loop for the types it is called with, cached on disk, without the GIL; `flags` are LLVM's fast-math."""
    # numpy's division gives inf, where Python's would branch to an error and keep a loop from becoming vectors
    options = {"cache": True, "nogil": True, "fastmath": set(flags), "error_model": "numpy"}

    def decorate(function: F) -> F:
        if not njit:
            return function
        done = cast(Any, njit(**options)(function))
        if function.__module__.rpartition(".")[2] in TOGETHER:
            with contextlib.suppress(AttributeError):  # numba's own; without it a developer empties the cache by hand
                done._cache._cache_file._source_stamp = _stamp()
        return done

    return decorate


@cache
def _stamp() -> tuple[float, int]:
    files = [Path(__file__).with_name(f"{name}.py").stat() for name in TOGETHER]
    return max(file.st_mtime for file in files), sum(file.st_size for file in files)


@cache  # once a process
def warn_slow() -> None:
    """Say that the slow twins serve."""
    print(f"numba can't be imported ({WHY}): augmentation is many times slower, pip install numba", file=sys.stderr)  # noqa: T201
