"""Threads per rank: who decides, in which order, and that BLAS and Numba obey."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from hpcmpi import threads
from hpcmpi.record import counted
from hpcmpi.threads import announce, available, crowded, decide, share

EIGHT = frozenset(range(8))
SLURM, OPENMP = {"SLURM_CPUS_PER_TASK": "3"}, {"OMP_NUM_THREADS": "5"}


@pytest.mark.parametrize(
    ("requested", "environ", "count", "source"),
    [
        (2, SLURM | OPENMP, 2, "--threads"),
        (None, SLURM | OPENMP, 3, "SLURM_CPUS_PER_TASK"),
        (None, OPENMP, 5, "OMP_NUM_THREADS"),
        (None, {}, 8, "8 cores divided by 1 rank"),
        (None, {"OMP_NUM_THREADS": "4,2,1"}, 4, "OMP_NUM_THREADS"),
    ],
)
def test_the_first_source_that_is_set_decides(requested, environ, count, source):
    threads = decide(requested, [EIGHT], 0, None, environ)
    assert threads.count == count
    assert source in threads.source


def test_a_node_is_crowded_where_ranks_outnumber_its_cores():
    cores = len(os.sched_getaffinity(0) | os.sched_getaffinity(os.getppid()))
    assert crowded({"MPI_LOCALNRANKS": str(cores + 1)})
    assert not crowded({"MPI_LOCALNRANKS": "1"})


@pytest.mark.parametrize("text", ["", "0", "-2", "many", "2.5", " 2", "1e1", "²"])
@pytest.mark.parametrize("variable", ["SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS"])
def test_a_variable_that_is_no_positive_number_decides_nothing(variable, text):
    assert decide(None, [EIGHT], 0, None, {variable: text}).count == 8


@pytest.mark.parametrize(("ranks", "count"), [(1, 8), (2, 4), (3, 2), (8, 1), (16, 1)])
def test_unbound_ranks_share_the_cores_of_the_node(ranks, count):
    for rank in range(ranks):
        assert decide(None, [EIGHT] * ranks, rank, None, {}).count == count


def test_bound_ranks_get_the_cores_that_they_are_bound_to():
    assert [decide(None, [frozenset({r}) for r in range(4)], r, None, {}).count for r in range(4)] == [1] * 4
    halves = [frozenset(range(4)), frozenset(range(4, 8))]
    assert [decide(None, halves, r, None, {}).count for r in range(2)] == [4, 4]


def test_a_rank_never_gets_more_threads_than_cores_it_may_use():
    uneven = [frozenset({0}), frozenset(range(1, 8))]
    assert [decide(None, uneven, r, None, {}).count for r in range(2)] == [1, 4]


@pytest.mark.parametrize(
    ("quota", "cores", "count"), [(None, 8, 4), (4.0, 4, 2), (3.2, 4, 2), (1.0, 1, 1), (0.1, 1, 1), (64.0, 8, 4)]
)
def test_the_quota_bounds_the_cores(quota, cores, count):
    threads = decide(None, [EIGHT] * 2, 0, quota, {})
    assert (threads.cores, threads.count) == (cores, count)


@pytest.mark.parametrize(
    ("requested", "environ", "ranks", "quota", "warned"),
    [
        (None, {}, 8, None, False),
        (None, {}, 9, None, True),
        (4, {}, 2, None, False),
        (5, {}, 2, None, True),
        (None, SLURM, 2, None, False),
        (None, SLURM, 3, None, True),
        (None, OPENMP, 2, None, True),
        (None, {}, 2, 1.0, True),
        (2, {}, 1, 1.0, True),
    ],
)
def test_oversubscription_is_warned_of_with_the_numbers_and_their_source(requested, environ, ranks, quota, warned):
    threads = decide(requested, [EIGHT] * ranks, 0, quota, environ)
    assert (threads.oversubscribed is not None) == warned
    if warned:
        for told in (f"{counted(ranks)} x {threads.count} thread", threads.source, f"share {threads.cores} cores"):
            assert told in threads.oversubscribed


def test_announce_tells_every_library(monkeypatch):
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    for variable in variables:
        monkeypatch.setenv(variable, "99")
    announce(3)
    assert {os.environ[variable] for variable in variables} == {"3"}


IN_EFFECT = """
import json, sys
from hpcmpi import threads
{before}
import numpy as np
{numba}
threads.limit({count})
from threadpoolctl import threadpool_info
blas = [lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"]
print(json.dumps([blas, sys.modules["numba"].get_num_threads() if "numba" in sys.modules else None]))
"""


def in_effect(count, *, before="", numba=""):
    program = IN_EFFECT.format(count=count, before=before, numba=numba)
    unset = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    environ = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_limit_holds_for_blas_and_does_not_load_numba():
    blas, numba = in_effect(1)
    assert blas
    assert set(blas) == {1}
    assert numba is None


def test_limit_holds_for_numba_where_it_is_loaded():
    blas, numba = in_effect(1, numba="import numba")
    assert set(blas) == {1}
    assert numba == 1


def test_a_limit_above_what_numba_started_with_is_no_error():
    _, numba = in_effect(64, before="threads.announce(2)", numba="import numba")
    assert numba == 2


def test_threads_of_a_program_of_the_users_share_the_node(monkeypatch):
    monkeypatch.setattr(threads, "affinity", lambda _process=0: EIGHT)
    monkeypatch.setattr(threads, "_quota", lambda: None)
    assert available({}) == 8
    assert available({"MPI_LOCALNRANKS": "3"}) == 2
    assert available({"MPI_LOCALNRANKS": "3", "NUMBA_NUM_THREADS": "5"}) == 5
    assert available({"MPI_LOCALNRANKS": "2"} | SLURM) == 3
    monkeypatch.setattr(threads, "affinity", lambda process=0: EIGHT if process else frozenset(range(4)))
    assert available({"MPI_LOCALNRANKS": "2"}) == 4
    monkeypatch.setattr(threads, "_limit", 7)
    assert available({"NUMBA_NUM_THREADS": "5"}) == 7


@pytest.mark.parametrize("count", [1, 2, 5])
def test_shared_work_is_done_once_and_the_caller_looks_after_each_of_its_parts(count):
    done, looks = [], []
    share(done.append, range(40), count, lambda: looks.append(len(done)))
    assert sorted(done) == list(range(40))
    assert len(looks) <= 40
    if count == 1:
        assert looks == list(range(1, 41))
    share(done.append, [], count)
    assert len(done) == 40


def test_an_error_of_any_thread_is_raised():
    def work(part: int) -> None:
        if part == 7:
            raise ZeroDivisionError

    for count in (1, 3):
        with pytest.raises(ZeroDivisionError):
            share(work, range(9), count)
