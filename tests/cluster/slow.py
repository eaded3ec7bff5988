"""A transform that takes its time while a file says so: runs are then as long as a test needs, and no longer."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np


def slow(waveform: np.ndarray, draw: Any) -> np.ndarray:
    """Return the crop as it is, later while $NOTESTREAM_SLOW is there."""
    if Path(os.environ.get("NOTESTREAM_SLOW", "/nowhere")).exists():
        time.sleep(0.25)
    return waveform
