"""Where this rank runs: its node, the node's ranks, and its share of the cores. Before NumPy is loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass

from mpi4py import MPI

from hpcmpi import machine, threads
from hpcmpi.threads import Threads


@dataclass(frozen=True)
class Placement:
    """``node`` holds the ranks that share this rank's memory; nodes are numbered by their lowest rank."""

    node: MPI.Comm
    node_index: int
    most_ranks_per_node: int
    threads: Threads


def place(world: MPI.Comm, requested_threads: int | None) -> Placement:
    """Find this rank's place, decide its threads, and tell the libraries that are yet to be loaded. Collective."""
    node = world.Split_type(MPI.COMM_TYPE_SHARED, world.rank)
    leaders = sorted(set(world.allgather(node.bcast(world.rank))))
    share = threads.decide(requested_threads, node.allgather(machine.affinity()), node.rank, machine.cpu_quota())
    threads.announce(share.count)
    if machine.stores_compressed_slowly():  # np.sort by AVX-512 takes six times as long there as by AVX2
        os.environ.setdefault("NPY_DISABLE_CPU_FEATURES", "X86_V4")
    most = world.allreduce(node.size, MPI.MAX)
    return Placement(node, leaders.index(node.bcast(world.rank)), most, share)
