"""What operations make of the states of lines: NumPy's dtypes, and its answers to NaN, infinities and empty lines."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcmpi.algorithms.reduce import exact_kernels as exact
from hpcmpi.algorithms.reduce import scan_kernels as scan
from hpcmpi.algorithms.reduce.accumulator_kernels import (
    ONE,
    carry_all,
    rounded_ratios,
    rounded_roots,
    rounded_variances,
)
from hpcmpi.algorithms.reduce.partial import Partial
from hpcmpi.algorithms.reduce.product import whole_product
from hpcmpi.errors import InputError

KEPT = "kept"
"""How many elements were not left out: a result beside the operations' own."""
_MAGNITUDE = 2**63 - 1
_ESTIMATE_ERROR = 1e-6  # of a product of integers in float64: far above its rounding, far below one wrap
_BEYOND = 128  # exponent of products that no integer type holds, and float64 still does


def result_dtype(op: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """NumPy's dtype for ``op`` of ``dtype``."""
    if op in ("any", "all"):
        return np.dtype(bool)
    if op in ("argmin", "argmax", "count-nonzero", "histogram", KEPT):
        return np.dtype(np.int64)
    if op in ("min", "max"):
        return dtype.newbyteorder("=")
    if dtype.kind in "biu":
        if op in ("sum", "prod"):
            return np.dtype(np.uint64 if dtype.kind == "u" else np.int64)
        return np.dtype(np.float64)
    native = dtype.newbyteorder("=")
    return np.dtype(f"f{native.itemsize // 2}") if native.kind == "c" and op in ("norm", "var", "std") else native


def outcome(op: str, partial: Partial, ddof: int = 0) -> NDArray[Any]:
    """Values of ``op`` for the lines of ``partial``, which holds all that there is to know: (lines,).

    ``ddof`` is that of variances. Raises InputError for the extremes of nothing, for integers that do not fit, and for
    NaN where that is refused.
    """
    if partial.refused.any():
        raise InputError("NaN is among the elements, which the NaN policy 'raise' refuses; 'omit' leaves it out")
    dtype = result_dtype(op, partial.plan.dtype)
    if op == KEPT:
        return partial.elements.copy()
    if op == "histogram":
        return partial.counts
    if op == "any":
        return np.asarray(partial.nonzero > 0)
    if op == "all":
        return np.asarray(partial.nonzero == partial.elements)
    if op == "count-nonzero":
        return partial.nonzero
    if op in ("min", "max", "argmin", "argmax"):
        return _order(op, partial, dtype)
    if op == "prod":
        return _product(partial, dtype)
    if op == "sum" and dtype.kind in "iu":
        return _integer_sum(partial, dtype)
    values = np.empty(partial.lines, dtype)
    with np.errstate(all="ignore"):  # what is not finite, or rounds to it, is an answer
        find = _plain if partial.plan.plain else _exact
        if dtype.kind == "c":
            for part, room in enumerate((values.real, values.imag)):
                room[...] = find(op, partial, ddof, part, room.dtype)
        else:
            values[...] = find(op, partial, ddof, 0, dtype)
    return values


@cache
def _format(dtype: np.dtype[Any]) -> tuple[int, int, int]:
    """Bits, exponent of the least number, and exponent from which on numbers are infinite."""
    about = np.finfo(dtype)
    return about.nmant + 1, int(about.minexp) - about.nmant, int(about.maxexp)


def _exact(op: str, partial: Partial, ddof: int, part: int, dtype: np.dtype[Any]) -> NDArray[np.float64]:
    """Sums of part ``part``, or what all parts make, rounded once to ``dtype``."""
    out, n, form = np.empty(partial.lines), partial.elements, _format(dtype)
    some = np.maximum(n, 1)
    special = partial.special if op in ("norm", "var", "std") else partial.special[part : part + 1]
    positive, negative, undefined = (special[:, :, k].sum(axis=0) for k in range(3))
    if op in ("sum", "mean"):
        rounded_ratios(partial.sums[part], some if op == "mean" else np.ones_like(n), *form, out)
        out[positive > 0], out[negative > 0] = np.inf, -np.inf
        out[(positive > 0) & (negative > 0)] = np.nan
        out[(n == 0) & (op == "mean")] = np.nan
    elif op == "norm":
        rounded_roots(partial.squares, *form, out)
        out[(positive > 0) | (negative > 0)] = np.inf
    else:
        free = np.maximum(n - ddof, 1)
        rounded_variances(partial.squares, partial.sums, some, free, op == "std", *form, out)
        out[n <= ddof] /= 0.0
        out[(positive > 0) | (negative > 0) | (n == 0)] = np.nan
    out[undefined > 0] = np.nan
    return out


def _plain(op: str, partial: Partial, ddof: int, part: int, _dtype: np.dtype[Any]) -> NDArray[np.float64]:
    """As :func:`_exact`, of plain sums."""
    moments, n = partial.moments, partial.elements.astype(np.float64)
    shift = partial.plan.shift[part] if "squares" in partial.plan.needs else 0.0
    if op in ("sum", "mean"):
        total = moments[part, :, 0] + n * shift
        return np.asarray(total / n if op == "mean" else total)
    if op == "norm":
        return np.asarray(np.sqrt(moments[:, :, 2].sum(axis=0)))
    squares = (moments[:, :, 1] - moments[:, :, 0] ** 2 / n).sum(axis=0)
    variance = np.maximum(squares, 0) / np.maximum(n - ddof, 0)
    return np.asarray(np.sqrt(variance) if op == "std" else variance)


def _integer_sum(partial: Partial, dtype: np.dtype[Any]) -> NDArray[Any]:
    digits = partial.sums[0]
    carry_all(digits)
    exact_sums = sum(digits[:, k].astype(object) << (32 * (k - ONE)) for k in range(ONE, ONE + 4))
    return _fitting("sum", np.asarray(exact_sums, object), dtype)


def _fitting(op: str, numbers: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Python's integers as ``dtype``; InputError for one that it cannot hold."""
    limits = np.iinfo(dtype)
    for line, number in enumerate(numbers):
        if not limits.min <= number <= limits.max:
            where = f" of line {line}" if len(numbers) > 1 else ""
            raise InputError(
                f"the {op}{where} is {number}, which {dtype} cannot hold: convert the input to float64 first"
            )
    return numbers.astype(dtype)


def _order(op: str, partial: Partial, dtype: np.dtype[Any]) -> NDArray[Any]:
    if partial.n == 0:
        raise InputError(f"{op} of an array without elements")
    order, least = partial.order, op in ("min", "argmin")
    empty = partial.elements == 0
    if empty.any() and (op.startswith("arg") or dtype.kind != "f"):
        where = f" of line {int(np.argmax(empty))}" if partial.lines > 1 else ""
        raise InputError(f"{op}{where}: all elements are left out, and {dtype} has no NaN to say so")
    undefined = (order[:, exact.AT_NAN] != exact.NOWHERE) | empty
    if op in ("argmin", "argmax"):
        place = order[:, exact.AT_LEAST if least else exact.AT_GREATEST]
        return np.where(undefined, order[:, exact.AT_NAN], place)
    keys = order[:, exact.LEAST if least else exact.GREATEST]
    if partial.plan.long:
        return keys.view(np.uint64) ^ np.uint64(1 << 63) if dtype.kind == "u" else keys.copy()
    values = (keys ^ ((keys >> 63) & _MAGNITUDE)).view(np.float64)
    values = np.where(undefined, np.nan, values) if dtype.kind == "f" else values
    return values.astype(dtype)


def _product(partial: Partial, dtype: np.dtype[Any]) -> NDArray[Any]:
    odd = partial.odd
    zero, infinite = odd[:, scan.ZEROS] > 0, odd[:, scan.INFINITE] > 0
    undefined = (odd[:, scan.UNDEFINED] > 0) | (zero & infinite)
    mantissa, exponent = whole_product(partial.nodes, partial.lines)
    sign = np.where(odd[:, scan.NEGATIVE] % 2, -1.0, 1.0)
    largest = _BEYOND if dtype.kind in "iu" else 3000
    with np.errstate(over="ignore"):
        magnitude = np.ldexp(mantissa, np.clip(exponent, -3000, largest).astype(np.int32))
    estimate = sign * np.where(zero, 0.0, magnitude)
    if dtype.kind in "iu":
        numbers = partial.wrapped.view(np.uint64) if dtype.kind == "u" else partial.wrapped
        wrong = np.flatnonzero(np.abs(numbers - estimate) > _ESTIMATE_ERROR * np.abs(estimate))
        if wrong.size:
            line = wrong[0]
            where = f" of line {line}" if len(numbers) > 1 else ""
            decimal = (exponent[line] + math.log2(mantissa[line])) * math.log10(2)
            about = f"{'-' if sign[line] < 0 else ''}10^{decimal:.1f}"
            raise InputError(
                f"the prod{where} is about {about}, which {dtype} cannot hold: convert the input to float64 first"
            )
        return numbers.astype(dtype)
    with np.errstate(over="ignore"):
        return np.where(undefined, np.nan, np.where(infinite, sign * np.inf, estimate)).astype(dtype)
