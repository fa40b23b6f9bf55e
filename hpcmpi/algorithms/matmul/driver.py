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
from hpcmpi.algorithms.matmul import DTYPES, METHODS, Params
from hpcmpi.algorithms.matmul.accuracy import measured
from hpcmpi.algorithms.matmul.cannon import cannon
from hpcmpi.algorithms.matmul.cost import buffers, lower_bound, plans, strassen_levels, wide_elements, wide_panels
from hpcmpi.algorithms.matmul.files import Streaming, out_of_core
from hpcmpi.algorithms.matmul.freivalds import freivalds
from hpcmpi.algorithms.matmul.layout import Layout
from hpcmpi.algorithms.matmul.panels import Work
from hpcmpi.algorithms.matmul.ring import ring
from hpcmpi.algorithms.matmul.summa import summa
from hpcmpi.algorithms.matmul.wide import wide_summa
from hpcmpi.comm import agreement
from hpcmpi.errors import InputError, UsageError
from hpcmpi.machine import Machine
from hpcmpi.partition import Range, part_of, three_dimensional
from hpcmpi.record import Block, Cost, Result, Scalar, Verdict, counted, human_bytes
from hpcmpi.store.reader import Source, open_source

_WORTH_SHARING = 1 << 20  # bytes of a rank's buffers; to set up shared memory takes longer than to send less


@dataclass(frozen=True)
class Problem:
    """This rank's blocks of the operands on ``layout``, and how to multiply them."""

    a: NDArray[Any]
    b: NDArray[Any]
    c: NDArray[Any]
    layout: Layout
    method: str
    seed: int
    share: int = 0  # bytes of A, B and C on the rank that has most of them
    plan: Cost | None = None
    partial: NDArray[Any] | None = None  # room for the sums of one layer of several
    strassen: int = 0  # levels that were asked for

    def multiply(self, comm: MPI.Comm, work: Work) -> int:
        """Fill ``c``; return the levels of Strassen-Winograd that made it. Ranks beyond the grid wait asleep."""
        levels = 0
        idle = self.layout.ranks < comm.size
        active = comm.Split(int(comm.rank >= self.layout.ranks), comm.rank) if idle else comm
        if comm.rank < self.layout.ranks:
            levels = self._multiply_by_strassen(active, work) if self.levels() else 0
            if levels == 0:
                self._multiply(active, work)
        if idle:
            active.Free()
            collective.barrier(comm)
            levels = comm.bcast(levels)
        return levels

    def levels(self) -> int:
        """Levels that pay on every rank."""
        layout = self.layout
        return strassen_levels(layout.m, layout.n, layout.k, self.method, layout.grid, self.strassen)

    def _multiply_by_strassen(self, comm: MPI.Comm, work: Work) -> int:
        """Fill ``c`` and return the levels by which; 0 if it is not all finite, and has to be made again classically.

        Strassen's sums carry elements that are not finite to places that classical products leave alone, and may
        overflow themselves.
        """
        work.levels, work.used = self.levels(), 0
        with np.errstate(over="ignore", invalid="ignore"):
            if self.method in ("ring", "cannon"):
                self._multiply(comm, work)
            else:
                self._multiply_wide(comm, work)
            finite = bool(np.isfinite(self.c.sum()) or np.isfinite(self.c).all())
        work.levels = 0
        found = collective.allreduce(comm, np.array([work.used, not finite]), MPI.MAX)
        return 0 if found[1] else int(found[0])

    def _multiply_wide(self, comm: MPI.Comm, work: Work) -> None:
        """Each layer of the grid by panels as wide as Strassen-Winograd needs; then the layers add up."""
        layout = self.layout
        pm, pn, pk = layout.grid
        i, j, layer = layout.place(comm.rank)
        inner, rows = layout.inner(comm.rank).size, layout.rows(comm.rank)
        sizes = layout.m, layout.n, inner, (pm, pn)
        together = comm.Split(layer, comm.rank) if pk > 1 else comm
        levels, panels, shared = self.levels(), 0, False
        if collective.one_node(comm):
            panels = wide_panels(*sizes, levels, shared=True)
            shared = collective.share_memory(comm, wide_elements(*sizes, panels, shared=True) * self.c.itemsize)
        panels = panels if shared else wide_panels(*sizes, levels, shared=False)
        c = self.c if pk == 1 else np.empty((rows.size, self.b.shape[1]), self.c.dtype)
        wide_summa(together, self.a, self.b, c, k=inner, grid=(pm, pn), panels=panels, shared=shared, work=work)
        if pk > 1:
            together.Free()
            fibre = comm.Split(i * pn + j, layer)
            starts = [part_of(rows, pk, part).start - rows.start for part in range(pk)]
            edges = np.array([*starts, rows.size], np.int64) * c.shape[1]
            self.c[...] = collective.reduce_blocks(fibre, c.reshape(-1), edges).reshape(self.c.shape)
            fibre.Free()

    def _multiply(self, comm: MPI.Comm, work: Work) -> None:
        m, n, k, grid = self.layout.m, self.layout.n, self.layout.k, self.layout.grid
        room = buffers(m, n, k, self.method, grid, one_node=False)
        if self.method == "cannon":
            cannon(comm, self.a, self.b, self.c, k=k, side=grid[0], work=work)
        elif self.method != "ring":
            shared = room.elements * self.c.itemsize >= _WORTH_SHARING and comm.size > 1
            if shared:
                room = buffers(m, n, k, self.method, grid, one_node=collective.one_node(comm))
                shared = collective.share_memory(comm, room.elements * self.c.itemsize)
            summa(
                comm, self.a, self.b, self.c, layout=self.layout,
                width=room.width, slots=room.slots, piece=room.piece, shared=shared, work=work, partial=self.partial,
            )  # fmt: skip
        elif grid[1] == 1:
            ring(comm, self.a, self.b, self.c, k=k, width=room.width, work=work)
        else:  # blocks of columns are blocks of rows of the transposed product
            ring(comm, self.b.T, self.a.T, self.c.T, k=k, width=room.width, work=work)


def matmul_layout(m: int, n: int, k: int, ranks: int, *, dtype: str = "float64") -> Layout:
    """Layout on which the product of an m x k and a k x n matrix costs ``ranks`` ranks least.

    The blocks of a rank are ``layout.a(rank)``, ``layout.b(rank)`` and ``layout.c(rank)``, pairs of ranges of global
    rows and columns; ``layout.grid`` is what :func:`matmul` takes as ``grid``. Local.
    """
    plan = plans(Params(m=m, n=n, k=k, dtype=dtype), ranks, Machine())[0]
    return Layout(m, n, k, three_dimensional(plan.grid))


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
    is cut too: the blocks are those of :class:`~hpcmpi.algorithms.matmul.layout.Layout`, and :func:`matmul_layout`
    finds the best grid. A grid may have fewer ranks than ``comm``: those beyond it pass and get blocks of shape (0, 0).

    Any strides will do, so that a transposed operand is passed as ``x.T``. The dtype is NumPy's result type of the
    two: float32, float64, complex64 or complex128. ``out`` (shape and dtype of the result; it must not overlap the
    operands) is filled and returned if given. ``method`` is ``auto``, ``summa`` (van de Geijn and Watts 1997), ``3d``
    (any grid), ``ring`` (blocks of rows or of columns only) or ``cannon`` (square grids only; Cannon 1969).
    ``strassen`` is the number of levels of Strassen-Winograd (0 to 4), of which as many are taken as pay on the ranks'
    blocks: faster for large ones, but the error of an element is then bounded by the sizes of the whole matrices, and
    about threefold a level. The operands are not modified; nothing is verified.

    Raises InputError (a ValueError), on all ranks, if the blocks do not fit together, or for another dtype.
    """
    grid = tuple(int(extent) for extent in grid or (comm.size, 1))
    a, b = np.asarray(a), np.asarray(b)
    described: Any = None
    if out is not None:
        state = "read-only " if not out.flags.writeable else "overlapping " if _overlap(out, a, b) else ""
        described = (out.shape, f"{state}{out.dtype}")
    blocks = comm.allgather((a.shape, b.shape, _result_type(a, b), described, (grid, method, strassen)))
    layout, dtype = _agreed_layout(blocks, comm.size)
    a, b = np.asarray(a, dtype), np.asarray(b, dtype)
    params = Params(m=layout.m, n=layout.n, k=layout.k, dtype=dtype, method=method, grid="x".join(map(str, grid)))
    params = dataclasses.replace(params, strassen=strassen)
    try:
        plan = plans(params, comm.size, Machine())[0]
    except UsageError as error:
        raise InputError(f"method {method!r} cannot multiply blocks on a {_said(grid)} grid: {error}") from None
    c = np.empty((layout.c(comm.rank)[0].size, b.shape[1]), dtype) if out is None else out
    private = comm.Dup()  # so that no receive of the caller's can take our messages
    Problem(a, b, c, layout, plan.method, 0, strassen=strassen).multiply(private, Work())
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


def _said(grid: tuple[int, ...]) -> str:
    return " x ".join(map(str, grid))


def _agreed_layout(blocks: list[Any], ranks: int) -> tuple[Layout, str]:
    """Layout and dtype of the product whose ranks hold ``blocks``; InputError if they do not fit together."""
    for rank, (*_, how) in enumerate(blocks):
        if how != blocks[0][-1]:
            raise InputError(f"rank {rank}: grid, method and strassen are {how}, but {blocks[0][-1]} on rank 0")
    grid, method, _ = blocks[0][-1]
    if method not in METHODS:
        raise InputError(f"method is {method!r}; one of {', '.join(METHODS)} is expected")
    try:
        unsized = Layout(0, 0, 0, three_dimensional(grid))
    except ValueError as error:
        raise InputError(str(error)) from None
    if unsized.ranks > ranks:
        raise InputError(f"a grid of {_said(grid)} has {unsized.ranks} ranks, and there are {ranks}")
    for rank, (shape_a, shape_b, dtype, *_) in enumerate(blocks):
        if len(shape_a) != 2 or len(shape_b) != 2:
            raise InputError(f"rank {rank}: a has shape {shape_a} and b {shape_b}; both must have two dimensions")
        if dtype != blocks[0][2] or dtype not in DTYPES:
            raise InputError(
                f"rank {rank}: the operands' dtype is {dtype}; one of {', '.join(DTYPES)} is expected on all ranks"
            )
    places = [(unsized.place(rank), *blocks[rank][:2]) for rank in range(unsized.ranks)]
    m = sum(a[0] for (_, j, layer), a, _ in places if j == layer == 0)
    n = sum(b[1] for (i, _, layer), _, b in places if i == layer == 0)
    k = sum(a[1] for (i, _, _), a, _ in places if i == 0)
    layout = Layout(m, n, k, unsized.grid)
    for rank, (shape_a, shape_b, dtype, out, _) in enumerate(blocks):
        a, b, c = (tuple(r.size for r in part(rank)) for part in (layout.a, layout.b, layout.c))
        described = out or (c, dtype)
        for name, found, expected in (("a", shape_a, a), ("b", shape_b, b), ("out", described, (c, dtype))):
            if found != expected:
                raise InputError(
                    f"rank {rank}: {name} is {found}; {expected} is its block of {m} x {k} times {k} x {n} "
                    f"on a {_said(grid)} grid"
                )
    return layout, blocks[0][2]


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
    if plan.method == "stream":
        return out_of_core(comm, params, (plan.grid[0], plan.grid[1]))
    layout = Layout(params.m or 0, params.n or 0, params.k or 0, three_dimensional(plan.grid))
    a = _operand(comm, params.a, layout.a(comm.rank), params, transpose=params.transpose_a, stream=0)
    b = _operand(comm, params.b, layout.b(comm.rank), params, transpose=params.transpose_b, stream=1)
    c = np.empty((layout.c(comm.rank)[0].size, b.shape[1]), a.dtype)
    c.fill(0)  # the first touch of fresh memory belongs to the preparation
    partial = None
    if layout.grid[2] > 1 and comm.rank < layout.ranks:
        partial = np.empty((layout.rows(comm.rank).size, b.shape[1]), a.dtype)
        partial.fill(0)
    share = comm.allreduce(a.nbytes + b.nbytes + c.nbytes, MPI.MAX)
    return Problem(a, b, c, layout, plan.method, params.seed, share, plan, partial, params.strassen)


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
    layout = problem.layout
    rows, columns = layout.c(comm.rank)
    flops_a_rank = 2 * layout.rows(comm.rank).size * columns.size * layout.inner(comm.rank).size
    done = 0

    def advance(flops: int) -> None:
        nonlocal done
        done += flops
        report(min(1.0, done / max(1, flops_a_rank)))

    work, traffic = Work(advance), collective.traffic
    before = traffic.bytes_received, traffic.bytes_shared
    levels = problem.multiply(comm, work)
    received, shared = traffic.bytes_received - before[0], traffic.bytes_shared - before[1]
    most = comm.allreduce(received, MPI.MAX)
    array = Block(problem.c, (rows.start, columns.start), (layout.m, layout.n), ("m", "n"))
    flops = (8 if problem.c.dtype.kind == "c" else 2) * layout.m * layout.n * layout.k
    bound = lower_bound(layout.m, layout.n, layout.k, comm.size) * problem.c.itemsize
    facts: dict[str, Scalar] = {
        "size": f"{layout.m} x {layout.k} times {layout.k} x {layout.n}, {problem.c.dtype}",
        "method_used": problem.method,
        "grid": _said(problem.plan.grid if problem.plan else layout.grid),
        "idle_ranks": comm.size - layout.ranks,
        "seconds_expected": problem.plan.seconds if problem.plan else 0.0,
        "share_bytes": problem.share,
        "bytes_received_most": most,
        "bytes_received_lower_bound": bound,
        "bytes_in_messages": comm.allreduce(received - shared),
    }
    seconds = {"compute": work.compute, "wait": work.wait, "copy": work.copy}
    lines: tuple[str, ...] = (_moved(most, bound, facts),) if comm.size > 1 else ()
    if problem.strassen:
        facts["strassen_levels"] = levels
        if levels == 0:
            why = "C is not all finite" if problem.levels() else "no level pays for blocks of this size"
            lines += (f"Strassen: multiplied classically, as {why}",)
    return Result({"C": array}, flops, "flop/s", facts, lines, seconds)


def _moved(most: int, bound: float, facts: dict[str, Scalar]) -> str:
    """What people are told of the choice and of the communication."""
    told = f"expected {facts['seconds_expected']:.3g} s; the busiest rank received {human_bytes(most)}"
    if bound:
        told += f", {most / bound:.2f}x the lower bound"
    idle = int(facts["idle_ranks"])
    return told + f"; {counted(idle)} idle" * bool(idle)


def verify(comm: MPI.Comm, problem: Problem | Streaming, result: Result) -> Verdict:
    """Freivalds' check of the result against the operands; that of Strassen-Winograd also measures its error."""
    if isinstance(problem, Streaming):
        return problem.verify(comm)
    levels = int(result.facts.get("strassen_levels", 0))
    layout = problem.layout
    active = comm.Split(int(comm.rank >= layout.ranks), comm.rank)
    verdict: Verdict | None = None
    if comm.rank < layout.ranks:
        c = result.arrays["C"].local
        verdict = freivalds(active, problem.a, problem.b, c, layout=layout, seed=problem.seed, strassen=levels)
        if levels:
            verdict = _with_error(active, problem, c, levels, verdict)
    active.Free()
    if layout.ranks == comm.size and verdict is not None:
        return verdict
    collective.barrier(comm)  # asleep
    agreed: Verdict = comm.bcast(verdict)
    return agreed


def _with_error(comm: MPI.Comm, problem: Problem, c: NDArray[Any], levels: int, verdict: Verdict) -> Verdict:
    """``verdict`` on a product by Strassen-Winograd, and its measured error, which must keep to the bound."""
    found = measured(comm, problem.a, problem.b, c, layout=problem.layout, levels=levels, seed=problem.seed)
    facts: dict[str, Scalar] = {f"error_{name}": value for name, value in dataclasses.asdict(found).items()}
    times = f"{found.measured / found.classical:.1f} times" if found.classical else "against none"
    line = (
        f"Strassen, {levels} level{'s' * (levels > 1)}: error {found.measured:.1e} of |A| |B|, {times} of a classical "
        f"product ({found.classical:.1e}), whose bound is {found.classical_bound:.1e}; {found.elements} elements seen"
    )
    kept = found.over_bound <= 1
    reason = verdict.reason if kept else f"an error beyond Strassen's bound; {verdict.reason}"
    return Verdict(verdict.right and kept, reason, {**verdict.facts, **facts}, (*verdict.lines, line))
