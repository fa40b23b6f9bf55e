"""Products for programs of the user's: on their own blocks and communicator."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi.algorithms.matvec import DTYPES
from hpcmpi.algorithms.matvec.dense import DensePlan
from hpcmpi.algorithms.matvec.entries import uniform_bounds
from hpcmpi.algorithms.matvec.sparse import SparsePlan
from hpcmpi.arrays import plain_array
from hpcmpi.comm import agreement
from hpcmpi.errors import InputError
from hpcmpi.partition import grid_block
from hpcmpi.threads import available

MatvecPlan = DensePlan | SparsePlan


def matvec(
    comm: MPI.Comm, a: Any, x: NDArray[Any], *, out: NDArray[Any] | None = None, grid: tuple[int, int] | None = None
) -> NDArray[Any]:
    """This rank's part of y = A x, from every rank's block ``a`` of A (m x n) and part ``x`` of x (n,).

    See :func:`matvec_plan` for how A may be held and dealt, and what x and y are then; it also makes what repeated
    products share. ``out`` (shape and dtype of the result) is filled and returned if given. The operands are not
    modified; nothing is verified. Collective.

    Raises InputError (a ValueError), on all ranks, if the blocks do not fit together, or for another dtype.
    """
    plan = matvec_plan(comm, a, grid=grid)
    try:
        with agreement(comm):
            plan.check(plain_array(x, f"rank {comm.rank}: x"), out)
        return plan(x, out)
    finally:
        plan.free()


def matvec_plan(comm: MPI.Comm, a: Any, *, grid: tuple[int, int] | None = None) -> MatvecPlan:
    """A plan for products with the matrix whose blocks ``a`` the ranks hold: ``plan(x)`` and ``plan(x, out)``.

    A block is a NumPy array (dense), or this rank's rows in compressed form (sparse): an object with ``indptr``
    (m_r + 1,), ``indices`` and ``data`` (nonzeros_r,) and ``shape`` (m_r, n), such as SciPy's ``csr_array``; column
    numbers are global. Dtypes are float32, float64, complex64 and complex128.

    *Sparse*: ranks hold consecutive rows, as many as each likes. Rank r holds those of y; of x, it holds the same range
    if A is square, or else ``n * r // P`` to ``n * (r + 1) // P`` (:func:`hpcmpi.partition.block`). Which entries of x
    each rank needs is worked out once, and only they travel; ``plan.x`` is where the plan keeps this rank's part:
    ``plan(plan.x)`` copies nothing.

    *Dense*: by default rank r of P holds rows ``m * r // P`` to ``m * (r + 1) // P``, and the parts of x and y by the
    same formula. With ``grid=(pr, pc)``, pr * pc = P, rank r is at row ``i = r // pc`` and column ``j = r % pc`` and
    holds the block (m_i, n_j); of x it holds part i of pr of x_j, of y part j of pc of y_i. ``grid=(1, P)`` are blocks
    of columns: the transposed product with blocks of rows is ``matvec_plan(comm, a.T, grid=(1, P))``. Arrays that are
    contiguous in either order are not copied.

    Without a grid, y has the same bits on any number of ranks and threads. Collective; ``plan.free()`` gives the
    communicators back.

    ``plan(x, out)`` looks at x and out before anything is sent or computed, and raises InputError for another length,
    shape or dtype, or an out that overlaps x or ``plan.x``. An agreement of the ranks would cost more than a
    product, so the error is raised on that rank alone while the others wait for it: let it end the job (``mpirun python
    -m mpi4py``), or call :func:`matvec`, which agrees.

    Raises InputError (a ValueError), on all ranks, if the blocks do not fit together, or for another dtype.
    """
    sparse = all(hasattr(a, name) for name in ("indptr", "indices", "data", "shape"))
    with agreement(comm):
        for name in ("indptr", "indices", "data") if sparse else ():
            plain_array(getattr(a, name), f"rank {comm.rank}: {name} of a")
        a = a if sparse else plain_array(a, f"rank {comm.rank}: a")
    if sparse:
        kind, dtype = str(getattr(a, "format", "csr")), str(a.data.dtype)
        ends = (len(a.indptr) - 1, len(a.indices), len(a.data), *_ends_of_rising(np.asarray(a.indptr)))
        extremes = _extremes(np.asarray(a.indices))
    else:
        kind, dtype, ends, extremes = "dense", str(a.dtype), (0,) * 5, (0, 0)
    shape = tuple(int(extent) for extent in np.shape(a))
    how = (int(grid[0]), int(grid[1])) if grid else None
    blocks = comm.allgather((kind, shape, dtype, how, ends, extremes))
    for rank, (_, shape_, dtype_, *_) in enumerate(blocks):
        if len(shape_) != 2:
            raise InputError(f"rank {rank}: a has shape {shape_}; two dimensions are expected")
        if dtype_ != blocks[0][2] or dtype_ not in DTYPES:
            raise InputError(
                f"rank {rank}: the dtype of a is {dtype_}; one of {', '.join(DTYPES)} is expected on all ranks"
            )
        if (blocks[rank][0], blocks[rank][3]) != (blocks[0][0], blocks[0][3]):
            raise InputError(f"rank {rank}: a is {blocks[rank][0]}, grid {blocks[rank][3]}, but not so on rank 0")
    if kind == "dense":
        return _dense_plan(comm, a, [b[1] for b in blocks], how or (comm.size, 1))
    if kind != "csr":
        raise InputError(f"a is a sparse matrix of format {kind}; csr is expected: use .tocsr()")
    return _sparse_plan(comm, a, blocks)


def _dense_plan(comm: MPI.Comm, a: NDArray[Any], shapes: list[tuple[int, int]], grid: tuple[int, int]) -> DensePlan:
    pr, pc = grid
    if pr < 1 or pc < 1 or pr * pc != comm.size:
        raise InputError(f"a grid of {pr} x {pc} does not have {comm.size} ranks")
    m, n = (
        sum(shapes[i * pc][0] for i in range(pr)),
        sum(shapes[j][1] for j in range(pc)) if grid[1] > 1 else shapes[0][1],
    )
    for rank, found in enumerate(shapes):
        expected = tuple(part.size for part in grid_block((m, n), grid, rank))
        if found != expected:
            raise InputError(f"rank {rank}: a is {found}; {expected} is its block of {m} x {n} on a {pr} x {pc} grid")
    return DensePlan(comm, a, m=m, n=n, grid=grid, threads=available())


def _ends_of_rising(indptr: NDArray[Any]) -> tuple[int, int]:
    """First and last element of ``indptr``, or (-1, -1) where it falls or holds no whole numbers."""
    if indptr.ndim != 1 or indptr.size == 0 or indptr.dtype.kind not in "iu" or np.any(indptr[1:] < indptr[:-1]):
        return -1, -1
    return int(indptr[0]), int(indptr[-1])


def _extremes(indices: NDArray[Any]) -> tuple[int, int]:
    """Least and largest of ``indices``, or (-1, -1) where they are no whole numbers."""
    if indices.size == 0:
        return 0, 0
    return (int(indices.min()), int(indices.max())) if indices.dtype.kind in "iu" else (-1, -1)


def _sparse_plan(comm: MPI.Comm, a: Any, blocks: list[Any]) -> SparsePlan:
    n = blocks[0][1][1]
    for rank, (_, shape, _, grid, (rows, indices, data, first, last), (lowest, highest)) in enumerate(blocks):
        if grid is not None:
            raise InputError("a sparse matrix is dealt in rows: no grid is expected")
        if shape[1] != n:
            raise InputError(f"rank {rank}: a has {shape[1]} columns, but {n} on rank 0")
        if first < 0:
            raise InputError(
                f"rank {rank}: a's indptr does not rise from 0 without falling, in whole numbers, as it must"
            )
        if rows != shape[0] or indices != data or first != 0 or last != data:
            raise InputError(
                f"rank {rank}: a has {shape[0]} rows, {data} values, {indices} indices, and an indptr of {rows + 1} "
                f"elements from {first} to {last}, which do not fit together"
            )
        if data and not 0 <= lowest <= highest < n:
            raise InputError(
                f"rank {rank}: a's columns are {lowest} to {highest}; whole numbers in [0, {n}) are expected"
            )
    m = sum(shape[0] for _, shape, *_ in blocks)
    bounds = np.cumsum([0] + [shape[0] for _, shape, *_ in blocks]) if m == n else uniform_bounds(n, comm.size)
    indices = np.ascontiguousarray(a.indices, np.int64)
    return SparsePlan(
        comm, a.indptr, indices, np.ascontiguousarray(a.data), bounds=bounds.astype(np.int64), threads=available()
    )
