"""vary: `--vary mel.n_mels=40,64`, `--vary optim.lr=1e-4..1e-2`, how many -> each trial's own options.

Trial k is a pure function of the seed, the axes and k: more trials can be added later, and none that are there change.
The lists' combinations are taken in a keyed order, each once before any comes again. Ranges are walked by a sequence
that leaves no gaps, however few trials there are, evenly, or evenly in the logarithm where both ends are positive.
"""

import dataclasses
import difflib
import functools
import itertools
import math
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from shards.bijection import permute, uniforms
from shards.errors import UsageError
from trainers.config import TrainConfig, from_json, to_json
from trainers.resume import MAY_CHANGE

# they change no result, or what results are compared by
FIXED = (*MAY_CHANGE, "data", "epochs", "label", "monitor", "seed", "where")
# multiples of their roots cut a circle evenly, however many, and no two in step (R. Richtmyer 1951)
PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
DIGITS = 4  # significant ones, of what is drawn: options that people can read


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axis:
    """An option that trials vary: its values, or the two ends of its range."""

    name: str
    values: tuple[Any, ...] = ()
    ends: tuple[float, float] | None = None
    whole: bool = False

    @property
    def is_log(self) -> bool:
        """Tell whether the range is drawn from evenly in its logarithm."""
        return self.ends is not None and min(self.ends) > 0

    def at(self, share: float) -> Any:
        """Return the range's value at a share of it, 0 to 1."""
        assert self.ends is not None, "a list has no shares"
        low, high = self.ends
        value = low * (high / low) ** share if self.is_log else low + (high - low) * share
        return round(value) if self.whole else float(f"{value:.{DIGITS}g}")


def parse_vary(given: Sequence[str]) -> tuple[Axis, ...]:
    """Read NAME=A,B,C and NAME=LOW..HIGH of options of `train`.

    Raises:
        UsageError: one isn't of that form, names no option or a fixed one, or holds a value that the option can't have.
    """
    axes = tuple(map(_axis, given))
    if not axes:
        raise UsageError("vary must be given: such as --vary mel.n_mels=40,64 --vary optim.lr=1e-4..1e-2 --trials 12")
    names = [axis.name for axis in axes]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"vary {twice[0]} is given twice: put all of its values in one")
    return axes


def _axis(text: str) -> Axis:
    name, equals, values = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or not values.strip():
        raise UsageError(f"vary must be NAME=A,B,C or NAME=LOW..HIGH, got {text!r}: such as mel.n_mels=40,64")
    hint = _options().get(name)
    if hint is None or name.partition(".")[0] in FIXED:
        near = difflib.get_close_matches(name, [one for one in _options() if one not in FIXED], n=1) or ["mel.n_mels"]
        why = "is no option of train" if hint is None else "is the same in all trials of a sweep"
        raise UsageError(f"vary {name!r} {why}: take another, such as {near[0]}")
    if ".." in values:
        ends = [_value(name, end, hint) for end in values.split("..")]
        if len(ends) != 2 or not all(isinstance(end, int | float) for end in ends) or ends[0] >= ends[1]:
            raise UsageError(f"vary {name} must be a range LOW..HIGH of numbers, LOW below HIGH, got {values!r}")
        return Axis(name=name, ends=(ends[0], ends[1]), whole=float not in _kinds(hint))
    listed = tuple(_value(name, value, hint) for value in values.split(","))
    if len(set(listed)) < len(listed):
        raise UsageError(f"vary {name} must name each value once, got {values!r}")
    return Axis(name=name, values=listed)


@functools.cache
def _options() -> dict[str, Any]:
    """List the options of train by dotted name, with what each may be."""
    found = {}
    for name, hint in typing.get_type_hints(TrainConfig).items():
        nested = typing.get_type_hints(hint) if dataclasses.is_dataclass(hint) else {}
        found |= {f"{name}.{inner}": kind for inner, kind in nested.items()} or {name: hint}
    return found


def _kinds(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _value(name: str, text: str, hint: Any) -> Any:
    """Read one value as the option has it: the first of its kinds that fits."""
    text = text.strip()
    for kind in _kinds(hint):
        if typing.get_origin(kind) is Literal:
            named = {str(choice): choice for choice in typing.get_args(kind)}
        else:
            named = {bool: {"true": True, "false": False}, types.NoneType: {"none": None}}.get(kind, {})
        if text.lower() in named or text in named:
            return named.get(text, named.get(text.lower()))
        if kind in (int, float, str):
            try:
                value = kind(text)
            except ValueError:
                continue
            if isinstance(value, str) or math.isfinite(value):
                return value
    raise UsageError(f"vary {name} takes {' or '.join(map(_say, _kinds(hint)))}, got {text!r}")


def _say(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return " or ".join(map(str, typing.get_args(kind)))
    words = {int: "whole numbers", float: "numbers", bool: "true or false", str: "text", types.NoneType: "none"}
    return words.get(kind, "no list")


def draw_trials(axes: Sequence[Axis], *, count: int | None, seed: int) -> list[dict[str, Any]]:
    """Choose each trial's values by option; every combination of the lists once unless `count` is given.

    Raises:
        UsageError: there is a range and no count, or the lists have fewer combinations than the count.
    """
    grid = [axis for axis in axes if axis.ends is None]
    ranges = [axis for axis in axes if axis.ends is not None]
    combinations = list(itertools.product(*(axis.values for axis in grid)))
    size = len(combinations)
    if ranges and count is None:
        raise UsageError(f"trials must be given with a range ({ranges[0].name}): such as --trials {max(12, 2 * size)}")
    if len(ranges) > len(PRIMES):
        raise UsageError(f"vary takes at most {len(PRIMES)} ranges, got {len(ranges)}: make lists of some")
    if count is not None and (count < 1 or (count > size and not ranges)):
        raise UsageError(f"trials must lie in 1..{size} (the lists' combinations), got {count}: leave it out for all")
    turn = permute(np.arange(size), size, seed, "sweep")
    starts = [float(uniforms(1, seed, "sweep", axis.name)[0]) for axis in ranges]
    strides = [math.sqrt(prime) for prime in PRIMES]
    trials = []
    for k in range(size if count is None else count):
        walked = zip(ranges, starts, strides, strict=False)
        drawn = {axis.name: axis.at((start + k * stride) % 1) for axis, start, stride in walked}
        drawn |= {axis.name: value for axis, value in zip(grid, combinations[turn[k % size]], strict=True)}
        trials.append({axis.name: drawn[axis.name] for axis in axes})
    return trials


def with_values(config: TrainConfig, values: dict[str, Any]) -> TrainConfig:
    """Return the config with these options, by dotted name.

    Raises:
        UsageError: they don't fit each other or the rest.
    """
    given = to_json(config)
    for name, value in values.items():
        part, _, inner = name.partition(".")
        given[part] = {**given[part], inner: value} if inner else value
    return from_json(given, name="trial")
