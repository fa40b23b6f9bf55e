"""Messages that travel while the caller computes, what they count as, and how to wait for them asleep."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi.errors import ResourceError

_SPIN_SECONDS = 50e-6
_SHORTEST_SLEEP, _LONGEST_SLEEP = 50e-6, 1e-3
LARGEST_COUNT = 2**31 - 1  # of MPI 3, whose counts are C ints


@dataclass
class Traffic:
    """What this rank has received since the program began; ``bytes_shared`` of it without a message.

    These another rank of its node has written into memory that both share.
    """

    bytes_received: int = 0
    messages: int = 0
    bytes_shared: int = 0

    def add(self, nbytes: float, messages: int = 1) -> None:
        """Count ``messages`` that hold ``nbytes`` in all."""
        self.bytes_received += round(nbytes)
        self.messages += messages

    def share(self, nbytes: int) -> None:
        """Count ``nbytes`` that no message carries."""
        self.bytes_received += nbytes
        self.bytes_shared += nbytes


traffic = Traffic()


def check_count(items: int) -> None:
    """Raise ResourceError where the MPI library cannot send a message of so many items."""
    if items > LARGEST_COUNT and MPI.VERSION < 4:
        raise ResourceError(
            f"a message of {items} items needs MPI 4, and this library implements MPI {MPI.VERSION}.{MPI.SUBVERSION}: "
            f"use MPICH 4 or later, or more ranks"
        )


def start_shift(
    comm: MPI.Comm, outgoing: NDArray[Any], incoming: NDArray[Any], *, to: int, source: int
) -> list[MPI.Request]:
    """Begin to send ``outgoing`` to rank ``to`` and to receive ``incoming`` from rank ``source``, both contiguous."""
    requests = []
    if incoming.size:
        check_count(incoming.size)
        traffic.add(incoming.nbytes)
        requests.append(comm.Irecv(incoming, source))
    if outgoing.size:
        check_count(outgoing.size)
        requests.append(comm.Isend(outgoing, to))
    return requests


def start_neighbours(
    comm: MPI.Comm, outgoing: Mapping[int, NDArray[Any]], incoming: Mapping[int, NDArray[Any]]
) -> list[MPI.Request]:
    """Begin to send each contiguous array of ``outgoing`` to the rank that is its key, and to fill ``incoming``.

    Only ranks that have something to say to each other take part; no array is empty.
    """
    requests = []
    for source, array in incoming.items():
        check_count(array.size)
        traffic.add(array.nbytes)
        requests.append(comm.Irecv(array, source))
    for rank, array in outgoing.items():
        check_count(array.size)
        requests.append(comm.Isend(array, rank))
    return requests


def progress(requests: Sequence[MPI.Request]) -> bool:
    """Let MPI move ``requests`` on; tell whether all are done. Local. MPI moves nothing outside its own calls."""
    return not requests or MPI.Request.Testall(list(requests))


def wait(requests: Sequence[MPI.Request], *, brief: bool = False) -> None:
    """Wait until ``requests`` are done. Local.

    Sleeps between looks: MPI's own wait spins, which takes the core away from ranks that still compute whenever a node
    has more ranks than cores. A ``brief`` wait, for ranks that are all there, leaves it to MPI.
    """
    if brief:
        MPI.Request.Waitall(list(requests))
    start = time.perf_counter()
    while not progress(requests):
        rest(time.perf_counter() - start)


def rest(waited: float) -> None:
    """Sleep a while between two looks at what this rank has ``waited`` for, in seconds. Local."""
    if waited > _SPIN_SECONDS:
        time.sleep(min(max(_SHORTEST_SLEEP, waited / 8), _LONGEST_SLEEP))
