"""lanes: eight floats that a processor adds, multiplies and shuffles as one, for compiled loops. Needs numba.

LLVM makes vectors of long plain loops by itself. A transform's are short, and shuffle: here they are said. Eight
float32 fill a register of AVX; where registers are shorter LLVM takes two. A product and the sum after it may be
fused, as in all of our loops.

Arrays are float32, contiguous, of any shape, and an index counts their elements flat. Nothing is checked.
"""

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from llvmlite import ir
from numba import types
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model
from numba.np.arrayobj import make_array

LANES = 8
HALF = LANES // 2
FLOAT, INDEX = ir.FloatType(), ir.IntType(32)
HALF_VECTOR, VECTOR = ir.VectorType(FLOAT, HALF), ir.VectorType(FLOAT, LANES)


class Lanes(types.Type):
    """What numba calls eight floats at once."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")

    if TYPE_CHECKING:  # what compiled code may do with values of this type

        def __add__(self, other: "Lanes") -> "Lanes": ...
        def __sub__(self, other: "Lanes") -> "Lanes": ...
        def __mul__(self, other: "Lanes") -> "Lanes": ...


LANES_TYPE = Lanes()


@register_model(Lanes)
class _Model(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, VECTOR)


def _lower(operation: Callable, name: str) -> None:
    class Template(ConcreteTemplate):
        cases = [signature(LANES_TYPE, LANES_TYPE, LANES_TYPE)]  # noqa: RUF012 (numba's own way)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, name)(*args, flags=("contract",))

    cast(Any, infer_global(operation))(Template)
    lower_builtin(operation, LANES_TYPE, LANES_TYPE)(lower)


_lower(operator.add, "fadd")
_lower(operator.sub, "fsub")
_lower(operator.mul, "fmul")


# its own type says that what it decorates takes one argument less, or more
instruction = cast(Callable[[Callable], Callable[..., Any]], intrinsic)


def _pointer(context: Any, builder: Any, sig: Any, place: Any, element: Any) -> Any:
    array, index = place
    data = make_array(sig.args[0])(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), element.as_pointer())


def _read(context: Any, builder: Any, sig: Any, place: Any, element: Any) -> Any:
    return builder.load(_pointer(context, builder, sig, place, element), align=4)


def _shuffle(builder: Any, a: Any, b: Any, order: Sequence[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INDEX, len(order)), list(order)))


@instruction
def load(typing: Any, array: Any, index: Any) -> Any:
    """Return array[index : index + 8]."""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _read(context, builder, sig, args, VECTOR)

    return LANES_TYPE(array, types.intp), lower


@instruction
def load_twice(typing: Any, array: Any, index: Any) -> Any:
    """Return array[index : index + 4], and the same once more."""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        half = _read(context, builder, sig, args, HALF_VECTOR)
        return _shuffle(builder, half, half, [*range(HALF), *range(HALF)])

    return LANES_TYPE(array, types.intp), lower


@instruction
def load_halves(typing: Any, array: Any, low: Any, high: Any) -> Any:
    """Return array[low : low + 4], then array[high : high + 4]."""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        a, b = (_read(context, builder, sig, (args[0], index), HALF_VECTOR) for index in args[1:])
        return _shuffle(builder, a, b, range(LANES))

    return LANES_TYPE(array, types.intp, types.intp), lower


@instruction
def splat(typing: Any, array: Any, index: Any) -> Any:
    """Return array[index], eight times."""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        one = _read(context, builder, sig, args, FLOAT)
        vector = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), one, ir.Constant(INDEX, 0))
        return _shuffle(builder, vector, vector, [0] * LANES)

    return LANES_TYPE(array, types.intp), lower


@instruction
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Write array[index : index + 8]."""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[2], _pointer(context, builder, sig, args[:2], VECTOR), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, LANES_TYPE), lower


@instruction
def reverse(typing: Any, a: Any) -> Any:
    """Return a7 a6 ... a0."""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _shuffle(builder, args[0], args[0], range(LANES)[::-1])

    return LANES_TYPE(LANES_TYPE), lower


def _picker(order: Sequence[int]) -> Callable:
    @instruction
    def pick(typing: Any, a: Any, b: Any) -> Any:
        def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return _shuffle(builder, args[0], args[1], order)

        return LANES_TYPE(LANES_TYPE, LANES_TYPE), lower

    return pick


# of a = a0 ... a7 and b = b0 ... b7, each half for itself, as processors do it in one step
interleave_low = _picker((0, 8, 1, 9, 4, 12, 5, 13))  # a0 b0 a1 b1  a4 b4 a5 b5
interleave_high = _picker((2, 10, 3, 11, 6, 14, 7, 15))  # a2 b2 a3 b3  a6 b6 a7 b7
join_low = _picker((0, 1, 8, 9, 4, 5, 12, 13))  # a0 a1 b0 b1  a4 a5 b4 b5
join_high = _picker((2, 3, 10, 11, 6, 7, 14, 15))  # a2 a3 b2 b3  a6 a7 b6 b7
low_halves = _picker((0, 1, 2, 3, 8, 9, 10, 11))  # a0 to a3, b0 to b3
high_halves = _picker((4, 5, 6, 7, 12, 13, 14, 15))  # a4 to a7, b4 to b7
