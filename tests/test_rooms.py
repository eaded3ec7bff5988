"""The house: who may import what, no global generator anywhere, and the parts that only Linux has."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import notestream

ROOT = Path(__file__).resolve().parents[1]
RAY = ("trainers/cluster.py", "trainers/gauges.py", "trainers/session.py", "trainers/tuner.py")
FILES = sorted(path for room in ("shards", "streaming", "trainers") for path in (ROOT / room).glob("*.py"))


def test_the_python_api_is_frozen():
    names = "Augment Batch Loader LogMel MelConfig NotestreamError Pack World augment_preset make_order pack"
    assert sorted(notestream.__all__) == names.split()
    assert all(getattr(notestream, name).__doc__ for name in notestream.__all__)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_global_generator(path: Path):
    if path.name == "adapter.py":
        pytest.skip("audiomentations draws from them: they are lent and put back (tests/streaming/test_adapter.py)")
    allowed = {"Generator", "Philox"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert all(name.name != "random" for name in node.names), "python's global generator"
        if isinstance(node, ast.ImportFrom):
            assert node.module != "random"
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("np.random", "numpy.random"):
            assert node.attr in allowed, ast.unparse(node)
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.manual_seed":
            assert "fork_rng" in path.read_text(), "the global generator is lent and given back"


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_ray_and_torchaudio_stay_where_they_are_the_subject(path: Path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    here = f"{path.parent.name}/{path.name}"
    assert "ray" not in names or here in RAY
    assert "torchaudio" not in names or here == "trainers/mel.py"
    assert "torch" not in names or path.parent.name != "shards"


@pytest.mark.slow
def test_show_imports_no_torch():
    code = "import sys, shards.__main__, shards.show, shards.index; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.slow
def test_the_fast_suite_passes_without_what_only_linux_has():
    tests = ["tests/shards/test_pack.py", "tests/shards/test_bijection.py", "tests/streaming/test_loader.py"]
    command = [sys.executable, "-m", "pytest", "-m", "not slow", "-x", *tests]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NOTESTREAM_PORTABLE": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]
