"""Communication that computes its own counts, sleeps while it waits, and counts the bytes that this rank receives.

The only place with counts and displacements. Every function takes the caller's communicator first and is collective
over it unless it says otherwise.

* :mod:`~hpcmpi.comm.messages`: messages that travel while the caller computes, what they count as, waiting;
* :mod:`~hpcmpi.comm.collectives`: reductions, gathering and exchanges of blocks of rows;
* :mod:`~hpcmpi.comm.mail`: messages whose lengths their receivers do not know;
* :mod:`~hpcmpi.comm.nodes`: ranks that share memory;
* :mod:`~hpcmpi.comm.slots`: a ring of buffers that ranks of a node share;
* :mod:`~hpcmpi.comm.stream`: blocks of several roots that travel to all ranks, one copy a node;
* :mod:`~hpcmpi.comm.fold`: sums of parts that travel as they are done;
* :mod:`~hpcmpi.comm.courier`: who moves these on while the caller computes;
* :mod:`~hpcmpi.comm.agreements`: agreement on errors.
"""

from __future__ import annotations

from hpcmpi.comm.agreements import agreement, on_root
from hpcmpi.comm.collectives import (
    allreduce,
    barrier,
    complete_blocks,
    exchange,
    gather_blocks,
    rebalance,
    reduce_blocks,
    scatter_sum,
    start_exchange_others,
)
from hpcmpi.comm.courier import Courier
from hpcmpi.comm.fold import Fold
from hpcmpi.comm.mail import Mail
from hpcmpi.comm.messages import (
    Traffic,
    progress,
    start_neighbours,
    start_shift,
    traffic,
    wait,
)
from hpcmpi.comm.nodes import Gaps, Nodes, allocate, neighbourhoods, one_node, share_memory, split_node, start_spreading
from hpcmpi.comm.stream import Stream

__all__ = [
    "Courier",
    "Fold",
    "Gaps",
    "Mail",
    "Nodes",
    "Stream",
    "Traffic",
    "agreement",
    "allocate",
    "allreduce",
    "barrier",
    "complete_blocks",
    "exchange",
    "gather_blocks",
    "neighbourhoods",
    "on_root",
    "one_node",
    "progress",
    "rebalance",
    "reduce_blocks",
    "scatter_sum",
    "share_memory",
    "split_node",
    "start_exchange_others",
    "start_neighbours",
    "start_shift",
    "start_spreading",
    "traffic",
    "wait",
]
