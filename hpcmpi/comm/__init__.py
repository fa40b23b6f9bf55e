"""Communication that computes its own counts, sleeps while it waits, and counts the bytes that this rank receives.

The only place with counts and displacements. Every function takes the caller's communicator first and is collective
over it unless it says otherwise.

* :mod:`~hpcmpi.comm.messages`: messages that travel while the caller computes, what they count as, waiting;
* :mod:`~hpcmpi.comm.collectives`: reductions, gathering and exchanges of blocks of rows;
* :mod:`~hpcmpi.comm.mail`: messages whose lengths their receivers do not know;
* :mod:`~hpcmpi.comm.nodes`: ranks that share memory;
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
from hpcmpi.comm.mail import Mail
from hpcmpi.comm.messages import (
    Traffic,
    progress,
    start_broadcast,
    start_neighbours,
    start_sharing,
    start_shift,
    traffic,
    wait,
)
from hpcmpi.comm.nodes import Nodes, share_memory, shared_array, split_node

__all__ = [
    "Mail",
    "Nodes",
    "Traffic",
    "agreement",
    "allreduce",
    "barrier",
    "complete_blocks",
    "exchange",
    "gather_blocks",
    "on_root",
    "progress",
    "rebalance",
    "reduce_blocks",
    "scatter_sum",
    "share_memory",
    "shared_array",
    "split_node",
    "start_broadcast",
    "start_exchange_others",
    "start_neighbours",
    "start_sharing",
    "start_shift",
    "traffic",
    "wait",
]
