"""Loops on disk: none is taken for current that holds another file's older loop."""

import importlib
from pathlib import Path

from numba.core.dispatcher import Dispatcher

from streaming import compiled


def test_files_whose_loops_hold_each_others_are_compiled_anew_together():
    together, folder = set(compiled.TOGETHER), Path(compiled.__file__).parent
    assert {f"{name}.py" for name in together} <= {path.name for path in folder.iterdir()}
    for path in folder.glob("*.py"):
        if "\n@compiled(" not in path.read_text():
            continue
        held = vars(importlib.import_module(f"streaming.{path.stem}")).values()
        others = {value.py_func.__module__ for value in held if isinstance(value, Dispatcher)} - {
            f"streaming.{path.stem}"
        }
        if others:
            assert {path.stem, *(other.rpartition(".")[2] for other in others)} <= together
    stamps = {loop._cache._cache_file._source_stamp for loop in _loops(together)}
    assert stamps == {compiled._stamp()}


def _loops(names):
    for name in names:
        for value in vars(importlib.import_module(f"streaming.{name}")).values():
            if isinstance(value, Dispatcher):
                yield value
