"""Out of core: right products by tiles, in the memory that was asked for, verified as others are."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmpi import generator
from hpcmpi.algorithms.matmul import Params, cost, driver, files
from hpcmpi.algorithms.matmul.stream import Scratch
from hpcmpi.errors import InputError, ResourceError, UsageError
from hpcmpi.machine import Machine
from hpcmpi.partition import Range, grid_block, grids

MIB = 1 << 20


@pytest.fixture
def folder(comm):
    yield Path(comm.bcast(tempfile.mkdtemp(dir=os.environ["HPCMPI_TEST_REPORTS"])))
    comm.barrier()


def whole(m, k, n, dtype="float64", seed=1):
    a = generator.uniform(seed, Range(0, m), Range(0, k), dtype, stream=0)
    return a, generator.uniform(seed, Range(0, k), Range(0, n), dtype, stream=1)


def streamed(comm, params, grid=None):
    """The problem, result and verdict of a run by tiles."""
    params = driver.resolve(comm, params)
    plan = next(p for p in cost.plans(params, comm.size, Machine()) if grid in (None, p.grid))
    assert plan.method == "stream"
    problem = driver.prepare(comm, params, plan)
    result = driver.run(comm, problem, lambda _fraction: None)
    return problem, result, driver.verify(comm, problem, result)


def assert_product(comm, result, grid, a, b):
    rows, columns = grid_block((len(a), b.shape[1]), grid, comm.rank)
    block = result.arrays["C"]
    assert (block.start, block.shape) == ((rows.start, columns.start), (len(a), b.shape[1]))
    slack = 8 * np.finfo(a.dtype).eps * max(1, a.shape[1])
    np.testing.assert_allclose(block.local, (a @ b)[rows.slice, columns.slice], rtol=0, atol=slack)


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_generated_operands_on_every_grid(comm, dtype):
    m, k, n = 211, 350, 187
    a, b = whole(m, k, n, dtype)
    for grid in grids(comm.size):
        problem, result, verdict = streamed(comm, Params(m=m, n=n, k=k, dtype=dtype, memory=MIB), grid)
        assert verdict.right, verdict
        assert result.facts["bytes_read"] >= a.nbytes + b.nbytes
        assert result.facts["share_bytes"] <= MIB
        assert problem.tile.m < m or problem.tile.k < k
        assert_product(comm, result, grid, a, b)


@pytest.mark.parametrize("transpose", [False, True])
def test_operands_in_files_of_other_dtypes_and_orders(comm, folder, transpose):
    a, b = whole(120, 200, 90)
    if comm.rank == 0:
        with h5py.File(folder / "a.h5", "w") as file:
            file["a"] = a.astype("float32").T if transpose else a.astype("float32")
        np.save(folder / "b.npy", np.asfortranarray(b.T if transpose else b))
    comm.barrier()
    params = Params(
        a=str(folder / "a.h5"), b=str(folder / "b.npy"), transpose_a=transpose, transpose_b=transpose, memory=MIB
    )
    problem, result, verdict = streamed(comm, params)
    assert verdict.right
    assert_product(comm, result, problem.grid, a.astype("float32").astype("float64"), b)


@pytest.mark.parametrize(("m", "k", "n"), [(0, 3, 4), (3, 0, 4), (3, 4, 0), (1, 1, 1), (2, 5, 1), (1, 900, 800)])
def test_zero_sizes_and_fewer_rows_than_ranks(comm, m, k, n):
    a, b = whole(m, k, n)
    problem, result, verdict = streamed(comm, Params(m=m, n=n, k=k, memory=MIB))
    assert verdict.right
    assert_product(comm, result, problem.grid, a, b)


@pytest.mark.parametrize("fault", [1e-6, np.nan])
def test_a_wrong_element_of_the_scratch_file_is_caught(comm, fault):
    problem, result, verdict = streamed(comm, Params(n=150, m=150, k=150, memory=MIB))
    assert verdict.right
    if comm.rank == comm.size - 1:
        row = problem.c.read(Range(0, 1))
        wrong = row[:, 3:4] + fault * np.linalg.norm(row)
        problem.c.write(np.ascontiguousarray(wrong), 0, 3)
    assert not driver.verify(comm, problem, result).right


def test_what_fits_is_multiplied_in_memory(comm):
    params = driver.resolve(comm, Params(n=50, memory=1 << 30))
    assert {plan.method for plan in cost.plans(params, comm.size, Machine())} >= {"summa"}


@given(m=st.integers(0, 10**6), n=st.integers(0, 10**6), k=st.integers(0, 10**6), nbytes=st.integers(MIB, 1 << 40))
def test_tiles_fill_the_memory_and_no_more(m, n, k, nbytes):
    tile = cost.tile(m, n, k, nbytes, 8)
    held = 8 * (tile.m * tile.n + 2 * tile.k * (tile.m + tile.n))
    assert 1 <= tile.m <= max(1, m)
    assert 1 <= tile.n <= max(1, n)
    assert 1 <= tile.k <= max(1, k)
    assert held <= nbytes
    if min(m, n) > 3 * tile.m and min(m, n) > 3 * tile.n:
        assert held >= nbytes / 8


def test_a_file_that_cannot_be_read_and_scratch_that_is_full_are_told_on_all_ranks(comm, folder, monkeypatch):
    if comm.rank == 0:
        np.save(folder / "a.npy", np.ones((100, 100)))
    comm.barrier()
    params = driver.resolve(comm, Params(a=str(folder / "a.npy"), n=100, memory=MIB))
    plan = cost.plans(params, comm.size, Machine())[0]
    problem = driver.prepare(comm, params, plan)
    comm.barrier()
    if comm.rank == 0:
        os.truncate(folder / "a.npy", 1000)
    comm.barrier()
    with pytest.raises(InputError, match=r"a\.npy"):
        driver.run(comm, problem, lambda _fraction: None)

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    problem = driver.prepare(comm, dataclasses.replace(params, a=None, m=100), plan)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(ResourceError, match="scratch cannot be written: No space left"):
        driver.run(comm, problem, lambda _fraction: None)


def test_too_little_scratch_and_a_folder_that_is_missing_are_refused_before_the_run(comm, monkeypatch):
    params = driver.resolve(comm, Params(n=100, memory=MIB))
    plan = cost.plans(params, comm.size, Machine())[0]
    with pytest.raises(UsageError, match="no such folder"):
        driver.prepare(comm, dataclasses.replace(params, scratch="/nowhere/at/all"), plan)
    monkeypatch.setattr(files, "free_disk", lambda _folder: 10)
    with pytest.raises(ResourceError, match="short"):
        driver.prepare(comm, params, plan)


@pytest.mark.parametrize(
    "options", [{"memory": 1000}, {"memory": MIB, "method": "ring"}, {"memory": MIB, "strassen": 1}, {"scratch": "x"}]
)
def test_options_that_contradict_each_other_are_refused(options):
    with pytest.raises(ValueError, match="--"):
        Params(n=5, **options)


@settings(max_examples=20)
@given(rows=st.integers(1, 9), columns=st.integers(1, 9), row=st.integers(0, 8), column=st.integers(0, 8))
def test_tiles_land_where_they_belong(rows, columns, row, column):
    row, column = row % rows, column % columns
    scratch, expected = Scratch(None, (rows, columns), np.dtype("f8")), np.zeros((rows, columns))
    tile = np.arange(1.0, (rows - row) * (columns - column) + 1).reshape(rows - row, columns - column)
    scratch.write(tile, row, column)
    expected[row:, column:] = tile
    assert np.array_equal(scratch.mapped(), expected)
    assert np.array_equal(scratch.read(Range(row, rows)), expected[row:])
