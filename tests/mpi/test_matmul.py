"""matmul on any number of ranks, against NumPy's product of the gathered blocks."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

from hpcmpi import generator, machine, matmul, matmul_layout
from hpcmpi.algorithms.matmul import DTYPES, Params, Resolved, cost, driver, library
from hpcmpi.algorithms.matmul.core import multiply
from hpcmpi.algorithms.matmul.cost import Buffers, lower_bound, plans, price
from hpcmpi.algorithms.matmul.freivalds import check_product
from hpcmpi.algorithms.matmul.layout import BlockLayout, Blocks
from hpcmpi.algorithms.matmul.panels import LocalProducts
from hpcmpi.algorithms.matmul.ring import ring
from hpcmpi.algorithms.matmul.summa import summa
from hpcmpi.comm import traffic
from hpcmpi.errors import InputError, UsageError
from hpcmpi.machine import Machine
from hpcmpi.partition import Range, block, grid_block, grids, grids_3d, three_dimensional

SHAPES = [(0, 0, 0), (5, 0, 3), (0, 4, 2), (3, 5, 0), (1, 1, 1), (2, 1, 3), (17, 13, 11), (64, 64, 64), (5, 130, 71)]


def whole(m, k, n, dtype, seed=1):
    """The same operands on every rank."""
    a = generator.uniform(seed, Range(0, m), Range(0, k), dtype, stream=0)
    b = generator.uniform(seed, Range(0, k), Range(0, n), dtype, stream=1)
    return a, b


def laid_out(a, b, grid):
    return BlockLayout(a.shape[0], b.shape[1], a.shape[1], three_dimensional(grid))


def cut(array, part):
    return array[part[0].slice, part[1].slice].copy()


def own(comm, a, b, grid):
    layout = laid_out(a, b, grid)
    return cut(a, layout.a(comm.rank)), cut(b, layout.b(comm.rank))


def assert_product(comm, c, a, b, grid):
    expected = cut(a @ b, laid_out(a, b, grid).c(comm.rank))
    assert c.shape == expected.shape
    assert c.dtype == expected.dtype
    slack = 8 * np.finfo(a.dtype).eps * max(1, a.shape[1])
    np.testing.assert_allclose(c, expected, rtol=0, atol=slack)


@pytest.mark.parametrize(
    ("dtype", "m", "k", "n"),
    [("float64", *shape) for shape in SHAPES] + [(dtype, 17, 13, 11) for dtype in DTYPES if dtype != "float64"],
)
def test_library_multiplies_on_every_grid(comm, dtype, m, k, n):
    a, b = whole(m, k, n, dtype)
    with_one_idle = grids_3d(max(1, comm.size - 1)) if dtype == "float64" else []
    for grid in [*grids(comm.size), *grids_3d(comm.size), *with_one_idle]:
        mine = own(comm, a, b, grid)
        kept = [x.copy() for x in mine]
        c = matmul(comm, *mine, grid=grid)
        assert_product(comm, c, a, b, grid)
        assert all(np.array_equal(x, y) for x, y in zip(mine, kept, strict=True)), "operands were modified"


@pytest.mark.parametrize(("width", "slots", "piece"), [(1, 3, 2), (3, 1, 1), (4, 2, 100), (1000, 16, 3)])
@pytest.mark.parametrize("threads", [True, False])
def test_methods_with_panels_buffers_and_pieces_of_any_size(comm, width, slots, piece, threads, monkeypatch):
    if not threads:
        monkeypatch.setattr(MPI, "Query_thread", lambda: MPI.THREAD_SINGLE)
    m, k, n = 19, 23, 13
    a, b = whole(m, k, n, np.float64)
    for grid in grids_3d(comm.size):
        layout, mine, found = laid_out(a, b, grid), own(comm, a, b, grid), []
        for shared in (False, True):
            c = np.full(cut(a @ b, layout.c(comm.rank)).shape, np.nan)
            room = Buffers(width, slots, 0, piece)
            summa(comm, Blocks(layout, *mine, c), room=room, shared=shared, work=LocalProducts())
            assert_product(comm, c, a, b, grid)
            found.append(c)
        np.testing.assert_array_equal(*found, err_msg="the order of the sums depends on the memory")
    rows = (comm.size, 1)
    c = np.full((own(comm, a, b, rows)[0].shape[0], n), np.nan)
    ring(comm, *own(comm, a, b, rows), c, k=k, width=width, work=LocalProducts())
    assert_product(comm, c, a, b, rows)


@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_cannon_multiplies_on_square_grids_and_refuses_others(comm, m, k, n):
    a, b = whole(m, k, n, np.complex64)
    side = math.isqrt(comm.size)
    if side**2 == comm.size:
        grid = (side, side)
        assert_product(comm, matmul(comm, *own(comm, a, b, grid), grid=grid, method="cannon"), a, b, grid)
    else:
        with pytest.raises(UsageError, match=f"square number of ranks, and there are {comm.size}"):
            plans(Resolved(m=m, k=k, n=n, dtype="complex64", method="cannon"), comm.size, Machine())
        rows = (comm.size, 1)
        with pytest.raises(
            InputError, match=rf"'cannon' cannot multiply blocks on a .*; it needs grid {side}x{side} on"
        ):
            matmul(comm, *own(comm, a, b, rows), grid=rows, method="cannon")


def test_default_layout_is_blocks_of_rows_and_out_is_reused(comm):
    a, b = whole(9, 10, 4, np.float32)
    rows = (comm.size, 1)
    held = grid_block(a.shape, rows, comm.rank), grid_block(b.shape, rows, comm.rank)
    out = np.full((held[0][0].size, 4), 7, np.float32)
    c = matmul(comm, cut(a, held[0]), cut(b, held[1]), out=out)
    assert c is out
    assert_product(comm, c, a, b, rows)


def test_transposed_and_strided_operands(comm):
    a, b = whole(12, 9, 7, np.complex128)
    for grid in grids_3d(comm.size):
        own_a, own_b = own(comm, a, b, grid)
        spread = np.zeros((own_b.shape[0], 2 * own_b.shape[1]), own_b.dtype)[:, ::2]
        spread[...] = own_b
        c = matmul(comm, np.ascontiguousarray(own_a.T).T, spread, grid=grid)
        assert_product(comm, c, a, b, grid)


def test_out_may_be_a_view_of_either_order_or_neither(comm):
    a, b = whole(12, 9, 7, np.float64)
    for grid in ((comm.size, 1), (1, 1, comm.size)):
        rows, columns = (r.size for r in laid_out(a, b, grid).c(comm.rank))
        for out in (
            np.empty((columns, rows)).T,
            np.empty((rows, columns + 5))[:, 2 : columns + 2],
            np.empty((2 * rows, 3 * columns))[::2, ::3],
        ):
            assert_product(comm, matmul(comm, *own(comm, a, b, grid), out=out, grid=grid), a, b, grid)


@given(m=st.integers(0, 40), k=st.integers(0, 40), n=st.integers(0, 40), seed=st.integers(0, 2**64 - 1))
@settings(max_examples=15)
def test_any_small_product_is_right_and_verified(m, k, n, seed):
    comm = MPI.COMM_WORLD
    a, b = whole(m, k, n, np.float64, seed)
    for grid in grids_3d(comm.size):
        mine = own(comm, a, b, grid)
        c = matmul(comm, *mine, grid=grid, method="3d")
        assert_product(comm, c, a, b, grid)
        assert check_product(comm, *mine, c, layout=laid_out(a, b, grid), seed=seed).right


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda _r, a, b: (a[0], b), r"rank 0: a has shape \(30,\) and b .*; both must have two dimensions"),
        (
            lambda _r, a, b: (a[:, 1:], b),
            r"rank \d: [ab] is \(\d+, \d+\); \(\d+, \d+\) is its block of 20 x 29 times 29 x 7",
        ),
        (lambda _r, a, b: (a, np.vstack([b, b])), r"rank 0: b is \(\d+, 7\); \(\d+, 7\) is its block of 20 x 30 times"),
        (lambda _r, a, b: (a.astype(int), b.astype(int)), "the operands' dtype is int64; one of float32, float64"),
        (lambda _r, a, b: (a.astype("U3"), b), "the operands' dtype is <U32; one of float32"),
    ],
)
def test_blocks_that_do_not_fit_raise_the_same_error_on_all_ranks(comm, spoil, told):
    a, b = whole(20, 30, 7, np.float64)
    rows = (comm.size, 1)
    bad = spoil(comm.rank, *own(comm, a, b, rows))
    with pytest.raises(InputError, match=told) as error:
        matmul(comm, *bad)
    assert len(set(comm.allgather(str(error.value)))) == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"grid": (8, 1)}, r"a grid of 8 x 1 has 8 ranks, and there are \d"),
        ({"grid": (1.9, 1)}, r"grid is \(1\.9, 1\); two or three whole numbers from 1 on are expected"),
        ({"grid": ()}, r"grid is \(\); two or three whole numbers"),
        ({"grid": "2x1"}, "grid is '2x1'; two or three whole numbers"),
        ({"grid": (0, 1)}, "0 x 1 is no grid"),
        ({"strassen": 9}, "strassen is 9; a number of levels from 0 to 4 is expected"),
        ({"strassen": -1}, "strassen is -1; a number of levels"),
        ({"strassen": 1.5}, r"strassen is 1\.5; a number of levels"),
        ({"strassen": "1"}, "strassen is '1'; a number of levels"),
        ({"method": "stream"}, "method is 'stream'; one of auto"),
        ({"out": [1]}, "out is .*a list, no array"),
    ],
)
def test_options_that_are_none_are_told_by_what_is_expected(comm, options, told):
    with pytest.raises(InputError, match=told):
        matmul(comm, np.ones((2, 2 * comm.size)), np.ones((2, 3)), **options)


@pytest.mark.parametrize(
    ("sizes", "dtype", "told"),
    [
        ((-4, 4, 4, 2), "float64", "m is -4; a whole number from 0 on is expected"),
        ((4, 4, 4, 0), "float64", "ranks is 0; a whole number from 1 on is expected"),
        ((4, 4.5, 4, 2), "float64", r"n is 4\.5; a whole number"),
        ((4, 4, 4, 2), "int64", "dtype is int64; one of float32"),
        ((4, 4, 4, 2), "number", "dtype is 'number'; one of float32"),
    ],
)
def test_layouts_of_nothing_are_refused(sizes, dtype, told):
    with pytest.raises(InputError, match=told):
        matmul_layout(*sizes, dtype=dtype)
    assert matmul_layout(4, 4, 4, 2, dtype=np.float32).grid == matmul_layout(4, 4, 4, 2, dtype="float32").grid


def test_the_gram_matrix_of_rows_and_the_way_to_it(comm):
    x = whole(7 * comm.size, 5, 1, np.float64)[0]
    mine = x[grid_block(x.shape, (comm.size, 1), comm.rank)[0].slice]
    c = matmul(comm, mine.T, mine, grid=(1, 1, comm.size))
    expected = (x.T @ x)[grid_block((5, 5), (comm.size, 1), comm.rank)[0].slice]
    np.testing.assert_allclose(c, expected, rtol=0, atol=1e-12)
    if comm.size > 1:
        with pytest.raises(InputError, match=rf"as of x\.T and x, are multiplied on grid=\(1, 1, {comm.size}\)"):
            matmul(comm, mine.T, mine)
        other = "float32" if comm.rank == 1 else "float64"
        with pytest.raises(InputError, match="rank 1: the operands' dtype is float32, but float64 on rank 0"):
            matmul(comm, np.ones((1, comm.size), other), np.ones((1, 2), other))


@pytest.mark.parametrize("dtype", ["float64", "complex64"])
@pytest.mark.parametrize("shared_memory", [0, 1 << 30])
def test_words_received_are_the_words_priced(comm, dtype, shared_memory, monkeypatch):
    monkeypatch.setattr(machine, "free_shared_memory", lambda: shared_memory)
    monkeypatch.setattr(cost, "WORTH_SHARING", 0)
    n = 4 * 3 * 7  # divisible by every number of ranks in use
    a, b = whole(n, n, n, dtype)
    for plan in plans(Resolved(n=n, m=n, k=n, dtype=dtype), comm.size, Machine()):
        if math.prod(plan.grid) < comm.size and dtype != "float64":
            continue
        before = traffic.bytes_received, traffic.bytes_shared
        matmul(comm, *own(comm, a, b, plan.grid), grid=plan.grid, method=plan.method)
        received, shared = traffic.bytes_received - before[0], traffic.bytes_shared - before[1]
        assert comm.allreduce(received, MPI.MAX) == pytest.approx(plan.words * a.itemsize)
        assert plan.words >= 0.999 * lower_bound(n, n, n, math.prod(plan.grid))
        if plan.method != "ring" and three_dimensional(plan.grid)[2] == 1:
            assert shared == (received if shared_memory else 0)


def test_cost_is_the_cheapest_plan_and_auto_takes_it():
    params = driver.resolve(MPI.COMM_WORLD, Params(n=512))
    ranked = plans(params, MPI.COMM_WORLD.size, Machine())
    assert ranked == sorted(ranked, key=lambda plan: plan.seconds)
    assert {plan.method for plan in ranked} == {"ring", "summa"} | ({"3d"} if MPI.COMM_WORLD.size > 1 else set())
    assert price(params, ranked[0].method, ranked[0].grid, Machine(), MPI.COMM_WORLD.size) == ranked[0]


def test_the_run_takes_the_panels_of_the_plan(comm):
    m, k, n, width = 19, 23, 13, 3
    a, b = whole(m, k, n, np.float64)
    rows = (comm.size, 1)
    plan = price(Resolved(m=m, n=n, k=k, dtype="float64"), "summa", rows, Machine(), comm.size)
    plan = dataclasses.replace(plan, room=Buffers(width, 2, 0, 5), shared=False)
    c, done = np.empty((own(comm, a, b, rows)[0].shape[0], n)), []
    multiply(comm, Blocks(laid_out(a, b, rows), *own(comm, a, b, rows), c), plan, LocalProducts(done.append))
    assert_product(comm, c, a, b, rows)
    assert len(done) == sum(-(-block(k, comm.size, rank).size // width) for rank in range(comm.size))


def test_the_headers_of_files_are_read_once(comm, monkeypatch, tmp_path_factory):
    folder = Path(comm.bcast(str(tmp_path_factory.mktemp("operands"))))
    a, b = whole(9, 8, 7, np.float64)
    if comm.rank == 0:
        np.save(folder / "a.npy", a)
        np.save(folder / "b.npy", b.T)
    comm.barrier()
    opened, open_source = [], driver.open_source
    monkeypatch.setattr(
        driver, "open_source", lambda comm, where, ndim: opened.append(where) or open_source(comm, where, ndim=ndim)
    )
    spec = driver.resolve(comm, Params(a=str(folder / "a.npy"), b=str(folder / "b.npy"), transpose_b=True))
    assert (spec.m, spec.n, spec.k, spec.dtype) == (9, 7, 8, "float64")
    for plan in plans(spec, comm.size, Machine())[:2]:
        problem = driver.prepare(comm, spec, plan)
        driver.run(comm, problem, lambda _fraction: None)
        assert_product(comm, problem.c, a, b, plan.grid)
    assert opened == [spec.a, spec.b]
    comm.barrier()


@pytest.fixture
def profile(monkeypatch, tmp_path):
    """Gives this rank a profile of such rates."""

    def save(**rates):
        monkeypatch.setenv("HPCMPI_MACHINE", str(tmp_path / "machine.json"))
        machine.save_profile(rates)

    return save


def test_the_library_prices_with_the_speeds_of_rank_0(comm, monkeypatch, profile):
    profile(latency=1.0 + comm.rank, flops=2e9 + comm.rank)
    taken = []
    monkeypatch.setattr(library, "multiply", lambda _comm, _blocks, plan, _work: taken.append(plan))
    n = 24 * comm.size
    a, b = (np.ones((n // comm.size, n)) for _ in range(2))
    matmul(comm, a, b)
    there = Machine(ranks_per_node=comm.size, cores_per_node=comm.size, latency=1.0, flops=2e9)
    spec = Resolved(m=n, n=n, k=n, dtype="float64", grid=f"{comm.size}x1")
    assert taken == [plans(spec, comm.size, there)[0]]
    assert taken[0].seconds > 0.4 * (comm.size > 1), "half a message of a second"


def test_layouts_are_those_of_the_machine_that_is_given_or_else_measured(profile):
    slow, fast = Machine(bandwidth=1.0, latency=1e-9), Machine(bandwidth=1e15, latency=1e-9)
    sizes = 4096, 4096, 4096, 7
    assert matmul_layout(*sizes, machine=slow).ranks == 6
    assert matmul_layout(*sizes, machine=fast).ranks == 7
    profile(bandwidth=1.0, latency=1e-9)
    assert matmul_layout(*sizes).ranks == 6
    assert matmul_layout(*sizes, machine=fast).ranks == 7
    with pytest.raises(InputError, match=r"machine is 'fast'; a hpcmpi\.machine\.Machine is expected"):
        matmul_layout(*sizes, machine="fast")


def test_a_damaged_profile_is_reported_and_ignored(monkeypatch, tmp_path, caplog):
    (tmp_path / "damaged.json").write_text("{")
    monkeypatch.setenv("HPCMPI_MACHINE", str(tmp_path / "damaged.json"))
    sizes = 4096, 4096, 4096, 7
    for _ in range(2):
        assert matmul_layout(*sizes) == matmul_layout(*sizes, machine=Machine())
    (said,) = caplog.messages
    assert "damaged.json: is no readable profile" in said
    assert said.endswith("Costs are priced by default speeds")


def test_a_read_only_out_and_ranks_that_disagree_are_refused_on_all_ranks(comm):
    a = np.ones((2, 2 * comm.size))
    b = np.ones((2, 3))
    out = np.zeros((2, 3))
    out.flags.writeable = False
    with pytest.raises(InputError, match="read-only"):
        matmul(comm, a, b, out=out)
    if comm.size > 1:
        with pytest.raises(InputError, match="on rank 0"):
            matmul(comm, a, b, method="ring" if comm.rank else "summa")


def test_an_out_that_overlaps_an_operand_is_refused_on_all_ranks(comm):
    a, b = np.ones((2, 2 * comm.size)), np.ones((2, 2 * comm.size))
    with pytest.raises(InputError, match="overlapping"):
        matmul(comm, a, b, out=b if comm.rank == 0 else None)
    both = np.ones((2, 4 * comm.size))  # whose halves interleave in memory, and have no element in common
    c = matmul(comm, both[:, : 2 * comm.size], b, out=both[:, 2 * comm.size :])
    np.testing.assert_array_equal(both, np.hstack([a, np.full_like(a, 2 * comm.size)]))
    assert c.base is both


@pytest.mark.parametrize(("m", "n", "k"), [(2, 50_000, 1), (50_000, 2, 1), (1000, 1000, 3)])
def test_panels_are_no_wider_than_the_inner_dimension(m, n, k):
    for plan in plans(Resolved(m=m, n=n, k=k, dtype="float64"), 2, Machine()):
        share = 8 * (m * n / 2 + m * k + n * k)
        buffers = 8 * 3 * k * (m + n) + 8 * m * n * (plan.method == "3d") + 3 * 8 * (1 << 19)
        assert plan.memory <= share + buffers + 24 * 8 * (m + n + k) + (48 << 20)


def test_messages_of_the_caller_are_left_alone(comm):
    mine = np.zeros(1)
    pending = comm.Irecv(mine, MPI.ANY_SOURCE, MPI.ANY_TAG)
    n = comm.size
    c = matmul(comm, np.ones((1, n)), np.ones((1, 4)))
    assert np.array_equal(c, np.full((1, 4), float(n)))
    comm.Isend(np.array([7.0]), (comm.rank + 1) % n).Wait()
    pending.Wait()
    assert mine[0] == 7.0
