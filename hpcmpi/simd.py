"""Instructions that Numba does not offer by name, as functions to call inside kernels.

Each is one LLVM intrinsic or instruction; LLVM gives processors that lack it an equivalent sequence, unless it says
otherwise.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
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
    """``array[index] |= bits`` of a contiguous uint64 vector as one atomic step; returns what was there before."""
    return _atomic("or", array, types.uint64)


@intrinsic
def atomic_add(_typing: Any, array: Any, index: Any, amount: Any) -> Any:
    """``array[index] += amount`` of a contiguous int64 vector as one atomic step; returns what was there before."""
    return _atomic("add", array, types.int64)


@intrinsic
def atomic_min(_typing: Any, array: Any, index: Any, word: Any) -> Any:
    """Make ``array[index]`` of a contiguous uint64 vector ``word`` if that is less, as one atomic step; returns what
    was there before.
    """
    return _atomic("umin", array, types.uint64)


def _atomic(operation: str, array: Any, item: Any) -> Any:
    """Typing and code of an atomic step; None, which Numba refuses, for any array that it would corrupt."""
    if not (isinstance(array, types.Array) and (array.ndim, array.layout, array.dtype) == (1, "C", item)):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        view = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.gep(view.data, [arguments[1]])
        return builder.atomic_rmw(operation, place, arguments[2], "monotonic")

    return item(array, types.intp, item), generate


@intrinsic
def prefetch(_typing: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of ``array[index]`` of a contiguous vector, to be read soon; never fails."""
    if not (isinstance(array, types.Array) and (array.ndim, array.layout) == (1, "C")):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        view = context.make_array(signature.args[0])(context, builder, arguments[0])
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        place = builder.bitcast(builder.gep(view.data, [arguments[1]]), pointer)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        name = "llvm.prefetch.p0i8"
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        builder.call(function, [place, *(ir.Constant(number, x) for x in (0, 3, 1))])  # to read, into all caches
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


def has_avx512() -> bool:
    """Whether kernels are compiled for a processor with AVX-512, unless ``HPCMPI_SIMD=portable`` says no."""
    if os.environ.get("HPCMPI_SIMD") == "portable":
        return False
    told = os.environ.get("NUMBA_CPU_FEATURES") or os.environ.get("NUMBA_CPU_NAME")  # compile for another processor
    return _host_has_avx512() if told is None else "+avx512f" in told


@cache
def _host_has_avx512() -> bool:
    return bool(get_host_cpu_features().get("avx512f"))


@intrinsic
def bits_of_float(_typing: Any, number: Any) -> Any:
    """The 64 bits of a float64, as int64."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), generate


@intrinsic
def float_of_bits(_typing: Any, bits: Any) -> Any:
    """The float64 whose 64 bits are those of an int64."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.int64), generate


@intrinsic
def fused_multiply_add(_typing: Any, x: Any, y: Any, z: Any) -> Any:
    """``x * y + z`` of float64 with one rounding."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return types.float64(types.float64, types.float64, types.float64), generate


@intrinsic
def high_product(_typing: Any, x: Any, y: Any) -> Any:
    """The upper 64 of the 128 bits of the product of two uint64."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(*(builder.zext(argument, wide) for argument in arguments))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


@intrinsic
def compress_between(_typing: Any, source: Any, start: Any, target: Any, at: Any, low: Any, high: Any) -> Any:
    """Copy those of the 64 bytes of int64 or int32 at ``source[start]`` that are in [low, high], packed, to
    ``target[at]``, and tell how many they are. All of the 64 bytes at ``target[at]`` are overwritten.

    AVX-512; there is no equivalent for processors that lack it.
    """
    bits = source.dtype.bitwidth
    lanes = 512 // bits
    vector, mask = ir.VectorType(ir.IntType(bits), lanes), ir.VectorType(ir.IntType(1), lanes)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def place(array: int) -> Any:
            view = context.make_array(signature.args[array])(context, builder, arguments[array])
            return builder.bitcast(builder.gep(view.data, [arguments[array + 1]]), vector.as_pointer())

        def everywhere(value: Any) -> Any:
            undefined, none = ir.Constant(vector, ir.Undefined), ir.Constant(ir.IntType(32), 0)
            first = builder.insert_element(undefined, value, none)
            return builder.shuffle_vector(
                first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
            )

        keys = builder.load(place(0))
        keys.align = bits // 8
        wanted = builder.and_(
            builder.icmp_signed(">=", keys, everywhere(arguments[4])),
            builder.icmp_signed("<=", keys, everywhere(arguments[5])),
        )
        name = f"llvm.x86.avx512.mask.compress.v{lanes}i{bits}"
        compress = builder.module.globals.get(name) or ir.Function(
            builder.module, ir.FunctionType(vector, [vector, vector, mask]), name
        )
        packed = builder.call(compress, [keys, ir.Constant(vector, [0] * lanes), wanted])
        builder.store(packed, place(2)).align = bits // 8
        return builder.zext(builder.ctpop(builder.bitcast(wanted, ir.IntType(lanes))), ir.IntType(64))

    item = source.dtype
    return types.int64(source, types.int64, target, types.int64, item, item), generate
