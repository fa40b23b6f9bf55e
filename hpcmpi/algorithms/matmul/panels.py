"""What the methods share: the local product of two panels, in strips of rows between which messages move on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.matmul.strassen import strassen
from hpcmpi.blas import gemm
from hpcmpi.partition import Range, pieces

Advance = Callable[[int], None]
"""Told the multiplications and additions of real numbers, as two flops each, whenever some are done."""

_LOOKS = 4  # at the network during the product of two panels
_FLOPS_UNWATCHED = 5e10  # about half a second of one core between two signs of life
_FEWEST_ROWS = 1024  # each strip has BLAS pack the other panel anew: strips of 512 rows cost 4%


def multiply(
    a: NDArray[Any],
    b: NDArray[Any],
    c: NDArray[Any],
    *,
    accumulate: bool,
    in_flight: Sequence[MPI.Request],
    advance: Advance,
    levels: int = 0,
) -> None:
    """``c = a @ b``, or ``c += a @ b`` with ``accumulate``; the requests ``in_flight`` are moved on between strips.

    With ``levels`` of Strassen-Winograd its leaves are multiplied so.
    """

    def in_strips(a: NDArray[Any], b: NDArray[Any], c: NDArray[Any], alpha: float, accumulate: bool) -> None:
        flops_a_row = 2 * a.shape[1] * b.shape[1]
        rows = -(-a.shape[0] // _LOOKS) if in_flight else int(_FLOPS_UNWATCHED / max(1, flops_a_row))
        for strip in pieces(Range(0, a.shape[0]), max(rows, _FEWEST_ROWS)):
            gemm(a[strip.slice], b, c[strip.slice], accumulate=accumulate, alpha=alpha)
            collective.progress(in_flight)
            advance(strip.size * flops_a_row * 8**levels // 7**levels)

    if levels:
        strassen(a, b, c, levels=levels, accumulate=accumulate, leaf=in_strips)
    else:
        in_strips(a, b, c, 1.0, accumulate)


def contiguous(panel: NDArray[Any], buffer: NDArray[Any]) -> NDArray[Any]:
    """``panel`` as memory that MPI can send at once: itself, or a copy at the start of the flat ``buffer``."""
    if panel.flags.c_contiguous:
        return panel
    packed = shaped(buffer, panel.shape)
    np.copyto(packed, panel)
    return packed


def shaped(buffer: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """The start of the flat ``buffer`` as an array of ``shape``."""
    return buffer[: shape[0] * shape[1]].reshape(shape)
