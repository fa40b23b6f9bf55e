"""An algorithm that fails on request."""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
from mpi4py import MPI

from hpcmpi import comm as collective
from hpcmpi.errors import InputError
from hpcmpi.partition import block
from hpcmpi.record import Block, Result, Verdict


def numbers(comm, n):
    """This rank's block of 0, 1, ..., n - 1: shape (n_local,), float64."""
    mine = block(n, comm.size, comm.rank)
    return np.arange(mine.start, mine.stop, dtype=np.float64)


def fail(comm, params, phase):
    """Do what ``params`` asks for when all ranks are in this phase; then wait for all, for ever if one never comes."""
    if phase == params.when and params.how != "not":
        comm.Barrier()
        if params.how.startswith("agreed"):
            with collective.agreement(comm):
                if params.rank in (-1, comm.rank):
                    raise MemoryError("of numbers") if "memory" in params.how else InputError("no such number")
        elif params.rank in (-1, comm.rank):
            fall(comm, params.how)
    comm.Barrier()


def fall(comm, how):
    match how:
        case "exception":
            raise ZeroDivisionError("of nothing")
        case "error":
            raise InputError("this rank alone has read a bad number")
        case "memory":
            np.empty(2**58)
        case "exit":
            sys.exit("on my own")
        case "exit-0":
            sys.exit(0)
        case "quit":
            os._exit(5)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            faulthandler._sigsegv()
        case "sleep":
            time.sleep(10_000)
        case "spin":
            re.match("(a|a)*b", "a" * 99)  # takes ages, and holds the interpreter's lock
        case "terminate":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10_000)
        case "terminate-compiler":
            from numba import njit as jit

            threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
            while True:  # every function is another one
                jit(lambda x: x * 2 + x.sum())(np.ones((2, 2)))
        case "collectives":
            comm.bcast(None, root=(comm.rank + 1) % comm.size)


def warm_up(params):
    if params.when == "compile" and params.rank in (-1, MPI.COMM_WORLD.rank):
        fall(MPI.COMM_WORLD, params.how)
    if params.kernel:
        from hpcmpi.algorithms.faulty.kernels import fill

        fill(np.empty(1), 0.0)


def resolve(comm, params):
    fail(comm, params, "resolve")
    return params


def prepare(comm, params, plan):  # noqa: ARG001 - the same for all algorithms
    if params.prepared:
        Path(params.prepared).touch()
    fail(comm, params, "prepare")
    return params


def run(comm, params, report):
    fail(comm, params, "run")
    while params.until and not Path(params.until).exists():
        report(0.5)
        time.sleep(0.01)
    local = numbers(comm, params.n)
    report(1.0)
    mine = block(params.n, comm.size, comm.rank)
    facts = {"size": str(params.n), "method_used": "count", "grid": str(comm.size)}
    if params.kernel:
        facts |= count_by_kernel(comm, local, float(mine.start))
    return Result(
        {"numbers": Block(local, (mine.start,), (params.n,), ("n",))}, params.n, "number/s", facts, params.say
    )


def count_by_kernel(comm, local, start):
    """Fill ``local``; tell how often each rank has compiled the kernel, loaded it, and met a new signature just now."""
    from hpcmpi.algorithms.faulty.kernels import fill

    known = len(fill.signatures)
    fill(local, start)
    counts = {
        "compiled": sum(fill.stats.cache_misses.values()),
        "loaded": sum(fill.stats.cache_hits.values()),
        "new_in_the_run": len(fill.signatures) - known,
    }
    return {name: " ".join(map(str, comm.allgather(number))) for name, number in counts.items()}


def verify(comm, params, result):
    fail(comm, params, "verify")
    block = result.arrays["numbers"]
    right = np.array_equal(block.local, np.arange(block.start[0], block.start[0] + len(block.local)))
    all_right = comm.allreduce(right, MPI.LAND)
    if params.how == "wrong" and params.rank in (-1, comm.rank):
        return Verdict(False, "the numbers do not count", {"numbers_wrong": params.n})
    return Verdict(all_right, "every number is in its place")
