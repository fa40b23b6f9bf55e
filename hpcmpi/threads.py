"""How many threads each rank may use, and telling BLAS and Numba so.

The first that is set decides: ``--threads``, ``SLURM_CPUS_PER_TASK``, ``OMP_NUM_THREADS``; else the processors that the
ranks of a node may use (affinity and control-group quota) are divided evenly among them.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from hpcmpi.launch import ranks_of_the_node
from hpcmpi.machine import affinity, cpu_quota
from hpcmpi.record import counted

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

_Part = TypeVar("_Part")


@dataclass(frozen=True)
class Threads:
    """Threads of each rank, where the number comes from, and a warning if the node is oversubscribed."""

    count: int
    source: str
    cores: int
    oversubscribed: str | None


def decide(
    requested: int | None,
    affinities: Sequence[frozenset[int]],
    rank_on_node: int,
    quota: float | None,
    environ: Mapping[str, str] = os.environ,
) -> Threads:
    """Threads of rank ``rank_on_node`` of a node whose ranks have these ``affinities`` and this processor ``quota``."""
    ranks = len(affinities)
    cores = len(frozenset().union(*affinities))
    if quota is not None:
        cores = max(1, min(cores, math.ceil(quota)))
    if requested is not None:
        threads, source = requested, "--threads"
    elif _positive(environ.get("SLURM_CPUS_PER_TASK")):
        threads, source = int(environ["SLURM_CPUS_PER_TASK"]), "SLURM_CPUS_PER_TASK"
    elif _positive(environ.get("OMP_NUM_THREADS", "").split(",")[0]):  # a list gives one number a nesting level
        threads, source = int(environ["OMP_NUM_THREADS"].split(",")[0]), "OMP_NUM_THREADS"
    else:
        threads = max(1, min(len(affinities[rank_on_node]), cores // ranks))
        source = f"{cores} cores divided by {counted(ranks)} of the node"
    warning = None
    if threads * ranks > cores:
        warning = f"{counted(ranks)} x {threads} thread{'s' * (threads != 1)} ({source}) share {cores} cores"
    return Threads(threads, source, cores, warning)


def _positive(text: str | None) -> bool:
    return text is not None and len(text) < 10 and text.isdecimal() and int(text) > 0


def announce(count: int) -> None:
    """Tell the libraries that this process has yet to load; costs nothing and saves their pools of idle threads."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = str(count)


def share(
    work: Callable[[_Part], object], parts: Iterable[_Part], count: int, between: Callable[[], object] | None = None
) -> None:
    """Call ``work(part)`` for all ``parts`` in ``count`` threads, each of which takes the next part when it is free.

    One of them is the caller's, which calls ``between()`` after each of its parts. For work that releases the
    interpreter's lock; an exception of any thread is raised here when all have ended.
    """
    left = iter(list(parts))  # whose next() is atomic

    def help_out() -> None:
        for part in left:
            work(part)

    helpers = [_pool(count - 1).submit(help_out) for _ in range(count - 1)] if count > 1 else []
    for part in left:
        work(part)
        if between is not None:
            between()
    for helper in helpers:
        helper.result()


@cache
def _pool(count: int) -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(count, "hpcmpi")


def crowded(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the launcher has started more ranks on this node than there are cores for them. Before MPI is up."""
    quota = cpu_quota()
    cores = len(affinity() | affinity(os.getppid()))
    return ranks_of_the_node(environ) > (cores if quota is None else min(cores, math.ceil(quota)))


_limit: int | None = None


def available(environ: Mapping[str, str] = os.environ) -> int:
    """Threads that a kernel of this rank may use: what :func:`limit` was told, or else, in a program of the user's,
    ``NUMBA_NUM_THREADS`` or what :func:`decide` gives a rank that shares the cores with its node's other ranks.
    """
    if _limit is not None:
        return _limit
    if _positive(environ.get("NUMBA_NUM_THREADS")):
        return int(environ["NUMBA_NUM_THREADS"])
    ranks, own, all_ = ranks_of_the_node(environ), affinity(), affinity(os.getppid())
    others = [own if own == all_ else all_ - own] * (ranks - 1)  # a rank that is bound has its cores for itself
    return decide(None, [own, *others], 0, _quota(), environ).count


@cache
def _quota() -> float | None:
    """Found once: it takes several files, and a short reduction asks for it every time."""
    return cpu_quota()


def limit(count: int) -> None:
    """Hold the BLAS and Numba that are loaded to ``count`` threads, for the rest of the process."""
    global _limit  # noqa: PLW0603 - a property of the process
    _limit = count
    from threadpoolctl import threadpool_limits

    threadpool_limits(limits=count, user_api="blas")
    if "numba" in sys.modules:
        import numba

        numba.set_num_threads(min(count, numba.get_num_threads()))
