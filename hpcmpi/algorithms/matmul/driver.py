"""C = op(A) op(B) over all ranks: find the sizes, read or generate the blocks, multiply, check."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi import generator
from hpcmpi.algorithms.matmul import DTYPES, Params, Resolved
from hpcmpi.algorithms.matmul.accuracy import measured
from hpcmpi.algorithms.matmul.core import multiply
from hpcmpi.algorithms.matmul.cost import BlockPlan, StreamPlan
from hpcmpi.algorithms.matmul.files import Operand, operand_reader
from hpcmpi.algorithms.matmul.freivalds import check_product
from hpcmpi.algorithms.matmul.layout import BlockLayout, Blocks, grid_text
from hpcmpi.algorithms.matmul.panels import LocalProducts
from hpcmpi.algorithms.matmul.stream import Outside, StreamBlocks, stream
from hpcmpi.comm import agreement
from hpcmpi.dtypes import flops_per_term, itemsize
from hpcmpi.errors import InputError, UsageError
from hpcmpi.partition import Range, three_dimensional
from hpcmpi.record import Block, Result, Scalar, Verdict, counted, human_bytes
from hpcmpi.store.arithmetic import arithmetic_dtype
from hpcmpi.store.reader import Source, open_source
from hpcmpi.store.sample import Sample, compared
from hpcmpi.store.scratch import Scratch, check_folder


@dataclass(frozen=True, kw_only=True)
class Opened(Resolved):
    """:class:`Resolved` with the files of the operands open."""

    operands: tuple[Operand, Operand] = field(metadata={"derived": True})


@dataclass(frozen=True, kw_only=True)
class BlockProblem(Blocks):
    """A product in memory; ``share`` is the bytes of A, B and C on the rank that has most of them."""

    spec: Resolved
    plan: BlockPlan
    share: int = 0
    samples: tuple[Sample, ...] = ()  # of the operands that were read


@dataclass(frozen=True, kw_only=True)
class StreamProblem(StreamBlocks):
    """A product out of core."""

    spec: Resolved
    plan: StreamPlan
    samples: tuple[Sample, ...]  # of the operands that are files


Problem = BlockProblem | StreamProblem
Told = tuple[dict[str, Scalar], tuple[str, ...], dict[str, float]]
"""Facts, lines and seconds, as in :class:`~hpcmpi.record.Result`."""


def resolve(comm: MPI.Comm, params: Params) -> Opened:
    """``params`` with m, n, k and dtype filled in from the headers of the files, which are opened once, here.

    Raises InputError for files that do not fit together and UsageError for options that contradict them.
    """
    sources = {name: open_source(comm, where, ndim=2) for name, where in (("a", params.a), ("b", params.b)) if where}
    with agreement(comm):
        check_folder(params.scratch)
        return _filled_in(params, sources)


def _filled_in(params: Params, sources: dict[str, Source]) -> Opened:
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
    options |= {**sizes, "dtype": arithmetic_dtype(params.dtype, list(sources.values()), DTYPES)}
    units = [sources[name].unit_bytes if name in sources else 0 for name in "ab"]
    operands = Operand(sources.get("a"), params.transpose_a, 0), Operand(sources.get("b"), params.transpose_b, 1)
    return Opened(**options, units=(units[0], units[1]), operands=operands)


def prepare(comm: MPI.Comm, spec: Opened, plan: BlockPlan | StreamPlan) -> Problem:
    """Blocks of the operands, read or generated, and room for C; out of core, how to read them and room on disk."""
    layout = BlockLayout(spec.m, spec.n, spec.k, three_dimensional(plan.grid))
    if isinstance(plan, StreamPlan):
        return _prepare_stream(comm, spec, plan, layout)
    parts = layout.a(comm.rank), layout.b(comm.rank)
    samples = list[Sample]()
    a, b = (_operand(comm, spec, *both, samples) for both in zip(spec.operands, parts, strict=True))
    c = np.full((layout.c(comm.rank)[0].size, b.shape[1]), 0, a.dtype)  # touched first here, and not in the run
    partial = None
    if layout.grid[2] > 1 and comm.rank < layout.ranks:
        partial = np.full((layout.rows(comm.rank).size, b.shape[1]), 0, a.dtype)
    share = comm.allreduce(a.nbytes + b.nbytes + c.nbytes, MPI.MAX)
    return BlockProblem(layout, a, b, c, partial, spec=spec, plan=plan, share=share, samples=tuple(samples))


def _prepare_stream(comm: MPI.Comm, spec: Opened, plan: StreamPlan, layout: BlockLayout) -> StreamProblem:
    (rows, columns), inner, dtype = layout.c(comm.rank), Range(0, spec.k), np.dtype(spec.dtype)
    samples = list[Sample]()
    read_a = operand_reader(comm, spec.operands[0], spec, plan, (rows, inner), samples)
    read_b = operand_reader(comm, spec.operands[1], spec, plan, (inner, columns), samples)
    with agreement(comm):
        c = Scratch(spec.scratch, (rows.size, columns.size), dtype)
    a, b = Outside(read_a, *layout.a(comm.rank), dtype), Outside(read_b, *layout.b(comm.rank), dtype)
    return StreamProblem(layout, a, b, c, spec=spec, plan=plan, samples=tuple(samples))


def _operand(
    comm: MPI.Comm, spec: Resolved, operand: Operand, part: tuple[Range, Range], samples: list[Sample]
) -> NDArray[Any]:
    """This rank's ``part`` of op(X), generated or read. Appends a sample of what it reads."""
    source = operand.source
    if source is None:
        return generator.uniform(spec.seed, *part, spec.dtype, stream=operand.stream)
    stored = part[::-1] if operand.transpose else part
    block = source.read(comm, stored, spec.dtype)
    samples.append(Sample(source, spec.seed).hold(block, stored))
    return block.T if operand.transpose else block


def run(comm: MPI.Comm, problem: Problem, report: Callable[[float], None]) -> Result:
    """Multiply once; ``report`` is told the fraction that is done."""
    spec, plan, layout = problem.spec, problem.plan, problem.layout
    rows, columns = layout.c(comm.rank)
    flops_a_rank = 2 * layout.rows(comm.rank).size * columns.size * layout.inner(comm.rank).size
    done = 0

    def advance(flops: int) -> None:
        nonlocal done
        done += flops
        report(min(1.0, done / max(1, flops_a_rank)))

    if isinstance(problem, StreamProblem):
        array, (more, lines, seconds) = _stream(comm, problem, advance)
    else:
        array, (more, lines, seconds) = problem.c, _multiply(comm, problem, advance)
    facts: dict[str, Scalar] = {
        "size": f"{spec.m} x {spec.k} times {spec.k} x {spec.n}, {spec.dtype}",
        "method_used": plan.method,
        "grid": grid_text(plan.grid),
        "idle_ranks": comm.size - layout.ranks,
        "seconds_expected": plan.seconds,
    }
    block = Block(array, (rows.start, columns.start), (spec.m, spec.n), ("m", "n"))
    flops = flops_per_term(spec.dtype) * spec.m * spec.n * spec.k
    return Result({"C": block}, flops, "flop/s", {**facts, **more}, lines, seconds)


def _multiply(comm: MPI.Comm, problem: BlockProblem, advance: Callable[[int], None]) -> Told:
    """Multiply in memory."""
    spec, plan, layout, work = problem.spec, problem.plan, problem.layout, LocalProducts(advance)
    traffic = collective.traffic
    before = traffic.bytes_received, traffic.bytes_shared
    levels = multiply(comm, problem, plan, work)
    received, shared = traffic.bytes_received - before[0], traffic.bytes_shared - before[1]
    most = comm.allreduce(received, MPI.MAX)
    bound = (plan.lower_bound or 0.0) * problem.c.itemsize
    line = f"expected {plan.seconds:.3g} s"
    if most:
        line += f"; the busiest rank received {human_bytes(most)}"
    if bound:
        line += f", {most / bound:.2f}x the lower bound"
    if idle := comm.size - layout.ranks:
        line += f"; {counted(idle)} idle"
    facts: dict[str, Scalar] = {
        "share_bytes": problem.share,
        "bytes_received_most": most,
        "bytes_received_lower_bound": bound,
        "bytes_in_messages": comm.allreduce(received - shared),
    }
    lines: tuple[str, ...] = (line,)
    if spec.strassen:
        facts["strassen_levels"] = levels
        if levels == 0:
            why = "no level pays for blocks of this size"
            if plan.levels:
                why = "its sums were not all finite"
            elif plan.method == "ring":
                why = "the ring's panels are too narrow"
            lines += (f"Strassen: multiplied classically, as {why}",)
    return facts, lines, {"compute": work.compute, "wait": work.wait, "copy": work.copy}


def _stream(comm: MPI.Comm, problem: StreamProblem, advance: Callable[[int], None]) -> tuple[NDArray[Any], Told]:
    """Multiply out of core; also this rank's block of C."""
    plan, tile = problem.plan, problem.plan.tile
    nbytes = 0
    with agreement(comm):
        nbytes = stream(comm.rank, problem, tile, advance)
    held = tile.m * tile.n + 2 * tile.k * (tile.m + tile.n)
    read, scratch = comm.allreduce(nbytes), plan.scratch * comm.size
    facts: dict[str, Scalar] = {
        "share_bytes": held * itemsize(problem.spec.dtype),
        "tile": grid_text(tile),
        "bytes_read": read,
        "scratch_bytes": scratch,
    }
    line = f"expected {plan.seconds:.3g} s; out of core: tiles of C of {tile.m} x {tile.n}, "
    line += f"{human_bytes(read)} read, {human_bytes(scratch)} of scratch"
    return problem.c.mapped(), (facts, (line,), {})


def verify(comm: MPI.Comm, problem: Problem, result: Result) -> Verdict:
    """Freivalds' check of the result against the operands, and a sample of these against their files."""
    return compared(comm, problem.samples, _product_verdict(comm, problem, result))


def _product_verdict(comm: MPI.Comm, problem: Problem, result: Result) -> Verdict:
    """Freivalds' check; that of Strassen-Winograd also measures its error."""
    levels = int(result.facts.get("strassen_levels", 0))
    layout = problem.layout
    active = comm.Split(int(comm.rank >= layout.ranks), comm.rank)
    verdict: Verdict | None = None
    if comm.rank < layout.ranks:
        c = problem.c if isinstance(problem, BlockProblem) else _stored(problem, layout.c(comm.rank))
        verdict = check_product(
            active, problem.a, problem.b, c, layout=layout, seed=problem.spec.seed, strassen=levels,
            strip_bytes=problem.plan.strip_bytes,
        )  # fmt: skip
        if isinstance(problem, BlockProblem) and levels:
            verdict = _with_error(active, problem, levels, verdict)
    active.Free()
    if layout.ranks == comm.size and verdict is not None:
        return verdict
    collective.barrier(comm)  # asleep
    agreed: Verdict = comm.bcast(verdict)
    return agreed


def _stored(problem: StreamProblem, block: tuple[Range, Range]) -> Outside:
    """C, read again from disk."""
    rows, columns = block
    return Outside(lambda part, _columns: problem.c.read(part), Range(0, rows.size), columns, problem.a.dtype)


def _with_error(comm: MPI.Comm, problem: BlockProblem, levels: int, verdict: Verdict) -> Verdict:
    """``verdict`` on a product by Strassen-Winograd, and its measured error, which must keep to the bound."""
    found = measured(comm, problem, levels=levels, seed=problem.spec.seed)
    facts: dict[str, Scalar] = {f"error_{name}": value for name, value in dataclasses.asdict(found).items()}
    times = f"{found.measured / found.classical:.1f} times" if found.classical else "against none"
    line = (
        f"Strassen, {levels} level{'s' * (levels > 1)}: error {found.measured:.1e} of |A| |B|, {times} of a classical "
        f"product ({found.classical:.1e}), whose bound is {found.classical_bound:.1e}; {found.elements} elements seen"
    )
    kept = found.over_bound <= 1
    reason = verdict.reason if kept else f"an error beyond Strassen's bound; {verdict.reason}"
    return Verdict(verdict.right and kept, reason, {**verdict.facts, **facts}, (*verdict.lines, line))
