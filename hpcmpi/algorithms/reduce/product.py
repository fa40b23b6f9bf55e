"""Products in a fixed tree: the same bits whoever multiplies what.

The tree is that of the indices: node (level l, number i) is the product of the elements i 2^l to (i + 1) 2^l, made of
nodes 2 i and 2 i + 1 of the level below. Any run of elements is a few nodes, at most two a level; runs that meet are
joined by multiplying brothers. What is left when all runs are together depends on the number of elements alone, and is
multiplied from the last to the first.

A product is a mantissa in [1, 2) and an exponent, so that it overflows only where the result does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.reduce.missing import NONE_MISSING, Missing
from hpcmpi.algorithms.reduce.scan_kernels import tree_product
from hpcmpi.algorithms.reduce.strips import at_once, strips

_LARGEST_LEVEL = 16  # of the nodes that a kernel makes at once


class Node(NamedTuple):
    """One node of each line's tree: ``mantissa`` (lines,) float64 in [1, 2), ``exponent`` (lines,) int64."""

    level: int
    number: int
    mantissa: NDArray[np.float64]
    exponent: NDArray[np.int64]


def run_nodes(start: int, stop: int) -> list[tuple[int, int]]:
    """(Level, number) of the largest nodes that make up ``start`` to ``stop``, none above the largest level."""
    found = []
    while start < stop:
        level = min((start & -start).bit_length() - 1 if start else _LARGEST_LEVEL, _LARGEST_LEVEL)
        while start + (1 << level) > stop:
            level -= 1
        found.append((level, start >> level))
        start += 1 << level
    return found


def tree_nodes(
    lines: NDArray[Any], at: int, odd: NDArray[np.int64], threads: int, missing: Missing = NONE_MISSING
) -> list[Node]:
    """Nodes of ``lines`` (outer, inner, n), whose first elements have index ``at``; ``odd`` (lines, 4) counts on.

    What is ``missing`` counts as 1.
    """
    outer, inner, n = lines.shape

    def node(place: tuple[int, int]) -> tuple[Node, NDArray[np.int64]]:
        level, number = place
        mantissa, exponent = np.empty(outer * inner), np.empty(outer * inner, np.int64)
        odd_here = np.zeros((outer * inner, 4), np.int64)
        start, size = (number << level) - at, 1 << level
        for some in strips(lines[:, :, start : start + size], whole=True):
            own = slice(some.line, some.line + len(some.rows))
            rows, skipped = some.rows.astype(np.float64, copy=False), missing.among(some.rows)
            rows = rows if skipped is None else np.where(skipped, 1.0, rows)
            tree_product(rows, 0, size, mantissa[own], exponent[own], odd_here[own])
        return Node(level, number, mantissa, exponent), odd_here

    nodes = []
    for made, counted in at_once(node, run_nodes(at, at + n), threads):
        nodes.append(made)
        odd += counted
    return collapsed(nodes)


def collapsed(nodes: list[Node]) -> list[Node]:
    """Nodes of consecutive runs with all brothers joined."""
    joined: list[Node] = []
    for node in nodes:
        joined.append(node)
        while len(joined) > 1 and _brothers(joined[-2], joined[-1]):
            right, left = joined.pop(), joined.pop()
            joined.append(_times(left, right)._replace(level=left.level + 1, number=left.number // 2))
    return joined


def _brothers(left: Node, right: Node) -> bool:
    return left.level == right.level and left.number % 2 == 0 and right.number == left.number + 1


def _times(left: Node, right: Node) -> Node:
    mantissa = left.mantissa * right.mantissa
    above = mantissa >= 2
    exponent = left.exponent + right.exponent + above
    return left._replace(mantissa=np.where(above, mantissa / 2, mantissa), exponent=exponent)


def gathered(comm: MPI.Comm, nodes: list[Node], lines: int) -> list[Node]:
    """The nodes of all ranks, whose runs follow each other, joined."""
    table = np.empty((len(nodes), 2 + 2 * lines), np.int64)
    for row, node in zip(table, nodes, strict=True):
        row[:2] = node.level, node.number
        row[2 : 2 + lines], row[2 + lines :] = node.exponent, node.mantissa.view(np.int64)
    everything = collective.gather_blocks(comm, table)
    everything = everything[np.argsort(everything[:, 1] << everything[:, 0], kind="stable")]
    return collapsed(
        [Node(int(r[0]), int(r[1]), r[2 + lines :].view(np.float64), r[2 : 2 + lines]) for r in everything]
    )


def whole_product(nodes: list[Node], lines: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Mantissas and exponents of the products of all nodes."""
    total = Node(0, 0, np.ones(lines), np.zeros(lines, np.int64))
    for node in reversed(nodes):
        total = _times(node, total)
    return total.mantissa, total.exponent
