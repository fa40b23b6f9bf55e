"""C = A B of a program's own arrays: what the ranks hold is agreed on, and then multiplied as the command does."""

from __future__ import annotations

import dataclasses
import logging
import operator
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi.algorithms.matmul import DTYPES, METHODS, MOST_LEVELS, Resolved
from hpcmpi.algorithms.matmul.core import multiply
from hpcmpi.algorithms.matmul.cost import block_plans, needed_grid
from hpcmpi.algorithms.matmul.layout import BlockLayout, Blocks, grid_text
from hpcmpi.algorithms.matmul.panels import LocalProducts
from hpcmpi.arrays import plain_array
from hpcmpi.comm import agreement
from hpcmpi.errors import InputError, UsageError
from hpcmpi.machine import Machine, measured, profile_path
from hpcmpi.partition import three_dimensional
from hpcmpi.record import counted

_shares_memory: Callable[..., bool] = np.shares_memory  # NumPy's stubs do not know all of its arguments
_OVERLAP_WORK = 100_000  # candidates that are looked at for an element in both of two arrays


def matmul_layout(
    m: int, n: int, k: int, ranks: int, *, dtype: str = "float64", machine: Machine | None = None
) -> BlockLayout:
    """BlockLayout on which the product of an m x k and a k x n matrix costs ``ranks`` ranks least.

    The blocks of a rank are ``layout.a(rank)``, ``layout.b(rank)`` and ``layout.c(rank)``, pairs of ranges of global
    rows and columns; ``layout.grid`` is what :func:`matmul` takes as ``grid``. ``dtype`` is one of those that
    :func:`matmul` takes. Costs are priced with the speeds of ``machine``, by default those that
    ``hpcmpi doctor --measure --save`` measured on this host, if any. Local: where hosts have different profiles, pass
    all ranks the same ``machine``.

    Raises InputError for what is no size, number of ranks, such dtype or machine.
    """
    sizes = {"m": m, "n": n, "k": k, "ranks": ranks}
    for name, value in sizes.items():
        if not isinstance(whole := _whole(value), int) or whole < (name == "ranks"):
            raise InputError(f"{name} is {value!r}; a whole number from {int(name == 'ranks')} on is expected")
    m, n, k, ranks = map(operator.index, sizes.values())
    try:
        name = str(np.dtype(dtype))
    except TypeError:
        name = repr(dtype)
    if name not in DTYPES:
        raise InputError(f"dtype is {name}; one of {', '.join(DTYPES)} is expected")
    if not isinstance(machine, Machine | None):
        raise InputError(f"machine is {machine!r}; a hpcmpi.machine.Machine is expected")
    plan = block_plans(Resolved(m=m, n=n, k=k, dtype=name), ranks, machine or _measured(profile_path()))[0]
    return BlockLayout(m, n, k, three_dimensional(plan.grid))


def matmul(
    comm: MPI.Comm,
    a: NDArray[Any],
    b: NDArray[Any],
    *,
    out: NDArray[Any] | None = None,
    grid: tuple[int, ...] | None = None,
    method: str = "auto",
    strassen: int = 0,
) -> NDArray[Any]:
    """This rank's block of C = A B, from every rank's blocks of A (m x k) and B (k x n).

    By default all three are dealt in blocks of rows: rank r of P holds rows ``n * r // P`` to ``n * (r + 1) // P``
    (:func:`hpcmpi.partition.block`), and ``a`` is (m_r, k), ``b`` (k_r, n), the result (m_r, n).

    With ``grid=(pr, pc)`` they are dealt in 2-D blocks: rank r is at row ``i = r // pc`` and column ``j = r % pc`` and
    holds ``a`` (m_i, k_j), ``b`` (k_i, n_j), and the result (m_i, n_j). With ``grid=(pm, pn, pk)`` the inner dimension
    is cut too: the blocks are those of :class:`~hpcmpi.algorithms.matmul.layout.BlockLayout`, and :func:`matmul_layout`
    finds the best grid. So ``matmul(comm, x.T, x, grid=(1, 1, comm.size))`` is the Gram matrix of a matrix X of which
    each rank has rows: columns of A = X^T and rows of B = X; it gets rows of C. A grid may have fewer ranks than
    ``comm``: those beyond it pass and get blocks of shape (0, 0).

    Any strides will do, so that a transposed operand is passed as ``x.T``. The dtype is NumPy's result type of the
    two: float32, float64, complex64 or complex128. ``out`` (shape and dtype of the result; it must not overlap the
    operands) is filled and returned if given. ``method`` is ``auto``, ``summa`` (van de Geijn and Watts 1997), ``3d``
    (any grid), ``ring`` (blocks of rows or of columns only) or ``cannon`` (square grids only; Cannon 1969).
    ``strassen`` is the number of levels of Strassen-Winograd (0 to 4), of which as many are taken as pay on the ranks'
    blocks: faster for large ones, but the error of an element is then bounded by the sizes of the whole matrices, and
    about threefold a level. ``auto`` goes by the speeds in rank 0's profile of its machine (``hpcmpi doctor --measure
    --save``), if there is one. The operands are not modified; nothing is verified.

    Raises InputError (a ValueError), on all ranks, if the blocks do not fit together, or for another dtype.
    """
    with agreement(comm):
        a, b = plain_array(a, f"rank {comm.rank}: a"), plain_array(b, f"rank {comm.rank}: b")
    asked = (_whole_numbers((comm.size, 1) if grid is None else grid), method, _whole(strassen))
    here = _measured(profile_path()) if comm.rank == 0 else None
    own = a.shape, b.shape, _result_type(a, b), _described(out, a, b), asked
    blocks, hosts, machines = zip(*comm.allgather((own, MPI.Get_processor_name(), here)), strict=True)
    layout, dtype = _agreed_layout(blocks, comm.size)
    most = max(Counter(hosts).values())
    machine = dataclasses.replace(machines[0], ranks_per_node=most, cores_per_node=most)
    spec = Resolved(
        m=layout.m, n=layout.n, k=layout.k, dtype=dtype, method=method,
        grid="x".join(map(str, layout.grid)), strassen=operator.index(strassen),
    )  # fmt: skip
    try:
        plan = block_plans(spec, comm.size, machine)[0]
    except UsageError:
        raise InputError(
            f"method {method!r} cannot multiply blocks on a {grid_text(layout.grid)} grid and {counted(comm.size)}; "
            f"it needs grid {needed_grid(method, comm.size)}"
        ) from None
    c = np.empty((layout.c(comm.rank)[0].size, b.shape[1]), dtype) if out is None else out
    private = comm.Dup()  # so that no receive of the caller's can take our messages
    multiply(private, Blocks(layout, np.asarray(a, dtype), np.asarray(b, dtype), c), plan, LocalProducts())
    private.Free()
    return c


@cache
def _measured(_profile: Path) -> Machine:
    """:func:`~hpcmpi.machine.measured`, read once from each file; a damaged one is reported and ignored.

    Through ``logging``: a warning that a filter turns into an error would leave the other ranks waiting for this one.
    """
    try:
        return measured()
    except InputError as error:
        logging.getLogger("hpcmpi").warning("%s. Costs are priced by default speeds", error)
        return Machine()


def _result_type(a: NDArray[Any], b: NDArray[Any]) -> str:
    """Name of NumPy's result type; of both types where there is none, so that all ranks learn of it."""
    try:
        return str(np.result_type(a, b))
    except TypeError:
        return f"{a.dtype} and {b.dtype}"


def _described(out: Any, a: NDArray[Any], b: NDArray[Any]) -> tuple[Any, str] | None:
    """Shape and dtype of ``out``, or what is wrong with it; None if there is none."""
    if out is None:
        return None
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        return (), f"a {type(out).__name__}, no array"
    try:
        state = "overlapping " * any(_shares_memory(out, x, max_work=_OVERLAP_WORK) for x in (a, b))
    except np.exceptions.TooHardError:  # such strides may interleave in ways that take long to tell apart
        state = "perhaps overlapping "
    return out.shape, f"{state if out.flags.writeable else 'read-only '}{out.dtype}"


def _whole(value: Any) -> int | str:
    """``value`` as a whole number; as a text if it is none, so that all ranks learn of it."""
    try:
        return operator.index(value)
    except TypeError:
        return repr(value)


def _whole_numbers(values: Any) -> tuple[int, ...] | str:
    """As :func:`_whole`, of several."""
    try:
        return tuple(operator.index(value) for value in values)
    except TypeError:
        return repr(values)


def _agreed_grid(blocks: Sequence[Any]) -> tuple[int, ...]:
    """The grid that all ranks ask for; InputError if it is none, or if method or levels are not what there is."""
    for rank, (*_, how) in enumerate(blocks):
        if how != blocks[0][-1]:
            raise InputError(f"rank {rank}: grid, method and strassen are {how}, but {blocks[0][-1]} on rank 0")
    grid, method, strassen = blocks[0][-1]
    if method not in METHODS:
        raise InputError(f"method is {method!r}; one of {', '.join(METHODS)} is expected")
    if not isinstance(strassen, int) or not 0 <= strassen <= MOST_LEVELS:
        raise InputError(f"strassen is {strassen}; a number of levels from 0 to {MOST_LEVELS} is expected")
    if isinstance(grid, str) or not grid:
        raise InputError(f"grid is {grid}; two or three whole numbers from 1 on are expected")
    return tuple(grid)


def _agreed_layout(blocks: Sequence[Any], ranks: int) -> tuple[BlockLayout, str]:
    """BlockLayout and dtype of the product whose ranks hold ``blocks``; InputError if they do not fit together."""
    grid = _agreed_grid(blocks)
    try:
        unsized = BlockLayout(0, 0, 0, three_dimensional(grid))
    except ValueError as error:
        raise InputError(str(error)) from None
    if unsized.ranks > ranks:
        raise InputError(f"a grid of {grid_text(grid)} has {unsized.ranks} ranks, and there are {ranks}")
    for rank, (shape_a, shape_b, dtype, *_) in enumerate(blocks):
        if len(shape_a) != 2 or len(shape_b) != 2:
            raise InputError(f"rank {rank}: a has shape {shape_a} and b {shape_b}; both must have two dimensions")
        if dtype not in DTYPES:
            raise InputError(f"rank {rank}: the operands' dtype is {dtype}; one of {', '.join(DTYPES)} is expected")
        if dtype != blocks[0][2]:
            raise InputError(f"rank {rank}: the operands' dtype is {dtype}, but {blocks[0][2]} on rank 0")
    places = [(unsized.place(rank), *blocks[rank][:2]) for rank in range(unsized.ranks)]
    m = sum(a[0] for (_, j, layer), a, _ in places if j == layer == 0)
    n = sum(b[1] for (i, _, layer), _, b in places if i == layer == 0)
    k = sum(a[1] for (i, _, _), a, _ in places if i == 0)
    layout = BlockLayout(m, n, k, unsized.grid)
    for rank, (shape_a, shape_b, dtype, out, _) in enumerate(blocks):
        a, b, c = (tuple(r.size for r in part(rank)) for part in (layout.a, layout.b, layout.c))
        described = out or (c, dtype)
        for name, found, expected in (("a", shape_a, a), ("b", shape_b, b), ("out", described, (c, dtype))):
            if found != expected:
                raise InputError(
                    f"rank {rank}: {name} is {found}; {expected} is its block of {m} x {k} times {k} x {n} "
                    f"on a {grid_text(grid)} grid{_hint(blocks, grid)}"
                )
    return layout, blocks[0][2]


def _hint(blocks: Sequence[Any], grid: tuple[int, ...]) -> str:
    """What to say where the ranks hold columns of A and rows of B, as of ``x.T`` and ``x``, but the default grid."""
    shapes = [(a, b) for a, b, *_ in blocks]
    outer = {(a[0], b[1]) for a, b in shapes}
    if grid != (len(blocks), 1) or len(outer) > 1 or any(a[1] != b[0] for a, b in shapes):
        return ""
    return f"; columns of A and rows of B, as of x.T and x, are multiplied on grid=(1, 1, {len(blocks)})"
