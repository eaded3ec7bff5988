"""builds: torch and a torchaudio that doesn't import beside it -> one line that names both, and the way out."""

import importlib.util
import re
from pathlib import Path

import torch

from shards.errors import UsageError


def mismatch(error: Exception) -> UsageError:
    """Say why torchaudio can't be had, with both builds: a CUDA one doesn't import beside a CPU one."""
    found = torchaudio_build()
    if found is None:
        return UsageError("torchaudio is not installed: pip install torchaudio")
    return UsageError(
        f"torchaudio {found} doesn't import beside torch {torch.__version__} ({error}): "
        "pip install --force-reinstall torch torchaudio"
    )


def torchaudio_build() -> str | None:
    """Read version and build (2.11.0+cu130) from the installed files, which may not import; None if there are none."""
    spec = importlib.util.find_spec("torchaudio")
    if spec is None or not spec.origin:
        return None
    path = Path(spec.origin).with_name("version.py")
    told = re.search(r"__version__ *= *['\"]([^'\"]+)", path.read_text() if path.is_file() else "")
    return told[1] if told else "of an unknown build"
