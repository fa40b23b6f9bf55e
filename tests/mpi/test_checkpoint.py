"""What checkpoints, goes on to the same answer, also on other ranks; damaged and foreign checkpoints are not taken."""

from __future__ import annotations

import importlib
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from hpcmpi.algorithms import bfs, matvec, sort
from hpcmpi.errors import OutputError
from hpcmpi.machine import Machine
from hpcmpi.partition import Range, block
from hpcmpi.record import Block, Snapshot, identity
from hpcmpi.store.checkpoint import Checkpoints
from hpcmpi.store.publication import Writer

WORLD = MPI.COMM_WORLD
JOBS = {
    "searches": ("bfs", bfs.Params(scale=6, roots=4), ("parent", "level", "levels", "root")),
    "sparse iteration": ("matvec", matvec.Params(power_law=200, iterate="power"), ("x", "y")),
    "dense iteration": ("matvec", matvec.Params(n=50, iterate="power", dtype="complex128", tolerance=0.3), ("x", "y")),
    "keys": ("sort", sort.Params(n=20_000, memory=1 << 16, generate="few", dtype="int32"), ("keys",)),
    "few keys": ("sort", sort.Params(n=3, memory=1 << 16), ("keys",)),
    "records": ("sort", sort.Params(n=2000, memory=1 << 16, records=100), ("records",)),
}
CASES = [("keys", 0.0), ("keys", 0.5), ("keys", 1.0), ("few keys", 0.5), ("records", 0.5), ("sparse iteration", 0.5)]
if WORLD.size <= 4:  # many ranks on few cores take long for a graph
    CASES += [("dense iteration", 0.5), ("searches", 0.0)]


class StopError(Exception):
    pass


@pytest.fixture
def folder():
    """An empty folder, the same for all ranks."""
    made = WORLD.bcast(tempfile.mkdtemp(dir=os.environ["HPCMPI_TEST_REPORTS"]) if WORLD.rank == 0 else None)
    yield Path(made)
    WORLD.barrier()


def prepared(comm, name, params):
    driver = importlib.import_module(f"hpcmpi.algorithms.{name}.driver")
    cost = importlib.import_module(f"hpcmpi.algorithms.{name}.cost")
    params = driver.resolve(comm, params)
    assert driver.resumable(params)
    return driver, driver.prepare(comm, params, cost.plans(params, comm.size, Machine())[0])


def finish(comm, driver, problem, wanted, checkpoint=lambda: None):
    """The whole arrays of the result, which must be right."""
    result = driver.run(comm, problem, lambda _fraction: None, checkpoint)
    assert driver.verify(comm, problem, result).right
    arrays = {}
    for name in wanted:
        own = result.arrays[name]
        arrays[name] = np.empty(own.shape, own.dtype)
        for start, local in comm.allgather((own.start, np.array(own.local))):
            arrays[name][tuple(slice(s, s + n) for s, n in zip(start, local.shape, strict=True))] = local
    if hasattr(problem, "close"):
        problem.close()
    return arrays


@pytest.mark.parametrize(("job", "when"), CASES)
def test_a_run_goes_on_from_any_step_on_any_ranks_to_the_same_bits(folder, job, when):
    name, params, wanted = JOBS[job]
    steps = 0

    def count():
        nonlocal steps
        steps += 1

    expected = finish(WORLD, *prepared(WORLD, name, params), wanted, count)
    assert steps > 0
    stop_at, steps = max(1, round(when * steps)), 0
    files = Checkpoints(WORLD, folder / "r.h5", Writer("7", 0), "it")
    driver, problem = prepared(WORLD, name, params)

    def stop():
        nonlocal steps
        steps += 1
        if steps == stop_at:
            files.write(driver.save(WORLD, problem))
            raise StopError

    with pytest.raises(StopError):
        driver.run(WORLD, problem, lambda _fraction: None, stop)
    other = WORLD.Split(WORLD.rank % 2, -WORLD.rank)  # fewer ranks, in another order
    saved, faults = Checkpoints(other, folder / "r.h5", Writer("8", 0), "it").latest()
    assert faults == []
    driver, problem = prepared(other, name, params)
    driver.restore(other, problem, saved)
    found = finish(other, driver, problem, wanted)
    for array in wanted:
        assert found[array].tobytes() == expected[array].tobytes(), array
    other.Free()


def test_a_run_that_goes_on_may_be_interrupted_again(folder):
    """From three ranks' runs and results to one's, and back, after each step."""
    name, params, wanted = JOBS["keys"]
    expected = finish(WORLD, *prepared(WORLD, name, params), wanted)
    files = Checkpoints(WORLD, folder / "r.h5", Writer("7", 0), "it")
    alone = WORLD.Split(WORLD.rank == 0, WORLD.rank)
    ended = False
    rounds = 0
    while not ended:
        comm = WORLD if rounds % 2 == 0 or WORLD.rank else alone
        if comm is alone or rounds % 2 == 0:
            files = Checkpoints(comm, folder / "r.h5", Writer("7", 0), "it")
            driver, problem = prepared(comm, name, params)
            saved, _ = files.latest()
            assert (saved is None) == (rounds == 0)
            if saved is not None:
                driver.restore(comm, problem, saved)

            def stop(comm=comm, driver=driver, problem=problem, files=files):
                files.write(driver.save(comm, problem))
                raise StopError

            try:
                found = finish(comm, driver, problem, wanted, stop)
                ended = True
            except StopError:
                pass
        ended = WORLD.bcast(ended)
        rounds += 1
        assert rounds < 200
    assert rounds >= 3
    if WORLD.rank == 0:
        assert found["keys"].tobytes() == expected["keys"].tobytes()
    alone.Free()


# The files


def snapshot(value):
    mine = block(10, WORLD.size, WORLD.rank)
    return Snapshot({"v": Block(np.full(mine.size, float(value)), (mine.start,), (10,))}, {"value": value})


def flip(path):
    """One bit of the array, which no metadata tells."""
    if WORLD.rank == 0:
        data = bytearray(path.read_bytes())
        data[data.rindex(np.float64(2).tobytes() * 10) + 3] ^= 1
        path.write_bytes(data)
    WORLD.barrier()


def test_the_last_two_are_kept_and_a_damaged_one_leaves_the_one_before(folder):
    files = Checkpoints(WORLD, folder / "r.h5", Writer("7", 0), "it")
    assert files.latest() == (None, [])
    paths = [files.write(snapshot(value)) for value in range(3)]
    assert sorted(path.name for path in folder.iterdir()) == ["r.h5.checkpoint0", "r.h5.checkpoint1"]
    assert paths[0] == paths[2] != paths[1]
    saved, faults = files.latest()
    assert (saved.facts["value"], saved.number, saved.shape(WORLD, "v"), faults) == (2, 3, (10,), [])
    np.testing.assert_array_equal(saved.read(WORLD, "v", (Range(2, 7),), "f8"), [2.0] * 5)
    flip(saved.path)
    again = Checkpoints(WORLD, folder / "r.h5", Writer("7", 0), "it")
    saved, faults = again.latest()
    assert saved.facts["value"] == 1
    assert len(faults) == 1
    assert "r.h5.checkpoint1: damaged: v, rows from 0 on" in faults[0]
    again.write(snapshot(5))
    assert again.latest()[0].facts["value"] == 5
    if WORLD.rank == 0:
        again.remove()
    WORLD.barrier()
    assert list(folder.iterdir()) == []


def test_what_another_job_has_left_is_not_taken(folder):
    Checkpoints(WORLD, folder / "r.h5", Writer("7", 0), identity({"n": 1, "ranks": 3}, "1")).write(snapshot(1))

    def found(asked, version):
        return Checkpoints(WORLD, folder / "r.h5", Writer("8", 0), identity(asked, version)).latest()[0]

    assert found({"n": 1, "ranks": 3}, "1") is not None
    assert found({"n": 1, "ranks": 2, "threads": 4}, "1") is not None
    assert found({"n": 2, "ranks": 3}, "1") is None
    assert found({"n": 1, "ranks": 3}, "2") is None


def test_an_older_attempt_learns_that_it_has_been_replaced(folder):
    older, newer = (Checkpoints(WORLD, folder / "r.h5", Writer("7", attempt), "it") for attempt in (0, 1))
    older.check_not_superseded()
    older.write(snapshot(1))
    newer.latest()
    newer.check_not_superseded()
    newer.write(snapshot(2))
    with pytest.raises(OutputError, match="attempt 1 of job 7 has written it; attempt 0 ends"):
        older.check_not_superseded()
    newer.write(snapshot(3))
    with pytest.raises(OutputError, match="attempt 1 of job 7 has published it"):
        older.write(snapshot(4))
    assert newer.latest()[0].facts["value"] == 3
    WORLD.barrier()
    Checkpoints(WORLD, folder / "r.h5", Writer("8", 0), "it").check_not_superseded()
