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
from typing import NamedTuple

from hpcmpi.algorithms.matmul import Params, Resolved, grid_of
from hpcmpi.errors import ResourceError, UsageError
from hpcmpi.machine import Machine
from hpcmpi.partition import Grid3, grids_3d, three_dimensional
from hpcmpi.record import Cost, counted, human_bytes

_ITEMSIZE = {"float32": 4, "float64": 8, "complex64": 8, "complex128": 16}
_SPEED = {"float32": 2.0, "float64": 1.0, "complex64": 2.0, "complex128": 1.0}  # flops a second, relative to float64
_PANEL = 512  # columns of A and rows of B in a panel: deep enough for BLAS to run at full speed
_NARROWEST_PANEL = 64
_SHARED_SLOTS = 3  # panels of an operand for which ranks of one node have room: one read, one ready, one being written
_MOST_SLOTS = 16
_MOVING = 8  # times slower than to read memory is to move it, fresh pages among it
_BUFFER_SHARE, _SHARED_BUFFER_SHARE = 0.4, 0.25  # of a rank's share of A, B and C, for panels in flight
_PIECE = 1 << 19  # elements of a sum that travel together
_PIECES = 3
_IDLING = 50  # Allreduces that it takes to set the idle ranks apart, and to wake them up when the others are done
_MOST_IDLE = 128  # ranks: beyond, a grid near by is as good
_VERIFICATION_VECTORS = 24  # numbers that the check of the answer holds for each row of A, B and C
LEAST_M, LEAST_N, LEAST_K = 1024, 2048, 2048  # leaves of Strassen-Winograd: smaller ones do not pay (measured)
_STRASSEN_FLOPS = 0.91  # of a classical product's time, a level, with the additions (measured)
_STRASSEN_ADDED = 0.02  # where products are added to what C holds
_DISK_BANDWIDTH = 2e9  # bytes a second that the ranks of a node read or write together
_READING = 32 << 20  # bytes of a strip that is read and converted
_CHECKING = 4 << 20  # bytes of a strip whose check holds it
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
    sums = 0 if pk == 1 else m_local * n_local + _PIECES * min(piece, -(-m_local // pk)) * n_local
    if pm * pn == 1:
        return Buffers(longest, 1, sums, piece)
    share = m_local * n_local / pk + k_local * (m_local / pn + n_local / pm)
    if method == "cannon":
        return Buffers(longest, 2, int(4 * k_local * (m_local / pn + n_local / pm)), piece)
    line = m_local * (pn > 1) + n_local * (pm > 1)
    room = (_SHARED_BUFFER_SHARE if one_node else _BUFFER_SHARE) * share / max(1, line)
    slots = _SHARED_SLOTS if one_node else min(_MOST_SLOTS, pm + pn - 1 - (pm == pn) * (pm - 1) + 2)
    width = int(min(longest, max(_NARROWEST_PANEL, min(_PANEL, room / slots))))
    return Buffers(width, slots, slots * width * line + sums, piece)


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


def wide_panels(m: int, n: int, k: int, grid: tuple[int, int], levels: int, *, shared: bool) -> int:
    """Number of panels in which SUMMA goes through ``k`` with Strassen-Winograd: few, as long as memory is not much."""
    pr, pc = grid
    m_local, n_local = -(-m // pr), -(-n // pc)
    share = (m_local * n_local + (m_local + n_local) * k / (pr * pc)) / 2  # two buffers may take as much as A, B and C
    count = max(1, int(k // max(LEAST_K << levels, share / max(1, m_local * (pc > 1) + n_local * (pr > 1)))))
    return count if pr * pc > 1 and (count > 2 or not shared) else 1  # two halves in memory are the whole of it


def wide_elements(m: int, n: int, k: int, grid: tuple[int, int], panels: int, *, shared: bool) -> int:
    """Elements of a rank's buffers for ``panels`` of :func:`wide_panels`; ``shared``: its part of the node's."""
    pr, pc = grid
    rows, columns = -(-m // pr) * (pc > 1), -(-n // pc) * (pr > 1)
    if shared:
        rows, columns = -(-rows // pc), -(-columns // pr)
    return min(2, panels) * -(-k // panels) * (rows + columns)


def price(params: Params, method: str, grid: tuple[int, ...], machine: Machine, ranks: int) -> Cost:
    """Cost of ``method`` on ``grid``, of ``ranks`` that there are; ``params`` has its m, n, k and dtype filled in."""
    m, n, k, dtype = params.m or 0, params.n or 0, params.k or 0, params.dtype or "float64"
    pm, pn, pk = three_dimensional(grid)
    itemsize = _ITEMSIZE[dtype]
    m_local, n_local, k_local = -(-m // pm), -(-n // pn), -(-k // pk)
    one_node = pm * pn * pk <= machine.ranks_per_node
    room = buffers(m, n, k, method, (pm, pn, pk), one_node=one_node)
    words_a, words_b = m_local * (k_local - k_local // pn), n_local * (k_local - k_local // pm)
    words_c = (pk - 1) * -(-m_local // pk) * n_local
    flops = (8 if dtype.startswith("complex") else 2) * m_local * n_local * k_local
    oversubscription = max(1.0, machine.ranks_per_node * machine.threads / machine.cores_per_node)
    compute = flops / (machine.flops * _SPEED[dtype] * machine.threads) * oversubscription
    levels = strassen_levels(m, n, k, method, (pm, pn, pk), params.strassen)
    if levels:
        room, parts = _room_by_strassen(m, n, k, method, (pm, pn, pk), levels)
        flops = int(flops * (_STRASSEN_FLOPS + _STRASSEN_ADDED * (parts > 1)) ** levels)
        compute *= (_STRASSEN_FLOPS + _STRASSEN_ADDED * (parts > 1)) ** levels
    a_second = machine.bandwidth / itemsize / oversubscription
    panels = -(-k_local // room.width) if pm * pn > 1 else 0
    messages = panels * (2 - 1 / pm - 1 / pn) + (pk - 1) * -(-m_local // (pk * room.piece))
    partial = 2 * m_local * n_local * (pk > 1) + 3 * words_c  # fresh memory for partial sums, and additions
    if one_node:  # copies of the ranks' own; a panel of A is also packed
        seconds = compute + (words_a + words_b + partial + words_a / max(1, pn - 1)) / a_second
    else:  # the wire works while the ranks do, but for the first panel and the last sums
        first = min(room.width * (m_local * (pn > 1) + n_local * (pm > 1)), words_a + words_b)
        seconds = max(compute, (words_a + words_b + words_c) / a_second) + (first + words_c / pk) / a_second
        seconds += partial * itemsize * _MOVING / machine.memory_bandwidth
    if pm * pn * pk < ranks:
        seconds += _IDLING * machine.allreduce_latency
    share = m_local * n_local / pk + k_local * (m_local / pn + n_local / pm)
    vectors = _VERIFICATION_VECTORS * 8 * (m_local + n_local + k_local) if m and n else 0
    largest = max(m_local * -(-k_local // pn), -(-k_local // pm) * n_local, -(-m_local // pk) * n_local) * itemsize
    checked = min(_CHECKING, largest * (2 if dtype in ("float32", "complex64") else 1))  # in double precision
    strips = min(_READING, largest) + _CHECKED_COPIES * checked + 2 * max(_units(params))
    return Cost(
        method=method,
        grid=grid,
        words=words_a + words_b + words_c,
        messages=messages,
        flops=flops,
        memory=int((share + room.elements) * itemsize + vectors + strips),
        output=m * n * itemsize,
        seconds=seconds + messages * machine.latency,
        lower_bound=lower_bound(m, n, k, ranks),
        note=f"Strassen-Winograd: {levels or 'no'} level{'s' * (levels > 1)} on this grid" * bool(params.strassen),
    )


def _room_by_strassen(m: int, n: int, k: int, method: str, grid: Grid3, levels: int) -> tuple[Buffers, int]:
    """Buffers and temporaries of a product by Strassen-Winograd, and in how many panels a rank multiplies."""
    pm, pn, pk = grid
    m_local, n_local, k_local = -(-m // pm), -(-n // pn), -(-k // pk)
    room = buffers(m, n, k, method, grid, one_node=False)
    if method == "cannon":
        panels, width, elements = pm, -(-k // pm), room.elements
    else:
        panels = wide_panels(m, n, k_local, (pm, pn), levels, shared=False)
        width = -(-k_local // panels)
        elements = wide_elements(m, n, k_local, (pm, pn), panels, shared=False) + m_local * n_local * (pk > 1) * 2
    elements += strassen_workspace(m_local, n_local, width, levels, accumulate=panels > 1)
    return Buffers(width, room.slots, elements, room.piece), panels


class Tile(NamedTuple):
    """Sizes of what an out-of-core product has in memory: C (m x n), and twice A (m x k) and B (k x n)."""

    m: int
    n: int
    k: int


def tile(m: int, n: int, k: int, nbytes: int, itemsize: int) -> Tile:
    """The largest tile of a block (m x n) that, with its panels, ``nbytes`` hold: square, or as long as the block."""
    elements = max(64, (nbytes - min(_READING, nbytes // 5)) // itemsize)  # the rest holds what is converted
    inner = max(1, min(k, _PANEL, math.isqrt(elements) // 8))
    side = max(1, math.isqrt(4 * inner**2 + elements) - 2 * inner)
    fewest = -(-m // side)
    choices = []
    for parts in {1, 2, max(1, fewest - 1), max(1, fewest), -(-m // max(1, _wide(n, inner, elements)))}:
        rows = max(1, -(-m // max(1, parts)))
        if (columns := _wide(rows, inner, elements)) >= 1:
            columns = _even(n, columns)
            choices.append((n * -(-m // rows) + m * -(-n // columns), rows, columns))
    if not choices:
        return Tile(_even(m, side), _even(n, side), inner)
    _, rows, columns = min(choices)
    return Tile(rows, columns, inner)


def _wide(rows: int, inner: int, elements: int) -> int:
    """Columns of a tile of so many ``rows``."""
    return (elements - 2 * inner * rows) // max(1, rows + 2 * inner)


def _even(size: int, longest: int) -> int:
    """Size of equal parts of ``size``, as few as possible of at most ``longest``."""
    return max(1, -(-size // max(1, -(-size // max(1, longest)))))


def _units(params: Params) -> tuple[int, int]:
    return params.units if isinstance(params, Resolved) else (0, 0)


def strip_bytes(memory: int) -> int:
    """Bytes of the strips in which the check of an out-of-core product reads: a quarter of the memory holds them."""
    return min(_CHECKING, memory // (4 * _CHECKED_COPIES))


def streamed(params: Params, grid: tuple[int, int], machine: Machine) -> Cost:
    """Cost of the out-of-core product in ``params.memory`` bytes a rank, each rank a block of C on ``grid``.

    Its memory is more than that where the check or a piece of a file needs more.
    """
    m, n, k, dtype, memory = params.m or 0, params.n or 0, params.k or 0, params.dtype or "float64", params.memory or 0
    m_local, n_local, itemsize = -(-m // grid[0]), -(-n // grid[1]), _ITEMSIZE[dtype]
    part = tile(m_local, n_local, k, memory, itemsize)
    read = m_local * k * -(-n_local // part.n) + k * n_local * -(-m_local // part.m)
    flops = (8 if dtype.startswith("complex") else 2) * m_local * n_local * k
    oversubscription = max(1.0, machine.ranks_per_node * machine.threads / machine.cores_per_node)
    compute = flops / (machine.flops * _SPEED[dtype] * machine.threads) * oversubscription
    disk = _DISK_BANDWIDTH / machine.ranks_per_node
    number = 16 if dtype.startswith("complex") else 8
    vectors = _VERIFICATION_VECTORS * 8 * (m_local + n_local) + _VERIFICATION_VECTORS // 2 * number * k
    rows = _CHECKED_COPIES * number * max(-(-k // grid[1]), n_local)
    check = max(4 * vectors // 3 + 1, vectors + rows)  # strips take a quarter of the memory, or are one row
    together = min(machine.ranks_per_node, grid[0] * grid[1])  # ranks that share the copy of an operand
    lines = min(m, together * m_local), min(n, together * n_local)
    copied = sum(k * -(-line // together) * (unit > 0) for line, unit in zip(lines, _units(params), strict=True))
    scratch = (m_local * n_local + copied) * itemsize
    return Cost(
        method="stream",
        grid=grid,
        words=0,
        messages=0,
        flops=flops,
        memory=max(memory, check, _PIECES_READ * max(_units(params))),
        output=m * n * itemsize,
        seconds=max(compute, read * itemsize / disk) + m_local * n_local * itemsize / disk,
        note=f"Out of core: tiles of C of {part.m} x {part.n}, {human_bytes(scratch)} of scratch a rank"
        + ", operands in chunks being copied there" * (copied > 0),
        scratch=scratch,
    )


def _fitting(params: Params, plans: list[Cost]) -> list[Cost]:
    """Those of out-of-core ``plans`` that keep to the memory; ResourceError if there is none."""
    fitting = [plan for plan in plans if plan.memory <= (params.memory or 0)]
    if plans and not fitting:
        least = min(plan.memory for plan in plans)
        pieces = _PIECES_READ * max(_units(params)) >= least
        why = "the pieces in which an operand is stored" if pieces else "the vectors and rows that the check holds"
        raise ResourceError(f"--memory {params.memory}: at least {-(-least // 2**20)}MiB a rank is needed, for {why}")
    return fitting


def plans(params: Params, ranks: int, machine: Machine) -> list[Cost]:
    """Every way that ``params.method`` and ``params.grid`` admit, the cheapest first.

    Raises UsageError where there is none, ResourceError where ``params.memory`` is too little for any.
    """
    side = math.isqrt(ranks)
    if params.method == "cannon" and params.grid is None and side * side != ranks:
        raise UsageError(
            f"--method cannon needs a square number of ranks, and there are {ranks}: "
            f"use {side * side} or {(side + 1) ** 2} ranks, or --method summa"
        )
    if params.grid is None:
        fewest = max(1, min(ranks - 1, math.ceil(0.9 * ranks)), ranks - _MOST_IDLE)
        grids = [grid for used in range(fewest, ranks + 1) for grid in grids_3d(used)]
    else:
        grids = [three_dimensional(grid_of(params.grid))]
        if math.prod(grids[0]) > ranks:
            raise UsageError(f"--grid {params.grid} has {math.prod(grids[0])} ranks, and there are {ranks}")
    held = math.inf if params.memory is None else params.memory
    found = [
        price(params, method, grid if method == "3d" else grid[:2], machine, ranks)
        for grid in grids
        for method in _methods(params.method, grid, ranks)
    ]
    if not found:
        raise UsageError(
            f"--method {params.method} cannot multiply on --grid {params.grid} and {counted(ranks)}; "
            f"it needs {needed_grid(params.method, ranks)}"
        )
    fitting = [plan for plan in found if plan.memory <= held]
    if not fitting:
        flat = [grid[:2] for grid in grids if grid[2] == 1 and math.prod(grid) == ranks]
        fitting = _fitting(params, [streamed(params, grid, machine) for grid in flat])
        if not fitting:
            raise UsageError(f"--memory streams on 2-D grids of all ranks only, not on --grid {params.grid}")
    return sorted(fitting, key=lambda c: (c.seconds, c.memory, c.grid[1]))


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


def cost(params: Params, ranks: int, machine: Machine) -> Cost:
    """What the job will cost as ``auto`` would do it."""
    return plans(params, ranks, machine)[0]
