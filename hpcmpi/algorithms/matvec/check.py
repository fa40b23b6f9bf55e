"""Check of y = A x by an identity of dot products: w . (A x) = (A^T w) . x, for random vectors w.

The right side sums A by columns instead of rows, and moves sums of A to the owners of x instead of x to the owners of
rows: it shares neither the arithmetic nor the messages of the product. Each group of ranks that holds whole rows (a
rank, or a row of the grid) has a w of its own, zero elsewhere, so that the identity holds group by group.

**Weights**: row i gets three numbers, each of random sign and 0.5 to 1 large, over the Euclidean norm |a_i| of the row.
No element of y is ever weighted with nearly nothing, and all rows count alike.

**Tolerance** of a group: sqrt(T), where T adds up the squares of all rounding errors, each as large as it may well get
and with a random sign, as w has: with u the unit roundoff of y, v that of float64, and g(d) = 16 + 2 sqrt(d) +
min(d, 512) / 4 the growth of errors in a sum of d terms (as in the check of ``matmul``),

    (u g(k_i))^2 (y_i^2 + sum_j a_ij^2 x_j^2) / |a_i|^2     for row i of k_i non-zeros, and
    (v g(c_j))^2 x_j^2 sum_i a_ij^2 / |a_i|^2               for column j of c_j non-zeros,

and v^2 g(64)^2 times the squares of the terms of the two dot products, whose sums are pairwise. A wrong element of y is
caught where it is off by more than about 2 sqrt(T) |a_i|.

**Not finite**: y_i must be infinite or NaN exactly where row i of A holds such an element, or meets one of x, or where
its terms may overflow. These rows are left out of the identity, and counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi import generator
from hpcmpi.algorithms.matvec.check_kernels import add_weighted_rows, row_norms
from hpcmpi.algorithms.matvec.dense import DensePlan
from hpcmpi.algorithms.matvec.sparse import SparsePlan
from hpcmpi.dtypes import double_precision
from hpcmpi.partition import Range, coordinates, pieces
from hpcmpi.record import Scalar, Verdict

VECTORS = 3
_STREAM = 9  # of the generator; matrices and vectors are streams 0 and 1
_STRIP_BYTES = 4 << 20
_DOUBLE = float(np.finfo(np.float64).eps) / 2


def growth(terms: NDArray[Any] | float) -> NDArray[np.float64]:
    """Rounding errors, in units of roundoff, that a sum of so many terms may well gather."""
    return np.asarray(16 + 2 * np.sqrt(terms) + np.minimum(terms, 512) / 4)


def _weights(seed: int, rows: Range) -> NDArray[np.float64]:
    u = generator.uniform(seed, rows, Range(0, VECTORS), np.float64, stream=_STREAM)
    return np.asarray(np.copysign(0.5, u) + u)


@dataclass(frozen=True)
class _X:
    """This rank's part of x, finite and scaled to at most 1, and what was done to it."""

    local: NDArray[Any]
    scale: float
    bad: NDArray[np.bool_]
    any_bad: bool

    @classmethod
    def of(cls, comm: MPI.Comm, x: NDArray[Any]) -> _X:
        bad = ~np.isfinite(x)
        finite = np.where(bad, 0, x).astype(double_precision(x.dtype))
        largest = float(np.abs(finite).max(initial=0.0))
        scale, any_bad = collective.allreduce(comm, np.array([largest, float(bad.any())]), MPI.MAX)
        return cls(finite / (scale or 1.0), float(scale) or 1.0, bad, bool(any_bad))


class _Tally:
    """What the ranks add up for each group: both sides of the identity, T, and rows that are not finite."""

    def __init__(self, groups: int) -> None:
        self.left = np.zeros((groups, VECTORS), np.complex128)
        self.right = np.zeros((groups, VECTORS), np.complex128)
        self.squares = np.zeros(groups)
        self.odd = np.zeros(4, np.int64)  # rows: unexplained, from A or x, overflowed, not finite

    def add_rows(self, group: int, y: NDArray[Any], weights: NDArray[np.float64], squares: NDArray[np.float64]) -> None:
        """Count rows: ``y`` finite, over norm and scale; ``squares`` of the errors that y's own size allows."""
        for v in range(VECTORS):
            self.left[group, v] += np.sum(weights[:, v] * y)
        self.squares[group] += np.sum(squares) + (_DOUBLE * growth(64)) ** 2 * np.sum(np.abs(y) ** 2)

    def add_columns(self, group: int, x: NDArray[Any], sums: NDArray[Any], squares: NDArray[np.float64]) -> None:
        """Count columns: ``x``, the group's weighted sums of A's columns, and its squares as the kernel makes them."""
        magnitude = np.abs(x) ** 2
        for v in range(VECTORS):
            terms = sums[:, v] * x
            self.right[group, v] += np.sum(terms)
            self.squares[group] += (_DOUBLE * growth(64)) ** 2 * np.sum(np.abs(terms) ** 2) / VECTORS
        self.squares[group] += np.sum(magnitude * squares[:, 1])
        self.squares[group] += np.sum(magnitude * squares[:, 0] * (_DOUBLE * growth(squares[:, 2])) ** 2)

    def verdict(self, comm: MPI.Comm, *, owner: str) -> Verdict:
        """Add up over ``comm`` and judge each group; ``owner`` names what a group is."""
        left, right = collective.allreduce(comm, np.stack([self.left, self.right]))
        allowed = np.sqrt(collective.allreduce(comm, self.squares))
        unexplained, bad, overflowed, not_finite = (int(x) for x in collective.allreduce(comm, self.odd))
        error = np.abs(left - right).max(axis=1)
        wrong = ~(np.isfinite(allowed) & (error <= allowed))  # all is scaled, so that only a wild y is not finite
        ratios = np.divide(error, allowed, out=np.zeros_like(error), where=error > 0)
        worst = float(np.where(np.isfinite(ratios), ratios, np.inf).max(initial=0.0))
        facts: dict[str, Scalar] = {
            "verification": f"w . (A x) = (A^T w) . x, {VECTORS} vectors",
            "error_over_allowed": worst,
            "groups_wrong": int(wrong.sum()),
            "elements_not_finite": not_finite,
        }
        said = f"w . (A x) and (A^T w) . x differ by {worst:.2g} of what rounding allows"
        if not_finite:
            source = [f"{bad} from elements of A or x that are not" * bool(bad)]
            source += [f"{overflowed} from overflow" * bool(overflowed)]
            said += (
                f"; {not_finite} elements of y are not finite, {' and '.join(s for s in source if s) or 'unexplained'}"
            )
        if wrong.any():
            said = f"y is wrong in the rows of {owner} {', '.join(map(str, np.flatnonzero(wrong)[:8]))}: {said}"
        if unexplained:
            said = f"{unexplained} elements of y are wrongly finite or not finite: {said}"
        return Verdict(not wrong.any() and unexplained == 0, said, facts)


@np.errstate(over="ignore", invalid="ignore", divide="ignore")  # a wildly wrong element is told by the verdict
def check_sparse(
    comm: MPI.Comm, plan: SparsePlan, x: NDArray[Any], y: NDArray[Any], *, start: int, seed: int
) -> Verdict:
    """Check this rank's rows ``y``, the first of which is row ``start``, of ``plan``'s matrix times ``x``."""
    vector = _X.of(comm, x)
    bad_columns = np.empty(0, np.bool_)
    if vector.any_bad:
        places = collective.gather_blocks(comm, np.flatnonzero(vector.bad) + plan.bounds[comm.rank])
        bad_columns = np.isin(plan.columns, places)
    norms, bad = np.empty(plan.rows_held), np.zeros(plan.rows_held, np.bool_)
    row_norms(plan.indptr, plan.indices, plan.data, bad_columns, norms, bad)
    lengths = np.diff(plan.indptr).astype(np.int64)
    tally = _Tally(comm.size)
    weights = _weights(seed, Range(start, start + plan.rows_held))
    weights[_odd_rows(tally, y, bad, norms, lengths, vector.scale)] = 0
    norms[norms == 0] = 1
    unit = float(np.finfo(y.dtype).eps) / 2
    sums = np.zeros((len(plan.columns), VECTORS), double_precision(y.dtype))
    squares = np.zeros((len(plan.columns), 3))
    add_weighted_rows(plan.indptr, plan.indices, plan.data, norms, unit * growth(lengths), weights, sums, squares)
    _add_rows(tally, comm.rank, y, norms, lengths, weights, vector.scale)
    counts = np.diff(np.searchsorted(plan.columns, plan.bounds))
    places, came = collective.exchange(comm, plan.columns, counts)
    moved = [collective.exchange(comm, part, counts)[0] for part in (sums, squares)]
    edges = np.concatenate([[0], np.cumsum(came)])
    for group in range(comm.size):
        own = slice(edges[group], edges[group + 1])
        tally.add_columns(group, vector.local[places[own] - plan.bounds[comm.rank]], *(part[own] for part in moved))
    return tally.verdict(comm, owner="ranks")


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def check_dense(comm: MPI.Comm, plan: DensePlan, x: NDArray[Any], y: NDArray[Any], *, seed: int) -> Verdict:
    """Check this rank's piece ``y`` of ``plan``'s matrix times the ranks' pieces ``x``. Collective."""
    a, wide = plan.a, double_precision(plan.a.dtype)
    i, j = coordinates(plan.grid, comm.rank)
    vector = _X.of(comm, x)
    bad_columns = collective.gather_blocks(plan.column, vector.bad)
    survey = np.zeros((2, len(a)))  # largest finite magnitude of each row, and whether it is bad
    for at, strip in _strips(a):
        size = np.abs(strip)
        odd = ~np.isfinite(size)
        survey[1, at] = odd.any(axis=1) | bad_columns.any()
        survey[0, at] = np.where(odd, 0, size).max(axis=1, initial=0.0)
    largest, bad = collective.allreduce(plan.row, survey, MPI.MAX)
    largest[largest == 0] = 1
    norms = np.zeros(len(a))
    for at, strip in _strips(a):
        size = np.abs(strip) / largest[at, None]
        norms[at] = np.sum(np.where(np.isfinite(size), size, 0) ** 2, axis=1)
    norms = largest * np.sqrt(collective.allreduce(plan.row, norms))
    first = plan.rows.start - collective.allreduce(plan.row, np.array([plan.rows.start]), MPI.MIN)[0]
    own = slice(int(first), int(first) + plan.rows.size)  # this rank's piece among its rows
    lengths = np.full(plan.rows.size, plan.n, np.int64)
    tally = _Tally(plan.grid[0])
    weights = _weights(seed, plan.rows)
    weights[_odd_rows(tally, y, bad[own] > 0, norms[own], lengths, vector.scale)] = 0
    norms[norms == 0] = 1
    _add_rows(tally, i, y, norms[own], lengths, weights, vector.scale)
    weights = collective.gather_blocks(plan.row, weights)
    used = weights[:, 0] != 0
    unit = float(np.finfo(y.dtype).eps) / 2
    sums, squares = np.zeros((a.shape[1], VECTORS), wide), np.zeros((a.shape[1], 3))
    for at, strip in _strips(a):
        b = np.where(used[at, None], strip / norms[at, None], 0)
        sums += b.T @ weights[at]
        squares[:, 0] += np.sum(np.abs(b) ** 2, axis=0)
    squares[:, 1] = squares[:, 0] * (unit * growth(plan.n)) ** 2
    squares[:, 2] = used.sum()
    edges = np.cumsum([0, *collective.gather_blocks(plan.column, np.array([plan.columns.size]))])
    moved = [collective.exchange(plan.column, part, np.diff(edges))[0] for part in (sums, squares)]
    for group in range(plan.grid[0]):
        piece = slice(group * plan.columns.size, (group + 1) * plan.columns.size)
        tally.add_columns(group, vector.local, *(part[piece] for part in moved))
    return tally.verdict(comm, owner="grid rows" if j or plan.grid[1] > 1 else "ranks")


def check_eigenpair(
    comm: MPI.Comm, x: NDArray[Any], y: NDArray[Any], value: complex, residual: float, tolerance: float
) -> Verdict:
    """Check that ``y`` - ``value`` ``x`` is as short as ``residual`` says, no longer than ``tolerance``, and |x| = 1.

    Lengths are taken over |value|, in plain float64 arithmetic, scaled so that no square under- or overflows.
    That y is A x is for the other checks.
    """
    precision, size = np.finfo(x.dtype), abs(value)
    x, y = x.astype(double_precision(x.dtype)), y.astype(double_precision(y.dtype))
    largest = np.nan_to_num([np.abs(y).max(initial=0.0), size], nan=np.inf, posinf=np.inf)
    scale = float(collective.allreduce(comm, largest, MPI.MAX).max()) or 1.0
    if not np.isfinite(scale):
        return Verdict(False, "A x is not finite, so that it tells no eigenvalue", {})
    far = y / scale - (value if x.dtype.kind == "c" else value.real) / scale * x
    squares = np.array([np.sum(np.abs(far) ** 2), np.sum(np.abs(x) ** 2), len(x)])
    distance, length, root_n = (float(root) for root in np.sqrt(collective.allreduce(comm, squares)))
    found = distance / (size / scale) if size else np.inf if distance else 0.0
    slack = 16 * float(precision.eps)
    facts: dict[str, Scalar] = {"residual_found": found, "length_found": length}
    if not abs(length - 1) <= slack * max(1.0, root_n):
        return Verdict(False, f"x has length {length!r}, not 1", facts)
    if size:  # where numbers are so small that they lose digits
        slack += root_n * float(precision.smallest_subnormal) / size
    if found != residual and not abs(found - residual) <= slack + 0.01 * residual:
        return Verdict(False, f"the residual is {found:.3g}, not {residual:.3g}, of |lambda|", facts)
    if not found <= 1.01 * tolerance:
        said = f"no convergence: the residual is {found:.3g} of |lambda|, more than --tolerance {tolerance:g}"
        return Verdict(False, said, facts)
    return Verdict(True, f"residual {found:.2g} of |lambda|", facts)


def _odd_rows(
    tally: _Tally,
    y: NDArray[Any],
    bad: NDArray[np.bool_],
    norms: NDArray[np.float64],
    lengths: NDArray[np.int64],
    scale: float,
) -> NDArray[np.bool_]:
    """Rows that the identity must leave out, because y is not finite there; they are counted."""
    odd = ~np.isfinite(y)
    limit = float(np.finfo(y.dtype).max) / 8
    overflowed = odd & ~bad & (norms >= limit / scale / np.sqrt(np.maximum(1, lengths)))
    tally.odd += [int(x.sum()) for x in ((odd & ~bad & ~overflowed) | (bad & ~odd), odd & bad, overflowed, odd)]
    return np.asarray(odd | bad)


def _add_rows(
    tally: _Tally,
    group: int,
    y: NDArray[Any],
    norms: NDArray[np.float64],
    lengths: NDArray[np.int64],
    weights: NDArray[np.float64],
    scale: float,
) -> None:
    """Count the rows of ``y`` that have weight."""
    numbers = np.finfo(y.dtype)
    used = weights[:, 0] != 0
    scaled = np.where(used, y, 0).astype(double_precision(y.dtype)) / norms / scale
    underflow = lengths * float(numbers.tiny) / norms / scale
    squares = (float(numbers.eps) / 2 * growth(lengths) * np.abs(scaled)) ** 2 + underflow**2
    tally.add_rows(group, scaled, weights, squares)


def _strips(a: NDArray[Any]) -> Any:
    """Consecutive rows of ``a`` as float64 or complex128."""
    rows = max(1, _STRIP_BYTES // max(1, a.shape[1] * double_precision(a.dtype).itemsize))
    return ((piece.slice, a[piece.slice].astype(double_precision(a.dtype))) for piece in pieces(Range(0, len(a)), rows))
