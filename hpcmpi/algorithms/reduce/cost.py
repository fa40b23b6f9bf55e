"""What a reduction costs: its memory, and which way fits.

It is bound by the memory's bandwidth, or by the disk's. Ranks exchange one accumulator an operation, or, where they
have parts of the same lines, those of all lines; the lower bound is one number for each of these lines.
"""

from __future__ import annotations

import math

from hpcmpi.algorithms.reduce import Params
from hpcmpi.dtypes import itemsize
from hpcmpi.machine import Machine
from hpcmpi.record import Cost

_DIGITS = 140  # int64 of an accumulator
_DIGITS_SENT = 8  # of a line: those that its numbers reach
_ACCUMULATORS = 4  # of a line: sums of two parts, and squares; with room for those that are added
_LINES = 4096  # whose states are held at once
_COMPILER = 192 << 20  # Numba, LLVM and the kernels, which are loaded when they are needed
_SCRATCH = 8 << 20  # of a thread: strips and tables
_READ_BANDWIDTH = 10e9  # bytes a second of memory that one core reads
_DISK_BANDWIDTH = 1e9  # bytes a second
_DRAW_BANDWIDTH = 5e8  # bytes a second of generated numbers
_CHECK_BYTES = 96  # of a line: its seals and the sums that check it


def split(shape: tuple[int, ...], axes: tuple[int, ...] | None, ranks: int, *, in_order: bool) -> int:
    """The dimension to deal along: the first that gives every rank work, none of ``axes`` if possible.

    With ``in_order`` each rank must have a run of each line's elements in row-major order.
    """
    if axes is None and in_order:
        return 0
    reduced = axes or ()
    candidates = [d for d in range(len(shape)) if d not in reduced]
    enough = [d for d in candidates if shape[d] >= 8 * ranks or shape[d] % ranks == 0 < shape[d]]
    everything = [*candidates, *(reduced[:1] if in_order else reduced)]
    return enough[0] if enough else max(everything, key=lambda d: shape[d])


def plans(params: Params, ranks: int, machine: Machine) -> list[Cost]:
    """The ways that ``params.method`` admits, the fastest first; ``params`` has its shape and dtype filled in."""
    shape, width = params.n or (0,), itemsize(params.dtype or "float64")
    elements = math.prod(shape)
    along = split(shape, params.axis, ranks, in_order="prod" in params.op)
    share = elements // max(1, shape[along]) * -(-shape[along] // ranks)
    kept = [extent for d, extent in enumerate(shape) if params.axis is not None and d not in params.axis]
    lines = math.prod(kept)
    shared = params.axis is None or along in params.axis
    held = max(_LINES, lines // max([1, *kept]))
    states = _ACCUMULATORS * 8 * _DIGITS * min(lines, held)
    answers = 8 * len(params.op) * lines if params.axis is not None else 8 * params.bins
    sent = (_DIGITS if params.axis is None else _DIGITS_SENT * lines) * 2 * len(params.op)
    words = float(sent) if shared and ranks > 1 else 0.0
    check = _CHECK_BYTES * lines // (1 if shared else ranks)
    costs = []
    for method in ("memory", "stream"):
        if params.method not in ("auto", method):
            continue
        held_bytes = share * width if method == "memory" else min(share * width, 2 * params.block)
        streamed = share * width / (_DRAW_BANDWIDTH if params.input is None else _DISK_BANDWIDTH)
        seconds = share * width / (_READ_BANDWIDTH * machine.threads) + (streamed if method == "stream" else 0.0)
        costs.append(
            Cost(
                method=method,
                grid=(ranks,),
                words=words,
                messages=float(math.ceil(math.log2(ranks))) if shared else 0.0,
                flops=float(share * len(params.op)),
                memory=int(held_bytes + states + answers + check + _COMPILER + _SCRATCH * machine.threads),
                output=answers,
                seconds=seconds + words * 8 / machine.bandwidth + machine.allreduce_latency * (words > 0),
                lower_bound=float(lines if shared and ranks > 1 else 0) or None,
            )
        )
    return costs
