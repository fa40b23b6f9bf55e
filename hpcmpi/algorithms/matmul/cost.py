"""What each method and grid of a matrix product costs, and the order in which ``auto`` prefers them.

Words are those of SUMMA and of a ring on a (pr x pc) grid of blocks: a rank receives what it lacks of its rows of A,
m/pr k (1 - 1/pc), and of its columns of B, k n/pc (1 - 1/pr). The lower bound is the memory-independent one of Al Daas,
Ballard, Grigori, Kumar and Rouse 2022 ("Tight memory-independent parallel matrix multiplication communication lower
bounds").
"""

from __future__ import annotations

from math import isqrt
from typing import NamedTuple

from hpcmpi.algorithms.matmul import Params
from hpcmpi.machine import Machine
from hpcmpi.partition import grids
from hpcmpi.record import Cost

_ITEMSIZE = {"float32": 4, "float64": 8, "complex64": 8, "complex128": 16}
_SPEED = {"float32": 2.0, "float64": 1.0, "complex64": 2.0, "complex128": 1.0}  # flops a second, relative to float64
SHARED_BUFFERS = 3  # panels that the ranks of a node share: one is written, one ready, one may still be read
_PANEL = 512  # columns of A and rows of B in a panel: deep enough for BLAS to run at full speed
_NARROWEST_PANEL = 64
_BUFFER_SHARE = 0.25  # of a rank's share of A, B and C, for panels in flight
_VERIFICATION_VECTORS = 24  # numbers that the check of the answer holds for each row of A, B and C
LEAST_M, LEAST_N, LEAST_K = 1024, 2048, 2048  # leaves of Strassen-Winograd: smaller ones do not pay (measured)
_STRASSEN_FLOPS = 0.91  # of a classical product's time, a level, with the additions (measured)
_STRASSEN_ADDED = 0.02  # where products are added to what C holds
_DISK_BANDWIDTH = 2e9  # bytes a second that the ranks of a node read or write together
_SCRATCH = 48 << 20  # strips in which files are read, elements drawn and answers checked


def panel_width(m: int, n: int, k: int, method: str, grid: tuple[int, int], *, shared: bool) -> int:
    """Width of the panels on ``grid``: less where buffers would be large. ``shared``: in the memory of one node."""
    pr, pc = grid
    longest = max(1, -(-k // (pr * pc)) if method == "ring" else k)
    if pr * pc == 1:
        return longest
    m_local, n_local = -(-m // pr), -(-n // pc)
    share = m_local * n_local + (m_local + n_local) * k / (pr * pc)
    mapped = _buffers(method, pr * pc, shared=shared) * (m_local * (pc > 1) + n_local * (pr > 1))
    return int(min(longest, max(_NARROWEST_PANEL, min(_PANEL, _BUFFER_SHARE * share / max(1, mapped)))))


def buffer_elements(m: int, n: int, width: int, method: str, grid: tuple[int, int], *, shared: bool) -> int:
    """Elements of a rank's panel buffers; ``shared``: its part of what the ranks of a grid row or column have."""
    pr, pc = grid
    rows, columns = -(-m // pr) * (pc > 1), -(-n // pc) * (pr > 1)
    if shared:
        rows, columns = -(-rows // pc), -(-columns // pr)
    return _buffers(method, pr * pc, shared=shared) * width * (rows + columns)


def _buffers(method: str, ranks: int, *, shared: bool) -> int:
    """Panels for which there is room at once."""
    if method == "ring":
        return min(2, ranks - 1) + 1  # arriving ones, and the rank's own where it has to be packed
    return SHARED_BUFFERS if shared else 2


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


def strassen_levels(m: int, n: int, k: int, method: str, grid: tuple[int, int], asked: int) -> int:
    """Levels of Strassen-Winograd, at most ``asked``, that pay for what each rank multiplies at once."""
    pr, pc = grid
    m_local, n_local, inner, levels = m // pr, n // pc, k // (pr * pc if method == "ring" else 1), 0
    while (
        levels < asked
        and m_local >> levels + 1 >= LEAST_M
        and n_local >> levels + 1 >= LEAST_N
        and inner >> levels + 1 >= LEAST_K
    ):
        levels += 1
    return levels


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


def price(params: Params, method: str, grid: tuple[int, int], machine: Machine) -> Cost:
    """Cost of ``method`` on ``grid``; ``params`` has its m, n, k and dtype filled in."""
    m, n, k, dtype = params.m or 0, params.n or 0, params.k or 0, params.dtype or "float64"
    pr, pc = grid
    ranks, itemsize = pr * pc, _ITEMSIZE[dtype]
    m_local, n_local = -(-m // pr), -(-n // pc)
    words_a, words_b = m_local * k * (1 - 1 / pc), n_local * k * (1 - 1 / pr)
    shared = method == "summa" and machine.ranks_per_node >= ranks
    levels = strassen_levels(m, n, k, method, grid, params.strassen)
    width = panel_width(m, n, k, method, grid, shared=shared)
    panels = -(-k // width) if width else 0
    buffers = buffer_elements(m, n, width, method, grid, shared=shared)
    if levels and method == "summa":
        panels = wide_panels(m, n, k, grid, levels, shared=shared)
        buffers = wide_elements(m, n, k, grid, panels, shared=shared)
    elif levels:
        panels, buffers = ranks, buffer_elements(m, n, -(-k // ranks), method, grid, shared=False)
    buffers += strassen_workspace(m_local, n_local, -(-k // panels), levels, accumulate=panels > 1) if levels else 0
    flops = (8 if dtype.startswith("complex") else 2) * m_local * n_local * k
    oversubscription = max(1.0, machine.ranks_per_node * machine.threads / machine.cores_per_node)
    flops = int(flops * (_STRASSEN_FLOPS + _STRASSEN_ADDED * (panels > 1)) ** levels)
    compute = flops / (machine.flops * _SPEED[dtype] * machine.threads) * oversubscription
    packed = words_a / max(1, pc - 1)  # a panel of A is strided in the block of its owner
    moved = (words_a + words_b + packed) * itemsize / machine.bandwidth * oversubscription
    messages = panels * ((pc > 1) + (pr > 1)) if method == "summa" else panels * (ranks - 1) / ranks
    share = m_local * n_local + m_local * -(-k // pc) + -(-k // pr) * n_local
    vectors = _VERIFICATION_VECTORS * 8 * (m_local + n_local + k) if m and n else 0
    return Cost(
        method=method,
        grid=grid,
        words=words_a + words_b,
        messages=messages,
        flops=flops,
        memory=int((share + buffers) * itemsize + vectors + _SCRATCH),
        output=m * n * itemsize,
        seconds=compute + moved + messages * machine.latency,
        lower_bound=lower_bound(m, n, k, ranks),
    )


class Tile(NamedTuple):
    """Sizes of what an out-of-core product has in memory: C (m x n), and twice A (m x k) and B (k x n)."""

    m: int
    n: int
    k: int


def tile(m: int, n: int, k: int, nbytes: int, itemsize: int) -> Tile:
    """The largest tile of a block (m x n) that, with its panels, ``nbytes`` hold: square, or as long as the block."""
    elements = max(64, (nbytes - min(_SCRATCH, nbytes // 2)) // itemsize)
    inner = max(1, min(k, _PANEL, isqrt(elements) // 8))
    side = max(1, isqrt(4 * inner**2 + elements) - 2 * inner)
    rows, columns = side, side
    if m < side:
        rows, columns = m, (elements - 2 * inner * m) // max(1, m + 2 * inner)
    elif n < side:
        rows, columns = (elements - 2 * inner * n) // max(1, n + 2 * inner), n
    return Tile(_even(m, rows), _even(n, columns), inner)


def _even(size: int, longest: int) -> int:
    """Size of equal parts of ``size``, as few as possible of at most ``longest``."""
    return max(1, -(-size // max(1, -(-size // max(1, longest)))))


def streamed(params: Params, grid: tuple[int, int], machine: Machine) -> Cost:
    """Cost of the out-of-core product in ``params.memory`` bytes a rank, each rank a block of C on ``grid``."""
    m, n, k, dtype, memory = params.m or 0, params.n or 0, params.k or 0, params.dtype or "float64", params.memory or 0
    m_local, n_local, itemsize = -(-m // grid[0]), -(-n // grid[1]), _ITEMSIZE[dtype]
    part = tile(m_local, n_local, k, memory, itemsize)
    read = m_local * k * -(-n_local // part.n) + k * n_local * -(-m_local // part.m)
    flops = (8 if dtype.startswith("complex") else 2) * m_local * n_local * k
    oversubscription = max(1.0, machine.ranks_per_node * machine.threads / machine.cores_per_node)
    compute = flops / (machine.flops * _SPEED[dtype] * machine.threads) * oversubscription
    disk = _DISK_BANDWIDTH / machine.ranks_per_node
    return Cost(
        method="stream",
        grid=grid,
        words=0,
        messages=0,
        flops=flops,
        memory=max(memory, _SCRATCH) + _VERIFICATION_VECTORS * 8 * (m_local + n_local + k),
        output=m * n * itemsize,
        seconds=max(compute, read * itemsize / disk) + m_local * n_local * itemsize / disk,
    )


def plans(params: Params, ranks: int, machine: Machine) -> list[Cost]:
    """Every way that ``params.method`` admits, the cheapest first."""
    candidates = [
        price(params, method, grid, machine)
        for method in ("ring", "summa")
        if params.method in ("auto", method)
        for grid in grids(ranks)
        if method == "summa" or 1 in grid
    ]
    if params.memory is not None:
        held = [plan for plan in candidates if plan.memory <= params.memory]
        candidates = held or [streamed(params, grid, machine) for grid in grids(ranks)]
    return sorted(candidates, key=lambda c: (c.seconds, c.memory, c.grid[1]))


def cost(params: Params, ranks: int, machine: Machine) -> Cost:
    """What the job will cost as ``auto`` would do it."""
    return plans(params, ranks, machine)[0]
