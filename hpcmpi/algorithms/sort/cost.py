"""What each method of sorting costs.

Words are rows of keys, or of keys, positions and columns. ``sample`` moves each row once, which is the lower bound for
keys in random places; ``odd-even`` moves all of a rank's rows in each of P phases; ``quicksort`` half of them at each
of log2 P levels. Sorting is priced as comparisons, n log2 n of them.
"""

from __future__ import annotations

from math import ceil, log2

from hpcmpi.algorithms.sort import Params
from hpcmpi.machine import Machine
from hpcmpi.record import Cost

COPIES = 4
"""Copies of its rows that a step of an external sort holds at most: as read or received, sent, sorted, their order."""

_LEAST_MEMORY, _LEAST_ROWS = 1 << 16, 64  # bytes, and rows a step, below which an external sort makes no sense
_DIGITS = 64  # int64 a cut that finding it takes, beside eight a run

_ITEMSIZE = {"8": 1, "16": 2, "32": 4, "64": 8}
_BITS = ("64", "32", "16", "8")
_SCRATCH = 64 << 20  # staging, samples, strips of files and of checks
_COMPARISONS = 1.5e9  # a second of one core: np.sort
_ROOM = 1.16  # of a share: three times the slack for the error of splitters
_ROW_COPIES = {"sample": 2.5, "odd-even": 6.0, "quicksort": 3.0}  # of a rank's rows, held at once


def key_size(dtype: str) -> int:
    """Bytes of a key of ``dtype``."""
    return 1 if dtype == "bool" else _ITEMSIZE[next(bits for bits in _BITS if dtype.endswith(bits))]


def word_bytes(key_bytes: int) -> int:
    """Bytes of the int64 words of a record's key and position, which share the last word where there is room."""
    whole, rest = divmod(key_bytes, 8)
    return 8 * (whole + (1 if 0 < rest <= 3 else 1 + (rest > 0)))


def row_bytes(params: Params) -> int:
    """Bytes of a row that an external sort moves; ``params`` has dtype, or records and key_bytes, filled in."""
    if params.records:
        return word_bytes(params.key_bytes or 1) + params.records
    return key_size(params.dtype or "float64")


def step_rows(memory: int, row_bytes: int) -> int:
    """Rows that a step of an external sort in ``memory`` takes."""
    return max(1, memory // (COPIES * row_bytes))


def table_bytes(n: int, ranks: int, row_bytes: int, memory: int) -> int:
    """What a rank of an external sort keeps beside rows: where each piece of the result lies in each of its runs."""
    runs = ceil(ceil(n / ranks) / step_rows(memory, row_bytes))
    return 8 * (ranks * runs + 1) * (8 * runs + _DIGITS)


def least_memory(n: int, ranks: int, row_bytes: int, memory: int) -> int:
    """``memory`` if an external sort can do with so much a rank, else more, which is enough.

    Tables grow with the square of the number of runs, and must not outgrow the rows.
    """
    enough = max(memory, _LEAST_MEMORY, _LEAST_ROWS * COPIES * row_bytes)
    while table_bytes(n, ranks, row_bytes, enough) > max(enough, _SCRATCH // 4):
        enough *= 2
    return enough


def price(params: Params, method: str, ranks: int, machine: Machine) -> Cost:
    """Cost of ``method``; ``params`` has n and dtype, or records, filled in."""
    n, width = params.n or 0, getattr(params, "width", 0)
    share = ceil(n / ranks)
    key = row_bytes(params)
    plain = not (params.records or params.argsort or params.by)
    row = key if params.records else key + (0 if plain else 16 + width)
    ordered = params.argsort and not params.records and method == "sample"  # :mod:`order`
    moved = key + 4 if ordered else row - (params.records or 0) if params.argsort else row
    stored = 8 if params.argsort else (params.records or key + width)
    remote = share * (1 - 1 / ranks)
    levels = max(1.0, log2(max(2, ranks)))
    words = {"sample": remote, "odd-even": share * min(ranks, 2 * ranks - 2), "quicksort": remote * levels / 2}[method]
    held = n if params.generate == "one-rank" and params.input is None and params.by is None else share
    if params.memory is not None:
        memory = min(params.memory, COPIES * row * max(held, 1)) + table_bytes(n, ranks, row, params.memory)
    elif ordered:
        most = max(held, share * (_ROOM if ranks > 1 else 1))
        memory = int(held * key + most * (16 + max(2, key)))
    elif plain and method == "sample":
        memory = int(held * key + (share * key if key <= 2 else share * key * (_ROOM if ranks > 1 else 1)))
    else:
        memory = int(held * row + _ROW_COPIES[method] * share * moved)
    sorts = {"sample": 1.0, "odd-even": ranks + 1.0, "quicksort": levels + 1}[method]
    comparisons = sorts * share * log2(max(2, share))
    oversubscription = max(1.0, machine.ranks_per_node * machine.threads / machine.cores_per_node)
    seconds = comparisons / _COMPARISONS / machine.threads * oversubscription + words * moved / machine.bandwidth
    messages = {"sample": 2.0 * (ranks - 1), "odd-even": float(ranks), "quicksort": levels * 16}[method]
    return Cost(
        method="external" if params.memory is not None else method,
        grid=(ranks,),
        words=words,
        messages=messages,
        flops=comparisons,
        memory=memory + _SCRATCH,
        output=n * stored,
        seconds=seconds + messages * machine.latency,
        lower_bound=remote if ranks > 1 else None,
    )


def plans(params: Params, ranks: int, machine: Machine) -> list[Cost]:
    """The method that ``params`` names."""
    return [price(params, params.method, ranks, machine)]
