"""What each way to deal a matrix costs, and the order in which ``auto`` prefers them.

A product reads its matrix once, so that it takes the time of reading its block from memory, and of receiving words: on
a (pr x pc) grid n/pc (1 - 1/pr) of x and m/pr (1 - 1/pc) of y. Blocks of rows are taken unless another grid is
estimated to be a tenth faster, since with them alone the bits of y do not depend on the number of ranks.
"""

from __future__ import annotations

import math

from hpcmpi.algorithms.matvec import ITERATIONS, Resolved
from hpcmpi.machine import Machine
from hpcmpi.partition import grids
from hpcmpi.record import Cost

_ITEMSIZE = {"float32": 4, "float64": 8, "complex64": 8, "complex128": 16}
_ROWS_PREFERRED = 1.1
_INDEX = 4  # bytes of a column number in a plan
_RAW_INDEX = 8  # and before it is made
_SCRATCH = 96 << 20  # strips in which files are read, elements drawn and answers checked
_CHECK_ROW, _CHECK_COLUMN = 96, 192  # bytes that the check holds for each row, and column that a rank refers to
_SPREAD = 1.05  # non-zeros of the busiest rank over the mean


def plans(params: Resolved, ranks: int, machine: Machine) -> list[Cost]:
    """Every way that ``params.method`` admits, the cheapest first."""
    if params.layout != "dense":
        return [_sparse(params, ranks, machine)]
    method = "rows" if params.iterate == "power" else params.method
    candidates = [
        _dense(params, grid, machine)
        for grid in grids(ranks)
        if {"rows": grid[1] == 1, "columns": grid[0] == 1}.get(method, True)  # the grid of one rank is both
    ]
    return sorted(candidates, key=lambda c: (c.seconds * (1 if c.grid[1] == 1 else _ROWS_PREFERRED), c.grid[1]))


def cost(params: Resolved, ranks: int, machine: Machine) -> Cost:
    """What the job will cost as ``auto`` would do it."""
    return plans(params, ranks, machine)[0]


def _name(grid: tuple[int, int]) -> str:
    if grid[1] == 1:
        return "rows"
    return "columns" if grid[0] == 1 else "grid"


def _products(params: Resolved) -> int:
    return params.iterations or ITERATIONS if params.iterate == "power" else 1


def _oversubscription(machine: Machine) -> float:
    return max(1.0, machine.ranks_per_node * machine.threads / machine.cores_per_node)


def _dense(params: Resolved, grid: tuple[int, int], machine: Machine) -> Cost:
    m, n, itemsize = params.m or 0, params.n or 0, _ITEMSIZE[params.dtype or "float64"]
    pr, pc = grid
    m_local, n_local = -(-m // pr), -(-n // pc)
    words = n_local * (1 - 1 / pr) + m_local * (1 - 1 / pc)
    messages = (pr - 1) + (pc - 1)
    nbytes = m_local * n_local * itemsize
    reading = nbytes / (machine.memory_bandwidth * machine.threads) * _oversubscription(machine)
    seconds = reading + words * itemsize / machine.bandwidth + messages * machine.latency
    products = _products(params)
    return Cost(
        method=_name(grid),
        grid=grid,
        words=words * products,
        messages=messages * products,
        flops=(8 if itemsize > 8 or params.dtype == "complex64" else 2) * m_local * n_local * products,
        memory=int(nbytes + (m_local + n_local) * (_CHECK_COLUMN + 4 * itemsize) + _SCRATCH),
        output=_output(params, itemsize),
        seconds=seconds * products,
    )


def _sparse(params: Resolved, ranks: int, machine: Machine) -> Cost:
    m, n, itemsize = params.m or 0, params.n or 0, _ITEMSIZE[params.dtype or "float64"]
    nonzeros = math.ceil(params.nonzeros / ranks * (_SPREAD if ranks > 1 else 1))
    rows, owned = -(-m // ranks), -(-n // ranks)
    halo = min(n - owned, nonzeros)
    messages = ranks - 1
    if params.laplacian:
        messages = min(2, ranks - 1)
        halo = min(halo, messages * math.prod(params.laplacian[1:]))
    held = itemsize + _RAW_INDEX + _INDEX
    if params.layout in ("mtx", "coo") or params.transpose != (params.layout == "csc"):
        entry = 2 * _RAW_INDEX + itemsize
        held = 4 * entry + 4 * _RAW_INDEX  # entries on their way, and the keys that order them
    columns = owned + halo
    made = nonzeros * held + n // 4  # the most that is held until the plan is made, and after that, by the check
    checked = nonzeros * (itemsize + _INDEX) + rows * _CHECK_ROW + columns * _CHECK_COLUMN
    reading = (nonzeros * (itemsize + _INDEX) + (rows + owned) * 3 * itemsize) / (
        machine.memory_bandwidth * machine.threads
    )
    seconds = reading * _oversubscription(machine) + halo * itemsize / machine.bandwidth + messages * machine.latency
    products = _products(params)
    return Cost(
        method="rows",
        grid=(ranks, 1),
        words=halo * products,
        messages=messages * products,
        flops=(8 if (params.dtype or "").startswith("complex") else 2) * nonzeros * products,
        memory=int(max(made, checked) + (rows + columns) * (_RAW_INDEX + itemsize) + _SCRATCH),
        output=_output(params, itemsize),
        seconds=seconds * products,
    )


def _output(params: Resolved, itemsize: int) -> int:
    return (params.m or 0) * itemsize * (2 if params.iterate == "power" else 1)
