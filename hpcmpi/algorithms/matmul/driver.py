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
from hpcmpi.algorithms.matmul import DTYPES, Params, Resolved
from hpcmpi.algorithms.matmul.accuracy import measured
from hpcmpi.algorithms.matmul.cannon import cannon
from hpcmpi.algorithms.matmul.cost import buffers, lower_bound, strassen_levels, wide_elements, wide_panels
from hpcmpi.algorithms.matmul.files import Streaming, out_of_core
from hpcmpi.algorithms.matmul.freivalds import freivalds
from hpcmpi.algorithms.matmul.layout import Layout, grid_text
from hpcmpi.algorithms.matmul.panels import Work
from hpcmpi.algorithms.matmul.ring import ring
from hpcmpi.algorithms.matmul.summa import summa
from hpcmpi.algorithms.matmul.wide import wide_summa
from hpcmpi.comm import agreement
from hpcmpi.errors import InputError, UsageError
from hpcmpi.partition import Range, part_of, three_dimensional
from hpcmpi.record import Block, Cost, Result, Scalar, Verdict, counted, human_bytes
from hpcmpi.store.reader import Source, open_source
from hpcmpi.store.sample import Sample, compared
from hpcmpi.store.scratch import check_folder

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
    samples: tuple[Sample, ...] = ()  # of the operands that were read

    def multiply(self, comm: MPI.Comm, work: Work) -> int:
        """Fill ``c``; return the levels of Strassen-Winograd that made it. Ranks beyond the grid wait asleep.

        Strassen's sums carry elements that are not finite to places that classical products leave alone, and may
        overflow themselves: what comes out not all finite is made again classically.
        """
        idle = self.layout.ranks < comm.size
        active = comm.Split(int(comm.rank >= self.layout.ranks), comm.rank) if idle else comm
        if comm.rank < self.layout.ranks:
            work.levels = self.levels()
            self._multiply(active, work)
            if work.levels and not self._is_finite(active):
                work.levels = work.used = 0
                self._multiply(active, work)
        levels = int(collective.allreduce(active, np.array([work.used]), MPI.MAX)[0]) if self.strassen else 0
        if idle:
            active.Free()
            collective.barrier(comm)
            levels = comm.bcast(levels)
        return levels

    def levels(self) -> int:
        """Levels that pay on every rank."""
        layout = self.layout
        return strassen_levels(layout.m, layout.n, layout.k, self.method, layout.grid, self.strassen)

    def _is_finite(self, comm: MPI.Comm) -> bool:
        """Whether all of C is finite."""
        with np.errstate(over="ignore", invalid="ignore"):
            finite = bool(np.isfinite(self.c.sum()) or np.isfinite(self.c).all())
        return bool(collective.allreduce(comm, np.array([int(finite)]), MPI.MIN)[0])

    def _multiply_wide(self, comm: MPI.Comm, work: Work) -> None:
        """Each layer of the grid by panels as wide as Strassen-Winograd needs; then the layers add up."""
        layout = self.layout
        pm, pn, pk = layout.grid
        i, j, layer = layout.place(comm.rank)
        inner, rows = layout.inner(comm.rank).size, layout.rows(comm.rank)
        sizes = layout.m, layout.n, inner, (pm, pn)
        together = comm.Split(layer, comm.rank) if pk > 1 else comm
        one_node = collective.one_node(comm)
        panels = wide_panels(*sizes, work.levels, shared=one_node)
        shared = collective.share_memory(comm, wide_elements(*sizes, panels, shared=one_node) * self.c.itemsize)
        if not shared:
            panels = wide_panels(*sizes, work.levels, shared=False)
        c = self.c if pk == 1 else self.partial
        if c is None:
            c = np.empty((rows.size, self.b.shape[1]), self.c.dtype)
        wide_summa(together, self.a, self.b, c, k=inner, grid=(pm, pn), panels=panels, shared=shared, work=work)
        if pk > 1:
            together.Free()
            fibre = comm.Split(i * pn + j, layer)
            starts = [part_of(rows, pk, part).start - rows.start for part in range(pk)]
            edges = np.array([*starts, rows.size], np.int64) * c.shape[1]
            self.c[...] = collective.reduce_blocks(fibre, c.reshape(-1), edges).reshape(self.c.shape)
            fibre.Free()

    @np.errstate(over="ignore", invalid="ignore")  # of Strassen's sums; BLAS tells none
    def _multiply(self, comm: MPI.Comm, work: Work) -> None:
        if work.levels and self.method != "cannon":
            self._multiply_wide(comm, work)
            return
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


def resolve(comm: MPI.Comm, params: Params) -> Resolved:
    """``params`` with m, n, k and dtype filled in from the headers of the files.

    Raises InputError for files that do not fit together and UsageError for options that contradict them.
    """
    sources = {name: open_source(comm, where, ndim=2) for name, where in (("a", params.a), ("b", params.b)) if where}
    with agreement(comm):
        check_folder(params.scratch)
        return _filled_in(params, sources)


def _filled_in(params: Params, sources: dict[str, Source]) -> Resolved:
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
    options = {field.name: getattr(params, field.name) for field in dataclasses.fields(Params)}
    options |= {**sizes, "dtype": _dtype(params.dtype, list(sources.values()))}
    units = [sources[name].unit_bytes if name in sources else 0 for name in "ab"]
    return Resolved(**options, units=(units[0], units[1]))


def _dtype(requested: str | None, sources: list[Source]) -> str:
    """Dtype to compute in, of those that the sources can be converted to."""
    for source in sources:
        if source.dtype.kind not in "biufc":
            raise InputError(f"{source}: holds {source.holds}, not numbers")
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
        return out_of_core(comm, params, plan)
    layout = Layout(params.m or 0, params.n or 0, params.k or 0, three_dimensional(plan.grid))
    samples = list[Sample]()
    a = _operand(comm, params.a, layout.a(comm.rank), params, samples, transpose=params.transpose_a, stream=0)
    b = _operand(comm, params.b, layout.b(comm.rank), params, samples, transpose=params.transpose_b, stream=1)
    c = np.empty((layout.c(comm.rank)[0].size, b.shape[1]), a.dtype)
    c.fill(0)  # the first touch of fresh memory belongs to the preparation
    partial = None
    if layout.grid[2] > 1 and comm.rank < layout.ranks:
        partial = np.empty((layout.rows(comm.rank).size, b.shape[1]), a.dtype)
        partial.fill(0)
    share = comm.allreduce(a.nbytes + b.nbytes + c.nbytes, MPI.MAX)
    return Problem(a, b, c, layout, plan.method, params.seed, share, plan, partial, params.strassen, tuple(samples))


def _operand(
    comm: MPI.Comm,
    where: str | None,
    part: tuple[Range, ...],
    params: Params,
    samples: list[Sample],
    *,
    transpose: bool,
    stream: int,
) -> NDArray[Any]:
    """This rank's ``part`` of op(X), generated or read; of what is read, a sample is appended."""
    dtype = params.dtype or "float64"
    if where is None:
        return generator.uniform(params.seed, part[0], part[1], dtype, stream=stream)
    source = open_source(comm, where, ndim=2)
    stored = part[::-1] if transpose else part
    block = source.read(comm, stored, dtype)
    samples.append(Sample(source, params.seed).hold(block, stored))
    return block.T if transpose else block


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
        "grid": grid_text(problem.plan.grid if problem.plan else layout.grid),
        "idle_ranks": comm.size - layout.ranks,
        "seconds_expected": problem.plan.seconds if problem.plan else 0.0,
        "share_bytes": problem.share,
        "bytes_received_most": most,
        "bytes_received_lower_bound": bound,
        "bytes_in_messages": comm.allreduce(received - shared),
    }
    seconds = {"compute": work.compute, "wait": work.wait, "copy": work.copy}
    lines: tuple[str, ...] = (_moved(most, bound, facts),)
    if problem.strassen:
        facts["strassen_levels"] = levels
        if levels == 0:
            why = "no level pays for blocks of this size"
            if problem.levels():
                why = "its sums were not all finite"
            elif problem.method == "ring":
                why = "the ring's panels are too narrow"
            lines += (f"Strassen: multiplied classically, as {why}",)
    return Result({"C": array}, flops, "flop/s", facts, lines, seconds)


def _moved(most: int, bound: float, facts: dict[str, Scalar]) -> str:
    """What people are told of the choice and of the communication."""
    told = f"expected {facts['seconds_expected']:.3g} s"
    if most:
        told += f"; the busiest rank received {human_bytes(most)}"
    if bound:
        told += f", {most / bound:.2f}x the lower bound"
    idle = int(facts["idle_ranks"])
    return told + f"; {counted(idle)} idle" * bool(idle)


def verify(comm: MPI.Comm, problem: Problem | Streaming, result: Result) -> Verdict:
    """Freivalds' check of the result against the operands, and a sample of these against their files."""
    verdict = problem.verify(comm) if isinstance(problem, Streaming) else _freivalds(comm, problem, result)
    return compared(comm, problem.samples, verdict)


def _freivalds(comm: MPI.Comm, problem: Problem, result: Result) -> Verdict:
    """The check of a product in memory; that of Strassen-Winograd also measures its error."""
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
