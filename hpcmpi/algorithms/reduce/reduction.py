"""The reduction itself: from what is asked for to this rank's part of the answers, by the states of lines."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import DTypeLike, NDArray

from hpcmpi.algorithms.reduce.check_kernels import seals
from hpcmpi.algorithms.reduce.lines import Box, Layout, Read, array_states, line_states
from hpcmpi.algorithms.reduce.missing import Missing, missing
from hpcmpi.algorithms.reduce.outcome import KEPT, outcome, result_dtype
from hpcmpi.algorithms.reduce.partial import NEEDS, Partial, Plan
from hpcmpi.comm import agreement
from hpcmpi.errors import InputError
from hpcmpi.partition import Range

ORDERED = ("min", "max", "argmin", "argmax", "histogram", "prod")
"""Operations that complex numbers do not have here."""


@dataclass(frozen=True)
class Request:
    """What is asked for: ``ops`` of the package's ``OPERATIONS``, and their options."""

    ops: tuple[str, ...]
    ddof: int = 0
    bins: int = 10
    range: tuple[float, float] | None = None
    fast: bool = False
    fill_value: Any = None
    nan_policy: str = "propagate"

    def missing(self, dtype: np.dtype[Any]) -> Missing:
        """What is left out of an array of ``dtype``; InputError for a fill value that is none of its numbers."""
        return missing(dtype, self.fill_value, self.nan_policy)

    def outputs(self, dtype: np.dtype[Any]) -> tuple[str, ...]:
        """The operations, and how many elements were kept where some may be left out."""
        return (*self.ops, KEPT) if self.missing(dtype).leaves_out else self.ops


@dataclass
class Answers:
    """This rank's part of the answers.

    ``values`` maps operations to arrays of the shape of the part of the output ``owned``, or (bins,) for the histogram,
    whose ``edges`` are (bins + 1,), of the dtype that NumPy gives them. ``seals`` are those of the exact sums and sums
    of squares that they were rounded from, in the order in which lines are reduced: (parts, lines) and (lines,) uint64.
    ``plain_shift`` is the shift of plain sums, None where sums are exact.
    """

    owned: Box
    values: dict[str, NDArray[Any]] = field(default_factory=dict)
    edges: NDArray[np.floating] | None = None
    plain_shift: NDArray[np.float64] | None = None
    seals: list[tuple[NDArray[np.uint64], NDArray[np.uint64]]] = field(default_factory=list)


@dataclass(frozen=True)
class Work:
    """How to do it: ``read`` a box of the array, on so many ``threads``, so many elements at once."""

    read: Read
    threads: int
    block_elements: int
    advance: Callable[[float], None] = lambda _fraction: None


def check_dtype(ops: tuple[str, ...], dtype: np.dtype[Any]) -> None:
    """Raise InputError unless ``dtype`` has all of ``ops``."""
    if dtype.kind not in "biufc" or dtype.itemsize > (16 if dtype.kind == "c" else 8):
        raise InputError(f"cannot reduce {dtype}: booleans, integers and floats of up to 64 bits are expected")
    without = [op for op in ops if op in ORDERED]
    if dtype.kind == "c" and without:
        raise InputError(f"cannot reduce {dtype} by {', '.join(without)}: these are for real numbers")


def check_axes(ops: tuple[str, ...], axes: tuple[int, ...] | None, ndim: int) -> tuple[int, ...] | None:
    """``axes`` from 0 on, ascending; None where these are all of the ``ndim`` dimensions.

    Raises InputError for dimensions that there are not, or named twice, and for places along several.
    """
    if axes is None:
        return None
    if not axes or not all(-ndim <= axis < ndim for axis in axes):
        shown = ", ".join(map(str, axes)) or "()"
        raise InputError(f"axis {shown} of an array with {ndim} dimensions: from {-ndim} to {ndim - 1} are expected")
    found = tuple(sorted({axis % ndim for axis in axes}))
    if len(found) < len(axes):
        raise InputError(f"axis {', '.join(map(str, axes))}: names a dimension twice")
    if len(found) == ndim:
        return None
    places = [op for op in ops if op in ("argmin", "argmax")]
    if places and len(found) > 1:
        raise InputError(f"{places[0]} along several dimensions: one axis is expected, or none for the whole array")
    return found


def make_plan(
    comm: MPI.Comm,
    layout: Layout,
    dtype: np.dtype[Any],
    request: Request,
    work: Work,
    edges: NDArray[np.floating] | None = None,
    **options: Any,
) -> Plan:
    """States that ``request`` needs, a histogram between ``edges``; finds the shift of plain variances in the data."""
    needs = frozenset(need for op in request.ops for need in NEEDS[op])
    # Sums of integers have nothing to gain, and variances along an axis would need a shift for each line.
    plain = request.fast and dtype.kind in "fc" and not (layout.axes is not None and _varies(request))
    if plain and "norm" in request.ops:
        needs = (needs | {"norms"}) - (frozenset() if _varies(request) else {"squares"})
    left_out = request.missing(dtype)
    shift = _first_element(comm, layout, work, left_out) if plain and _varies(request) else np.zeros(2)
    return Plan(dtype, needs, None if edges is None else edges.astype(np.float64), plain, shift, left_out, **options)


def _varies(request: Request) -> bool:
    return "var" in request.ops or "std" in request.ops


def _edges(comm: MPI.Comm, layout: Layout, dtype: np.dtype[Any], request: Request, work: Work) -> NDArray[np.floating]:
    """Edges of equal bins as NumPy has them, from the range asked for or that of the data."""
    first, last = request.range or (0, 1)
    if request.range is None and math.prod(layout.shape) > 0:
        plan = Plan(dtype, frozenset({"order"}), missing=request.missing(dtype))
        extremes = array_states(comm, layout, plan, work.read, work.threads, work.block_elements, lambda _done: None)
        with agreement(comm):
            if extremes.elements[0]:
                first, last = (outcome(op, extremes)[0] for op in ("min", "max"))
    with agreement(comm):
        if not (math.isfinite(first) and math.isfinite(last)):
            raise InputError(f"the data range from {first} to {last}: give the range of the histogram")
        return equal_bins(first, last, request.bins, dtype)


def equal_bins(first: Any, last: Any, bins: int, dtype: DTypeLike = np.float64) -> NDArray[np.floating]:
    """Edges (bins + 1,) of bins from ``first`` to ``last`` as ``numpy.histogram`` makes them for data of ``dtype``.

    Integers have float64 edges, floats those of their own dtype. What the limits are decides, as in NumPy, how the
    edges are computed: scalars of ``dtype``, the data's own, in that dtype; Python's floats in float64, then rounded.
    InputError where the dtype has no such numbers.
    """
    first, last = (np.uint8(limit) if isinstance(limit, np.bool_) else limit for limit in (first, last))
    given = f"{first} to {last}"
    with np.errstate(all="ignore"):
        if first == last:
            first, last = first - 0.5, last + 0.5
        kind = np.result_type(first, last, np.dtype(dtype).newbyteorder("="))
        kind = kind if kind.kind == "f" else np.dtype(np.float64)
        edges: NDArray[np.floating] = np.linspace(first, last, bins + 1, dtype=kind)
        rising = bool((edges[1:] > edges[:-1]).all()) and math.isfinite(last - first) and np.isfinite(edges).all()
    if not rising:
        raise InputError(f"too many bins for the data range: {kind} cannot cut {given} into {bins}")
    return edges


def _first_element(comm: MPI.Comm, layout: Layout, work: Work, left_out: Missing) -> NDArray[np.float64]:
    """Real and imaginary part of the array's first element, on all ranks; 0 where it is missing or not finite."""
    values = work.read(tuple(Range(r.start, min(r.start + 1, r.stop)) for r in layout.part)).reshape(-1)
    mine = None if not values.size else 0j if left_out.among(values) is not None else complex(values[0])
    first = next((z for z in comm.allgather(mine) if z is not None), 0j)
    shift: NDArray[np.float64] = np.nan_to_num(np.array([first.real, first.imag]), nan=0, posinf=0, neginf=0)
    return shift


def evaluate(
    comm: MPI.Comm, layout: Layout, dtype: np.dtype[Any], request: Request, work: Work, *, sealed: bool = False
) -> Answers:
    """Answers to ``request`` about the array of ``layout``; ``sealed`` keeps what the check of them needs."""
    edges = _edges(comm, layout, dtype, request, work) if "histogram" in request.ops else None
    plan = make_plan(comm, layout, dtype, request, work, edges)
    answers = Answers(layout.owned(comm.rank, comm.size), edges=edges)
    answers.plain_shift = plan.shift if plan.plain else None
    if layout.axes is None:
        whole = array_states(comm, layout, plan, work.read, work.threads, work.block_elements, work.advance)
        if sealed:
            answers.seals.append(_seals(whole))
        with agreement(comm):
            for op in request.outputs(dtype):
                values = outcome(op, whole, request.ddof)
                answers.values[op] = values if op == "histogram" else values.reshape(())
        return answers
    shape = tuple(r.size for r in answers.owned)
    answers.values = {op: np.empty(shape, result_dtype(op, dtype)) for op in request.outputs(dtype)}
    states = line_states(comm, layout, plan, work.read, work.threads, work.block_elements, work.advance)
    failed: InputError | None = None
    for box, partial in states:
        if sealed:
            answers.seals.append(_seals(partial))
        try:
            _round(answers, box, partial, request)
        except InputError as error:  # told when no rank waits for another
            failed = failed or error
    with agreement(comm):
        if failed is not None:
            raise failed
    return answers


def _round(answers: Answers, box: Box, partial: Partial, request: Request) -> None:
    """Round those lines of ``partial``, which make the part ``box`` of the output, that this rank owns."""
    own = tuple(
        Range(max(b.start, o.start), max(min(b.stop, o.stop), b.start, o.start))
        for b, o in zip(box, answers.owned, strict=True)
    )
    if any(r.size == 0 for r in own):
        return
    numbers = np.arange(partial.lines).reshape([r.size for r in box])
    lines = numbers[tuple(slice(r.start - b.start, r.stop - b.start) for r, b in zip(own, box, strict=True))]
    mine = partial if lines.size == partial.lines else partial.some(lines.reshape(-1))
    place = tuple(slice(r.start - o.start, r.stop - o.start) for r, o in zip(own, answers.owned, strict=True))
    for op in answers.values:
        answers.values[op][place] = outcome(op, mine, request.ddof).reshape(lines.shape)


def _seals(partial: Partial) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    return seals(partial.sums), seals(partial.squares)
