"""What the methods share: the local product of two panels, in strips of rows between which messages move on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.matmul.cost import paying_levels
from hpcmpi.algorithms.matmul.strassen import along_rows, strassen
from hpcmpi.blas import gemm
from hpcmpi.partition import Range, pieces

_LOOKS = 4  # at the network during the product of two panels
_FLOPS_UNWATCHED = 5e10  # about half a second of one core between two signs of life
_FEWEST_ROWS = 1024  # each strip has BLAS pack the other panel anew: strips of 512 rows cost 4%


@dataclass
class LocalProducts:
    """The local products of one rank: how long they took, and who is told of them.

    ``advance`` is told the multiplications and additions of real numbers, as two flops each, whenever some are done.
    ``compute``, ``wait`` and ``copy`` are the seconds that this rank has spent in BLAS, waiting for panels, and copying
    or adding what it sent or received; where a thread of its own does that, it overlaps the other two. ``looking`` are
    those of ``look``. Products are made by as many ``levels`` of Strassen-Winograd as pay; ``used`` is the most so far.
    """

    advance: Callable[[int], None] = lambda _flops: None
    levels: int = 0
    used: int = 0
    compute: float = 0.0
    looking: float = 0.0
    wait: float = 0.0
    copy: float = 0.0

    def multiply(
        self,
        a: NDArray[Any],
        b: NDArray[Any],
        c: NDArray[Any],
        *,
        accumulate: bool,
        look: Callable[[], object] | None = None,
    ) -> None:
        """``c = a @ b``, or ``c += a @ b`` with ``accumulate``; ``look``, called between strips, moves messages on."""
        x, y, z = along_rows(a, b, c)
        levels = paying_levels(z.shape[0], z.shape[1], x.shape[1], self.levels)
        if levels == 0:
            self._in_strips(a, b, c, 1.0, accumulate, look, 1.0)
            return
        self.used = max(self.used, levels)
        saved, tic = 8**levels / 7**levels, time.perf_counter()
        before = self.compute, self.looking
        strassen(
            x, y, z, levels=levels, accumulate=accumulate,
            leaf=lambda s, t, p, alpha, add: self._in_strips(s, t, p, alpha, add, look, saved),
        )  # fmt: skip
        self.compute = before[0] + time.perf_counter() - tic - (self.looking - before[1])

    def _in_strips(
        self,
        a: NDArray[Any],
        b: NDArray[Any],
        c: NDArray[Any],
        alpha: float,
        accumulate: bool,
        look: Callable[[], object] | None,
        saved: float,
    ) -> None:
        """``c = alpha a @ b``, or ``c += alpha a @ b``; each flop counts for ``saved`` of a classical product."""
        flops_a_row = 2 * a.shape[1] * b.shape[1]
        rows = -(-a.shape[0] // _LOOKS) if look else int(_FLOPS_UNWATCHED / max(1, flops_a_row))
        for strip in pieces(Range(0, a.shape[0]), max(rows, _FEWEST_ROWS)):
            tic = time.perf_counter()
            gemm(a[strip.slice], b, c[strip.slice], accumulate=accumulate, alpha=alpha)
            toc = time.perf_counter()
            self.compute += toc - tic
            if look:
                look()
                self.looking += time.perf_counter() - toc
            self.advance(int(strip.size * flops_a_row * saved))

    def finish(self, requests: Sequence[MPI.Request]) -> None:
        """Wait for ``requests``."""
        tic = time.perf_counter()
        collective.wait(requests)
        self.wait += time.perf_counter() - tic


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
