"""What a search costs on each partition.

1-D: a rank receives the bitmap of the frontier in the few levels that are searched bottom-up, and the candidates of
those that are not; 2-D: the frontier's vertices along a column and the candidates along a row of the grid.
"""

from __future__ import annotations

from pathlib import Path

from hpcmpi.algorithms.bfs import ROOTS_OF_GRAPH500, Params
from hpcmpi.machine import Machine
from hpcmpi.record import Cost

_LEVELS = 7  # of a graph whose degrees follow a power law
_BOTTOM_UP_LEVELS = 3
_EDGES_A_SECOND = 2.2e9  # of a core, searched; most are never looked at
_SCRATCH = 96 << 20  # lines of buckets, rounds of an exchange, text that is read
_OWN_TABLES = 1 << 30  # bytes of a node
_ENDS, _WIDE_ENDS = 8, 16  # bytes an edge
_BYTES_OF_AN_EDGE = 8  # in a file
LANES = 16  # searches that are checked together: the words of a vertex, 32 bits each, fill a line of the cache
NARROW_BITS = 28  # of an id that leave a word room for the levels of most graphs
_TOGETHER = 6  # searches from which it takes less time than to check one after the other


def sizes(params: Params) -> tuple[int, int]:
    """Vertices and edges; of a file that is yet to be read, what its length suggests."""
    if params.scale is not None:
        return 1 << params.scale, params.generated_edges
    path = Path((params.graph or "").rpartition(":/")[0] or params.graph or "")
    try:
        edges = path.stat().st_size // _BYTES_OF_AN_EDGE
    except OSError:
        edges = 0
    return edges // 2, edges * (4 if path.suffix == ".gz" else 1)


def searches(params: Params) -> int:
    """How many searches there are."""
    if params.graph500:
        return params.roots or ROOTS_OF_GRAPH500
    return 1 if params.sources else len(params.root) + params.roots


def checked_together(searches: int, n: int) -> int:
    """How many of the searches are checked at once: LANES or 1."""
    return LANES if searches >= _TOGETHER and n.bit_length() <= NARROW_BITS else 1


def grid_of(ranks: int) -> tuple[int, int]:
    """The squarest grid of ``ranks``, with no more rows than columns."""
    rows = max(r for r in range(1, int(ranks**0.5) + 1) if ranks % r == 0)
    return rows, ranks // rows


def price(params: Params, partition: str, ranks: int, machine: Machine) -> Cost:
    """Cost of one search on ``partition``, memory and output of the whole job."""
    n, edges = sizes(params)
    wide = n >= 2**31
    number = 8 if wide else 4
    grid = (ranks, 1) if partition == "1d" else grid_of(ranks)
    entries = 2 * edges  # both ways
    ends = _WIDE_ENDS if params.graph is not None or n > 2**32 else _ENDS
    on_node = max(1, min(ranks, machine.ranks_per_node))

    def table(nbytes: float) -> float:
        """A node has one of each where they are large."""
        return nbytes / (on_node if nbytes * on_node > _OWN_TABLES else 1)

    word = max(number, 4 * checked_together(searches(params), n))
    checking = table(word * n) + table(4 * n) + word * n / 32  # words, degrees, and a bit for each of the former
    checking += table(n)  # marks
    checking += (word * n / ranks) * (word > number)  # before they are brought together
    tables = table(number * n) + max(2 * table(number * n), checking)  # ids; while building orders and codes
    own = (8 + 4 + 8 * number + 16) * n / ranks
    counts = 8 * n * machine.threads
    rows = number * entries / ranks
    if partition == "2d":
        rows = (2 * number + 4 * number) * entries / ranks + 16 * n / grid[0] + 16 * n / grid[1]
    outputs = 0 if params.graph500 else 12 * n * searches(params)
    memory = ends * edges / ranks + rows + own + tables + counts + outputs / ranks + _SCRATCH
    if partition == "1d":
        words = _BOTTOM_UP_LEVELS * n / 64 * (1 - 1 / ranks) + 0.05 * n / ranks
        messages = 2.0 * _LEVELS * (ranks > 1)
    else:
        words = 1.5 * n / grid[1] * (grid[0] > 1) + 1.5 * n / grid[0] * (grid[1] > 1)
        messages = 5.0 * _LEVELS * (ranks > 1)
    speed = _EDGES_A_SECOND * (1 if partition == "1d" else 0.1) * machine.threads / machine.oversubscription
    seconds = edges / ranks / speed + 8 * words / machine.bandwidth + messages * machine.latency
    return Cost(
        method=partition,
        grid=grid,
        words=words,
        messages=messages,
        flops=edges / ranks,
        memory=int(memory),
        output=outputs,
        seconds=seconds,
    )


def plans(params: Params, ranks: int, machine: Machine) -> list[Cost]:
    """Every way that ``params.partition`` admits, the cheapest first."""
    candidates = [
        price(params, partition, ranks, machine)
        for partition in ("1d", "2d")
        if params.partition in ("auto", partition)
    ]
    return sorted(candidates, key=lambda plan: plan.seconds)
