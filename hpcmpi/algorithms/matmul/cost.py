"""What each method and grid of a matrix product costs, and the order in which ``auto`` prefers them.

On a (pm x pn x pk) grid a rank receives what it lacks of its part of A, m/pm k/pk (1 - 1/pn), and of B, k/pk n/pn
(1 - 1/pm), and the other layers' sums for its part of C, m/pm n/pn (1 - 1/pk). The lower bound is the
memory-independent one of Al Daas, Ballard, Grigori, Kumar and Rouse 2022 ("Tight memory-independent parallel matrix
multiplication communication lower bounds").

``auto`` weighs every grid, also those that leave a rank or a tenth of the ranks idle: a prime number of ranks has only
grids that move many words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from hpcmpi.algorithms.matmul import Resolved, grid_of
from hpcmpi.dtypes import double_precision, flops_per_term, itemsize, real_itemsize
from hpcmpi.errors import ResourceError, UsageError
from hpcmpi.machine import READ_BYTES, Machine
from hpcmpi.partition import Grid3, grids_3d, three_dimensional
from hpcmpi.record import Cost, counted, human_bytes

CHECK_BYTES = 4 << 20
"""Bytes of a strip of a matrix, in double precision, in which the check reads it."""
SUM_BUFFERS = 3
"""Pieces of a sum for which a layer of the grid has room."""

PANEL = 512  # columns of A and rows of B in a panel: deep enough for BLAS to run at full speed
NARROWEST_PANEL = 64
_SHARED_SLOTS = 3  # panels of an operand for which ranks of one node have room: one read, one ready, one being written
_MOST_SLOTS = 16
_MOVING = 8  # times slower than to read memory is to move it, fresh pages among it
_BUFFER_SHARE, _SHARED_BUFFER_SHARE = 0.4, 0.25  # of a rank's share of A, B and C, for panels in flight
WORTH_SHARING = 1 << 20  # bytes of a rank's buffers; to set up shared memory takes longer than to send less
_PIECE = 1 << 19  # elements of a sum that travel together
_IDLING = 50  # Allreduces that it takes to set the idle ranks apart, and to wake them up when the others are done
_MOST_IDLE = 128  # ranks: beyond, a grid near by is as good
_CHECK_VECTORS = 24  # numbers that the check of the answer holds for each row of A, B and C
LEAST_M, LEAST_N, LEAST_K = 1024, 2048, 2048  # leaves of Strassen-Winograd: smaller ones do not pay (measured)
_STRASSEN_FLOPS = 0.91  # of a classical product's time, a level, with the additions (measured)
_STRASSEN_ADDED = 0.02  # where products are added to what C holds
_DISK_BANDWIDTH = 2e9  # bytes a second that the ranks of a node read or write together
_CHECKED_COPIES = 4  # of a strip
_PIECES_READ = 3  # memory to inflate a piece of a file in: compressed, inflated, converted


class Buffers(NamedTuple):
    """Room for ``slots`` panels of each operand, none wider than ``width``, ``elements`` in all; rows of a sum."""

    width: int
    slots: int
    elements: int
    piece: int


def buffers(m: int, n: int, k: int, method: str, grid: Grid3, *, one_node: bool) -> Buffers:
    """What a rank has room for on ``grid``: less where panels would be large against its share of A, B and C.

    Between nodes every owner of panels must be able to have one under way, or its link is idle, and two more make up
    for delays.
    """
    pm, pn, pk = grid
    m_local, n_local, k_local = -(-m // pm), -(-n // pn), -(-k // pk)
    longest = max(1, -(-k // (pm * pn)) if method == "ring" else k_local)
    piece = max(1, _PIECE // max(1, n_local))
    sums = 0 if pk == 1 else m_local * n_local + SUM_BUFFERS * min(piece, -(-m_local // pk)) * n_local
    if pm * pn == 1:
        return Buffers(longest, 1, sums, piece)
    share = m_local * n_local / pk + k_local * (m_local / pn + n_local / pm)
    if method == "cannon":
        return Buffers(longest, 2, int(4 * k_local * (m_local / pn + n_local / pm)), piece)
    line = m_local * (pn > 1) + n_local * (pm > 1)
    room = (_SHARED_BUFFER_SHARE if one_node else _BUFFER_SHARE) * share / max(1, line)
    slots = _SHARED_SLOTS if one_node else min(_MOST_SLOTS, pm + pn - 1 - (pm == pn) * (pm - 1) + 2)
    width = int(min(longest, max(NARROWEST_PANEL, min(PANEL, room / slots))))
    return Buffers(width, slots, slots * width * line + sums, piece)


class Tile(NamedTuple):
    """Sizes of what an out-of-core product has in memory: C (m x n), and twice A (m x k) and B (k x n)."""

    m: int
    n: int
    k: int


@dataclass(frozen=True, kw_only=True)
class MatmulPlan(Cost):
    """One way to multiply: its cost, and its decisions, which the run carries out.

    ``strip_bytes`` is the size of the strips in which the check reads the matrices.
    """

    strip_bytes: int


@dataclass(frozen=True, kw_only=True)
class BlockPlan(MatmulPlan):
    """A product of blocks in memory.

    ``room`` is for the panels of a classical product, in memory that the ranks of a node share if ``shared``; ``wide``
    is for those of ``levels`` of Strassen-Winograd, if there are any.
    """

    room: Buffers
    shared: bool
    levels: int
    wide: WidePanels


Plan = TypeVar("Plan", bound=MatmulPlan)


class WidePanels(NamedTuple):
    """Numbers of panels of SUMMA with Strassen-Winograd: where ranks of a node share memory, and where they do not.

    ``shared_elements`` is the size of a rank's part of the shared buffers.
    """

    shared: int
    private: int
    shared_elements: int


@dataclass(frozen=True, kw_only=True)
class StreamPlan(MatmulPlan):
    """A product out of core, by tiles; operands in pieces are copied to scratch, ``piece_bytes`` at a time."""

    tile: Tile
    piece_bytes: int


def lower_bound(m: int, n: int, k: int, ranks: int) -> float:
    """Fewest words that the busiest rank must receive, whatever the algorithm and its memory."""
    d1, d2, d3 = sorted((m, n, k), reverse=True)
    if d3 == 0 or ranks == 1:
        return 0.0
    if ranks * d2 <= d1:
        accessed = (d1 * d2 + d1 * d3) / ranks + d2 * d3
    elif ranks * d3 * d3 <= d1 * d2:
        accessed = 2 * (d1 * d2 * d3 * d3 / ranks) ** 0.5 + d1 * d2 / ranks
    else:
        accessed = 3 * (d1 * d2 * d3 / ranks) ** (2 / 3)
    return max(0.0, accessed - (d1 * d2 + d1 * d3 + d2 * d3) / ranks)


def paying_levels(m: int, n: int, k: int, asked: int) -> int:
    """Levels of Strassen-Winograd, at most ``asked``, that pay for the product of (m x k) and (k x n) on one rank."""
    levels = 0
    while levels < asked and m >> levels + 1 >= LEAST_M and n >> levels + 1 >= LEAST_N and k >> levels + 1 >= LEAST_K:
        levels += 1
    return levels


def strassen_levels(m: int, n: int, k: int, method: str, grid: Grid3, asked: int) -> int:
    """Levels that pay for what every rank of ``grid`` multiplies at once; a ring's panels are too narrow."""
    pm, pn, pk = grid
    return 0 if method == "ring" else paying_levels(m // pm, n // pn, k // (pm if method == "cannon" else pk), asked)


def strassen_workspace(m: int, n: int, k: int, levels: int, *, accumulate: bool) -> int:
    """Elements of the temporaries of :func:`~hpcmpi.algorithms.matmul.strassen.strassen`."""
    if levels == 0:
        return 0
    m, n, k = m // 2, n // 2, k // 2
    own = m * k + k * n + m * n * accumulate
    return own + strassen_workspace(m, n, k, levels - 1, accumulate=True)


def wide_panels(m: int, n: int, k: int, grid: Grid3, levels: int, *, one_node: bool) -> WidePanels:
    """In how many panels SUMMA goes through a layer's part of ``k``: few, as long as memory is not much."""
    pm, pn, pk = grid
    m_local, n_local, inner = -(-m // pm), -(-n // pn), k // pk
    share = (m_local * n_local + (m_local + n_local) * inner / (pm * pn)) / 2  # as much as A, B and C for two buffers
    widest = max(LEAST_K << levels, share / max(1, m_local * (pn > 1) + n_local * (pm > 1)))
    private = max(1, int(inner // widest)) if pm * pn > 1 else 1
    shared = private if private > 2 or not one_node else 1  # two halves in memory are the whole of it
    elements = wide_elements(m, n, -(-k // pk), (pm, pn), shared, shared=one_node)
    return WidePanels(shared, private, elements)


def wide_elements(m: int, n: int, k: int, grid: tuple[int, int], panels: int, *, shared: bool) -> int:
    """Elements of a rank's buffers for ``panels`` of :class:`WidePanels`; ``shared``: its part of the node's."""
    pr, pc = grid
    rows, columns = -(-m // pr) * (pc > 1), -(-n // pc) * (pr > 1)
    if shared:
        rows, columns = -(-rows // pc), -(-columns // pr)
    return min(2, panels) * -(-k // panels) * (rows + columns)


def price(spec: Resolved, method: str, grid: tuple[int, ...], machine: Machine, ranks: int) -> BlockPlan:
    """The plan of ``method`` on ``grid``, of ``ranks`` in all."""
    m, n, k, width = spec.m, spec.n, spec.k, itemsize(spec.dtype)
    pm, pn, pk = cut = three_dimensional(grid)
    m_local, n_local, k_local = -(-m // pm), -(-n // pn), -(-k // pk)
    one_node = pm * pn * pk <= machine.ranks_per_node
    room = buffers(m, n, k, method, cut, one_node=False)
    shared = method in ("summa", "3d") and pm * pn * pk > 1 and room.elements * width >= WORTH_SHARING
    if shared:
        room = buffers(m, n, k, method, cut, one_node=one_node)
    levels = strassen_levels(m, n, k, method, cut, spec.strassen)
    wide = wide_panels(m, n, k, cut, levels, one_node=one_node)
    words_a, words_b = m_local * (k_local - k_local // pn), n_local * (k_local - k_local // pm)
    words_c = (pk - 1) * -(-m_local // pk) * n_local
    flops = flops_per_term(spec.dtype) * m_local * n_local * k_local
    panel_width, _, elements, piece = buffers(
        m, n, k, method, cut, one_node=one_node and not levels
    )  # shared if they can
    if levels:
        products = pm if method == "cannon" else wide.private
        panel_width = -(-k_local // products)
        if method != "cannon":
            elements = wide_elements(m, n, k_local, (pm, pn), products, shared=False) + m_local * n_local * (pk > 1) * 2
        elements += strassen_workspace(m_local, n_local, panel_width, levels, accumulate=products > 1)
        flops = int(flops * (_STRASSEN_FLOPS + _STRASSEN_ADDED * (products > 1)) ** levels)
    compute = _seconds(flops, spec.dtype, machine)
    words_a_second = machine.bandwidth / width / machine.oversubscription
    panels = -(-k_local // panel_width) if pm * pn > 1 else 0
    messages = panels * (2 - 1 / pm - 1 / pn) + (pk - 1) * -(-m_local // (pk * piece))
    partial = 2 * m_local * n_local * (pk > 1) + 3 * words_c  # fresh memory for partial sums, and additions
    if one_node:  # copies of the ranks' own; a panel of A is also packed
        seconds = compute + (words_a + words_b + partial + words_a / max(1, pn - 1)) / words_a_second
    else:  # the wire works while the ranks do, but for the first panel and the last sums
        first = min(panel_width * (m_local * (pn > 1) + n_local * (pm > 1)), words_a + words_b)
        seconds = max(compute, (words_a + words_b + words_c) / words_a_second) + (first + words_c / pk) / words_a_second
        seconds += partial * width * _MOVING / machine.memory_bandwidth
    if pm * pn * pk < ranks:
        seconds += _IDLING * machine.allreduce_latency
    share = m_local * n_local / pk + k_local * (m_local / pn + n_local / pm)
    vectors = _CHECK_VECTORS * 8 * (m_local + n_local + k_local) if m and n else 0
    largest = max(m_local * -(-k_local // pn), -(-k_local // pm) * n_local, -(-m_local // pk) * n_local) * width
    checked = min(CHECK_BYTES, largest * 8 // real_itemsize(spec.dtype))  # in double precision
    strips = min(READ_BYTES, largest) + _CHECKED_COPIES * checked + 2 * max(spec.units)
    return BlockPlan(
        method=method,
        grid=grid,
        words=words_a + words_b + words_c,
        messages=messages,
        flops=flops,
        memory=int((share + elements) * width + vectors + strips),
        output=m * n * width,
        seconds=seconds + messages * machine.latency,
        lower_bound=lower_bound(m, n, k, ranks),
        note=f"Strassen-Winograd: {levels or 'no'} level{'s' * (levels > 1)} on this grid" if spec.strassen else "",
        strip_bytes=CHECK_BYTES,
        room=room,
        shared=shared,
        levels=levels,
        wide=wide,
    )


def _seconds(flops: float, dtype: str, machine: Machine) -> float:
    """Time of the arithmetic; single precision is twice as fast."""
    rate = machine.flops * 8 / real_itemsize(dtype) * machine.threads
    return flops / rate * machine.oversubscription


def tile(m: int, n: int, k: int, nbytes: int, itemsize: int) -> Tile:
    """The largest tile of a block (m x n) that, with its panels, ``nbytes`` hold: square, or as long as the block."""
    elements = max(64, (nbytes - min(READ_BYTES, nbytes // 5)) // itemsize)  # the rest holds what is converted
    inner = max(1, min(k, PANEL, math.isqrt(elements) // 8))
    side = max(1, math.isqrt(4 * inner**2 + elements) - 2 * inner)
    fewest = -(-m // side)
    choices = []
    for parts in {1, 2, max(1, fewest - 1), max(1, fewest), -(-m // max(1, _columns(n, inner, elements)))}:
        rows = max(1, -(-m // max(1, parts)))
        if (columns := _columns(rows, inner, elements)) >= 1:
            columns = _even(n, columns)
            choices.append((n * -(-m // rows) + m * -(-n // columns), rows, columns))
    if not choices:
        return Tile(_even(m, side), _even(n, side), inner)
    _, rows, columns = min(choices)
    return Tile(rows, columns, inner)


def _columns(rows: int, inner: int, elements: int) -> int:
    """Columns of a tile of so many ``rows``."""
    return (elements - 2 * inner * rows) // max(1, rows + 2 * inner)


def _even(size: int, longest: int) -> int:
    """Size of equal parts of ``size``, as few as possible of at most ``longest``."""
    return max(1, -(-size // max(1, -(-size // max(1, longest)))))


def streamed(spec: Resolved, grid: tuple[int, ...], memory: int, machine: Machine) -> StreamPlan:
    """The plan of the out-of-core product in ``memory`` bytes a rank, each rank a block of C on ``grid``.

    Its memory is more than that where the check or a piece of a file needs more.
    """
    m, n, k, width = spec.m, spec.n, spec.k, itemsize(spec.dtype)
    m_local, n_local = -(-m // grid[0]), -(-n // grid[1])
    part = tile(m_local, n_local, k, memory, width)
    read = m_local * k * -(-n_local // part.n) + k * n_local * -(-m_local // part.m)
    flops = flops_per_term(spec.dtype) * m_local * n_local * k
    disk = _DISK_BANDWIDTH / machine.ranks_per_node
    number = itemsize(double_precision(spec.dtype))
    vectors = _CHECK_VECTORS * 8 * (m_local + n_local) + _CHECK_VECTORS // 2 * number * k
    rows = _CHECKED_COPIES * number * max(-(-k // grid[1]), n_local)
    check = max(4 * vectors // 3 + 1, vectors + rows)  # strips take a quarter of the memory, or are one row
    together = min(machine.ranks_per_node, grid[0] * grid[1])  # ranks that share the copy of an operand
    lines = min(m, together * m_local), min(n, together * n_local)
    copied = sum(k * -(-line // together) * (unit > 0) for line, unit in zip(lines, spec.units, strict=True))
    scratch = (m_local * n_local + copied) * width
    return StreamPlan(
        method="stream",
        grid=grid,
        words=0,
        messages=0,
        flops=flops,
        memory=max(memory, check, _PIECES_READ * max(spec.units)),
        output=m * n * width,
        seconds=max(_seconds(flops, spec.dtype, machine), read * width / disk) + m_local * n_local * width / disk,
        note=f"Out of core: tiles of C of {part.m} x {part.n}, {human_bytes(scratch)} of scratch a rank"
        + ", operands in chunks being copied there" * (copied > 0),
        scratch=scratch,
        strip_bytes=min(CHECK_BYTES, memory // (4 * _CHECKED_COPIES)),
        tile=part,
        piece_bytes=max(1, memory // (_PIECES_READ + 1)),
    )


def plans(spec: Resolved, ranks: int, machine: Machine) -> Sequence[BlockPlan | StreamPlan]:
    """Every way that ``spec.method``, ``spec.grid`` and ``spec.memory`` admit, the cheapest first.

    Raises UsageError where there is none, ResourceError where the memory is too little for any.
    """
    found, memory = block_plans(spec, ranks, machine), spec.memory
    if memory is None or (fitting := [plan for plan in found if plan.memory <= memory]):
        return found if memory is None else fitting
    flat = [plan.grid for plan in found if plan.method == "summa" and math.prod(plan.grid) == ranks]
    if not flat:
        raise UsageError(f"--memory streams on 2-D grids of all ranks only, not on --grid {spec.grid}")
    streams = _cheapest_first([streamed(spec, grid, memory, machine) for grid in flat])
    least = min(plan.memory for plan in streams)
    if least > memory:
        pieces = _PIECES_READ * max(spec.units) >= least
        why = "the pieces in which an operand is stored" if pieces else "the vectors and rows that the check holds"
        raise ResourceError(f"--memory {memory}: at least {-(-least // 2**20)}MiB a rank is needed, for {why}")
    return [plan for plan in streams if plan.memory <= memory]


def block_plans(spec: Resolved, ranks: int, machine: Machine) -> list[BlockPlan]:
    """Every way in memory, whether it fits or not, the cheapest first; UsageError where there is none."""
    side = math.isqrt(ranks)
    if spec.method == "cannon" and spec.grid is None and side * side != ranks:
        raise UsageError(
            f"--method cannon needs a square number of ranks, and there are {ranks}: "
            f"use {side * side} or {(side + 1) ** 2} ranks, or --method summa"
        )
    if spec.grid is None:
        fewest = max(1, min(ranks - 1, math.ceil(0.9 * ranks)), ranks - _MOST_IDLE)
        grids = [grid for used in range(fewest, ranks + 1) for grid in grids_3d(used)]
    else:
        grids = [three_dimensional(grid_of(spec.grid))]
        if math.prod(grids[0]) > ranks:
            raise UsageError(f"--grid {spec.grid} has {math.prod(grids[0])} ranks, and there are {ranks}")
    found = [
        price(spec, method, grid if method == "3d" else grid[:2], machine, ranks)
        for grid in grids
        for method in _methods(spec.method, grid, ranks)
    ]
    if not found:
        raise UsageError(
            f"--method {spec.method} cannot multiply on --grid {spec.grid} and {counted(ranks)}; "
            f"it needs {needed_grid(spec.method, ranks)}"
        )
    return _cheapest_first(found)


def _cheapest_first(plans: list[Plan]) -> list[Plan]:
    return sorted(plans, key=lambda plan: (plan.seconds, plan.memory, plan.grid[1]))


def needed_grid(method: str, ranks: int) -> str:
    """The grids of ``ranks`` on which ``method`` multiplies, in words."""
    side = math.isqrt(ranks)
    square = f"{side}x{side}" if side * side == ranks else f"{side}x{side} on {side**2} ranks"
    return {"ring": f"{ranks}x1 or 1x{ranks}", "cannon": square}.get(method, "two dimensions, PMxPN")


def _methods(asked: str, grid: Grid3, ranks: int) -> list[str]:
    """The methods that ``asked`` stands for on ``grid``."""
    pm, pn, pk = grid
    everyone = pm * pn * pk == ranks
    able = {
        "summa": pk == 1,
        "ring": pk == 1 and 1 in (pm, pn) and everyone,
        "3d": pk > 1 or asked == "3d",
        "cannon": pk == 1 and pm == pn and everyone and asked == "cannon",
    }
    return [method for method, does in able.items() if does and asked in ("auto", method)]
