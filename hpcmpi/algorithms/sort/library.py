"""The public functions: sorting and what follows from it, on arrays dealt to the ranks in blocks of rows.

Arguments are this rank's blocks, of any lengths, also none; the array that they form is their concatenation in the
order of the ranks. Results are dealt out by :func:`hpcmpi.partition.block`: rank r of P has ``n * r // P`` to
``n * (r + 1) // P``. Every function is collective, leaves its arguments as they are, gives the same result at any P,
and raises InputError (a ValueError) on all ranks if the ranks' arguments do not fit together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import ArrayLike, NDArray

from hpcmpi import comm as collective
from hpcmpi import threads
from hpcmpi.algorithms.sort import METHODS
from hpcmpi.algorithms.sort.counting import counting
from hpcmpi.algorithms.sort.keys import Codec, codec
from hpcmpi.algorithms.sort.odd_even import odd_even
from hpcmpi.algorithms.sort.order import fits, order
from hpcmpi.algorithms.sort.queries import questions
from hpcmpi.algorithms.sort.quicksort import quicksort
from hpcmpi.algorithms.sort.rows import Rows
from hpcmpi.algorithms.sort.sample import Report, capacity, sample, silent
from hpcmpi.algorithms.sort.sample_rows import sample_rows
from hpcmpi.algorithms.sort.selection import cuts
from hpcmpi.algorithms.sort.splitters import layout
from hpcmpi.arrays import plain_array
from hpcmpi.errors import InputError


def sort(comm: MPI.Comm, keys: ArrayLike, *, descending: bool = False, method: str = "sample") -> NDArray[Any]:
    """This rank's block of the sorted keys of all ranks.

    ``keys`` is (n_local,) of booleans, integers or floats of at most 8 bytes, of one dtype on all ranks. NaN comes last
    in either direction (as the one quiet NaN); ascending, all -0.0 come before all +0.0, and descending the other way
    round. ``method`` is ``sample``, ``odd-even`` or ``quicksort``; keys of one or two bytes are counted by ``sample``.
    """
    local, code = _keys(comm, keys, descending, method)
    with private(comm) as own:
        return _compact(code.decode(sort_images(own, code.raw(local), code, method, None)))


def argsort(comm: MPI.Comm, keys: ArrayLike, *, descending: bool = False, method: str = "sample") -> NDArray[np.int64]:
    """This rank's block of the permutation that sorts the keys of all ranks: int64 positions in the whole array.

    Stable: equal keys (-0.0 and +0.0, and all NaN, are equal here to none but their like) stay in their order, also in
    descending order. ``keys`` and ``method`` are as in :func:`sort`.
    """
    local, code = _keys(comm, keys, descending, method)
    with private(comm) as own:
        return _compact(order_images(own, code.raw(local), code, method))


def sort_by(
    comm: MPI.Comm,
    keys: ArrayLike,
    values: NDArray[Any] | Sequence[NDArray[Any]],
    *,
    descending: bool = False,
    method: str = "sample",
) -> tuple[NDArray[Any], Any]:
    """Keys in order, and the values that belong to them: this rank's blocks of both.

    ``values`` is an array (n_local, ...) or several, of any dtypes without Python objects; a rank without rows may give
    an empty list for the array. Returns the sorted keys and the array, or a list of arrays. Stable; ``keys`` and
    ``method`` are as in :func:`sort`.
    """
    local, code = _keys(comm, keys, descending, method)
    single, columns = _columns(comm, values)
    with _converted(comm, "values"):
        for column in columns:
            if column.ndim == 0 or len(column) != local.size or column.dtype.hasobject:
                raise InputError(
                    f"values have shape {column.shape} and dtype {column.dtype}; {local.size} rows of numbers are "
                    f"expected, as many as keys"
                )
    _same(comm, [(column.shape[1:], str(column.dtype)) for column in columns], "values")
    with private(comm) as own:
        rows = sort_rows(own, positioned(own, (wide(code.encode(local)),), columns), method)
    ordered = code.decode(rows.words[0].astype(code.image))
    return ordered, rows.columns[0] if single else list(rows.columns)


def searchsorted(comm: MPI.Comm, ordered: ArrayLike, values: ArrayLike, *, side: str = "left") -> NDArray[np.int64]:
    """Where this rank's ``values`` would be inserted in the array that all ranks' ``ordered`` keys form.

    ``ordered`` is ascending. ``values`` of any shape, integers or floats of any dtype, are compared with it exactly,
    and may be others on each rank. Returns int64 of their shape. ``left``: before equal keys, ``right``: after them. As
    in NumPy, -0.0 and +0.0 are one, and NaN is above all numbers.
    """
    local, code = _keys(comm, ordered, False, "sample")
    with _converted(comm, "values"):
        if side not in ("left", "right"):
            raise InputError(f"side is {side!r}; left or right is expected")
        images = code.encode(_one_zero(local))
        if (images[1:] < images[:-1]).any():
            raise InputError("the keys to search in are not in ascending order")
        queries = plain_array(values, "values").reshape(-1)
        if queries.size == 0:
            queries = np.empty(0, code.dtype)  # an empty list is of no dtype
        asked = questions(queries.astype(queries.dtype.newbyteorder("="), copy=False), code, side)
    with private(comm) as own:
        ends = own.allgather((int(images[0]), int(images[-1])) if images.size else None)
        sizes = own.allgather(images.size)
        filled = [rank for rank, end in enumerate(ends) if end is not None]
        known = [ends[rank] for rank in filled]
        if any(b[0] < a[1] for a, b in pairwise(known)):
            raise InputError("the keys to search in are not in ascending order from rank to rank")
        last = np.array([end[1] for end in known], np.int64)
        holder = _places(last, asked)
        target = np.append(filled, comm.size - 1).astype(np.int64)[holder]
        order = np.argsort(target, kind="stable")
        counts = np.bincount(target, minlength=comm.size).astype(np.int64)
        there, came = collective.exchange(own, asked[order], counts)
        start = sum(sizes[: comm.rank])
        found = start + _places(images, there)
        answers, _ = collective.exchange(own, found, came)
    result = np.empty(queries.size, np.int64)
    result[order] = answers
    return result.reshape(np.shape(values))


def _places(images: NDArray[Any], asked: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of the ascending ``images`` lie below each question ``asked`` (m, 2); see :mod:`queries`."""
    words, right = asked[:, 0].astype(images.dtype), asked[:, 1] != 0
    return np.where(right, np.searchsorted(images, words, "right"), np.searchsorted(images, words)).astype(np.int64)


def quantile(comm: MPI.Comm, keys: ArrayLike, q: ArrayLike) -> NDArray[np.float64]:
    """Exact quantiles of the keys of all ranks, the same on every rank: float64, of the shape of ``q``.

    ``q`` holds numbers from 0 to 1, the same on all ranks. Between two keys it is interpolated linearly, as
    ``numpy.quantile`` does by default; integers beyond 2^53 are rounded to float64. NaN if there is any among the keys.
    InputError if there are no keys.
    """
    local, code = _keys(comm, keys, False, "sample")
    with _converted(comm, "q"):
        fractions = np.asarray(plain_array(q, "q"), np.float64)
    _same(comm, fractions.tolist(), "q", (fractions.shape, fractions.tobytes()))
    with private(comm) as own:
        if code.dtype.kind == "b":
            raise InputError("quantiles of booleans: numbers are expected, as .astype('u1') makes them")
        where = layout(own, local.size)
        if where.n == 0 or not ((fractions >= 0) & (fractions <= 1)).all():
            raise InputError(f"quantiles {fractions.tolist()} of {where.n} keys: from 0 to 1 of some keys are expected")
        images = np.sort(code.encode(local))
        places = fractions.reshape(-1) * (where.n - 1)
        below = np.floor(places).astype(np.int64)
        wanted = np.unique(np.concatenate([below, np.minimum(below + 1, where.n - 1), [where.n - 1]]))
        bounds = cuts(own, [(images,)], wanted.tolist())[0]
        upper = cuts(own, [(images,)], (wanted + 1).tolist())[0]
        holds = upper > bounds  # this rank has the key of that place
        found = np.zeros(wanted.size, np.int64)
        found[holds] = images[bounds[holds]]
        chosen = collective.allreduce(own, found).astype(code.image)
    values = code.decode(chosen).astype(np.float64)
    if np.isnan(values[-1]):
        return np.full(fractions.shape, np.nan)
    low = values[np.searchsorted(wanted, below)]
    high = values[np.searchsorted(wanted, np.minimum(below + 1, where.n - 1))]
    return _between(low, high, places - below).reshape(fractions.shape)


def _between(low: NDArray[np.float64], high: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """From ``low`` (weight 0) to ``high`` (1), as NumPy does it, but also where their distance overflows."""
    with np.errstate(invalid="ignore", over="ignore"):
        distance = high - low
        near = np.where(weight < 0.5, low + distance * weight, high - distance * (1 - weight))
        far = low * (1 - weight) + high * weight
    between = np.where(np.isfinite(distance), near, far)
    return np.where((weight == 0) | (high == low), low, between)


def unique(comm: MPI.Comm, keys: ArrayLike) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The distinct keys of all ranks, ascending, and how often each occurs: this rank's blocks of both.

    As in NumPy, all NaN count as one, and so do -0.0 and +0.0, which come out as +0.0.
    """
    local, code = _keys(comm, keys, False, "sample")
    with private(comm) as own:
        images = sort_images(own, code.raw(_one_zero(local)), code, "sample", None)
        first = np.concatenate([[True], images[1:] != images[:-1]])[: images.size]
        distinct = images[first]
        counts = np.diff(np.append(np.flatnonzero(first), images.size)).astype(np.int64)
        ends = own.allgather((int(images[0]), int(images[-1]), int(counts[0]), distinct.size) if images.size else None)
        kept = slice(0, None)
        before = [end for end in ends[: comm.rank] if end is not None]
        if images.size and before and before[-1][1] == ends[comm.rank][0]:
            kept = slice(1, None)  # counted where the key begins
        if distinct[kept].size:
            for end in ends[comm.rank + 1 :]:
                if end is None or end[0] != int(images[-1]):
                    if end is not None:
                        break
                    continue
                counts[-1] += end[2]
                if end[3] > 1:
                    break
        parts = [np.ascontiguousarray(array[kept]) for array in (distinct, counts)]
        distinct, counts = (collective.rebalance(own, part) for part in parts)
    return code.decode(distinct), counts


# What the functions share


@contextmanager
def private(comm: MPI.Comm) -> Iterator[MPI.Comm]:
    """A duplicate of ``comm``, so that no receive of the caller's can take our messages."""
    own = comm.Dup()
    try:
        yield own
    finally:
        own.Free()


def sort_images(
    comm: MPI.Comm,
    raw: NDArray[Any],
    code: Codec,
    method: str,
    room: NDArray[Any] | None,
    report: Report = silent,
) -> NDArray[Any]:
    """This rank's block of the sorted images of all ranks' ``raw`` keys; ``room`` is memory as :func:`sample` wants."""
    if method == "sample" and code.image.itemsize <= 2:
        return counting(comm, raw, code)
    if method == "sample":
        if room is None:
            n = layout(comm, raw.size).n
            room = np.empty(capacity(n, comm.size, code.image.itemsize), code.image)
        return sample(comm, raw, code, room, threads=threads.available(), report=report)
    rows = Rows((code.encode(raw.view(code.dtype)),))
    return (odd_even if method == "odd-even" else quicksort)(comm, rows, report).words[0]


def order_images(
    comm: MPI.Comm,
    raw: NDArray[Any],
    code: Codec,
    method: str,
    room: NDArray[np.uint8] | None = None,
    report: Report = silent,
) -> NDArray[np.int64]:
    """This rank's block of the stable order of all ranks' ``raw`` keys; ``room`` is memory as :func:`order` wants."""
    if method == "sample" and fits(comm, layout(comm, raw.size)):
        return order(comm, raw, code, room, report)
    rows = positioned(comm, (wide(code.encode(raw.view(code.dtype))),))
    return np.asarray(sort_rows(comm, rows, method, report).words[-1])


def sort_rows(comm: MPI.Comm, rows: Rows, method: str, report: Report = silent) -> Rows:
    """This rank's block of the ordered rows of all ranks."""
    if method == "sample":
        return sample_rows(comm, rows)
    return (odd_even if method == "odd-even" else quicksort)(comm, rows, report)


def positioned(comm: MPI.Comm, words: tuple[NDArray[np.int64], ...], columns: Sequence[NDArray[Any]] = ()) -> Rows:
    """Rows whose last word is their position in the whole array."""
    start = layout(comm, len(words[0])).start
    return Rows((*words, np.arange(start, start + len(words[0]), dtype=np.int64)), tuple(columns))


def wide(images: NDArray[Any]) -> NDArray[np.int64]:
    """Images as words."""
    return images.astype(np.int64, copy=False)


def _one_zero(keys: NDArray[Any]) -> NDArray[Any]:
    """``keys`` with 0.0 for -0.0."""
    return np.where(keys == 0, keys.dtype.type(0), keys) if keys.dtype.kind == "f" else keys


def _keys(comm: MPI.Comm, keys: ArrayLike, descending: bool, method: str) -> tuple[NDArray[Any], Codec]:
    """The local keys as contiguous memory, and their codec, the same on all ranks.

    An empty list is of no dtype, and takes that of the others.
    """
    with _converted(comm, "keys"):
        local = plain_array(keys, "the array of keys")
        if local.ndim != 1:
            raise InputError(f"keys have shape {local.shape}; one dimension is expected")
        if method not in METHODS:
            raise InputError(f"method {method!r} is none of {', '.join(METHODS)}")
        code = codec(local.dtype, descending=descending)
        local = np.ascontiguousarray(local, code.dtype)
    nothing = local.size == 0 and not hasattr(keys, "dtype")
    dtypes = [dtype for dtype in comm.allgather(None if nothing else code.dtype) if dtype is not None]
    if nothing and dtypes:
        local, code = np.empty(0, dtypes[0]), codec(dtypes[0], descending=descending)
    _same(comm, (str(code.dtype), descending, method), "dtype, descending and method")
    return local, code


def _columns(comm: MPI.Comm, values: NDArray[Any] | Sequence[NDArray[Any]]) -> tuple[bool, list[NDArray[Any]]]:
    """Whether ``values`` are one array, the same on all ranks, and they as contiguous arrays.

    An empty list is no column, or an array of no rows where another rank has an array.
    """
    single = isinstance(values, np.ndarray)
    with _converted(comm, "values"):
        columns = [np.asarray(plain_array(c, "values"), order="C") for c in ([values] if single else values)]
    nothing = not single and not columns
    said = comm.allgather(None if nothing else (single, columns[0].shape[1:], columns[0].dtype))
    arrays = [about[1:] for about in said if about is not None and about[0]]
    if nothing and arrays:
        single, columns = True, [np.empty((0, *arrays[0][0]), arrays[0][1])]
    _same(comm, "an array" if single else f"{len(columns)} arrays in a list", "values")
    return single, columns


def _compact(found: NDArray[Any]) -> NDArray[Any]:
    """``found``, or a copy where it would keep alive more than twice the memory."""
    whole = found.base
    return found.copy() if isinstance(whole, np.ndarray) and whole.nbytes > 2 * found.nbytes else found


@contextmanager
def _converted(comm: MPI.Comm, what: str) -> Iterator[None]:
    """Agreement on arguments: what NumPy cannot convert, or we cannot take, on any rank is an InputError on all."""
    with collective.agreement(comm):
        try:
            yield
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"rank {comm.rank}: {'' if isinstance(error, InputError) else what + ': '}{error}"
            ) from error


def _same(comm: MPI.Comm, mine: object, what: str, identity: object = None) -> None:
    """Raise InputError, on all ranks, unless all of them have the same, or the same ``identity`` if it is given."""
    said = comm.allgather((mine if identity is None else identity, mine))
    for rank, (theirs, shown) in enumerate(said):
        if theirs != said[0][0]:
            raise InputError(f"rank {rank}: {what} are {shown}, but {said[0][1]} on rank 0")
