"""sizes: the rooms' code -> a table of how large files and functions are, how much is typed, how much is tested.

Beside ours stand the figures of the libraries that this house looks up to (CONTRIBUTING.md). What is larger than our
own limits is listed. Run: python -m tests.sizes, the end of `make check`.
"""

import ast
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS, MOST_LINES, MOST_OF_FUNCTION = ("shards", "streaming", "trainers"), 250, 40
MODELS = ("others' best", "", "110-250", "", "3-17", "36-81", "85-99 %", "0.65-1.2")
COLUMNS = ("room", "files", "lines", "longest", "function", "95 %", "typed", "tests to code")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> Iterator[Function]:
    """Yield all functions, nested ones too."""
    yield from (node for node in ast.walk(tree) if isinstance(node, Function))


def length(function: Function) -> int:
    """Count the lines of a function, its docstring and decorators left out."""
    first = function.body[0]
    told = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    docstring = (first.end_lineno or 0) - first.lineno + 1 if told else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def is_typed(function: Function) -> bool:
    """Tell if each argument but self has a type, and the result too."""
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
    wanting = [one for one in named if one.annotation is None and one.arg not in ("self", "cls")]
    return not wanting and (function.returns is not None or function.name == "__init__")


def lines(paths: Sequence[Path]) -> list[int]:
    """Count each file's lines."""
    return [len(path.read_text().splitlines()) for path in paths]


def row(room: str) -> tuple[tuple[str, ...], list[str]]:
    """Measure a room: its row of the table, and what is too large."""
    paths, tests = sorted((ROOT / room).glob("*.py")), sorted((ROOT / "tests" / room).glob("*.py"))
    found = [(path, one) for path in paths for one in functions(ast.parse(path.read_text()))]
    sizes, counts = sorted(length(one) for _, one in found), lines(paths)
    typed = sum(is_typed(one) for _, one in found) / len(found)
    told = (
        room, f"{len(paths)}", f"{statistics.median(counts):.0f}", f"{max(counts)}", f"{statistics.median(sizes):.0f}",
        f"{sizes[len(sizes) * 95 // 100]}", f"{100 * typed:.0f} %", f"{sum(lines(tests)) / sum(counts):.2f}",
    )  # fmt: skip
    large = [
        f"{path.relative_to(ROOT)}: {count} lines"
        for path, count in zip(paths, counts, strict=True)
        if count > MOST_LINES
    ]
    long = [
        f"{path.relative_to(ROOT)}:{one.lineno} {one.name}: {length(one)} lines"
        for path, one in found
        if length(one) > MOST_OF_FUNCTION
    ]
    return told, large + long


def table() -> str:
    """Write the table, then what is larger than a file or a function should be."""
    measured = [row(room) for room in ROOMS]
    written = [COLUMNS, *(told for told, _ in measured), MODELS]
    widths = [max(len(told[at]) for told in written) for at in range(len(COLUMNS))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(told, widths, strict=True)) for told in written]
    return "\n".join([*text, *(f"large: {one}" for _, large in measured for one in large)])


if __name__ == "__main__":
    print(table())
