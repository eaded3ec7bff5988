"""mix: `A=7,B=3`, what to choose of each -> packs in one order, and the classes of all of them."""

import math
import re
from collections.abc import Sequence

from shards.classes import KINDS
from shards.errors import DataError, UsageError
from shards.index import Pack
from streaming.balance import Balance
from streaming.order import Order
from streaming.plan import make_plan
from streaming.select import select_rows

MAX_TABLE = 10_000
WEIGHT = re.compile(r"(.+)=(\d+)")
NO_WEIGHT = re.compile(r"[^=]+=(-\d+|[-\d]*\.\d+|)")


def parse_data(text: str) -> tuple[tuple[str, int], ...]:
    """Parse `PLACE`, or `PLACE=WEIGHT,PLACE=WEIGHT`: places of packs and their weights, 1 where none is given.

    A URL's query keeps its own `name=1`; a weight stands after it. Raises UsageError.
    """
    found = [_split_weight(part.strip(), text) for part in text.split(",")]
    places = [place for place, _ in found]
    if twice := [place for place in places if places.count(place) > 1]:
        raise UsageError(f"data names {twice[0]} twice: give it once, with the sum of its weights")
    return tuple(found)


def _split_weight(part: str, text: str) -> tuple[str, int]:
    # of a query's last parameter: name=value=WEIGHT
    tail = re.split(r"[?&]", part)[-1] if "://" in part else part
    if tail != part and tail.count("=") < 2:
        return part, 1
    match = WEIGHT.fullmatch(part)
    place, weight = (match[1], int(match[2])) if match else (part, 1)
    if not place or place.startswith("="):
        raise UsageError(f"data must be PLACE or PLACE=WEIGHT,PLACE=WEIGHT, got {text[:120]!r}: name each pack")
    if weight < 1 or NO_WEIGHT.fullmatch(place):
        raise UsageError(f"data must have weights of whole numbers from 1 on, got {part[:120]!r}: as in A=7,B=3")
    return place, weight


def make_order(
    packs: Sequence[Pack],
    *,
    seed: int,
    weights: Sequence[int] | None = None,
    where: str | None = None,
    limit: int | None = None,
    balance: Balance | None = None,
    lanes: int = 1,
    window: int | None = None,
) -> Order:
    """Make the order of a run; where, limit, balance, lanes and window hold for each pack by itself.

    Raises:
        UsageError: an option that doesn't fit a pack, or weights that make too long a table.
        DataError: packs of different sample rates.
    """
    shares = _reduce(weights or [1] * len(packs))
    _check_rates(packs)
    selections = [select_rows(pack, seed=seed, where=where, limit=limit, balance=balance) for pack in packs]
    plans = [
        make_plan(selection.shard_rows, seed=seed, lanes=lanes, window=window, pack=number)
        for number, selection in enumerate(selections)
    ]
    return Order(plans=tuple(plans), selections=tuple(selections), weights=shares)


def mix_classes(packs: Sequence[Pack], label: str) -> tuple[str, ...]:
    """Return the label's classes of all packs, sorted: ids go by name, and a pack may lack classes.

    Vectors have places, not names: they must be of one length.

    Raises:
        UsageError: a pack has no such label, or it is of another kind in one than in another.
    """
    names = [pack.label_names(label) for pack in packs]
    kind = packs[0].label_kind(label)
    for pack, own in zip(packs, names, strict=True):
        if (other := pack.label_kind(label)) != kind:
            told = f"{KINDS[kind]} in {packs[0].home} and {KINDS[other]} in {pack.home}"
            raise UsageError(f"label {label!r} is {told}: pack one of them anew")
        if kind == "flags" and own != names[0]:
            told = f"of length {len(names[0])} in {packs[0].home} and {len(own)} in {pack.home}"
            raise UsageError(f"label {label!r} has vectors {told}: pack one of them anew")
    if kind == "flags":
        return names[0]
    return tuple(sorted({name for own in names for name in own}, key=int if kind == "numbers" else None))


def _reduce(weights: Sequence[int]) -> tuple[int, ...]:
    common = math.gcd(*weights)
    shares = tuple(weight // common for weight in weights)
    if sum(shares) > MAX_TABLE:
        raise UsageError(
            f"data must have weights that add up to at most {MAX_TABLE:,}, got {sum(shares):,}: round them"
        )
    return shares


def _check_rates(packs: Sequence[Pack]) -> None:
    for pack in packs[1:]:
        if pack.sample_rate != packs[0].sample_rate:
            raise DataError(
                f"sample_rate must be that of {packs[0].home}, {packs[0].sample_rate}, in every pack, "
                f"got {pack.sample_rate} in {pack.home}: re-pack with --resample"
            )
