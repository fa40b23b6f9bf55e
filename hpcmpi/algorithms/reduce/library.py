"""Public functions, on the caller's arrays and communicator."""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi import threads
from hpcmpi.algorithms.reduce import NAN_POLICIES, OPERATIONS
from hpcmpi.algorithms.reduce import exact_kernels as exact
from hpcmpi.algorithms.reduce.accumulator_kernels import DIGITS, rounded_ratios
from hpcmpi.algorithms.reduce.lines import Layout
from hpcmpi.algorithms.reduce.missing import missing
from hpcmpi.algorithms.reduce.outcome import KEPT, outcome
from hpcmpi.algorithms.reduce.partial import Partial, Plan
from hpcmpi.algorithms.reduce.reduction import Request, Work, check_axes, check_dtype, evaluate
from hpcmpi.algorithms.reduce.strips import at_once, strips
from hpcmpi.arrays import plain_array
from hpcmpi.errors import InputError
from hpcmpi.partition import Range, block
from hpcmpi.simd import has_avx512

_SINGLE = 1 << 17  # products that are not worth a second thread
_HEAD = 4  # of a message: how many ranks object, sum of the dtypes' kinds and sizes and of its squares, elements
_DOUBLE = (53, -1074, 1024)
_NUMPYS_FLOATS = (np.float16, np.float32, np.float64)
_TOO_MUCH = 2**53  # of what is counted


def reduce(
    comm: MPI.Comm,
    a: NDArray[Any],
    ops: str | Sequence[str],
    axis: int | tuple[int, ...] | None = None,
    *,
    ddof: int = 0,
    bins: int = 10,
    range: tuple[float, float] | None = None,  # noqa: A002 - NumPy's word
    fast: bool = False,
    fill_value: complex | None = None,
    nan_policy: str = "propagate",
) -> Any:
    """Reduce the array whose rows the ranks hold: rank 0 the first, rank 1 the next, as many each as it has.

    ``a`` is this rank's rows, (m_r, ...), of booleans, integers, floats or complex numbers, with any strides; trailing
    shape and dtype are the same on all ranks. ``ops`` is one name or several of sum, prod, min, max, argmin, argmax,
    mean, var, std, norm, any, all, count-nonzero, histogram; all share one pass over the data.

    Returns the value for one name, a dict of values for several. Without ``axis`` values are NumPy scalars, the same on
    all ranks; argmin and argmax are indices in row-major order. ``axis`` is one dimension, or a tuple of several (not
    for argmin and argmax). Without 0 among them, values are the results for this rank's rows; with 0 the ranks deal the
    results out along their longest dimension, rank r getting :func:`hpcmpi.partition.block` (length, P, r). Results
    have NumPy's dtypes. A histogram, of the whole array only, is (counts (bins,) int64, edges (bins + 1,)), as
    ``numpy.histogram`` has them, over the range of the data unless ``range`` is given; the edges of floats have the
    floats' dtype, those of integers are float64.

    Elements equal to ``fill_value`` are left out, and with ``nan_policy`` ``omit`` so is NaN; several names then also
    have ``kept``, how many elements were not. Where that is none, sums are 0, products 1, and means, variances and
    extremes NaN; extremes of integers, and places, are refused. ``nan_policy`` ``raise`` refuses NaN.

    Sums, means, norms, variances and standard deviations are exact and rounded once: the same bits on any number of
    ranks and threads. ``fast`` makes them plain floating-point sums. ``ddof`` is NumPy's.

    Raises InputError (a ValueError), on all ranks: blocks that do not fit together, an operation that the dtype lacks,
    min of nothing, integer sums or products that 64 bits cannot hold.
    """
    rows: NDArray[Any] = np.zeros(0)
    asked: tuple[Request, tuple[int, ...] | None] | InputError
    try:
        rows = plain_array(a, "the array")
        rows = rows if rows.ndim else rows.reshape(1)
        asked = _asked(rows, ops, axis, ddof, bins, range, fast, fill_value, nan_policy)
    except InputError as error:
        asked = error
    request, reduced, start, total = _agreed(comm, rows, asked)
    shape = (total, *rows.shape[1:])
    part = (Range(start, start + len(rows)), *(Range(0, extent) for extent in shape[1:]))

    def read(box: tuple[Range, ...]) -> NDArray[Any]:
        first = Range(box[0].start - start, box[0].stop - start)
        values: NDArray[Any] = rows[(first.slice, *(r.slice for r in box[1:]))]
        return values

    work = Work(read, threads.available(), max(1, rows.size))
    answers = evaluate(comm, Layout(shape, reduced, 0, part), rows.dtype, request, work)
    values: dict[str, Any] = {op: value if value.ndim else value[()] for op, value in answers.values.items()}
    if "histogram" in values:
        values["histogram"] = (values["histogram"], answers.edges)
    if isinstance(ops, str):
        return values[_canonical(ops)]
    return {op: values[_canonical(op)] for op in (*ops, *(name for name in values if name == KEPT))}


def _canonical(op: str) -> str:
    """The name of an operation, also by its Python name, ``count_nonzero``."""
    return op.replace("_", "-")


def _asked(
    rows: NDArray[Any], ops: Any, axis: Any, ddof: Any, bins: Any, limits: Any, fast: Any, fill: Any, nan_policy: Any
) -> tuple[Request, tuple[int, ...] | None]:
    """What is asked for, and the axes from 0 on, None for the whole array; InputError if that makes no sense."""
    names = (ops,) if isinstance(ops, str) else tuple(ops) if isinstance(ops, Sequence) else ()
    known = [_canonical(op) for op in names if isinstance(op, str) and _canonical(op) in OPERATIONS]
    if not names or len(known) < len(names):
        raise InputError(f"operations {ops!r}: names of {', '.join(OPERATIONS)} are expected")
    given = axis if isinstance(axis, tuple) or axis is None else (axis,)
    axes = None if given is None else tuple(_whole_number("axis", one) for one in given)
    along = check_axes(tuple(known), axes, rows.ndim)
    if along is not None and "histogram" in known:
        raise InputError("a histogram is of the whole array: leave axis out")
    how_many = _whole_number("bins", bins)
    if how_many < 1:
        raise InputError(f"{how_many} bins: at least one is expected")
    check_dtype(tuple(known), rows.dtype)
    if nan_policy not in NAN_POLICIES:
        raise InputError(f"nan_policy {nan_policy!r}: one of {', '.join(NAN_POLICIES)} is expected")
    left_out = missing(rows.dtype, fill, nan_policy)
    fill, nan_policy = left_out.fill, "omit" if left_out.omit else nan_policy
    known_ddof = _whole_number("ddof", ddof)
    return Request(tuple(known), known_ddof, how_many, _limits(limits), bool(fast), fill, nan_policy), along


def _whole_number(name: str, value: Any) -> int:
    """``value`` as an int, if it is one: 1.0 is, 0.5 and (0, 1) are not."""
    number = int(value) if isinstance(value, (float, np.floating)) and float(value).is_integer() else value
    try:
        found = operator.index(number)
    except TypeError:
        found = _TOO_MUCH
    if abs(found) >= _TOO_MUCH:
        raise InputError(f"{name} {value!r}: one whole number is expected")
    return found


def _limits(limits: Any) -> tuple[float, float] | None:
    """The range of a histogram; limits that are NumPy's scalars remain so, for they decide the edges' dtype."""
    if limits is None:
        return None
    try:
        low, high = (limit if type(limit) in _NUMPYS_FLOATS else float(limit) for limit in limits)
    except (TypeError, ValueError, OverflowError):
        low, high = math.nan, math.nan
    if not -math.inf < low <= high < math.inf:
        raise InputError(f"range {limits!r}: two finite numbers are expected, the first the lesser")
    return low, high


def _agreed(
    comm: MPI.Comm, rows: NDArray[Any], asked: tuple[Request, tuple[int, ...] | None] | InputError
) -> tuple[Request, tuple[int, ...] | None, int, int]:
    """What all ranks ask for, where this rank's rows begin, and how many there are; InputError on all ranks if not."""
    wrong = str(asked) if isinstance(asked, InputError) else ""
    described = None if wrong else (rows.shape[1:], str(rows.dtype.newbyteorder("=")), asked)
    everything = comm.allgather((wrong, described, len(rows)))
    for rank, (why, other, _rows) in enumerate(everything):
        if why:
            raise InputError(why if all(said == why for said, _, _ in everything) else f"rank {rank}: {why}")
        if other != everything[0][1]:
            raise InputError(f"rank {rank}: asks for {other}, rank 0 for {everything[0][1]}")
    if isinstance(asked, InputError):
        raise asked
    counts = [count for _why, _described, count in everything]
    return *asked, builtins.sum(counts[: comm.rank]), builtins.sum(counts)


def sum(comm: MPI.Comm, x: NDArray[Any]) -> Any:  # noqa: A001 - the operation's name
    """Sum of all elements of all ranks' ``x``, any shape, exact and rounded once; the dtype is NumPy's.

    One Allreduce of 1 KiB. The same bits however the elements are dealt out. Raises InputError, on all ranks, if any
    rank's ``x`` holds no numbers, or for integers that 64 bits cannot hold; the dtype must be the same on all ranks.
    """
    return _whole(comm, x, "sum", frozenset({"sums"}))


def norm(comm: MPI.Comm, x: NDArray[Any]) -> Any:
    """Euclidean norm of all elements of all ranks' ``x``, exact and rounded once; otherwise as :func:`sum`."""
    return _whole(comm, x, "norm", frozenset({"squares"}))


def _whole(comm: MPI.Comm, x: NDArray[Any], op: str, needs: frozenset[str]) -> Any:
    wrong = ""
    try:
        x = plain_array(x, "the array")
        check_dtype((op,), x.dtype)
    except InputError as error:
        wrong, x = f"rank {comm.rank}: {error}", np.zeros(0)
    # Kind and size, for NumPy has several numbers for the same integers.
    kind = ord(x.dtype.kind) << 8 | min(x.dtype.itemsize, 255)
    partial = Partial(Plan(x.dtype, needs), 1)
    partial.add(x.reshape(1, 1, -1), 0, threads.available())
    digits = partial.sums[:, 0] if "sums" in needs else partial.squares
    # Two parts always: a rank that has the wrong dtype must not send another length.
    packed = np.zeros(_HEAD + 6 + 2 * DIGITS, np.int64)
    packed[:_HEAD] = bool(wrong), kind, kind * kind, x.size
    packed[_HEAD : _HEAD + partial.special.size] = partial.special.reshape(-1)
    packed[_HEAD + 6 : _HEAD + 6 + digits.size] = digits.reshape(-1)
    packed = collective.allreduce(comm, packed)
    if packed[0]:
        raise InputError(next(text for text in comm.allgather(wrong) if text))
    if packed[2] * comm.size != packed[1] ** 2:
        raise InputError(f"{op} of arrays of different dtypes: {', '.join(comm.allgather(str(x.dtype)))}")
    partial.n = int(packed[3])
    partial.special[...] = packed[_HEAD : _HEAD + partial.special.size].reshape(partial.special.shape)
    digits[...] = packed[_HEAD + 6 : _HEAD + 6 + digits.size].reshape(digits.shape)
    return outcome(op, partial)[0]


def dot(comm: MPI.Comm, x: NDArray[Any], y: NDArray[Any]) -> np.float64:
    """Sum of ``x[i] * y[i]`` over all elements of all ranks, exact and rounded once, as float64.

    ``x`` and ``y`` have the same shape on each rank, and are float64, float32, float16, booleans or integers of up to
    32 bits. One Allreduce of 1 KiB; the same bits however the elements are dealt out. NaN and infinities are as in a
    sum of products. Raises InputError, on all ranks, if any rank's arrays do not fit together.
    """
    digits, special = np.zeros((1, DIGITS), np.int64), np.zeros((1, 3), np.int64)
    wrong = ""
    try:
        x, y = plain_array(x, "x"), plain_array(y, "y")
        if x.shape != y.shape or not (_float64_holds(x.dtype) and _float64_holds(y.dtype)):
            found = f"{x.dtype} {x.shape} and {y.dtype} {y.shape}"
            raise InputError(f"dot of {found}: real numbers of one shape are expected")
        _add_products(x.reshape(-1), y.reshape(-1), digits, special)
    except InputError as error:
        wrong = f"rank {comm.rank}: {error}"
    packed = np.concatenate([np.array([bool(wrong)], np.int64), special[0], digits[0]])
    packed = collective.allreduce(comm, packed)
    if packed[0]:
        raise InputError(next(text for text in comm.allgather(wrong) if text))
    positive, negative, undefined = (bool(count) for count in packed[1:4])
    if undefined or (positive and negative):
        return np.float64(np.nan)
    if positive or negative:
        return np.float64(np.inf if positive else -np.inf)
    out = np.empty(1)
    rounded_ratios(packed[4:].reshape(1, DIGITS), np.ones(1, np.int64), *_DOUBLE, out)
    value: np.float64 = out[0]
    return value


def _float64_holds(dtype: np.dtype[Any]) -> bool:
    return (dtype.kind == "f" and dtype.itemsize <= 8) or (dtype.kind in "biu" and dtype.itemsize <= 4)


def _add_products(x: NDArray[Any], y: NDArray[Any], digits: NDArray[np.int64], special: NDArray[np.int64]) -> None:
    """Add the products of two vectors to an accumulator, on this rank's threads."""
    count = threads.available() if x.size > _SINGLE else 1
    shares = [block(x.size, count, t) for t in builtins.range(count)]
    parts = [(np.zeros_like(digits), np.zeros_like(special)) for _ in shares]
    lanes = has_avx512()

    def add(job: tuple[Range, tuple[NDArray[np.int64], NDArray[np.int64]]]) -> None:
        share, (own_digits, own_special) = job
        whole = all(v.dtype == np.float64 and v.flags.carray for v in (x, y))
        one, two = (v[share.slice].reshape(1, 1, -1) for v in (x, y))
        for a, b in zip(strips(one, whole=whole), strips(two, whole=whole), strict=True) if share.size else ():
            exact.exact_dot(a.rows, b.rows, own_digits, own_special, lanes)

    at_once(add, list(zip(shares, parts, strict=True)), count)
    for own_digits, own_special in parts:
        digits += own_digits
        special += own_special
