"""Freivalds' check of C = A B (Freivalds 1979), with three Gaussian vectors, row by row.

For a random n x 3 matrix X, C X must equal A (B X), which costs three matrix-vector products instead of a matrix
product. The three numbers that weight a column of C are a Gaussian vector scaled to the length sqrt(3), that is,
uniform on a sphere. So no column is ever weighted with nearly nothing: a single wrong element C_ij + e moves row i of
the residual by |e| sqrt(3), whatever the draw, while right products stay below a tolerance made of rounding errors.

**Tolerance of row i**: (u g(k) + v g(n + k)) s_i + underflow, with u the unit roundoff of the product's dtype, v that
of the check (float64), g(d) = 16 + 2 sqrt(d) + min(d, 512) / 4, and s_i^2 = |C_i|^2 + sum_k |A_ik|^2 |B_k|^2: the
squared length that row i has, and the one it would have if its terms were uncorrelated. The square root is the growth
of random rounding errors with room to spare; the linear term covers sums of like terms, whose errors may all point the
same way within one of BLAS's blocks of the inner dimension.

**With Strassen-Winograd** errors are of the size of the whole blocks, also in small rows, and grow threefold a level
(:mod:`~hpcmpi.algorithms.matmul.strassen`): row i is allowed 3^levels u g(k) max|A| |B| more, |B| being the Frobenius
norm. Rows that are smaller than this are told, as nobody can tell whether they are right.

**Not finite**: element (i, j) of C must be infinite or NaN exactly where row i of A or column j of B holds such an
element. These rows and columns are left out of the residual, and counted. A row whose terms could overflow the dtype
may hold such elements too; it is counted as overflowed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi import generator
from hpcmpi.algorithms.matmul.cost import CHECK_BYTES
from hpcmpi.algorithms.matmul.layout import BlockLayout
from hpcmpi.algorithms.matmul.stream import Readable
from hpcmpi.dtypes import double_precision
from hpcmpi.partition import Range, block, pieces
from hpcmpi.record import Scalar, Verdict

VECTORS = 3
_STREAM = 9  # of the generator; the operands are streams 0 and 1
_SAFE = 1e60  # squares of products of such numbers, summed over any k, stay within float64


def weights(seed: int, columns: Range) -> NDArray[np.float64]:
    """X's rows ``columns``: (columns.size, 3) float64, each uniform on the sphere of radius sqrt(3)."""
    u = generator.uniform(seed, columns, Range(0, 4), np.float64, stream=_STREAM) + 0.5
    radius, angle = np.sqrt(-2 * np.log1p(-u[:, :2])), 2 * np.pi * u[:, 2:]  # Box and Muller's transform
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :VECTORS]
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    return np.asarray(normal * (np.sqrt(VECTORS) / np.maximum(length, np.finfo(np.float64).tiny)))


def tolerance(dtype: np.dtype[Any], k: int, n: int) -> float:
    """Largest |residual| of a right row, relative to its scale s_i."""
    unit = float(np.finfo(dtype).eps) / 2
    return unit * _growth(k) + float(np.finfo(np.float64).eps) / 2 * _growth(n + k)


def tolerance_of_strassen(dtype: np.dtype[Any], k: int, levels: int) -> float:
    """What a row's |residual| may be beyond that, relative to max|A| |B|."""
    return float(3**levels * float(np.finfo(dtype).eps) / 2 * _growth(k))


def _growth(terms: int) -> float:
    return float(16 + 2 * np.sqrt(terms) + min(terms, 512) / 4)


@dataclass(frozen=True)
class _Survey:
    """Largest finite magnitude in each line of a matrix, and whether the line holds an element that is not finite."""

    largest: NDArray[np.float64]
    bad: NDArray[np.bool_]


@np.errstate(over="ignore", invalid="ignore")  # an element that is wildly wrong is told by the verdict
def check_product(
    comm: MPI.Comm,
    a: Readable,
    b: Readable,
    c: Readable,
    *,
    layout: BlockLayout,
    seed: int,
    strassen: int = 0,
    strip_bytes: int = CHECK_BYTES,
) -> Verdict:
    """Check that the blocks ``c`` are A B of the blocks ``a`` and ``b`` of ``layout``, which has no idle rank.

    ``strassen`` is the number of levels by which ``c`` was made. Matrices are read in strips of ``strip_bytes``.

    Collective; costs O(m k + k n + m n) operations and O(m + k) words, spread over the ranks.
    """
    n, k = layout.n, layout.k
    pm, pn, _ = layout.grid
    i, j, layer = layout.place(comm.rank)
    row, column = comm.Split(layer * pm + i, j), comm.Split(layer * pn + j, i)
    same_rows, same_columns = comm.Split(i, comm.rank), comm.Split(j, comm.rank)  # of all layers
    rows_a = _surveyed(same_rows, a, strip_bytes, axis=1)
    columns_b = _surveyed(same_columns, b, strip_bytes, axis=0)
    largest_b = float(collective.allreduce(row, np.array([columns_b.largest.max(initial=0)]), MPI.MAX)[0])
    extremes = np.array([rows_a.largest.max(initial=0), largest_b, 1 / _least_positive(rows_a.largest)])
    extreme = float(collective.allreduce(comm, extremes, MPI.MAX).max())
    scale_b = 1.0 if extreme < _SAFE and largest_b > 1 / _SAFE else _power_of_two_below(np.array([largest_b]))[0]
    scale_a = np.ones(len(a)) if extreme < _SAFE else _power_of_two_below(rows_a.largest)

    x = weights(seed, layout.columns(comm.rank))
    x[columns_b.bad] = 0
    z = np.zeros((len(b), VECTORS + 1), double_precision(b.dtype))  # B X, and the squared norms of B's rows
    for at, strip in _strips(b, strip_bytes):
        np.multiply(strip, scale_b, out=strip)
        z[at, :VECTORS] = strip @ x
        z[at, VECTORS] = _squared_norms(strip)
    z = collective.gather_blocks(column, collective.allreduce(row, z))
    extra = np.zeros(len(a))
    if strassen:
        own = np.array([z[:, VECTORS].real.sum() if i == j == 0 else 0.0])
        norm_b = float(np.sqrt(collective.allreduce(comm, own)[0]))
        extra = tolerance_of_strassen(c.dtype, k, strassen) * norm_b * rows_a.largest.max(initial=0) * scale_a
    z = z[block(layout.inner(comm.rank).size, pn, j).slice]
    squared_norms_b = np.ascontiguousarray(z[:, VECTORS].real)

    residual = np.zeros(
        (len(a), VECTORS + 3), double_precision(c.dtype)
    )  # C X - A (B X), s_i^2, elements not finite: bad, other
    for at, strip in _strips(a, strip_bytes):
        np.multiply(strip, scale_a[at, None], out=strip)
        residual[at, :VECTORS] = -(strip @ z[:, :VECTORS])
        residual[at, VECTORS] = _squared(strip) @ squared_norms_b
    first = layout.c(comm.rank)[0].start - layout.rows(comm.rank).start
    for part, strip, finite in _strips_with_mask(c, strip_bytes):
        at = slice(first + part.start, first + part.stop)
        if finite is not None:
            residual[at, VECTORS + 1] = np.count_nonzero(~finite[:, columns_b.bad], axis=1)
            residual[at, VECTORS + 2] = np.count_nonzero(~finite[:, ~columns_b.bad], axis=1)
        np.multiply(strip, scale_a[at, None], out=strip)
        np.multiply(strip, scale_b, out=strip)
        residual[at, :VECTORS] += strip @ x
        residual[at, VECTORS] += _squared_norms(strip)
    residual = collective.allreduce(same_rows, residual)
    bad_columns = int(collective.allreduce(row, np.array([np.count_nonzero(columns_b.bad)]))[0])
    for line in (row, column, same_rows, same_columns):
        line.Free()
    leads = j == 0 and layer == 0
    return _judge(comm, residual, rows_a, largest_b, scale_a * scale_b, extra, bad_columns, c.dtype, n, k, leads=leads)


def _judge(
    comm: MPI.Comm,
    residual: NDArray[Any],
    rows_a: _Survey,
    largest_b: float,
    scale: NDArray[np.float64],
    extra: NDArray[np.float64],
    bad_columns: int,
    dtype: np.dtype[Any],
    n: int,
    k: int,
    *,
    leads: bool,
) -> Verdict:
    """Verdict over all rows; the ranks that ``lead`` a grid row count for it."""
    numbers = np.finfo(dtype)
    error = np.linalg.norm(residual[:, :VECTORS], axis=1) / np.sqrt(VECTORS)
    squared_scale = residual[:, VECTORS].real
    allowed = tolerance(dtype, k, n) * np.sqrt(squared_scale) + extra
    underflow = k * np.sqrt(n) * float(numbers.tiny) * scale
    overflow = rows_a.largest * largest_b * 8 * max(1, k) >= float(numbers.max)
    in_bad_columns, elsewhere = residual[:, VECTORS + 1].real, residual[:, VECTORS + 2].real
    overflowed = ~rows_a.bad & overflow & (elsewhere > 0)
    checked = ~rows_a.bad & ~overflowed
    unexplained = np.where(
        rows_a.bad, in_bad_columns + elsewhere != n, (in_bad_columns != bad_columns) | (elsewhere > 0)
    )
    unexplained &= ~overflowed
    # The operands are scaled, so that only an element of C that is wildly wrong can bring its row out of range.
    wrong = unexplained | (checked & ~(np.isfinite(squared_scale) & (error <= allowed + underflow)))
    ratio = np.divide(error, allowed + underflow, out=np.zeros_like(error), where=checked & (error > 0))
    ratio[~np.isfinite(ratio)] = np.inf
    hidden = checked & (extra > np.sqrt(squared_scale)) & (extra > 0)
    counts = np.array(
        [wrong.sum(), rows_a.bad.sum(), overflowed.sum(), (in_bad_columns + elsewhere).sum(), hidden.sum()]
    )
    wrong_rows, bad_rows, overflowed_rows, not_finite, hidden_rows = (
        int(x) for x in collective.allreduce(comm, counts.astype(np.int64) * leads)
    )
    worst = float(collective.allreduce(comm, np.array([ratio.max(initial=0)]), MPI.MAX)[0])
    judged = checked & (squared_scale > 0)
    least = (allowed[judged] / np.sqrt(squared_scale[judged])).min(initial=np.inf)
    least = float(collective.allreduce(comm, np.array([least]), MPI.MIN)[0])
    least = least if np.isfinite(least) else tolerance(dtype, k, n)
    facts: dict[str, Scalar] = {
        "verification": f"Freivalds, {VECTORS} vectors",
        "residual_worst": worst * least,
        "residual_allowed": least,
        "rows_wrong": wrong_rows,
        "elements_not_finite": not_finite,
    }
    said = f"worst residual {facts['residual_worst']:.1e} of a row's norm, {facts['residual_allowed']:.1e} allowed"
    if not_finite:
        source = [f"{bad_rows} rows of A" * bool(bad_rows), f"{bad_columns} columns of B" * bool(bad_columns)]
        source += [f"overflow in {overflowed_rows} rows" * bool(overflowed_rows)]
        said += (
            f"; {not_finite} elements of C are not finite, from {' and '.join(s for s in source if s) or 'no input'}"
        )
    if hidden_rows:
        facts["rows_hidden"] = hidden_rows
        said += f"; {hidden_rows} rows are smaller than Strassen's error may be, and so unchecked"
    if wrong_rows:
        said = f"{wrong_rows} rows of C are wrong: {said}"
    return Verdict(wrong_rows == 0, said, facts)


def _surveyed(comm: MPI.Comm, matrix: Readable, strip_bytes: int, axis: int) -> _Survey:
    """Survey of the rows (``axis`` 1) or columns (``axis`` 0) of a matrix whose other dimension ``comm`` shares."""
    lines = np.zeros((2, matrix.shape[1 - axis]))
    for at, strip, finite in _strips_with_mask(matrix, strip_bytes):
        magnitude = np.abs(strip).max(axis=axis, initial=0)
        bad = False if finite is None else ~finite.all(axis=axis)
        where = at if axis == 1 else slice(None)
        lines[0, where] = np.maximum(lines[0, where], magnitude)
        lines[1, where] = np.maximum(lines[1, where], bad)
    largest, bad = collective.allreduce(comm, lines, MPI.MAX)
    return _Survey(largest, bad > 0)


def _strips(matrix: Readable, strip_bytes: int) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Consecutive rows as fresh float64 or complex128 arrays, elements that are not finite replaced by 0."""
    return ((at, strip) for at, strip, _ in _strips_with_mask(matrix, strip_bytes))


def _strips_with_mask(
    matrix: Readable, strip_bytes: int
) -> Iterator[tuple[slice, NDArray[Any], NDArray[np.bool_] | None]]:
    """As :func:`_strips`, with the mask of finite elements, or None where all are."""
    wide = double_precision(matrix.dtype)
    rows = max(1, strip_bytes // max(1, matrix.shape[1] * wide.itemsize))
    for piece in pieces(Range(0, len(matrix)), rows):
        strip = matrix[piece.slice].astype(wide, order="C")
        finite = None
        # A sum is finite unless a term is not or it overflows itself, which the mask then settles.
        if not np.isfinite(strip.sum()):
            finite = np.isfinite(strip)
            strip[~finite] = 0
        yield piece.slice, strip, None if finite is None or finite.all() else finite


def _squared(strip: NDArray[Any]) -> NDArray[np.float64]:
    squared: NDArray[np.float64] = strip.real**2 + strip.imag**2 if strip.dtype.kind == "c" else strip**2
    return squared


def _squared_norms(strip: NDArray[Any]) -> NDArray[np.float64]:
    flat = strip.view(np.float64)  # a complex row is a real one of twice the length
    return np.asarray(np.einsum("ij,ij->i", flat, flat))


def _least_positive(x: NDArray[np.float64]) -> float:
    return float(x[x > 0].min(initial=1.0))


def _power_of_two_below(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Powers of two that bring ``x`` near 1, where float64 can hold them; 1 for 0."""
    exponent = np.where(x > 0, np.frexp(x)[1], 0)
    power: NDArray[np.float64] = np.ldexp(1.0, -np.clip(exponent, -1000, 1000))
    return power
