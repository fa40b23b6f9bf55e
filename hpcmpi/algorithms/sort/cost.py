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

_ITEMSIZE = {"8": 1, "16": 2, "32": 4, "64": 8}
_BITS = ("64", "32", "16", "8")
_SCRATCH = 64 << 20  # staging, samples, strips of files and of checks
_COMPARISONS = 1.5e9  # a second of one core: np.sort
_ROOM = 1.16  # of a share: three times the slack for the error of splitters
_ROW_COPIES = {"sample": 2.5, "odd-even": 6.0, "quicksort": 3.0}  # of a rank's rows, held at once


def key_size(dtype: str) -> int:
    """Bytes of a key of ``dtype``."""
    return _ITEMSIZE[next(bits for bits in _BITS if dtype.endswith(bits))]


def price(params: Params, method: str, ranks: int, machine: Machine) -> Cost:
    """Cost of ``method``; ``params`` has n and dtype, or records, filled in."""
    n, width = params.n or 0, getattr(params, "width", 0)
    share = ceil(n / ranks)
    key = 16 + params.records if params.records else key_size(params.dtype or "float64")
    plain = not (params.records or params.argsort or params.by)
    row = key if params.records else key + (0 if plain else 16 + width)
    stored = params.records or ((8 if params.argsort else key) + width)
    remote = share * (1 - 1 / ranks)
    levels = max(1.0, log2(max(2, ranks)))
    words = {"sample": remote, "odd-even": share * min(ranks, 2 * ranks - 2), "quicksort": remote * levels / 2}[method]
    held = n if params.generate == "one-rank" and params.input is None and params.by is None else share
    if params.memory is not None:
        memory = params.memory
    elif plain and method == "sample":
        memory = int(held * key + (share * key if key <= 2 else share * key * (_ROOM if ranks > 1 else 1)))
    else:
        memory = int(held * row + _ROW_COPIES[method] * share * row)
    sorts = {"sample": 1.0, "odd-even": ranks + 1.0, "quicksort": levels + 1}[method]
    comparisons = sorts * share * log2(max(2, share))
    oversubscription = max(1.0, machine.ranks_per_node * machine.threads / machine.cores_per_node)
    seconds = comparisons / _COMPARISONS / machine.threads * oversubscription + words * row / machine.bandwidth
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
