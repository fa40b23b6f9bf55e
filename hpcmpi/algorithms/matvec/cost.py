"""What each way to deal a matrix costs, and the order in which ``auto`` prefers them.

A product reads its matrix once, so that it takes the time of reading its block from memory, and of receiving words: on
a (pr x pc) grid n/pc (1 - 1/pr) of x and m/pr (1 - 1/pc) of y. Blocks of rows are taken unless another grid is
estimated to be a tenth faster, since with them alone the bits of y do not depend on the number of ranks.
"""

from __future__ import annotations

import math

from hpcmpi.algorithms.matvec import Resolved
from hpcmpi.dtypes import flops_per_term, itemsize
from hpcmpi.machine import Machine
from hpcmpi.partition import grids
from hpcmpi.record import Cost

_ROWS_PREFERRED = 1.1
_INDEX = 4  # bytes of a column number in a plan
_RAW_INDEX = 8  # and before it is made
_SCRATCH = 96 << 20  # strips in which files are read, elements drawn and answers checked
_CHECK_ROW, _CHECK_COLUMN = 96, 192  # bytes that the check holds for each row, and column that a rank refers to
_SPREAD = 1.05  # non-zeros of the busiest rank over the mean


def plans(spec: Resolved, ranks: int, machine: Machine) -> list[Cost]:
    """Every way that ``spec.method`` admits, the cheapest first."""
    if spec.layout != "dense":
        return [_sparse(spec, ranks, machine)]
    method = "rows" if spec.iteration else spec.method
    candidates = [
        _dense(spec, grid, machine)
        for grid in grids(ranks)
        if {"rows": grid[1] == 1, "columns": grid[0] == 1}.get(method, True)  # the grid of one rank is both
    ]
    return sorted(candidates, key=lambda c: (c.seconds * (1 if c.grid[1] == 1 else _ROWS_PREFERRED), c.grid[1]))


def _name(grid: tuple[int, int]) -> str:
    if grid[1] == 1:
        return "rows"
    return "columns" if grid[0] == 1 else "grid"


def _products(spec: Resolved) -> int:
    return spec.iteration.products if spec.iteration else 1


def _dense(spec: Resolved, grid: tuple[int, int], machine: Machine) -> Cost:
    m, n, width = spec.m, spec.n, itemsize(spec.dtype)
    pr, pc = grid
    m_local, n_local = -(-m // pr), -(-n // pc)
    words = n_local * (1 - 1 / pr) + m_local * (1 - 1 / pc)
    messages = (pr - 1) + (pc - 1)
    nbytes = m_local * n_local * width
    reading = nbytes / (machine.memory_bandwidth * machine.threads) * machine.oversubscription
    seconds = reading + words * width / machine.bandwidth + messages * machine.latency
    products = _products(spec)
    return Cost(
        method=_name(grid),
        grid=grid,
        words=words * products,
        messages=messages * products,
        flops=flops_per_term(spec.dtype) * m_local * n_local * products,
        memory=int(nbytes + (m_local + n_local) * (_CHECK_COLUMN + 4 * width) + _SCRATCH),
        output=_output(spec),
        seconds=seconds * products,
    )


def _sparse(spec: Resolved, ranks: int, machine: Machine) -> Cost:
    m, n, width = spec.m, spec.n, itemsize(spec.dtype)
    nonzeros = math.ceil(spec.nonzeros / ranks * (_SPREAD if ranks > 1 else 1))
    rows, owned = -(-m // ranks), -(-n // ranks)
    halo = min(n - owned, nonzeros)
    messages = ranks - 1
    if spec.laplacian:
        messages = min(2, ranks - 1)
        halo = min(halo, messages * math.prod(spec.laplacian[1:]))
    held = width + _RAW_INDEX + _INDEX
    if spec.layout in ("mtx", "coo") or spec.transpose != (spec.layout == "csc"):
        entry = 2 * _RAW_INDEX + width
        held = 4 * entry + 4 * _RAW_INDEX  # entries on their way, and the keys that order them
    columns = owned + halo
    made = nonzeros * held + n // 4  # the most that is held until the plan is made, and after that, by the check
    checked = nonzeros * (width + _INDEX) + rows * _CHECK_ROW + columns * _CHECK_COLUMN
    reading = (nonzeros * (width + _INDEX) + (rows + owned) * 3 * width) / (machine.memory_bandwidth * machine.threads)
    seconds = reading * machine.oversubscription + halo * width / machine.bandwidth + messages * machine.latency
    products = _products(spec)
    return Cost(
        method="rows",
        grid=(ranks, 1),
        words=halo * products,
        messages=messages * products,
        flops=flops_per_term(spec.dtype) * nonzeros * products,
        memory=int(max(made, checked) + (rows + columns) * (_RAW_INDEX + width) + _SCRATCH),
        output=_output(spec),
        seconds=seconds * products,
    )


def _output(spec: Resolved) -> int:
    return spec.m * itemsize(spec.dtype) * (2 if spec.iteration else 1)
