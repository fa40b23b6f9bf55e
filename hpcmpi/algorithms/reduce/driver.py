"""What the runner calls: find the array, read or generate this rank's part, reduce it, have the answers checked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import generator, threads
from hpcmpi.algorithms.reduce import Params
from hpcmpi.algorithms.reduce.check import check
from hpcmpi.algorithms.reduce.cost import split
from hpcmpi.algorithms.reduce.lines import Box, Layout
from hpcmpi.algorithms.reduce.missing import missing
from hpcmpi.algorithms.reduce.outcome import KEPT
from hpcmpi.algorithms.reduce.partial import Partial
from hpcmpi.algorithms.reduce.reduction import Answers, Request, Work, check_axes, check_dtype, evaluate, make_plan
from hpcmpi.comm import agreement
from hpcmpi.errors import InputError, UsageError
from hpcmpi.partition import Range, block, coordinates, pieces
from hpcmpi.record import Block, Cost, Result, Scalar, Verdict
from hpcmpi.store.reader import Source, open_source
from hpcmpi.store.sample import Sample, compared

_SHOWN = 6  # values of an array that the summary shows
_BESIDE = 1 << 19  # numbers that are drawn at once though only some of them are asked for


@dataclass
class Problem:
    """The array: where it is, how it is dealt out, and this rank's part if it is in memory; and what is asked for."""

    layout: Layout
    dtype: np.dtype[Any]
    request: Request
    method: str
    seed: int
    source: Source | None
    block_elements: int
    local: NDArray[Any] | None = None
    answers: Answers | None = None
    sample: Sample | None = None

    def work(self, comm: MPI.Comm, advance: Callable[[float], None]) -> Work:
        """How to read the array: from memory, or block by block."""

        def read(box: Box) -> NDArray[Any]:
            if self.local is None:
                return self.fetch(comm, box)
            own = (slice(r.start - p.start, r.stop - p.start) for r, p in zip(box, self.layout.part, strict=True))
            values: NDArray[Any] = self.local[tuple(own)]
            return values

        return Work(read, threads.available(), self.block_elements, advance)

    def fetch(self, comm: MPI.Comm, box: Box) -> NDArray[Any]:
        """The part ``box`` of the array, from the file, or generated. Collective."""
        if self.source is not None:
            part = box if self.source.shape else ()  # a scalar is an array of one element
            found = self.source.read(comm, part, self.dtype)
            if self.sample is not None and self.method == "memory":
                self.sample.hold(found, part)
            elif self.sample is not None:
                self.sample.see(found, part)
            return found if self.source.shape else found.reshape(1)[box[0].slice]
        values: NDArray[Any] = np.empty([r.size for r in box], self.dtype)
        if len(box) == 1:
            generator.uniform(self.seed, Range(0, 1), box[0], self.dtype, out=values[None])
        elif values.size:
            self._draw(box, values)
        return values

    def _draw(self, box: Box, values: NDArray[Any]) -> None:
        """Generate ``box``, of two or more dimensions: as few numbers beside it as possible, and never many at once."""
        extents, rows = self.layout.shape[1:], box[0]
        cut = max((d for d, r in enumerate(box[1:]) if r.size != extents[d]), default=0)
        width, beside = math.prod(extents[cut + 1 :]), rows.size * math.prod(extents[1:])
        if cut > 0 and beside <= _BESIDE:  # short runs: draw what lies between them too
            width = math.prod(extents[1:])
            for some in pieces(box[1], _BESIDE // beside):
                columns = Range(some.start * width, some.stop * width)
                drawn = generator.uniform(self.seed, rows, columns, self.dtype).reshape(rows.size, -1, *extents[1:])
                own = slice(some.start - box[1].start, some.stop - box[1].start)
                values[:, own] = drawn[(slice(None), slice(None), *(r.slice for r in box[2:]))]
            return
        outer = tuple(r.size for r in box[1 : 1 + cut])
        runs = values.reshape(rows.size, math.prod(outer), -1)
        for number in range(runs.shape[1]):
            row = 0
            for r, extent, place in zip(box[1:], extents, coordinates(outer, number), strict=False):
                row = row * extent + r.start + place
            start, stop = ((row * extents[cut] + end) * width for end in box[1 + cut])
            generator.uniform(self.seed, rows, Range(start, stop), self.dtype, out=runs[:, number])


def resolve(comm: MPI.Comm, params: Params) -> Params:
    """``params`` with shape, dtype and axis as the file's header says.

    Raises InputError for a file that holds no numbers, and UsageError for an axis that the array does not have.
    """
    source = open_source(comm, params.input) if params.input else None
    with agreement(comm):
        shape = (source.shape or (1,)) if source else params.n or (0,)
        dtype = source.dtype if source else np.dtype(params.dtype or "float64")
        if params.n is not None and params.n != shape:
            raise UsageError(f"--n says {_said(params.n)}, but {source} has the shape {_said(shape)}")
        if source and params.dtype is not None:
            raise UsageError(f"--dtype is that of a generated array; {source} is reduced as the {dtype} that it holds")
        if source and dtype.kind not in "biufc":
            raise InputError(f"{source}: holds {source.holds}; numbers are expected")
        check_dtype(params.op, dtype)
        try:
            missing(dtype, params.fill_value, params.nan_policy)
        except InputError as error:
            raise UsageError(f"--fill-value: {error}") from None
        try:
            axis = check_axes(params.op, params.axis, len(shape))
        except InputError as error:
            raise UsageError(f"--{error}; the array's shape is {_said(shape)}") from None
        return dataclasses.replace(params, n=shape, dtype=str(dtype.newbyteorder("=")), axis=axis)


def _said(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _along(axes: tuple[int, ...] | None) -> str:
    if axes is None:
        return ""
    return f", along ax{'i' if len(axes) == 1 else 'e'}s {', '.join(map(str, axes))}"


def prepare(comm: MPI.Comm, params: Params, plan: Cost) -> Problem:
    """This rank's part of the array, read or generated, or with ``stream`` where to find it."""
    shape, dtype = params.n or (0,), np.dtype(params.dtype)
    along = split(shape, params.axis, comm.size, in_order="prod" in params.op)
    part = tuple(block(n, comm.size, comm.rank) if d == along else Range(0, n) for d, n in enumerate(shape))
    problem = Problem(
        layout=Layout(shape, params.axis, along, part),
        dtype=dtype,
        request=Request(
            params.op, params.ddof, params.bins, params.range, params.fast, params.fill_value, params.nan_policy
        ),
        method=plan.method,
        seed=params.seed,
        source=open_source(comm, params.input) if params.input else None,
        block_elements=max(1, params.block // dtype.itemsize),
    )
    if problem.source is not None:
        problem.sample = Sample(problem.source, params.seed)
    if plan.method == "memory":
        problem.local = problem.fetch(comm, part)
        problem.block_elements = max(1, problem.local.size)
    return problem


def run(comm: MPI.Comm, problem: Problem, report: Callable[[float], None]) -> Result:
    """Reduce once; ``report`` is told the fraction that is done."""
    layout, request = problem.layout, problem.request
    work = problem.work(comm, report)
    answers = evaluate(comm, layout, problem.dtype, request, work, sealed=True)
    problem.answers = answers
    start, kept = tuple(r.start for r in answers.owned), tuple(layout.shape[d] for d in layout.kept)
    arrays: dict[str, Block] = {}
    facts: dict[str, Scalar] = {}
    lines = []
    for op, values in answers.values.items():
        if layout.axes is not None:
            arrays[op] = Block(values, start, kept, tuple(f"dim{d}" for d in layout.kept))
            continue
        arrays[op] = _held_by_root(comm, values, ("bins",) * values.ndim)
        if op == "histogram" and answers.edges is not None:
            arrays["edges"] = _held_by_root(comm, answers.edges, ("bin_edges",))
            lines.append(_histogram_line(values, answers.edges))
            continue
        value = values[()].item()
        if op == KEPT:
            lines.append(f"kept = {value} of {math.prod(layout.shape)} elements")
            facts[op] = value
            continue
        lines.append(f"{op} = {_shown(values[()])}")
        facts[op] = value if not isinstance(value, complex) else str(value)
    elements = math.prod(layout.shape)
    facts |= {
        "size": f"{_said(layout.shape)}, {problem.dtype}" + _along(layout.axes),
        "method_used": f"{'exact' if answers.plain_shift is None else 'fast'}, from {problem.method}",
        "grid": str(comm.size),
        "elements": elements,
    }
    return Result(arrays, elements * problem.dtype.itemsize, "B/s", facts, tuple(lines))


def _held_by_root(comm: MPI.Comm, values: NDArray[Any], dims: tuple[str, ...] = ()) -> Block:
    """A result that all ranks know, of which rank 0 writes all; a single value is written by all of them."""
    kept = values if comm.rank == 0 or not dims else values[:0]
    return Block(kept, (len(values) - len(kept),) if dims else (), values.shape, dims)


def _shown(value: Any) -> str:
    """A value as people read it: all its digits."""
    return str(value.item()) if value.dtype.kind != "f" or value.dtype == np.float64 else str(value)


def _histogram_line(counts: NDArray[np.int64], edges: NDArray[np.floating]) -> str:
    shown = ", ".join(map(str, counts[:_SHOWN])) + (", ..." if len(counts) > _SHOWN else "")
    return f"histogram = {shown}: {len(counts)} bins from {edges[0]:.6g} to {edges[-1]:.6g}, {counts.sum()} elements"


def verify(comm: MPI.Comm, problem: Problem, result: Result) -> Verdict:
    """Check the answers by other arithmetic, and a sample of the array against its file."""
    values = {op: result.arrays[op].local for op in problem.request.outputs(problem.dtype)}
    answers = problem.answers
    if answers is None:
        raise RuntimeError("nothing has been reduced")
    if problem.layout.axes is None:
        values = answers.values
    verdict = check(comm, problem.layout, problem.dtype, problem.request, problem.work(comm, lambda _done: None),
                    dataclasses.replace(answers, values=values))  # fmt: skip
    return compared(comm, [problem.sample] if problem.sample else [], verdict)


def warm_up(params: Params) -> None:
    """Call the kernels that the run will use."""
    dtype = np.dtype(params.dtype)
    alone = MPI.COMM_SELF
    shape = (4,) if params.axis is None else (4, 4)
    layout = Layout(shape, None if params.axis is None else (1,), 0, tuple(Range(0, n) for n in shape))
    local = np.ones(shape, dtype)
    request = Request(
        params.op, 0, params.bins if params.bins < 100 else 100, (0.0, 2.0), params.fast, params.fill_value,
        "omit" if params.nan_policy == "omit" else "propagate",
    )  # fmt: skip
    if request.missing(dtype).among(local[:1]) is not None:
        local = np.zeros_like(local)
    work = Work(lambda box: local[tuple(r.slice for r in box)], 1, local.size)
    answers = evaluate(alone, layout, dtype, request, work, sealed=True)
    check(alone, layout, dtype, request, work, answers)
    if "histogram" in params.op and params.range is None:
        order = make_plan(alone, layout, dtype, Request(("min",)), work)
        Partial(order, 1).add(local.reshape(1, 1, -1), 0)
