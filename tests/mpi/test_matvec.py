"""matvec on any number of ranks, against NumPy's and plain loops' products of the gathered operands."""

from __future__ import annotations

from itertools import pairwise, product
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

from hpcmpi import generator, matvec, matvec_plan
from hpcmpi.algorithms.matvec import DTYPES, PowerIteration, Resolved
from hpcmpi.algorithms.matvec.check import check_dense, check_sparse
from hpcmpi.algorithms.matvec.cost import plans
from hpcmpi.algorithms.matvec.dense import multiply, x_piece, y_piece
from hpcmpi.algorithms.matvec.entries import assemble, balanced_bounds
from hpcmpi.algorithms.matvec.generated import laplacian, laplacian_nonzeros, laplacian_surface, power_law
from hpcmpi.algorithms.matvec.sparse import SparsePlan
from hpcmpi.comm import traffic
from hpcmpi.errors import InputError
from hpcmpi.machine import Machine
from hpcmpi.partition import Range, block, grid_block, grids

SHAPES = [(0, 0), (5, 0), (0, 4), (1, 1), (1, 9), (17, 13), (5, 300), (301, 6)]


def uniform(m, n, dtype, stream=0):
    """The same matrix on every rank."""
    return generator.uniform(3, Range(0, m), Range(0, n), dtype, stream=stream)


def vector(n, dtype):
    return uniform(1, n, dtype, stream=1)[0]


def dense_block(comm, a, grid):
    rows, columns = grid_block(a.shape, grid, comm.rank)
    return a[rows.slice, columns.slice].copy()


def assert_close(y, expected, terms):
    assert (y.shape, y.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(y, expected, rtol=0, atol=8 * np.finfo(y.dtype).eps * (1 + terms))


def sparse(m, n, dtype, density, seed=0):
    """A matrix of mostly zeros, the same on every rank; a few rows are full and a few are empty."""
    rng = np.random.default_rng(seed)
    a = np.where(rng.random((m, n)) < density, rng.uniform(-1, 1, (m, n)), 0).astype(dtype)
    if np.dtype(dtype).kind == "c":
        a = a * (1 + 0.5j)
    if m > 4:
        a[m // 2] = 1
        a[m // 3] = 0
    return a.astype(dtype)


def compressed(a, part):
    """Rows ``part`` of a dense array as SciPy's csr_array holds them."""
    rows, columns = np.nonzero(a[part])
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(a[part])))]).astype(np.int32)
    shape = a[part].shape
    return SimpleNamespace(indptr=indptr, indices=columns.astype(np.int32), data=a[part][rows, columns], shape=shape)


def cuts(comm, m, how):
    """Range of rows of each rank: even, all on one rank, or at random."""
    if how == "even":
        return [block(m, comm.size, rank) for rank in range(comm.size)]
    if how == "one":
        edges = [0] * (1 + comm.size // 2) + [m] * (comm.size - comm.size // 2)
    else:
        edges = [0, *sorted(np.random.default_rng(m).integers(0, m + 1, comm.size - 1).tolist()), m]
    return [Range(a, b) for a, b in pairwise(edges)]


def whole(comm, y):
    return np.concatenate(comm.allgather(y))


# Dense


@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_products_on_every_grid_and_in_any_order(comm, dtype):
    for (m, n), grid in product(SHAPES, grids(comm.size)):
        a, x = uniform(m, n, dtype), vector(n, dtype)
        expected = a @ x
        own, piece = dense_block(comm, a, grid), x[x_piece(n, grid, comm.rank).slice].copy()
        kept = own.copy(), piece.copy()
        spread = np.zeros((own.shape[0], 2 * own.shape[1]), own.dtype)[:, ::2]
        spread[...] = own
        for same in (own, np.asfortranarray(own), spread) if dtype in ("float64", "complex64") else (own,):
            y = matvec(comm, same, piece, grid=grid)
            assert_close(y, expected[y_piece(m, grid, comm.rank).slice], n)
        assert np.array_equal(own, kept[0])
        assert np.array_equal(piece, kept[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", "CF")
def test_dense_rows_give_the_same_bits_on_any_number_of_ranks_and_threads(comm, dtype, order):
    a, x = uniform(203, 1111, dtype), vector(1111, dtype)
    alone = np.empty(203, dtype)
    multiply(np.array(a, order=order), x, alone, order == "F", 1)
    rows = block(203, comm.size, comm.rank).slice
    own = np.array(a[rows], order=order)
    y = matvec(comm, own, x[block(1111, comm.size, comm.rank).slice])
    assert y.tobytes() == alone[rows].tobytes()
    for threads in (2, 3):
        many = np.empty(2111, dtype)
        multiply(np.array(np.resize(a, (2111, 1111)), order=order), x, many, order == "F", threads)
        assert many[:203].tobytes() == alone.tobytes()
        assert many[203:406].tobytes() == alone.tobytes()
    for m in range(9):  # the last, incomplete group of rows
        few = np.empty(m, dtype)
        multiply(np.array(a[:m], order=order), x, few, order == "F", 1)
        assert few.tobytes() == alone[:m].tobytes()


def test_dense_plan_is_used_again_and_fills_out(comm):
    a = uniform(40, 30, np.float64)
    for grid in grids(comm.size):
        plan = matvec_plan(comm, dense_block(comm, a, grid), grid=grid)
        rows, columns = y_piece(40, grid, comm.rank), x_piece(30, grid, comm.rank)
        out = np.empty((2, rows.size))[::2][0]
        for factor in (1.0, 2.0, -3.0):
            x = factor * vector(30, np.float64)
            assert plan(x[columns.slice], out) is out
            assert_close(out, (a @ x)[rows.slice], 30)
        plan.free()


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_transposed_product_of_blocks_of_rows(comm, dtype):
    a, x = uniform(23, 31, dtype), vector(23, dtype)
    rows = block(23, comm.size, comm.rank).slice
    y = matvec(comm, a[rows].T, x[rows], grid=(1, comm.size))
    assert_close(y, (a.T @ x)[block(31, comm.size, comm.rank).slice], 23)


def test_dense_words_are_those_priced(comm):
    m = n = 4 * 3 * 7 * 4
    a, x = uniform(m, n, np.float64), vector(n, np.float64)
    for plan in plans(Resolved(m=m, n=n, dtype="float64"), comm.size, Machine()):
        made = matvec_plan(comm, dense_block(comm, a, plan.grid), grid=plan.grid)
        before = traffic.bytes_received
        made(x[x_piece(n, plan.grid, comm.rank).slice])
        assert comm.allreduce(traffic.bytes_received - before, MPI.MAX) == pytest.approx(8 * plan.words)
        made.free()


def test_auto_takes_rows_unless_another_grid_is_faster():
    shape = {"dtype": "float64", "layout": "dense"}
    assert plans(Resolved(m=10_000, n=10_000, **shape), 16, Machine())[0].grid == (16, 1)
    assert plans(Resolved(m=5, n=100_000_000, **shape), 16, Machine())[0].grid[1] > 1
    assert plans(Resolved(m=100, n=100, method="columns", **shape), 6, Machine())[0].grid == (1, 6)
    assert {p.grid for p in plans(Resolved(m=9, n=9, method="grid", **shape), 6, Machine())} == set(grids(6))
    assert plans(Resolved(m=5, n=5, iterate="power", iteration=PowerIteration(1000, 1e-8), **shape), 4, Machine())[
        0
    ].grid == (4, 1)


# Sparse


@pytest.mark.parametrize(
    ("how", "dtype"), [("even", "float64"), ("one", "complex64"), ("random", "float32"), ("random", "complex128")]
)
def test_sparse_products_of_any_cut_have_the_same_bits(comm, how, dtype):
    for m, n in [*SHAPES, (1500, 1500)]:
        a, x = sparse(m, n, dtype, 0.02 if m > 1000 else 0.2), vector(n, dtype)
        parts = cuts(comm, m, how)
        own = parts[comm.rank].slice
        of_x = own if m == n else block(n, comm.size, comm.rank).slice
        held = compressed(a, own)
        kept = held.indices.copy(), held.data.copy(), x.copy()
        y = matvec(comm, held, x[of_x])
        assert_close(y, (a @ x)[own], n)
        alone = matvec(MPI.COMM_SELF, compressed(a, slice(None)), x)
        assert y.tobytes() == alone[own].tobytes()
        assert all(np.array_equal(p, q) for p, q in zip(kept, (held.indices, held.data, x), strict=True))


def test_sparse_plan_moves_only_what_is_needed_and_is_used_again(comm):
    m = 700
    a = np.triu(np.tril(uniform(m, m, np.float64) + 1, 3), -2)
    own = block(m, comm.size, comm.rank)
    plan = matvec_plan(comm, compressed(a, own.slice))
    needed = np.flatnonzero(a[own.slice].any(axis=0))
    outside = int(((needed < own.start) | (needed >= own.stop)).sum())
    assert plan.words == outside
    out = np.empty(own.size)
    for factor in (1.0, -2.0):
        x = factor * vector(m, np.float64)
        before = traffic.bytes_received
        assert plan(x[own.slice], out) is out
        assert traffic.bytes_received - before == 8 * outside
        assert_close(out, (a @ x)[own.slice], 6)
    plan.x[...] = vector(m, np.float64)[own.slice]
    np.testing.assert_array_equal(plan(plan.x), out / -2)
    plan.free()


def test_rows_that_need_nobody_are_multiplied_while_messages_travel(comm):
    own = laplacian(comm, (40, 30, 20), np.float64)
    plan = SparsePlan(comm, own.indptr, own.indices, own.data, bounds=own.bounds, threads=2)
    early = sum(int((part.stops - part.starts).sum()) for part in plan.early)
    late = sum(int((part.stops - part.starts).sum()) for part in plan.late)
    assert early + late == plan.rows_held
    assert late <= 2 * (600 + 2 * 512) or comm.size == 1
    assert early > 0
    assert (late > 0) == (comm.size > 1)
    plan.free()


@settings(max_examples=25)
@given(
    m=st.integers(0, 30),
    n=st.integers(0, 30),
    density=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
    square=st.booleans(),
)
def test_any_small_sparse_product_is_right_and_verified(m, n, density, seed, square):
    comm = MPI.COMM_WORLD
    n = m if square else n
    a = sparse(m, n, np.float64, density, seed)
    x = np.random.default_rng(seed).uniform(-1, 1, n)
    own = cuts(comm, m, "random")[comm.rank]
    of_x = own if m == n else block(n, comm.size, comm.rank)
    plan = matvec_plan(comm, compressed(a, own.slice))
    y = plan(x[of_x.slice])
    assert_close(y, (a @ x)[own.slice], n)
    assert check_sparse(comm, plan, x[of_x.slice], y, start=own.start, seed=seed).right
    plan.free()


@settings(max_examples=15)
@given(m=st.integers(0, 30), n=st.integers(0, 30), seed=st.integers(0, 2**32 - 1), power=st.integers(-200, 200))
def test_any_small_dense_product_is_right_and_verified(m, n, seed, power):
    comm = MPI.COMM_WORLD
    a = generator.uniform(seed, Range(0, m), Range(0, n), np.float64) * 2.0**power
    x = np.random.default_rng(seed).uniform(-1, 1, n)
    for grid in grids(comm.size):
        plan = matvec_plan(comm, dense_block(comm, a, grid), grid=grid)
        own = x[x_piece(n, grid, comm.rank).slice]
        y = plan(own)
        assert_close(y * 2.0**-power, (a @ x)[y_piece(m, grid, comm.rank).slice] * 2.0**-power, n)
        assert check_dense(comm, plan, own, y, seed=seed).right
        plan.free()


# What does not fit


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda a, _x: (a[0], _x), "two dimensions"),
        (lambda a, x: (a[:, 1:], x), "x is|is its block"),
        (lambda a, x: (a.astype(int), x), "dtype of a is int64"),
        (lambda a, x: (a, x[:-1]), "x is"),
        (lambda a, x: (a, x + 1j), "complex128"),
        (lambda a, x: (compressed(a[:, :-1], slice(None)), x), "x is"),
        (lambda a, x: (SimpleNamespace(**vars(compressed(a, slice(None))), format="csc"), x), "csr is expected"),
        (lambda a, x: (SimpleNamespace(**vars(compressed(a, slice(None))) | {"data": np.ones(3)}), x), "do not fit"),
    ],
)
def test_blocks_that_do_not_fit_raise_the_same_error_on_all_ranks(comm, spoil, said):
    a, x = uniform(21, 30, np.float64), vector(30, np.float64)
    own, part = block(21, comm.size, comm.rank).slice, block(30, comm.size, comm.rank).slice
    with pytest.raises(InputError, match=said) as error:
        matvec(comm, *spoil(a[own], x[part]))
    assert len(set(comm.allgather(str(error.value)))) == 1


def test_out_grid_and_columns_that_do_not_fit_are_refused(comm):
    a = compressed(np.eye(8), block(8, comm.size, comm.rank).slice)
    x = np.ones(block(8, comm.size, comm.rank).size)
    with pytest.raises(ValueError, match="grid"):
        matvec(comm, np.ones((2, 2)), np.ones(2), grid=(comm.size + 1, 1))
    with pytest.raises(ValueError, match="no grid"):
        matvec(comm, a, x, grid=(1, comm.size))
    with pytest.raises(ValueError, match="out is"):
        matvec(comm, a, x, out=np.empty(len(x) + 1))
    a.indices = a.indices + 8
    with pytest.raises(ValueError, match=r"in \[0, 8\)"):
        matvec(comm, a, x)


@pytest.mark.parametrize("kind", ["rows", "columns", "sparse"])
def test_a_plan_refuses_vectors_that_do_not_fit_before_it_computes(comm, kind):
    own = block(24, comm.size, comm.rank).slice
    a = uniform(24, 24, np.float64)
    if kind == "sparse":
        plan = matvec_plan(comm, compressed(a, own))
    else:
        plan = matvec_plan(
            comm, a[own] if kind == "rows" else a[:, own], grid=None if kind == "rows" else (1, comm.size)
        )
    held = plan.columns_held
    memory = np.ones(2 * held)
    x, out = memory[:held], np.full(held, 7.0)
    read_only = np.ones(held)
    read_only.flags.writeable = False
    for bad_x, bad_out, said in (
        (np.ones((held, 2)), out, "x is"),
        (np.ones(held + 1), out, "x is"),
        (np.ones(1 if held != 1 else 2), out, "x is"),
        (x + 1j, out, "complex128"),
        (np.full(held, "1"), out, "x is"),
        (x, np.empty(held - 1), "out is"),
        (x, np.empty((held, 1)), "out is"),
        (x, np.empty(held, np.float32), "out is"),
        (x, read_only, "read-only"),
        (x, list(out), "NumPy array"),
        (x, x, "overlaps"),
        (x, memory[1 : held + 1], "overlaps"),
        (x, plan.x if kind == "sparse" else x[::-1], "overlaps"),
    ):
        if bad_out is not out and held < 2 and said == "overlaps":
            continue  # too short to overlap without being the same
        with pytest.raises(InputError, match=said):
            plan(bad_x, bad_out)
        with pytest.raises(InputError, match=said) as error:
            matvec(comm, compressed(a, own), bad_x, out=bad_out) if bad_x is not x else plan(bad_x, bad_out)
        assert comm.rank or str(error.value).startswith("rank 0")
    assert np.all(out == 7)
    spread = np.zeros((2, held))  # one array beside the other, element by element, is no overlap
    plan(spread.T.reshape(-1)[::2], spread.T.reshape(-1)[1::2])
    plan.free()


def test_rows_that_do_not_rise_are_refused_on_all_ranks(comm):
    own = block(8 * comm.size, comm.size, comm.rank).slice
    for name, spoil, said in (
        ("indptr", lambda p: p[[0, 2, 1, *range(3, len(p))]], "without falling"),
        ("indptr", lambda p: p.astype(float), "without falling"),
        ("indices", lambda p: p + 0.5, "whole numbers"),
    ):
        a = compressed(np.eye(8 * comm.size), own)
        if comm.rank == comm.size - 1:
            setattr(a, name, spoil(getattr(a, name)))
        with pytest.raises(InputError, match=said) as error:
            matvec_plan(comm, a)
        assert str(error.value).startswith(f"rank {comm.size - 1}: ")


# Dealing rows


@pytest.mark.parametrize(
    "lengths", [[], [0], [5] * 10, [100, *[1] * 50], [0] * 40, [*[1] * 50, 100, 100], [3, 0, 0, 9, 1]]
)
def test_rows_are_dealt_by_their_work(comm, lengths):
    lengths = np.array(lengths, np.int64)
    own = block(len(lengths), comm.size, comm.rank).slice
    bounds = balanced_bounds(comm, lengths[own])
    assert bounds[0] == 0
    assert bounds[-1] == len(lengths)
    assert np.all(np.diff(bounds) >= 0)
    work = [int((lengths[a:b] + 1).sum()) for a, b in pairwise(bounds)]
    assert max(work) <= (lengths + 1).sum() / comm.size + (lengths + 1).max(initial=0)


@settings(max_examples=25)
@given(entries=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 6), st.integers(-3, 3)), max_size=40))
def test_entries_from_anywhere_become_ordered_rows(entries):
    comm = MPI.COMM_WORLD
    rows, columns, values = (
        (np.array(x, np.int64) for x in zip(*entries, strict=True)) if entries else np.empty((3, 0), int)
    )
    mine = np.random.default_rng(len(entries)).integers(0, comm.size, len(entries)) == comm.rank
    held = assemble(comm, rows[mine], columns[mine], values[mine].astype(float), m=9, n=7)
    dense = np.zeros((9, 7))
    np.add.at(dense, (rows, columns), values)
    start, stop = held.bounds[comm.rank : comm.rank + 2]
    found = np.zeros((stop - start, 7))
    places = np.repeat(np.arange(stop - start), np.diff(held.indptr))
    np.add.at(found, (places, held.indices), held.data)
    np.testing.assert_array_equal(found, dense[start:stop])
    key = [tuple(t) for t in np.stack([places, held.indices, held.data], axis=1).tolist()]
    assert key == sorted(key)


@pytest.mark.parametrize("extents", [(1,), (7,), (5, 4), (6, 5, 4), (3, 2, 2, 3), (0, 3)])
def test_laplacian_is_the_one_of_kronecker_sums(comm, extents):
    expected = np.zeros((1, 1))
    for extent in extents:
        line = 2 * np.eye(extent) - np.eye(extent, k=1) - np.eye(extent, k=-1)
        expected = np.kron(expected, np.eye(extent)) + np.kron(np.eye(len(expected)), line)
    own = laplacian(comm, extents, np.float64)
    found = np.zeros((len(own.indptr) - 1, own.n))
    found[np.repeat(np.arange(len(found)), np.diff(own.indptr)), own.indices] = own.data
    np.testing.assert_array_equal(whole(comm, found), expected)
    assert comm.allreduce(len(own.data)) == laplacian_nonzeros(extents) == np.count_nonzero(expected)


def test_words_of_the_laplacian_are_its_surface(comm):
    extents = (30, 12, 10)
    own = laplacian(comm, extents, np.float32)
    plan = SparsePlan(comm, own.indptr, own.indices, own.data, bounds=own.bounds, threads=1)
    assert comm.allreduce(plan.words) == laplacian_surface(extents, comm.size) == 2 * (comm.size - 1) * 120
    plan.free()


def test_power_law_is_the_same_matrix_on_any_number_of_ranks_and_has_heavy_tails(comm):
    own, alone = (power_law(c, 20_000, 16, 5, np.float64) for c in (comm, MPI.COMM_SELF))
    for name in ("indices", "data"):
        np.testing.assert_array_equal(whole(comm, getattr(own, name)), getattr(alone, name))
    lengths = np.diff(alone.indptr)
    assert 12 < lengths.mean() < 20
    assert lengths.max() > 20 * lengths.mean()
    assert np.bincount(alone.indices).max() > 100 * lengths.mean()
    assert all(np.all(np.diff(row) >= 0) for row in np.split(alone.indices, alone.indptr[1:-1]))
    assert np.all((alone.data > 0) & (alone.data <= 1))
    work = comm.allgather(len(own.data) + len(own.indptr))
    assert max(work) < 1.1 * np.mean(work) + lengths.max()
