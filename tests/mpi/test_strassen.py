"""Strassen-Winograd: right products of any shape on any grid, its error measured, injected faults caught."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

from hpcmpi import blas, generator, machine, matmul
from hpcmpi import comm as collective
from hpcmpi.algorithms.matmul import DTYPES, Resolved, cost, driver
from hpcmpi.algorithms.matmul.accuracy import measured, strassen_bound
from hpcmpi.algorithms.matmul.core import multiply
from hpcmpi.algorithms.matmul.freivalds import check_product
from hpcmpi.algorithms.matmul.layout import BlockLayout, Blocks
from hpcmpi.algorithms.matmul.panels import LocalProducts
from hpcmpi.algorithms.matmul.strassen import strassen
from hpcmpi.algorithms.matmul.wide import wide_summa
from hpcmpi.comm import nodes, stream, traffic
from hpcmpi.errors import InputError
from hpcmpi.machine import Machine
from hpcmpi.partition import Range, coordinates, grid_block, grids, three_dimensional


@pytest.fixture(autouse=True)
def _small_leaves(monkeypatch):
    """Leaves of four rows and columns pay; as with real sizes, panels of classical products are narrower than those."""
    for name, value in (("LEAST_M", 4), ("LEAST_N", 4), ("LEAST_K", 4), ("PANEL", 2), ("NARROWEST_PANEL", 1)):
        monkeypatch.setattr(cost, name, value)


def leaf(x, y, z, alpha, accumulate):
    blas.gemm(x, y, z, alpha=alpha, accumulate=accumulate)


def whole(m, k, n, dtype="float64", seed=1):
    a = generator.uniform(seed, Range(0, m), Range(0, k), dtype, stream=0)
    return a, generator.uniform(seed, Range(0, k), Range(0, n), dtype, stream=1)


def part(comm, array, grid):
    rows, columns = grid_block(array.shape, grid, comm.rank)
    return array[rows.slice, columns.slice].copy()


def slack(a, levels=3):
    return 8 * 3**levels * np.finfo(a.dtype).eps * max(1, a.shape[1])


@settings(max_examples=20)
@given(
    sizes=st.tuples(*[st.integers(1, 40)] * 3),
    levels=st.integers(1, 3),
    accumulate=st.booleans(),
    orders=st.tuples(*[st.sampled_from("CF")] * 3),
    dtype=st.sampled_from(DTYPES),
)
def test_any_small_product_of_one_rank(sizes, levels, accumulate, orders, dtype):
    (m, k, n), before = sizes, {}
    a, b = (np.asarray(x, order=order) for x, order in zip(whole(m, k, n, dtype), orders, strict=False))
    before = a.copy(), b.copy()
    c = np.full((m, n), 0.5 if accumulate else np.nan, dtype, order=orders[2])
    strassen(a, b, c, levels=levels, accumulate=accumulate, leaf=leaf)
    np.testing.assert_allclose(c, a @ b + 0.5 * accumulate, rtol=0, atol=slack(a))
    assert np.array_equal(a, before[0])
    assert np.array_equal(b, before[1])


@pytest.mark.parametrize("accumulate", [False, True])
def test_a_level_takes_seven_products_for_eight_and_the_workspace_that_is_priced(accumulate, monkeypatch):
    a, b = whole(64, 64, 64)
    counted, taken = [], []
    empty = np.empty
    monkeypatch.setattr(np, "empty", lambda shape, dtype: taken.append(shape) or empty(shape, dtype))
    c = np.zeros((64, 64))
    strassen(a, b, c, levels=2, accumulate=accumulate, leaf=lambda *x: counted.append(x[0].shape) or leaf(*x))
    assert counted == [(16, 16)] * 49
    assert taken == [cost.strassen_workspace(64, 64, 64, 2, accumulate=accumulate)]


def emulate_nodes(monkeypatch, ranks):
    """So many ranks a node share memory, and no others."""
    for module in (collective, nodes, stream):
        monkeypatch.setattr(
            module, "split_node", lambda comm: comm.Split(MPI.COMM_WORLD.rank // ranks, comm.rank), raising=True
        )


@pytest.mark.parametrize(("dtype", "shared_memory"), [("float32", 0), ("complex128", 1 << 30)])
def test_every_method_on_every_grid_takes_its_levels_and_multiplies_and_receives_all_once(
    comm, dtype, shared_memory, monkeypatch
):
    monkeypatch.setattr(machine, "free_shared_memory", lambda: shared_memory)
    m, k, n = 8 * comm.size + 3, 16 * comm.size + 5, 8 * comm.size + 1
    a, b = whole(m, k, n, dtype)
    plans = cost.plans(Resolved(m=m, n=n, k=k, dtype=dtype, strassen=1), comm.size, Machine())
    ring = cost.plans(Resolved(m=m, n=n, k=k, dtype=dtype, strassen=1, method="ring"), comm.size, Machine())
    for plan in {(plan.method, plan.grid): plan for plan in [*plans[::3], *plans[-3:], *ring]}.values():
        layout = BlockLayout(m, n, k, three_dimensional(plan.grid))
        own_a, own_b, expected = (
            x[tuple(r.slice for r in place(comm.rank))]
            for x, place in ((a, layout.a), (b, layout.b), (a @ b, layout.c))
        )
        c = np.full(expected.shape, np.nan, dtype)
        done, before = [], traffic.bytes_received
        levels = multiply(comm, Blocks(layout, own_a, own_b, c), plan, LocalProducts(done.append))
        received = comm.allreduce(traffic.bytes_received - before, MPI.MAX)
        np.testing.assert_allclose(c, expected, rtol=0, atol=slack(a))
        assert levels == (plan.method != "ring") == plan.levels
        assert received <= 1.3 * plan.words * a.itemsize + 512, "something was received twice"
        if comm.rank < layout.ranks:
            product = 2 * layout.rows(comm.rank).size * layout.columns(comm.rank).size * layout.inner(comm.rank).size
            assert 0.9 <= sum(done) / product <= 1.15, "something was multiplied twice"


@pytest.mark.parametrize("levels", [0, 1])
def test_one_copy_a_node_crosses_the_wire(comm, monkeypatch, levels):
    """Two ranks a node: a panel comes once to those of a grid row or column."""
    emulate_nodes(monkeypatch, 2)
    monkeypatch.setattr(machine, "free_shared_memory", lambda: 1 << 30)
    monkeypatch.setattr(cost, "WORTH_SHARING", 0)
    n = 16 * comm.size
    a, b = whole(n, n, n)
    for grid in grids(comm.size):
        i, j = coordinates(grid, comm.rank)
        job = problem(comm, a, b, grid, levels, Machine(ranks_per_node=2))
        before = traffic.bytes_received, traffic.bytes_shared
        assert multiplied(comm, job) == levels
        received, shared = traffic.bytes_received - before[0], traffic.bytes_shared - before[1]
        np.testing.assert_allclose(job.c, part(comm, a @ b, grid), rtol=0, atol=slack(a))
        node = comm.allgather(MPI.COMM_WORLD.rank // 2)
        lines = [[r for r in range(comm.size) if coordinates(grid, r)[axis] == (i, j)[axis]] for axis in (0, 1)]
        assert received == pytest.approx(8 * (n * n // comm.size) * sum(len(line) - 1 for line in lines), rel=0.3)
        wire = 0.0  # bytes that the nodes must receive: what no rank of a node owns, once for each of its lines
        for axis, block in ((0, a.nbytes), (1, b.nbytes)):
            for line in range(grid[axis]):
                ranks = [r for r in range(comm.size) if coordinates(grid, r)[axis] == line]
                there = [node[r] for r in ranks]
                wire += block / comm.size * sum(len(ranks) - there.count(x) for x in set(there))
        assert comm.allreduce(received - shared) == pytest.approx(wire, abs=100 * comm.size)


@pytest.mark.parametrize(
    ("shared", "ranks", "panels"), [(False, 1, 1), (False, 1, 5), (True, 7, 1), (True, 7, 2), (True, 2, 5)]
)
def test_panels_of_any_number_that_span_blocks(comm, panels, shared, ranks, monkeypatch):
    emulate_nodes(monkeypatch, ranks)
    m, k, n = 19, 43, 17
    a, b = whole(m, k, n)
    for grid in grids(comm.size):
        own = part(comm, a, grid), part(comm, b, grid)
        c = np.full((len(own[0]), own[1].shape[1]), np.nan)
        done = []
        work = LocalProducts(done.append, levels=1)
        blocks = Blocks(BlockLayout(m, n, k, (*grid, 1)), *own, c)
        wide_summa(comm, blocks, panels=panels, shared=shared, work=work)
        np.testing.assert_allclose(c, part(comm, a @ b, grid), rtol=0, atol=slack(a))
        assert c.size == 0 or 0.9 <= sum(done) / (2 * c.size * k) <= 1.15


def problem(comm, a, b, grid, levels, machine=None):
    (m, k), n = a.shape, b.shape[1]
    spec = Resolved(m=m, n=n, k=k, dtype=str(a.dtype), strassen=levels, seed=3)
    plan = cost.price(spec, "summa", grid, machine or Machine(ranks_per_node=comm.size), comm.size)
    c = np.zeros(part(comm, np.empty((m, n)), grid).shape, a.dtype)
    layout = BlockLayout(m, n, k, (*grid, 1))
    return driver.BlockProblem(layout, part(comm, a, grid), part(comm, b, grid), c, spec=spec, plan=plan)


def multiplied(comm, job):
    """Levels that made C, in ``job``."""
    return multiply(comm, job, job.plan, LocalProducts())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", [1, 2])
def test_the_error_is_measured_and_a_wrong_element_is_caught(comm, dtype, levels):
    fault = {"4": 1e-3, "8": 1e-5}[str(np.finfo(dtype).dtype.itemsize)]
    n = 16 * levels * comm.size + 3
    a, b = whole(n, n, n, dtype)
    for grid in [*grids(comm.size)][:2]:
        job = problem(comm, a, b, grid, levels)
        result = driver.run(comm, job, lambda _fraction: None)
        assert result.facts["strassen_levels"] == levels
        verdict = driver.verify(comm, job, result)
        assert verdict.right, verdict
        facts, unit = verdict.facts, np.finfo(dtype).eps / 2
        assert 0 < facts["error_measured"] < facts["error_classical_bound"] == n * unit
        assert 0 < facts["error_over_bound"] < 0.01
        assert facts["error_elements"] == min(32, n) ** 2
        assert f"Strassen, {levels} level" in verdict.lines[0]
        assert len(set(comm.allgather(verdict.reason))) == 1
        if job.c.size and comm.rank == comm.size - 1:
            job.c[-1, -1] += fault * np.linalg.norm((a @ b)[-1])
        wrong = driver.verify(comm, job, result)
        assert not wrong.right
        assert wrong.facts["rows_wrong"] == 1


def test_the_measured_error_is_that_of_the_worst_sampled_element(comm):
    a, b = whole(24, 40, 20)
    grid = [*grids(comm.size)][-1]
    c = part(comm, a @ b, grid) + 1e-10
    blocks = Blocks(BlockLayout(24, 20, 40, (*grid, 1)), part(comm, a, grid), part(comm, b, grid), c)
    found = measured(comm, blocks, levels=1, seed=1)
    assert found.measured == pytest.approx(1e-10 / (abs(a) @ abs(b)).min(), rel=1e-4)
    assert found.elements == 24 * 20
    assert found.over_bound == pytest.approx(1e-10 / found.bound, rel=1e-4)
    assert found.bound == pytest.approx(strassen_bound(40, 1, 2.0**-53) * abs(a).max() * abs(b).max())


def test_no_false_alarm_on_right_products():
    comm, rng = MPI.COMM_WORLD, np.random.default_rng(11)
    kinds = {
        "uniform": lambda *shape: rng.uniform(-1, 1, shape),
        "positive": lambda *shape: rng.uniform(0, 1, shape),
        "equal": lambda *shape: np.full(shape, rng.uniform(0, 1)),
        "wide": lambda *shape: rng.normal(size=shape) * 10.0 ** rng.integers(-9, 9, shape),
        "rows far apart": lambda *shape: rng.normal(size=shape) * 10.0 ** rng.integers(-9, 9, (shape[0], 1)),
        "sparse": lambda *shape: rng.normal(size=shape) * (rng.uniform(size=shape) < 0.1),
        "cancelling": lambda *shape: (
            np.repeat(rng.normal(size=(shape[0], 1)), shape[1], 1) * (-1) ** np.arange(shape[1])
        ),
    }
    for trial in range(160 // comm.size):
        dtype, levels = ("float32", "float64")[trial % 2], 1 + trial % 3
        m, k, n = rng.integers(32, 100, 3)
        make_a, make_b = (kinds[name] for name in rng.choice(list(kinds), 2))
        a, b = make_a(m, k).astype(dtype), make_b(k, n).astype(dtype)
        c = np.empty((m, n), dtype)
        strassen(a, b, c, levels=levels, accumulate=False, leaf=leaf)
        verdict = check_product(
            MPI.COMM_SELF, a, b, c, layout=BlockLayout(m, n, k, (1, 1, 1)), seed=trial, strassen=levels
        )
        assert verdict.right, (verdict, m, k, n, levels)


def test_rows_that_drown_in_the_error_are_told(comm):
    """Small rows beside large ones lose their digits; nobody may take them for checked."""
    a, b = whole(32 * comm.size, 32, 32)
    a[1::2] *= 1e-30
    job = problem(comm, a, b, (comm.size, 1), 1)
    verdict = driver.verify(comm, job, driver.run(comm, job, lambda _fraction: None))
    assert verdict.facts["rows_hidden"] == 16 * comm.size
    assert "unchecked" in verdict.reason


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e308])
def test_what_is_not_finite_is_multiplied_classically(comm, value):
    """Strassen's sums would carry it to rows and columns that have nothing to do with it, or overflow themselves."""
    a, b = whole(16 * comm.size, 32, 32)
    a[3, 5] = value
    if value == 1e308:
        a[11, 5] = -value  # of the same rank, half its rows further down: S3 overflows
    job = problem(comm, a, b, (comm.size, 1), 1)
    result = driver.run(comm, job, lambda _fraction: None)
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(job.c, part(comm, a @ b, (comm.size, 1)), rtol=1e-12, atol=1e-12)
    assert result.facts["strassen_levels"] == 0
    assert "its sums were not all finite" in result.lines[-1]
    assert driver.verify(comm, job, result).facts["elements_not_finite"] == (0 if value == 1e308 else 32)


def test_blocks_that_are_too_small_are_multiplied_classically(comm, monkeypatch):
    monkeypatch.setattr(cost, "LEAST_K", 1000)
    a, b = whole(40, 40, 40)
    job = problem(comm, a, b, (comm.size, 1), 2)
    result = driver.run(comm, job, lambda _fraction: None)
    assert result.facts["strassen_levels"] == 0
    assert "no level pays" in result.lines[-1]
    classical = problem(comm, a, b, (comm.size, 1), 0)
    assert multiplied(comm, classical) == 0
    assert np.array_equal(job.c, classical.c)


def test_levels_that_are_none_and_ranks_that_disagree_are_refused(comm):
    a, b = np.ones((2, 2 * comm.size)), np.ones((2, 3))
    with pytest.raises(InputError, match="levels from 0 to 4"):
        matmul(comm, a, b, strassen=5)
    if comm.size > 1:
        with pytest.raises(InputError, match="on rank 0"):
            matmul(comm, a, b, strassen=comm.rank)


@pytest.mark.parametrize("ranks", [1, 2, 4, 64])
def test_cost_counts_the_levels_and_their_memory(ranks, monkeypatch):
    monkeypatch.undo()
    sizes = {"m": 32768, "n": 32768, "k": 32768, "dtype": "float64"}
    there = Machine(ranks_per_node=1)
    plain, fast = (cost.price(Resolved(**sizes, strassen=s), "summa", (ranks, 1), there, ranks) for s in (0, 1))
    if ranks == 64:  # blocks of 512 rows are too small
        assert dataclasses.replace(fast, note="") == plain
        assert fast.note == "Strassen-Winograd: no level on this grid"
    else:
        assert fast.seconds < 0.95 * plain.seconds
        assert fast.memory > plain.memory
        assert fast.words == plain.words
        assert fast.note == "Strassen-Winograd: 1 level on this grid"
    ring = [cost.price(Resolved(**sizes, strassen=s), "ring", (ranks, 1), there, ranks) for s in (0, 1)]
    assert ring[0] == dataclasses.replace(ring[1], note=""), "a ring takes no level"
