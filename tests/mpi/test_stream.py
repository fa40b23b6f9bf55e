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
from hpcmpi.algorithms.matmul import Params, Resolved, cost, driver
from hpcmpi.errors import InputError, ResourceError, UsageError
from hpcmpi.machine import Machine
from hpcmpi.partition import Range, grid_block, grids
from hpcmpi.store import reader, scratch
from hpcmpi.store.scratch import Scratch

MIB = 1 << 20


@pytest.fixture
def folder(comm):
    yield Path(comm.bcast(tempfile.mkdtemp(dir=os.environ["HPCMPI_TEST_REPORTS"])))
    comm.barrier()


def whole(m, k, n, dtype="float64", seed=1):
    a = generator.uniform(seed, Range(0, m), Range(0, k), dtype, stream=0)
    return a, generator.uniform(seed, Range(0, k), Range(0, n), dtype, stream=1)


def streamed(comm, params, grid=None):
    """The problem, result and verdict of a run by tiles, whether it would fit into memory or not."""
    params = driver.resolve(comm, params)
    plan = cost.streamed(params, grid or (comm.size, 1), params.memory, Machine())
    assert plan.memory <= params.memory
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
        assert problem.plan.tile.m < m or problem.plan.tile.k < k
        assert_product(comm, result, grid, a, b)


@pytest.mark.parametrize("transpose", [False, True])
def test_operands_in_files_of_other_dtypes_and_orders(comm, folder, transpose):
    a, b = whole(120, 200, 90)
    if comm.rank == 0:
        with h5py.File(folder / "a.h5", "w", userblock_size=512) as file:
            file["a"] = a.astype("float32").T if transpose else a.astype("float32")
        np.save(folder / "b.npy", b.T.copy() if transpose else np.asfortranarray(b))
    comm.barrier()
    params = Params(
        a=str(folder / "a.h5"), b=str(folder / "b.npy"), transpose_a=transpose, transpose_b=transpose, memory=MIB
    )
    problem, result, verdict = streamed(comm, params)
    assert verdict.right
    assert_product(comm, result, problem.plan.grid, a.astype("float32").astype("float64"), b)


@pytest.mark.parametrize(("m", "k", "n"), [(0, 3, 4), (3, 0, 4), (3, 4, 0), (1, 1, 1), (2, 5, 1), (1, 900, 800)])
def test_zero_sizes_and_fewer_rows_than_ranks(comm, m, k, n):
    a, b = whole(m, k, n)
    problem, result, verdict = streamed(comm, Params(m=m, n=n, k=k, memory=MIB))
    assert verdict.right
    assert_product(comm, result, problem.plan.grid, a, b)


def test_the_run_takes_the_tiles_of_the_plan(comm):
    m, k, n = 31, 11, 23
    a, b = whole(m, k, n)
    spec = driver.resolve(comm, Params(m=m, n=n, k=k, memory=MIB))
    plan = dataclasses.replace(cost.streamed(spec, (comm.size, 1), MIB, Machine()), tile=cost.Tile(7, 5, 3))
    result = driver.run(comm, driver.prepare(comm, spec, plan), lambda _fraction: None)
    assert result.facts["tile"] == "7 x 5 x 3"
    rows = grid_block((m, n), plan.grid, comm.rank)[0].size
    columns_read, rows_read = -(-n // 5), -(-rows // 7)
    assert result.facts["bytes_read"] == 8 * comm.allreduce(rows * k * columns_read + k * n * rows_read)
    assert_product(comm, result, plan.grid, a, b)


@pytest.mark.parametrize("fault", [1e-6, np.nan])
def test_a_wrong_element_of_the_scratch_file_is_caught(comm, fault):
    problem, result, verdict = streamed(comm, Params(n=150, m=150, k=150, memory=MIB))
    assert verdict.right
    if comm.rank == comm.size - 1:
        row = problem.c.read(Range(0, 1))
        wrong = row[:, 3:4] + fault * np.linalg.norm(row)
        problem.c.write(np.ascontiguousarray(wrong), 0, 3)
    assert not driver.verify(comm, problem, result).right


@pytest.mark.parametrize(("n", "memory"), [(10, MIB), (100, MIB), (50, 1 << 30), (500, 16 * MIB)])
def test_what_fits_is_multiplied_in_memory(comm, n, memory):
    plans = cost.plans(driver.resolve(comm, Params(n=n, memory=memory)), comm.size, Machine())
    assert all(plan.method != "stream" and plan.memory <= memory for plan in plans)


@pytest.mark.parametrize(
    ("n", "k", "memory", "ranks"), [(10**6, 10**6, 1 << 30, 4096), (500, 3000, MIB, 2), (8192, 8192, 64 * MIB, 2)]
)
def test_a_plan_keeps_to_the_memory_or_is_refused(n, k, memory, ranks):
    params = Resolved(m=n, n=n, k=k, dtype="float64", memory=memory)
    for plan in cost.plans(params, ranks, Machine()):
        assert plan.memory <= memory
        assert plan.scratch >= 8 * n * n // ranks
    with pytest.raises(ResourceError, match=r"at least [2-9]MiB a rank is needed, for the vectors"):
        cost.plans(dataclasses.replace(params, k=20 * 500, n=500, m=500, memory=MIB), 2, Machine())


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


def stored(folder, name, array, how):
    """A file of ``array``: HDF5 in chunks of that shape, or ``.npz``, compressed or not, in that order."""
    if isinstance(how, tuple):
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file.create_dataset(name, data=array, chunks=how, compression="gzip", compression_opts=1)
        return str(folder / f"{name}.h5")
    save, order = {"C": (np.savez, "C"), "F": (np.savez, "F"), "zC": (np.savez_compressed, "C")}[how]
    save(folder / f"{name}.npz", x=np.asarray(array, order=order))
    return str(folder / f"{name}.npz")


@pytest.mark.parametrize(
    ("how_a", "how_b", "transpose"),
    [((1, 500), (500, 1), False), ((50, 70), (33, 44), True), ("C", "F", False), ("zC", (60, 500), True)],
)
def test_every_chunk_is_inflated_once_a_node(comm, folder, monkeypatch, how_a, how_b, transpose):
    a, b = whole(200, 500, 120)
    where = [""] * 2
    if comm.rank == 0:
        where = [
            stored(folder, "a", a.T if transpose else a, how_a),
            stored(folder, "b", b.T if transpose else b, how_b),
        ]
    where = comm.bcast(where)
    inflated = []
    get, lines = reader.Source._get, reader.Member.lines
    monkeypatch.setattr(
        reader.Source,
        "_get",
        lambda self, array, index, target=None: inflated.append((self, index)) or get(self, array, index, target),
    )
    monkeypatch.setattr(reader.Member, "lines", lambda self, part: inflated.append((self, part)) or lines(self, part))
    params = Params(a=where[0], b=where[1], transpose_a=transpose, transpose_b=transpose, memory=MIB)
    problem, result, verdict = streamed(comm, params)
    assert verdict.right
    assert result.facts["tile"] != "200 x 120 x 500"
    assert_product(comm, result, problem.plan.grid, a, b)
    mine = []
    for source, index in inflated:
        if isinstance(source, reader.Member):
            mine += [(source._where, line) for line in range(*index)]
        else:
            axes = [range(i.start // u, -(-i.stop // u)) for i, u in zip(index, source.unit, strict=True)]
            mine += [(str(source), x, y) for x in axes[0] for y in axes[1]]
    everyone = [piece for pieces in comm.allgather(mine) for piece in pieces]
    assert len(everyone) == len(set(everyone)) >= 4
    assert problem.plan.scratch >= 8 * (200 * 120 + 500 * 320) // comm.size


def test_parts_are_read_where_they_lie_and_as_others_are(comm, folder):
    expected = np.arange(35.0).reshape(5, 7)
    if comm.rank == 0:
        np.save(folder / "swapped.npy", expected.astype(">f4"))
        with h5py.File(folder / "x.h5", "w", userblock_size=512) as file:
            file["plain"], file["flags"] = expected, expected > 9
            file.create_dataset("never written", (5, 7), "f8")
            file.create_dataset("chunks", data=expected, chunks=(2, 3))
    comm.barrier()
    part = (Range(1, 4), Range(2, 6))
    for where in ("swapped.npy", "x.h5:/plain", "x.h5:/flags", "x.h5:/never written", "x.h5:/chunks"):
        source = reader.open_source(comm, str(folder / where), ndim=2)
        alone = source.read_alone(part, "f8")
        np.testing.assert_array_equal(alone, source.read(comm, part, "f8"))
        whole_matrix = {"flags": expected > 9, "never written": 0 * expected}.get(where.rpartition("/")[2], expected)
        np.testing.assert_array_equal(alone, whole_matrix[1:4, 2:6])
        assert (source.offset is None) == (where in ("x.h5:/never written", "x.h5:/chunks"))


def test_chunks_larger_than_the_memory_are_refused(comm, folder):
    if comm.rank == 0:
        stored(folder, "a", np.ones((300, 500)), (300, 500))
    comm.barrier()
    params = driver.resolve(comm, Params(a=str(folder / "a.h5"), n=300, memory=2 * MIB))
    with pytest.raises(
        ResourceError, match="at least 4MiB a rank is needed, for the pieces in which an operand is stored"
    ):
        cost.plans(params, comm.size, Machine())


@pytest.mark.parametrize("memory", [None, MIB])
def test_numbers_that_the_dtype_cannot_hold_are_refused_by_place(comm, folder, memory):
    a = np.ones((300, 400))
    a[123, 45], a[200, 7] = -1e300, np.inf
    if comm.rank == 0:
        np.save(folder / "a.npy", a)
    comm.barrier()
    params = driver.resolve(comm, Params(a=str(folder / "a.npy"), n=300, dtype="float32", memory=memory))
    plan = (
        cost.streamed(params, (comm.size, 1), MIB, Machine()) if memory else cost.plans(params, comm.size, Machine())[0]
    )
    with pytest.raises(InputError, match=r"a\.npy: element \(123, 45\) is -1e\+300, which float32 cannot hold"):
        driver.run(comm, driver.prepare(comm, params, plan), lambda _fraction: None)


def test_a_file_that_cannot_be_read_and_scratch_that_is_full_are_told_on_all_ranks(comm, folder, monkeypatch):
    if comm.rank == 0:
        np.save(folder / "a.npy", np.ones((100, 100)))
    comm.barrier()
    params = driver.resolve(comm, Params(a=str(folder / "a.npy"), n=100, memory=MIB))
    plan = cost.streamed(params, (comm.size, 1), MIB, Machine())
    problem = driver.prepare(comm, params, plan)
    comm.barrier()
    if comm.rank == 0:
        os.truncate(folder / "a.npy", 1000)
    comm.barrier()
    with pytest.raises(InputError, match=r"a\.npy"):
        driver.run(comm, problem, lambda _fraction: None)

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    problem = driver.prepare(comm, driver.resolve(comm, Params(m=100, n=100, k=100, memory=MIB)), plan)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(ResourceError, match="scratch cannot be written: No space left"):
        driver.run(comm, problem, lambda _fraction: None)


def test_too_little_scratch_and_a_folder_that_is_missing_are_refused_before_the_run(comm, monkeypatch):
    for memory in (MIB, 1 << 30):  # also where none is needed
        with pytest.raises(UsageError, match="no such folder"):
            driver.resolve(comm, Params(n=100, memory=memory, scratch="/nowhere/at/all"))
        with pytest.raises(UsageError, match="is a file"):
            driver.resolve(comm, Params(n=100, memory=memory, scratch=__file__))
    needed = 1000 * comm.size
    monkeypatch.setattr(scratch, "free_disk", lambda _folder: needed)
    scratch.check_free(comm, None, 1000)
    with pytest.raises(ResourceError, match="short"):
        scratch.check_free(comm, None, 1001)
    here = Path(tempfile.gettempdir())
    with pytest.raises(ResourceError, match="and the output 1 B of the same disk"):
        scratch.check_free(comm, None, 1000, beside=(here, 1))
    scratch.check_free(comm, None, 1000, beside=(Path("/proc"), 1))


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


def test_a_scratch_file_that_cannot_be_made_leaves_nothing(comm, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(27, "File too large")

    monkeypatch.setattr(os, "truncate", full)
    with pytest.raises(ResourceError, match="scratch cannot be written: File too large"):
        Scratch(str(tmp_path), (3, 3), np.dtype("f8"), comm)
    assert list(tmp_path.iterdir()) == []
