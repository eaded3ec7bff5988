"""SoundTouch for benchmarks.peers: Debian's libsoundtouch1, if it's there. It has no C interface and no kept wheel.

So its C++ symbols are called by their Itanium names, `this` first. The object's size isn't in the library: it is given
far more than it takes. What isn't called here (virtual functions that are inherited) has no symbol of its own.
"""

import ctypes
import ctypes.util
import re
from typing import Any

import numpy as np

BYTES = 4096  # it takes about 200
LIBRARY = ctypes.util.find_library("SoundTouch")
_lib = ctypes.CDLL(LIBRARY) if LIBRARY else None


def _call(name: str, *args: Any, result: Any = None) -> Any:
    function = getattr(_lib, f"_ZN10soundtouch10SoundTouch{name}")
    function.restype = result
    return function(*args)


def version() -> str:
    """Return its version, 2.3.2; empty if it isn't there."""
    if _lib is None:
        return ""
    said = _call("16getVersionStringEv", result=ctypes.c_char_p)
    return re.split(r"[^\d.]", said.decode())[0]


def start(sample_rate: int) -> ctypes.Array:
    """Make an object for mono sound."""
    this = ctypes.create_string_buffer(BYTES)
    _call("C1Ev", this)
    _call("13setSampleRateEj", this, ctypes.c_uint(sample_rate))
    _call("11setChannelsEj", this, ctypes.c_uint(1))
    return this


def stretch(this: ctypes.Array, piece: np.ndarray, *, semitones: float, speed: float) -> np.ndarray:
    """Return the piece at another pitch and speed."""
    _call("5clearEv", this)
    _call("17setPitchSemiTonesEd", this, ctypes.c_double(semitones))
    _call("8setTempoEd", this, ctypes.c_double(speed))
    _call("10putSamplesEPKfj", this, ctypes.c_void_p(piece.ctypes.data), ctypes.c_uint(len(piece)))
    _call("5flushEv", this)
    crop = np.empty(round(len(piece) / speed) + BYTES, np.float32)
    taken = _call(
        "14receiveSamplesEPfj", this, ctypes.c_void_p(crop.ctypes.data), ctypes.c_uint(len(crop)),
        result=ctypes.c_uint,
    )  # fmt: skip
    return crop[:taken]
