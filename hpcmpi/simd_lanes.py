"""Folds of float64 arrays in explicit lanes: eight elements at once, several independent accumulators, prefetched.

What LLVM makes of a plain loop depends on its mood: a loop with min, max and integer sums on float images may come out
scalar, and its loads are never prefetched, which alone costs a quarter of the memory's bandwidth. :func:`lane_fold`
builds such a loop instruction by instruction from a body written on :class:`Lanes`. LLVM cuts the lanes to what the
processor has; they pay where it has 512-bit registers, which :func:`hpcmpi.simd.has_avx512` tells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 8
STEP = 4 * LANES
"""A fold is given a multiple of so many elements."""

_AHEAD = 1024  # elements between a prefetch and its use: one latency of the memory at full speed
_INTEGER, _FLOAT = ir.IntType(64), ir.DoubleType()
_INTEGERS, _FLOATS = ir.VectorType(_INTEGER, LANES), ir.VectorType(_FLOAT, LANES)
MAGNITUDE = 2**63 - 1  # mask of a float64's bits without the sign


class Lanes:
    """Eight float64 or eight int64 inside a fold; the operators are those of one machine instruction each."""

    def __init__(self, builder: Any, value: Any) -> None:
        self._builder, self.value = builder, value

    def _other(self, other: Lanes | int) -> Any:
        return ir.Constant(_INTEGERS, [other] * LANES) if isinstance(other, int) else other.value

    def _is_float(self) -> bool:
        return bool(self.value.type == _FLOATS)

    def _made(self, value: Any) -> Lanes:
        return Lanes(self._builder, value)

    def __add__(self, other: Lanes | int) -> Lanes:
        add = self._builder.fadd if self._is_float() else self._builder.add
        return self._made(add(self.value, self._other(other)))

    def __sub__(self, other: Lanes | int) -> Lanes:
        subtract = self._builder.fsub if self._is_float() else self._builder.sub
        return self._made(subtract(self.value, self._other(other)))

    def __mul__(self, other: Lanes) -> Lanes:
        return self._made(self._builder.fmul(self.value, other.value))

    def __and__(self, other: Lanes | int) -> Lanes:
        return self._made(self._builder.and_(self.value, self._other(other)))

    def __xor__(self, other: Lanes | int) -> Lanes:
        return self._made(self._builder.xor(self.value, self._other(other)))

    def sign_mask(self) -> Lanes:
        """All ones where an int64 is negative, else 0."""
        return self._made(self._builder.ashr(self.value, self._other(63)))

    def chosen(self, relation: str, other: Lanes, *, signed: bool) -> Lanes:
        """Of two int64, or two uint64, those that stand in ``relation`` (``<`` or ``>``) to the others."""
        compare = self._builder.icmp_signed if signed else self._builder.icmp_unsigned
        return self._made(self._builder.select(compare(relation, self.value, other.value), self.value, other.value))

    def bits(self) -> Lanes:
        """The images of float64 as int64."""
        return self._made(self._builder.bitcast(self.value, _INTEGERS))

    def floats(self) -> Lanes:
        """The float64 that int64 are the images of."""
        return self._made(self._builder.bitcast(self.value, _FLOATS))

    def product_error(self, factor: Lanes, product: Lanes) -> Lanes:
        """``self * factor - product`` with one rounding: none where ``product`` is the rounded product."""
        kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
        fma = cgutils.get_or_insert_function(self._builder.module, kind, f"llvm.fma.v{LANES}f64")
        negated = product.bits() ^ (-(2**63))
        return self._made(self._builder.call(fma, [self.value, factor.value, negated.floats().value]))


Merge = Callable[[Lanes, Lanes], Lanes]

MERGES: dict[str, tuple[int, Merge]] = {
    "add": (0, lambda a, b: a + b),
    "add floats": (0, lambda a, b: (a.floats() + b.floats()).bits()),
    "min": (2**63 - 1, lambda a, b: a.chosen("<", b, signed=True)),
    "max": (-(2**63), lambda a, b: a.chosen(">", b, signed=True)),
    "min unsigned": (-1, lambda a, b: a.chosen("<", b, signed=False)),
    "max unsigned": (0, lambda a, b: a.chosen(">", b, signed=False)),
}
"""What an accumulator starts from, and how a value enters it; values and accumulators are int64 images."""

_ACROSS = {
    "add": "add",
    "min": "smin",
    "max": "smax",
    "min unsigned": "umin",
    "max unsigned": "umax",
}  # LLVM's names of what brings the lanes of an accumulator together

Body = Callable[..., Sequence[Lanes]]


def lane_fold(merges: Sequence[str], body: Body, *, arrays: int, scalars: int, unroll: int = 4) -> Any:
    """Function ``fold(x, [y,] n, constants, out)`` for kernels.

    ``x`` (and ``y``, if ``arrays`` is 2) are contiguous float64; their first ``n`` elements, a multiple of ``STEP``,
    are folded. ``body(x, [y,] constants)`` makes of eight elements one value for each of ``merges``; ``constants`` are
    the first ``scalars`` float64 of the array of that name. ``out`` takes an int64 for each accumulator.
    ``unroll``, 1, 2 or 4, is how many sets of accumulators take turns; more than the registers hold are slow.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def data(index: int) -> Any:
            return context.make_array(signature.args[index])(context, builder, arguments[index]).data

        operands = [data(index) for index in range(arrays)]
        n, constants, out = arguments[arrays], data(arrays + 1), data(arrays + 2)
        spread = [_spread(builder, builder.load(builder.gep(constants, [_INTEGER(k)]))) for k in range(scalars)]
        state = [[cgutils.alloca_once_value(builder, _constant(MERGES[m][0])) for m in merges] for _ in range(unroll)]
        with cgutils.for_range(builder, builder.udiv(n, _INTEGER(unroll * LANES))) as loop:
            first = builder.mul(loop.index, _INTEGER(unroll * LANES))
            for row in range(unroll):
                at = builder.add(first, _INTEGER(row * LANES))
                values = body(*(_load(builder, operand, at) for operand in operands), spread)
                for place, merge, value in zip(state[row], merges, values, strict=True):
                    merged = MERGES[merge][1](Lanes(builder, builder.load(place)), value)
                    builder.store(merged.value, place)
        for k, merge in enumerate(merges):
            total = Lanes(builder, builder.load(state[0][k]))
            for row in range(1, unroll):
                total = MERGES[merge][1](total, Lanes(builder, builder.load(state[row][k])))
            builder.store(_across(builder, merge, total), builder.gep(out, [_INTEGER(k)]))
        return context.get_dummy_value()

    if arrays == 1:

        @intrinsic
        def fold_one(_typing: Any, x: Any, n: Any, constants: Any, out: Any) -> Any:
            return types.void(x, types.int64, constants, out), generate

        return fold_one

    @intrinsic
    def fold_two(_typing: Any, x: Any, y: Any, n: Any, constants: Any, out: Any) -> Any:
        return types.void(x, y, types.int64, constants, out), generate

    return fold_two


def _constant(number: int) -> Any:
    return ir.Constant(_INTEGERS, [number] * LANES)


def _across(builder: Any, merge: str, lanes: Lanes) -> Any:
    """The eight lanes of an accumulator as one int64."""
    if merge == "add floats":
        kind, name = ir.FunctionType(_FLOAT, [_FLOAT, _FLOATS]), f"llvm.vector.reduce.fadd.v{LANES}f64"
        added = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.bitcast(builder.call(added, [ir.Constant(_FLOAT, 0.0), lanes.floats().value]), _INTEGER)
    kind, name = ir.FunctionType(_INTEGER, [_INTEGERS]), f"llvm.vector.reduce.{_ACROSS[merge]}.v{LANES}i64"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [lanes.value])


def _spread(builder: Any, scalar: Any) -> Lanes:
    """A float64 in all lanes."""
    undefined = ir.Constant(_FLOATS, ir.Undefined)
    one = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return Lanes(builder, builder.shuffle_vector(one, undefined, zeros))


def _load(builder: Any, operand: Any, at: Any) -> Lanes:
    """Eight elements, while the line that will be needed ``_AHEAD`` elements later is on its way."""
    pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
    prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    later = builder.gep(operand, [builder.add(at, _INTEGER(_AHEAD))])
    builder.call(prefetch, [builder.bitcast(later, pointer), number(0), number(3), number(1)])
    place = builder.bitcast(builder.gep(operand, [at]), _FLOATS.as_pointer())
    return Lanes(builder, builder.load(place, align=8))
