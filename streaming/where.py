"""where: an expression's text, a pack's columns -> a pyarrow expression. No Python runs: only these forms are known.

    pitch >= 40 and instrument_family_str in ('bass', 'organ')      40 <= pitch < 60      not (velocity == 127)
    original_key != null      looped or velocity not in (25, 50)    column('a name with blanks') == true

As in SQL, a comparison with a missing value is neither true nor false, so its row is left out, under `not` too;
`== null` and `!= null` ask for missing values. Lists can't be compared.
"""

import ast
import dataclasses
import functools
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from shards.errors import UsageError

Kind: TypeAlias = Literal["number", "text", "truth", "null", "other"]
MAX_LENGTH = 10_000
EXAMPLE = "write it like \"pitch >= 40 and instrument_family_str in ('bass', 'organ')\""
CONSTANTS = {"true": True, "false": False, "null": None}
COMPARE: Mapping[type[ast.cmpop], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Eq: ("==", operator.eq), ast.NotEq: ("!=", operator.ne), ast.Lt: ("<", operator.lt),
    ast.LtE: ("<=", operator.le), ast.Gt: (">", operator.gt), ast.GtE: (">=", operator.ge),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Where:
    """A parsed condition and the columns that it looks at."""

    text: str
    expression: pc.Expression
    columns: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Operand:
    """One side of a comparison: a column (`column` is its name) or a literal."""

    kind: Kind
    told: str
    value: Any
    column: str | None = None


def parse_where(text: str, *, schema: pa.Schema) -> Where:
    """Parse a condition on the columns of `schema`.

    Raises:
        UsageError: it is no such condition; it names the column, the value or the token that doesn't fit.
    """
    if len(text) > MAX_LENGTH:
        raise UsageError(f"where must have up to {MAX_LENGTH:,} characters, got {len(text):,}: pack what you need")
    columns: dict[str, None] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python's, about literals that are refused or harmless here
            tree = ast.parse(text.strip(), mode="eval")
        expression = _condition(tree.body, schema, columns)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError, pa.ArrowException) as error:
        told = " ".join(str(getattr(error, "msg", error)).split())[:80]
        raise UsageError(f"where can't be read ({told}): {text[:80]!r}; {EXAMPLE}, with == for equal") from error
    return Where(text=text.strip(), expression=expression, columns=tuple(columns))


def _condition(node: ast.expr, schema: pa.Schema, columns: dict[str, None]) -> pc.Expression:
    match node:
        case ast.BoolOp(op=op, values=values):
            join = operator.and_ if isinstance(op, ast.And) else operator.or_
            return functools.reduce(join, [_condition(value, schema, columns) for value in values])
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return ~_condition(operand, schema, columns)
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            sides = [left, *comparators]
            pairs = zip(sides, ops, sides[1:], strict=False)
            return functools.reduce(operator.and_, [_compare(*pair, schema, columns) for pair in pairs])
    found = _operand(node, schema, columns)
    if found.column is None or found.kind != "truth":
        raise UsageError(f'where has {found.told} for a condition: compare it, as in "pitch == 60"')
    return found.value


def _compare(
    left: ast.expr, op: ast.cmpop, right: ast.expr, schema: pa.Schema, columns: dict[str, None]
) -> pc.Expression:
    one = _operand(left, schema, columns)
    if isinstance(op, (ast.In, ast.NotIn)):
        items = right.elts if isinstance(right, (ast.Tuple, ast.List)) else [right]
        among = [_operand(item, schema, columns) for item in items]
        return _among(one, among, wanted=isinstance(op, ast.In))
    if type(op) not in COMPARE:
        raise _refused(ast.Compare(left, [op], [right]))
    sign, compare = COMPARE[type(op)]
    other = _operand(right, schema, columns)
    if one.column is None and other.column is None:
        raise UsageError(f"where compares {one.told} with {other.told}: name a column on one side")
    if sign in ("==", "!=") and (one.value is None or other.value is None):
        field = pc.field(one.column or other.column)
        return field.is_null() if sign == "==" else field.is_valid()
    _check_kinds(one, sign, other)
    return compare(one.value, other.value)


def _among(one: _Operand, among: list[_Operand], *, wanted: bool) -> pc.Expression:
    if one.column is None or not among or any(item.column is not None for item in among):
        raise UsageError(f"where has {one.told} beside in: write COLUMN in (VALUE, VALUE)")
    for item in among:
        _check_kinds(one, "==", item)
    found = one.value.isin([item.value for item in among])
    # isin alone is false of a missing value, so `not` would let it in
    return pc.if_else(one.value.is_valid(), found if wanted else ~found, pa.scalar(None, pa.bool_()))  # pyright: ignore[reportAttributeAccessIssue]


def _check_kinds(one: _Operand, sign: str, other: _Operand) -> None:
    ordered = sign in ("==", "!=") or one.kind in ("number", "text")
    if one.kind != other.kind or one.kind in ("null", "other") or not ordered:
        raise UsageError(
            f"where can't tell {one.told} {sign} {other.told}: compare numbers with numbers, text with text"
        )


def _operand(node: ast.expr, schema: pa.Schema, columns: dict[str, None]) -> _Operand:
    match node:
        case ast.Name(id=name) if name in CONSTANTS and name not in schema.names:
            return _literal(CONSTANTS[name])
        case ast.Name(id=name):
            return _column(name, schema, columns)
        case ast.Call(func=ast.Name(id="column"), args=[ast.Constant(value=str(name))], keywords=[]):
            return _column(name, schema, columns)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)) if not isinstance(
            value, bool
        ):
            return _literal(-value)
        case ast.Constant(value=value) if value is None or type(value) in (bool, int, float, str):
            return _literal(value)
    raise _refused(node)


def _literal(value: Any) -> _Operand:
    kind: Kind = "null" if value is None else "truth" if type(value) is bool else "text"
    if type(value) in (int, float):
        kind = "number"
        pa.scalar(value)  # an int past 64 bits overflows here, not in the middle of a comparison
    told = {None: "null", True: "true", False: "false"}[value] if kind in ("null", "truth") else repr(value)
    return _Operand(kind=kind, told=told[:40], value=value)


def _column(name: str, schema: pa.Schema, columns: dict[str, None]) -> _Operand:
    if name not in schema.names:
        raise UsageError(f"where names {name[:40]!r}, which is no column: take of {', '.join(schema.names)[:400]}")
    columns[name] = None
    type_ = schema.field(name).type
    return _Operand(kind=kind_of(type_), told=f"{name} ({type_})", value=pc.field(name), column=name)


def kind_of(type_: pa.DataType) -> Kind:
    """Tell what a column's values can be compared with."""
    if pa.types.is_dictionary(type_):
        return kind_of(type_.value_type)
    if pa.types.is_boolean(type_):
        return "truth"
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        return "number"
    is_text = pa.types.is_string(type_) or pa.types.is_large_string(type_)
    return "text" if is_text else "null" if pa.types.is_null(type_) else "other"


def _refused(node: ast.expr) -> UsageError:
    return UsageError(f"where can't hold {ast.unparse(node)[:40]!r}: {EXAMPLE}")
