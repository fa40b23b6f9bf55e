"""Instructions that Numba does not offer by name, as functions to call inside kernels.

Each is one LLVM intrinsic or instruction; LLVM gives processors that lack it an equivalent sequence.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@intrinsic
def count_trailing_zeros(_typing: Any, word: Any) -> Any:
    """Trailing zero bits of a uint64 (64 for 0), as uint64."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


@intrinsic
def count_ones(_typing: Any, word: Any) -> Any:
    """Bits that are set in a uint64, as uint64."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@intrinsic
def atomic_or(_typing: Any, array: Any, index: Any, bits: Any) -> Any:
    """``array[index] |= bits`` of a uint64 array as one atomic step; returns what was there before."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        view = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.gep(view.data, [arguments[1]])
        return builder.atomic_rmw("or", place, arguments[2], "monotonic")

    return types.uint64(array, types.intp, types.uint64), generate


@intrinsic
def atomic_add(_typing: Any, array: Any, index: Any, amount: Any) -> Any:
    """``array[index] += amount`` of an int64 array as one atomic step; returns what was there before."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        view = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.gep(view.data, [arguments[1]])
        return builder.atomic_rmw("add", place, arguments[2], "monotonic")

    return types.int64(array, types.intp, types.int64), generate


@intrinsic
def atomic_min(_typing: Any, array: Any, index: Any, word: Any) -> Any:
    """Make ``array[index]`` of a uint64 array ``word`` if that is less, as one atomic step; returns what was there."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        view = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.gep(view.data, [arguments[1]])
        return builder.atomic_rmw("umin", place, arguments[2], "monotonic")

    return types.uint64(array, types.intp, types.uint64), generate
