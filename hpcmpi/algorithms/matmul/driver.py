"""C = op(A) op(B) over all ranks: find the sizes, read or generate the blocks, multiply, check."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi import generator
from hpcmpi.algorithms.matmul import DTYPES, Params
from hpcmpi.algorithms.matmul.accuracy import measured
from hpcmpi.algorithms.matmul.cost import (
    buffer_elements,
    panel_width,
    plans,
    strassen_levels,
    wide_elements,
    wide_panels,
)
from hpcmpi.algorithms.matmul.files import Streaming, out_of_core
from hpcmpi.algorithms.matmul.freivalds import freivalds
from hpcmpi.algorithms.matmul.panels import Advance
from hpcmpi.algorithms.matmul.ring import ring
from hpcmpi.algorithms.matmul.summa import summa
from hpcmpi.algorithms.matmul.wide import wide_summa
from hpcmpi.comm import agreement
from hpcmpi.errors import InputError, UsageError
from hpcmpi.machine import Machine
from hpcmpi.partition import Range, grid_block
from hpcmpi.record import Block, Cost, Result, Scalar, Verdict
from hpcmpi.store.reader import Source, open_source


@dataclass(frozen=True)
class Problem:
    """The operands' blocks and how to multiply them: op(A) is m x k, op(B) k x n, each in blocks on ``grid``."""

    a: NDArray[Any]
    b: NDArray[Any]
    c: NDArray[Any]
    m: int
    n: int
    k: int
    method: str
    grid: tuple[int, int]
    seed: int
    share: int = 0  # bytes of A, B and C on the rank that has most of them
    strassen: int = 0  # levels that were asked for

    def multiply(self, comm: MPI.Comm, advance: Advance) -> int:
        """Fill ``c``; return the levels of Strassen-Winograd by which it was made, as many as pay.

        Its sums carry elements that are not finite to places that classical products leave alone, and may overflow
        themselves, so a C that is not all finite is made again classically.
        """
        levels = strassen_levels(self.m, self.n, self.k, self.method, self.grid, self.strassen)
        if levels:
            with np.errstate(over="ignore", invalid="ignore"):
                self._multiply_by_strassen(comm, advance, levels)
                finite = bool(np.isfinite(self.c.sum()) or np.isfinite(self.c).all())
            if comm.allreduce(finite, MPI.LAND):
                return levels
        self._multiply_classically(comm, advance)
        return 0

    def _multiply_by_strassen(self, comm: MPI.Comm, advance: Advance, levels: int) -> None:
        if self.method == "ring":
            width = max(1, -(-self.k // comm.size))
            self._multiply_in_ring(comm, width, advance, levels)
            return
        sizes = self.m, self.n, self.k, self.grid
        panels = wide_panels(*sizes, levels, shared=True)
        needed = wide_elements(*sizes, panels, shared=True) * self.c.itemsize * comm.size
        shared = collective.share_memory(comm, needed)
        wide_summa(
            comm, self.a, self.b, self.c,
            k=self.k, grid=self.grid, panels=wide_panels(*sizes, levels, shared=shared), shared=shared,
            levels=levels, advance=advance,
        )  # fmt: skip

    def _multiply_in_ring(self, comm: MPI.Comm, width: int, advance: Advance, levels: int = 0) -> None:
        if self.grid[1] == 1:
            ring(comm, self.a, self.b, self.c, k=self.k, width=width, advance=advance, levels=levels)
        else:  # blocks of columns are blocks of rows of the transposed product
            ring(comm, self.b.T, self.a.T, self.c.T, k=self.k, width=width, advance=advance, levels=levels)

    def _multiply_classically(self, comm: MPI.Comm, advance: Advance) -> None:
        sizes, how = (self.m, self.n, self.k), (self.method, self.grid)
        width = panel_width(*sizes, *how, shared=False)
        if self.method == "summa":
            other = panel_width(*sizes, *how, shared=True)
            buffers = buffer_elements(self.m, self.n, other, *how, shared=True) * self.c.itemsize
            shared = collective.share_memory(comm, buffers * comm.size)
            width = other if shared else width
            summa(comm, self.a, self.b, self.c, k=self.k, grid=self.grid, width=width, shared=shared, advance=advance)
        else:
            self._multiply_in_ring(comm, width, advance)


def matmul(
    comm: MPI.Comm,
    a: NDArray[Any],
    b: NDArray[Any],
    *,
    out: NDArray[Any] | None = None,
    grid: tuple[int, int] | None = None,
    method: str = "auto",
    strassen: int = 0,
) -> NDArray[Any]:
    """This rank's block of C = A B, from every rank's blocks of A (m x k) and B (k x n).

    By default all three are dealt in blocks of rows: rank r of P holds rows ``n * r // P`` to ``n * (r + 1) // P``
    (:func:`hpcmpi.partition.block`), and ``a`` is (m_r, k), ``b`` (k_r, n), the result (m_r, n).

    With ``grid=(pr, pc)``, pr * pc = P, they are dealt in 2-D blocks: rank r is at row ``i = r // pc`` and column
    ``j = r % pc`` and holds ``a`` (m_i, k_j), ``b`` (k_i, n_j), and the result (m_i, n_j).

    Any strides will do, so that a transposed operand is passed as ``x.T``. The dtype is NumPy's result type of the
    two: float32, float64, complex64 or complex128. ``out`` (shape and dtype of the result; it must not overlap the
    operands) is filled and returned if given. ``method`` is ``auto``, ``summa`` (van de Geijn and Watts 1997) or
    ``ring`` (blocks of rows or of columns only). ``strassen`` is the number of levels of Strassen-Winograd (0 to 4), of
    which as many are taken as pay on this rank's blocks: faster for large ones, but the error of an element is then
    bounded by the sizes of the whole matrices, and about threefold a level. The operands are not modified; nothing is
    verified.

    Raises InputError (a ValueError), on all ranks, if the blocks do not fit together, or for another dtype.
    """
    rows, columns = grid or (comm.size, 1)
    grid = (int(rows), int(columns))
    a, b = np.asarray(a), np.asarray(b)
    described: Any = None
    if out is not None:
        state = "read-only " if not out.flags.writeable else "overlapping " if _overlap(out, a, b) else ""
        described = (out.shape, f"{state}{out.dtype}")
    blocks = comm.allgather((a.shape, b.shape, _result_type(a, b), described, (grid, method, strassen)))
    m, n, k, dtype = _agreed_sizes(blocks, grid, comm.size)
    a, b = np.asarray(a, dtype), np.asarray(b, dtype)
    params = Params(m=m, n=n, k=k, dtype=dtype, method=method, strassen=strassen)
    candidates = [plan for plan in plans(params, comm.size, Machine()) if plan.grid == grid]
    if not candidates:
        raise InputError(f"method {method!r} cannot multiply blocks on a {grid[0]} x {grid[1]} grid")
    c = np.empty((a.shape[0], b.shape[1]), dtype) if out is None else out
    private = comm.Dup()  # so that no receive of the caller's can take our messages
    Problem(a, b, c, m, n, k, candidates[0].method, grid, 0, 0, strassen).multiply(private, lambda _flops: None)
    private.Free()
    return c


def _result_type(a: NDArray[Any], b: NDArray[Any]) -> str:
    """Name of NumPy's result type; of both types where there is none, so that all ranks learn of it."""
    try:
        return str(np.result_type(a, b))
    except TypeError:
        return f"{a.dtype} and {b.dtype}"


def _overlap(out: NDArray[Any], a: NDArray[Any], b: NDArray[Any]) -> bool:
    return np.may_share_memory(out, a) or np.may_share_memory(out, b)


def _agreed_sizes(blocks: list[Any], grid: tuple[int, int], ranks: int) -> tuple[int, int, int, str]:
    """m, n, k and dtype of the product whose ranks hold ``blocks``; InputError if they do not fit together."""
    for rank, (*_, how) in enumerate(blocks):
        if how != blocks[0][-1]:
            raise InputError(f"rank {rank}: grid, method and strassen are {how}, but {blocks[0][-1]} on rank 0")
    pr, pc = grid
    if pr < 1 or pc < 1 or pr * pc != ranks:
        raise InputError(f"a grid of {pr} x {pc} does not have {ranks} ranks")
    for rank, (shape_a, shape_b, dtype, *_) in enumerate(blocks):
        if len(shape_a) != 2 or len(shape_b) != 2:
            raise InputError(f"rank {rank}: a has shape {shape_a} and b {shape_b}; both must have two dimensions")
        if dtype != blocks[0][2] or dtype not in DTYPES:
            raise InputError(
                f"rank {rank}: the operands' dtype is {dtype}; one of {', '.join(DTYPES)} is expected on all ranks"
            )
    m, n = sum(blocks[i * pc][0][0] for i in range(pr)), sum(blocks[j][1][1] for j in range(pc))
    k = sum(blocks[j][0][1] for j in range(pc))
    for rank, (shape_a, shape_b, dtype, out, _) in enumerate(blocks):
        rows, columns = (r.size for r in grid_block((m, n), grid, rank))
        for name, found, expected in (
            ("a", shape_a, (rows, grid_block((m, k), grid, rank)[1].size)),
            ("b", shape_b, (grid_block((k, n), grid, rank)[0].size, columns)),
            ("out", out or ((rows, columns), dtype), ((rows, columns), dtype)),
        ):
            if found != expected:
                raise InputError(
                    f"rank {rank}: {name} is {found}; {expected} is its block of {m} x {k} times {k} x {n} "
                    f"on a {pr} x {pc} grid"
                )
    return m, n, k, blocks[0][2]


# What the runner calls


def resolve(comm: MPI.Comm, params: Params) -> Params:
    """``params`` with m, n, k and dtype filled in from the headers of the files.

    Raises InputError for files that do not fit together and UsageError for options that contradict them.
    """
    sources = {name: open_source(comm, where, ndim=2) for name, where in (("a", params.a), ("b", params.b)) if where}
    with agreement(comm):
        return _filled_in(params, sources)


def _filled_in(params: Params, sources: dict[str, Source]) -> Params:
    sizes = {"m": params.m, "k": params.k, "n": params.n}
    said_by: dict[str, str] = {name: f"--{name}" for name, size in sizes.items() if size is not None}
    for name, source in sources.items():
        rows, columns = source.shape[:: -1 if getattr(params, f"transpose_{name}") else 1]
        for dim, size in zip("mk" if name == "a" else "kn", (rows, columns), strict=True):
            known = sizes[dim]
            if known is not None and known != size:
                other = said_by[dim]
                text = (
                    f"{source}: op({name.upper()}) is {rows} x {columns}, so {dim} = {size}, "
                    f"but {other} says {dim} = {known}"
                )
                raise UsageError(text) if other == f"--{dim}" else InputError(text)
            sizes[dim], said_by[dim] = size, f"--{name} {source}"
    if not sources:
        sizes = {dim: params.n if size is None else size for dim, size in sizes.items()}
    missing = [f"--{dim}" for dim, size in sizes.items() if size is None]
    if missing:
        raise UsageError(
            f"the generated operand needs {' and '.join(missing)} beside {', '.join(map(str, sources.values()))}"
        )
    return dataclasses.replace(
        params, m=sizes["m"], n=sizes["n"], k=sizes["k"], dtype=_dtype(params.dtype, list(sources.values()))
    )


def _dtype(requested: str | None, sources: list[Source]) -> str:
    """Dtype to compute in, of those that the sources can be converted to."""
    for source in sources:
        if source.dtype.kind not in "biufc":
            raise InputError(f"{source}: holds {source.dtype}, not numbers")
        if requested and not np.can_cast(source.dtype, requested, "same_kind"):
            raise InputError(f"{source}: holds {source.dtype}, which --dtype {requested} would cut off")
    dtype = requested or str(np.result_type(*(s.dtype for s in sources)) if sources else "float64")
    if dtype not in DTYPES:
        raise InputError(
            f"{' and '.join(map(str, sources))}: {dtype} is none of {', '.join(DTYPES)}; --dtype float64 converts it"
        )
    return dtype


def prepare(comm: MPI.Comm, params: Params, plan: Cost) -> Problem | Streaming:
    """Blocks of the operands, read or generated, and room for C; out of core, where they are and room on disk."""
    m, n, k = params.m or 0, params.n or 0, params.k or 0
    grid = (plan.grid[0], plan.grid[1])
    if plan.method == "stream":
        return out_of_core(comm, params, grid)
    a = _operand(comm, params.a, grid_block((m, k), grid, comm.rank), params, transpose=params.transpose_a, stream=0)
    b = _operand(comm, params.b, grid_block((k, n), grid, comm.rank), params, transpose=params.transpose_b, stream=1)
    c = np.empty((a.shape[0], b.shape[1]), a.dtype)
    c.fill(0)  # the first touch of fresh memory belongs to the preparation
    share = comm.allreduce(a.nbytes + b.nbytes + c.nbytes, MPI.MAX)
    return Problem(a, b, c, m, n, k, plan.method, grid, params.seed, share, params.strassen)


def _operand(
    comm: MPI.Comm, where: str | None, part: tuple[Range, ...], params: Params, *, transpose: bool, stream: int
) -> NDArray[Any]:
    dtype = params.dtype or "float64"
    if where is None:
        return generator.uniform(params.seed, part[0], part[1], dtype, stream=stream)
    source = open_source(comm, where, ndim=2)
    return source.read(comm, part[::-1], dtype).T if transpose else source.read(comm, part, dtype)


def run(comm: MPI.Comm, problem: Problem | Streaming, report: Callable[[float], None]) -> Result:
    """Multiply once; ``report`` is told the fraction that is done."""
    if isinstance(problem, Streaming):
        return problem.run(comm, report)
    flops_a_rank = 2 * problem.c.size * problem.k
    done = 0

    def advance(flops: int) -> None:
        nonlocal done
        done += flops
        report(min(1.0, done / max(1, flops_a_rank)))

    levels = problem.multiply(comm, advance)
    rows, columns = grid_block((problem.m, problem.n), problem.grid, comm.rank)
    array = Block(problem.c, (rows.start, columns.start), (problem.m, problem.n), ("m", "n"))
    flops = (8 if problem.c.dtype.kind == "c" else 2) * problem.m * problem.n * problem.k
    facts: dict[str, Scalar] = {
        "size": f"{problem.m} x {problem.k} times {problem.k} x {problem.n}, {problem.c.dtype}",
        "method_used": problem.method,
        "grid": " x ".join(map(str, problem.grid)),
        "share_bytes": problem.share,
    }
    if problem.strassen:
        facts["strassen_levels"] = levels
        if levels == 0:
            finite = strassen_levels(problem.m, problem.n, problem.k, problem.method, problem.grid, 1) == 0
            why = "no level pays for blocks of this size" if finite else "C is not all finite"
            return Result({"C": array}, flops, "flop/s", facts, (f"Strassen: multiplied classically, as {why}",))
    return Result({"C": array}, flops, "flop/s", facts)


def verify(comm: MPI.Comm, problem: Problem | Streaming, result: Result) -> Verdict:
    """Freivalds' check of the result against the operands; that of Strassen-Winograd also measures its error."""
    if isinstance(problem, Streaming):
        return problem.verify(comm)
    c, levels = result.arrays["C"].local, int(result.facts.get("strassen_levels", 0))
    sizes: dict[str, Any] = {"n": problem.n, "k": problem.k, "grid": problem.grid, "seed": problem.seed}
    verdict = freivalds(comm, problem.a, problem.b, c, **sizes, strassen=levels)
    if levels == 0:
        return verdict
    found = measured(comm, problem.a, problem.b, c, m=problem.m, **sizes, levels=levels)
    facts: dict[str, Scalar] = {f"error_{name}": value for name, value in dataclasses.asdict(found).items()}
    times = f"{found.measured / found.classical:.1f} times" if found.classical else "against none"
    line = (
        f"Strassen, {levels} level{'s' * (levels > 1)}: error {found.measured:.1e} of |A| |B|, {times} of a classical "
        f"product ({found.classical:.1e}), whose bound is {found.classical_bound:.1e}; {found.elements} elements seen"
    )
    right = verdict.right and found.over_bound <= 1
    reason = verdict.reason if found.over_bound <= 1 else f"an error beyond Strassen's bound; {verdict.reason}"
    return Verdict(right, reason, {**verdict.facts, **facts}, (*verdict.lines, line))
