"""A torchaudio that can't be had is one line with both builds and the way out."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.trainers.runs import ROOT

REFUSES = "raise OSError('undefined symbol: _ZN3c10')"


@pytest.mark.parametrize(
    ("files", "line"),
    [
        (
            {"__init__.py": REFUSES, "version.py": "__version__ = '2.10.0+cpu'\n"},
            f"torchaudio 2.10.0+cpu doesn't import beside torch {torch.__version__} (undefined symbol: _ZN3c10): "
            "pip install --force-reinstall torch torchaudio",
        ),
        (
            {"__init__.py": REFUSES},
            f"torchaudio of an unknown build doesn't import beside torch {torch.__version__} (undefined",
        ),
    ],
)
def test_a_torchaudio_of_another_build_is_named_with_its_own(
    data: Path, tmp_path: Path, files: dict[str, str], line: str
):
    (tmp_path / "torchaudio").mkdir()
    for name, text in files.items():
        (tmp_path / "torchaudio" / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "trainers", "train", "--data", str(data), "--runs", str(tmp_path / "runs")],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert re.fullmatch(re.escape(f"notestream: {line}") + ".*\n", done.stderr)
    assert not (tmp_path / "runs").exists()


def test_no_torchaudio_is_said_so(monkeypatch: pytest.MonkeyPatch):
    from trainers import builds

    monkeypatch.setattr(builds.importlib.util, "find_spec", lambda name: None)
    assert str(builds.mismatch(ImportError("No module"))) == "torchaudio is not installed: pip install torchaudio"
