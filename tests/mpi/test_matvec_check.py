"""The check of matvec: one wrong element is caught, right ones pass, whatever the numbers are."""

from __future__ import annotations

import numpy as np
import pytest

from hpcmpi import generator, matvec_plan
from hpcmpi.algorithms.matvec.check import check_dense, check_eigenpair, check_sparse
from hpcmpi.algorithms.matvec.dense import x_piece
from hpcmpi.algorithms.matvec.generated import power_law
from hpcmpi.algorithms.matvec.power import power_iteration
from hpcmpi.algorithms.matvec.sparse import SparsePlan
from hpcmpi.partition import Range, block, grid_block, grids


def uniform(m, n, dtype, stream=0):
    """The same matrix on every rank."""
    return generator.uniform(3, Range(0, m), Range(0, n), dtype, stream=stream)


def vector(n, dtype):
    return uniform(1, n, dtype, stream=1)[0]


def dense_block(comm, a, grid):
    rows, columns = grid_block(a.shape, grid, comm.rank)
    return a[rows.slice, columns.slice].copy()


# The check


def flipped(y, at, bit):
    """``y`` with one bit of element ``at`` the other way round."""
    out = y.copy()
    word = out.view(np.uint32 if out.dtype == np.float32 else np.uint64)
    word[at * (len(word) // len(out))] ^= word.dtype.type(1 << bit)
    return out


@pytest.mark.parametrize(
    ("dtype", "bits"), [("float32", [21, 22, 27, 30, 31]), ("float64", [38, 51, 57, 62, 63]), ("complex128", [40, 63])]
)
def test_one_wrong_element_is_caught_and_right_ones_pass(comm, dtype, bits):
    held = power_law(comm, 3000, 12, 7, dtype)
    plan = SparsePlan(comm, held.indptr, held.indices, held.data, bounds=held.bounds, threads=1)
    start = int(held.bounds[comm.rank])
    x = vector(3000, dtype)[start : held.bounds[comm.rank + 1]]
    y = plan(x)
    for seed in range(4):
        assert check_sparse(comm, plan, x, y, start=start, seed=seed).right
    for number, bit in enumerate(bits):
        culprit, at = number % comm.size, number * 37 % max(1, len(y))
        at += int(np.argmax(np.abs(y[at : at + 50]))) if len(y) else 0
        bad = flipped(y, at, bit) if comm.rank == culprit else y
        verdict = check_sparse(comm, plan, x, bad, start=start, seed=1)
        assert not verdict.right, (bit, verdict)
        assert "wrong" in verdict.reason
    plan.free()
    a, x = uniform(120, 200, dtype), vector(200, dtype)
    for grid in grids(comm.size):
        dense = matvec_plan(comm, dense_block(comm, a, grid), grid=grid)
        own = x[x_piece(200, grid, comm.rank).slice]
        y = dense(own)
        for seed in range(2):
            assert check_dense(comm, dense, own, y, seed=seed).right
        for bit in bits:
            assert not check_dense(comm, dense, own, flipped(y, 0, bit) if comm.rank == 0 else y, seed=1).right
        dense.free()


@pytest.mark.parametrize("kind", ["ones", "tiny", "huge", "steep", "cancelling", "full column", "zero"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_false_alarm_for_awkward_numbers(comm, kind, dtype):
    m = 1200
    held = power_law(comm, m, 10, 3, dtype)
    own = Range(int(held.bounds[comm.rank]), int(held.bounds[comm.rank + 1]))
    x = vector(m, dtype)[own.slice].copy()
    indptr, indices, data = held.indptr, held.indices, held.data
    rng = np.random.default_rng(comm.rank)
    if kind == "ones":
        data, x = np.full_like(data, 0.1), np.full_like(x, 0.1)
    elif kind in ("tiny", "huge"):
        data = data * np.dtype(dtype).type(1e-30 if kind == "tiny" else 1e30)
    elif kind == "steep":
        data, x = data * 10.0 ** rng.uniform(-15, 15, len(data)), x * 10.0 ** rng.uniform(-15, 15, len(x))
    elif kind == "cancelling":
        data = np.where(np.arange(len(data)) % 2, data, -data) * 1e6
    elif kind == "full column":
        indptr, indices = (
            np.arange(0, 2 * own.size + 1, 2),
            np.stack([np.zeros(own.size, int), np.arange(*own)], 1).reshape(-1),
        )
        data = rng.uniform(0.5, 1, 2 * own.size)
    else:
        x = np.zeros_like(x)
    plan = SparsePlan(comm, indptr, indices, data.astype(dtype), bounds=held.bounds, threads=1)
    x = x.astype(dtype)
    y = plan(x)
    for seed in range(4):
        verdict = check_sparse(comm, plan, x, y, start=own.start, seed=seed)
        assert verdict.right, verdict
        assert verdict.facts["error_over_allowed"] < 0.7
    plan.free()


@pytest.mark.parametrize("where", ["a", "x", "overflow"])
def test_numbers_that_are_not_finite_are_expected_where_they_come_from(comm, where):
    m = 900
    held = power_law(comm, m, 9, 3, np.float64)
    own = Range(int(held.bounds[comm.rank]), int(held.bounds[comm.rank + 1]))
    x = vector(m, np.float64)[own.slice].copy()
    data = held.data.copy()
    if where == "a" and len(data):
        data[[0, -1]] = np.nan, np.inf
    elif where == "x" and comm.rank == 0:
        x[[1, 5]] = np.inf, np.nan
    elif where == "overflow":
        data[:], x[:] = 1e200, 1e200
    plan = SparsePlan(comm, held.indptr, held.indices, data, bounds=held.bounds, threads=1)
    with np.errstate(over="ignore", invalid="ignore"):
        y = plan(x)
    verdict = check_sparse(comm, plan, x, y, start=own.start, seed=1)
    assert verdict.right, verdict
    assert verdict.facts["elements_not_finite"] == comm.allreduce(int((~np.isfinite(y)).sum())) > 0
    if where != "overflow":
        for value in (0.5, np.nan):
            bad = y.copy()
            if comm.rank == 0:
                bad[np.flatnonzero(np.isfinite(y) == np.isnan(value))[0]] = value
            assert not check_sparse(comm, plan, x, bad, start=own.start, seed=1).right
    plan.free()
    a, z = uniform(30, 40, np.float64), vector(40, np.float64)
    if where == "a":
        a[3, 7], a[20, 0] = np.nan, -np.inf
    elif where == "x":
        z[11] = np.nan
    else:
        a[4], z[:] = 1e200, 1e200
    for grid in grids(comm.size):
        dense = matvec_plan(comm, dense_block(comm, a, grid), grid=grid)
        piece = z[x_piece(40, grid, comm.rank).slice]
        y = dense(piece)
        verdict = check_dense(comm, dense, piece, y, seed=1)
        assert verdict.right, (grid, verdict)
        assert verdict.facts["elements_not_finite"] == {"a": 2, "x": 30, "overflow": 1}[where]
        dense.free()


@pytest.mark.parametrize(
    ("dtype", "sizes"), [("float64", [1e-310, 1e-200, 1, 1e300]), ("complex64", [1e-40, 1e-30, 1e37])]
)
def test_eigenpairs_of_any_size_are_found_and_judged(comm, dtype, sizes):
    own = block(9, comm.size, comm.rank).slice
    tolerance = 1e-8 if dtype == "float64" else 1e-4
    for size, first in [(size, 1.0) for size in sizes] + [(1.0, float(np.finfo(dtype).max))]:
        diagonal = (0.1 ** np.arange(9) * size).astype(dtype)
        plan = matvec_plan(comm, np.diag(diagonal)[own])
        x = np.full(len(diagonal[own]), first, dtype)
        y, pair = power_iteration(comm, plan, x, iterations=99, tolerance=tolerance, advance=lambda _fraction: None)
        assert pair.converged
        assert pair.value.real == pytest.approx(diagonal[0].real, rel=1e-5)
        assert check_eigenpair(comm, x, y, pair.value, pair.residual, tolerance).right
        assert not check_eigenpair(comm, x, y, pair.value, pair.residual / 3, tolerance).right
        assert not check_eigenpair(comm, x, y, pair.value * 1.01, pair.residual, tolerance).right
        wild = y if comm.rank else np.full_like(y, np.nan)
        assert "not finite" in check_eigenpair(comm, x, wild, pair.value, pair.residual, tolerance).reason
        plan.free()
    turn, held = np.array([[0, -1.0], [1, 0]]), block(2, comm.size, comm.rank).slice
    plan, x = matvec_plan(comm, turn[held]), np.array([1.0, 0])[held]
    y, pair = power_iteration(comm, plan, x, iterations=5, tolerance=1e-8, advance=lambda _fraction: None)
    assert "no convergence" in check_eigenpair(comm, x, y, pair.value, pair.residual, 1e-8).reason
    plan.free()
