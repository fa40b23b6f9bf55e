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

from hpcmpi.algorithms.matmul import Params, grid_of
from hpcmpi.errors import UsageError
from hpcmpi.machine import Machine
from hpcmpi.partition import Grid3, grids_3d, three_dimensional
from hpcmpi.record import Cost

_ITEMSIZE = {"float32": 4, "float64": 8, "complex64": 8, "complex128": 16}
_SPEED = {"float32": 2.0, "float64": 1.0, "complex64": 2.0, "complex128": 1.0}  # flops a second, relative to float64
_PANEL = 512  # columns of A and rows of B in a panel: deep enough for BLAS to run at full speed
_NARROWEST_PANEL = 64
_SHARED_SLOTS = 3  # panels of an operand for which ranks of one node have room: one read, one ready, one being written
_MOST_SLOTS = 16
_MEMORY_BANDWIDTH = 2.5e9  # bytes a second that one of a node's ranks moves, fresh pages among them
_BUFFER_SHARE, _SHARED_BUFFER_SHARE = 0.4, 0.25  # of a rank's share of A, B and C, for panels in flight
_PIECE = 1 << 19  # elements of a sum that travel together
_PIECES = 3
_IDLING_SECONDS = 1e-3  # to set the idle ranks apart, and to wake them up when the others are done
_MOST_IDLE = 128  # ranks: beyond, a grid near by is as good
_VERIFICATION_VECTORS = 24  # numbers that the check of the answer holds for each row of A, B and C
_SCRATCH = 48 << 20  # strips in which files are read, elements drawn and answers checked


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
    a_second = machine.bandwidth / itemsize / oversubscription
    panels = -(-k_local // room.width) if pm * pn > 1 else 0
    messages = panels * (2 - 1 / pm - 1 / pn) + (pk - 1) * -(-m_local // (pk * room.piece))
    partial = 2 * m_local * n_local * (pk > 1) + 3 * words_c  # fresh memory for partial sums, and additions
    if one_node:  # copies of the ranks' own; a panel of A is also packed
        seconds = compute + (words_a + words_b + partial + words_a / max(1, pn - 1)) / a_second
    else:  # the wire works while the ranks do, but for the first panel and the last sums
        first = min(room.width * (m_local * (pn > 1) + n_local * (pm > 1)), words_a + words_b)
        seconds = max(compute, (words_a + words_b + words_c) / a_second) + (first + words_c / pk) / a_second
        seconds += partial * itemsize / _MEMORY_BANDWIDTH
    if pm * pn * pk < ranks:
        seconds += _IDLING_SECONDS
    share = m_local * n_local / pk + k_local * (m_local / pn + n_local / pm)
    vectors = _VERIFICATION_VECTORS * 8 * (m_local + n_local + k_local) if m and n else 0
    return Cost(
        method=method,
        grid=grid,
        words=words_a + words_b + words_c,
        messages=messages,
        flops=flops,
        memory=int((share + room.elements) * itemsize + vectors + _SCRATCH),
        output=m * n * itemsize,
        seconds=seconds + messages * machine.latency,
        lower_bound=lower_bound(m, n, k, ranks),
    )


def plans(params: Params, ranks: int, machine: Machine) -> list[Cost]:
    """Every way that ``params.method`` and ``params.grid`` admit, the cheapest first.

    Raises UsageError where there is none.
    """
    side = math.isqrt(ranks)
    if params.method == "cannon" and side * side != ranks:
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
    found = [
        price(params, method, grid if method == "3d" else grid[:2], machine, ranks)
        for grid in grids
        for method in _methods(params.method, grid, ranks)
    ]
    if not found:
        raise UsageError(f"--method {params.method} cannot multiply on --grid {params.grid} and {ranks} ranks")
    return sorted(found, key=lambda c: (c.seconds, c.memory, c.grid[1]))


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
