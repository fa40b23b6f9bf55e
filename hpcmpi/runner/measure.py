"""The speeds of this machine, measured by all ranks at once, as they will compute: about three seconds in all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcmpi import comm as collective
from hpcmpi.blas import gemm

_ORDER = 1536  # of the matrices: large enough for the full speed of BLAS
_VECTOR_BYTES = 128 << 20  # beyond every cache
_MESSAGE_BYTES = 16 << 20
_SECONDS = 0.5  # of each measurement


def needed(ranks: int) -> int:
    """Bytes that so many ranks of a node take to measure."""
    return ranks * (_VECTOR_BYTES + 3 * 8 * _ORDER**2 + 2 * _MESSAGE_BYTES)


def measure(comm: MPI.Comm, threads: int) -> dict[str, float]:
    """Rates of the slowest rank by the names of :class:`~hpcmpi.machine.Machine`, and ``allreduce_latency``.

    ``flops`` and ``memory_bandwidth`` are of one of a rank's ``threads``. A rank alone has no messages to time.
    Collective.
    """
    a, c, x = np.full((_ORDER, _ORDER), 0.5), np.zeros((_ORDER, _ORDER)), np.ones(_VECTOR_BYTES // 8)
    found = {
        "flops": 2 * _ORDER**3 / threads / _shortest(comm, lambda: gemm(a, a, c)),
        "memory_bandwidth": _VECTOR_BYTES / threads / _shortest(comm, lambda: np.dot(x, x)),
    }
    if comm.size > 1:
        one = np.zeros(1)
        found["allreduce_latency"] = _shortest(comm, lambda: comm.Allreduce(MPI.IN_PLACE, one), calls=100)
        found["latency"] = _shortest(comm, lambda: _shift(comm, np.zeros((2, 1))), calls=100)
        messages = np.zeros((2, _MESSAGE_BYTES // 8))
        found["bandwidth"] = _MESSAGE_BYTES / _shortest(comm, lambda: _shift(comm, messages))
    return found


def _shift(comm: MPI.Comm, messages: Any) -> None:
    """Each rank sends to the one half the ranks further on: on another node, if there are more than one."""
    half = comm.size // 2
    to, source = (comm.rank + half) % comm.size, (comm.rank - half) % comm.size
    MPI.Request.Waitall(collective.start_shift(comm, messages[0], messages[1], to=to, source=source))


def _shortest(comm: MPI.Comm, work: Callable[[], object], calls: int = 1) -> float:
    """Seconds of ``work()`` on the slowest rank, the best of what :data:`_SECONDS` have time for; warmed up."""
    work()
    best, spent = np.inf, 0.0
    while spent < _SECONDS:
        collective.barrier(comm)
        tic = time.perf_counter()
        for _ in range(calls):
            work()
        seconds = float(collective.allreduce(comm, np.array([time.perf_counter() - tic]), MPI.MAX)[0])
        best, spent = min(best, seconds / calls), spent + seconds
    return float(best)


def findings(rates: dict[str, float]) -> Sequence[tuple[str, str, str]]:
    """(Name, value, warning) of each measurement, for people."""
    alone = "" if "latency" in rates else "messages are measured under mpirun or srun, with 2 ranks or more"
    lines = [
        ("dgemm", f"{rates['flops'] / 1e9:.1f} Gflop/s a core, float64", ""),
        ("Memory read", f"{rates['memory_bandwidth'] / 1e9:.1f} GB/s a core", alone),
    ]
    if not alone:
        lines += [
            ("Allreduce", f"{rates['allreduce_latency'] * 1e6:.1f} us, 8 bytes", ""),
            ("Link", f"{rates['bandwidth'] / 1e9:.2f} GB/s a rank, {rates['latency'] * 1e6:.1f} us a message", ""),
        ]
    return lines
