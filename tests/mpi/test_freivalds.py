"""The check of a product: sees a single wrong element, never cries wolf, and knows what is not finite."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

from hpcmpi import generator
from hpcmpi.algorithms.matmul.freivalds import check_product, tolerance, weights
from hpcmpi.algorithms.matmul.layout import BlockLayout
from hpcmpi.partition import Range, grids_3d, three_dimensional

FINEST = {"float32": 1e-4, "complex64": 1e-4, "float64": 1e-6, "complex128": 1e-6}


def judge(comm, a, b, c, grid, seed=1):
    """Verdict on whole matrices that every rank holds."""
    k, n = b.shape
    layout = BlockLayout(len(a), n, k, three_dimensional(grid))
    parts = ((a, layout.a), (b, layout.b), (c, layout.c))
    own = [x[tuple(r.slice for r in part(comm.rank))].copy() for x, part in parts]
    verdict = check_product(comm, *own, layout=layout, seed=seed)
    assert len(set(comm.allgather((verdict.right, verdict.reason)))) == 1, "the ranks disagree"
    return verdict


def operands(m, k, n, dtype, seed=1):
    return (
        generator.uniform(seed, Range(0, m), Range(0, k), dtype, stream=0),
        generator.uniform(seed, Range(0, k), Range(0, n), dtype, stream=1),
    )


def test_weights_lie_on_a_sphere_and_average_out():
    x = weights(3, Range(0, 20_000))
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), np.sqrt(3), rtol=1e-12)
    np.testing.assert_allclose(x.T @ x / len(x), np.eye(3), atol=0.05)
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=0.05)
    assert np.array_equal(weights(3, Range(100, 200)), x[100:200])


@pytest.mark.parametrize("dtype", FINEST)
@pytest.mark.parametrize(("m", "k", "n"), [(3, 1, 5), (40, 30, 20), (7, 3000, 9), (2, 16, 4000)])
def test_one_wrong_element_is_caught(comm, dtype, m, k, n):
    rng = np.random.default_rng(5)
    for trial in range(4):
        a, b = operands(m, k, n, dtype, seed=trial)
        right = a @ b
        grid = list(grids_3d(comm.size))[trial % len(list(grids_3d(comm.size)))]
        assert judge(comm, a, b, right, grid, seed=trial).right
        row, column = rng.integers(m), rng.integers(n)
        for direction in (1, -1j) if right.dtype.kind == "c" else (1, -1):
            wrong = right.copy()
            wrong[row, column] += direction * FINEST[dtype] * np.linalg.norm(right[row].astype(np.complex128))
            verdict = judge(comm, a, b, wrong, grid, seed=trial)
            assert not verdict.right
            assert verdict.facts["rows_wrong"] == 1


@pytest.mark.parametrize("dtype", FINEST)
def test_no_false_alarm_on_right_products(dtype):
    """A thousand small ones (of which each number of ranks takes its share), of many kinds."""
    comm, rng = MPI.COMM_WORLD, np.random.default_rng(11)
    kinds = {
        "uniform": lambda *shape: rng.uniform(-1, 1, shape),
        "positive": lambda *shape: rng.uniform(0, 1, shape),
        "equal": lambda *shape: np.full(shape, rng.uniform(0, 1)),
        "wide": lambda *shape: rng.normal(size=shape) * 10.0 ** rng.integers(-12, 12, shape),
        "rows far apart": lambda *shape: rng.normal(size=shape) * 10.0 ** rng.integers(-15, 15, (shape[0], 1)),
        "sparse": lambda *shape: rng.normal(size=shape) * (rng.uniform(size=shape) < 0.1),
        "integers": lambda *shape: rng.integers(-9, 9, shape).astype(float),
        "cancelling": lambda *shape: (
            np.repeat(rng.normal(size=(shape[0], 1)), shape[1], 1) * (-1) ** np.arange(shape[1])
        ),
    }
    worst = 0.0
    for trial in range(1000 // 4 // comm.size):
        m, k, n = rng.integers(1, 70, 3)
        make_a, make_b = (kinds[name] for name in rng.choice(list(kinds), 2))
        a, b = make_a(m, k).astype(dtype), make_b(k, n).astype(dtype)
        if a.dtype.kind == "c":
            a, b = a * np.exp(1j * rng.uniform(0, 7)).astype(dtype), b * np.exp(1j).astype(dtype)
        grid = list(grids_3d(comm.size))[trial % len(list(grids_3d(comm.size)))]
        verdict = judge(comm, a, b, a @ b, grid, seed=trial)
        assert verdict.right, (verdict, m, k, n)
        worst = max(worst, verdict.facts["residual_worst"] / verdict.facts["residual_allowed"])
    assert worst < 0.5, "the tolerance has no room to spare"


@pytest.mark.parametrize("value", [0.1, 1 / 3, 0.7, 1 + 2**-20])
def test_no_false_alarm_where_all_rounding_errors_agree(value):
    comm = MPI.COMM_WORLD
    a = np.full((3, 5000), value, np.float32)
    b = np.full((5000, 4), value, np.float32)
    assert judge(comm, a, b, a @ b, (comm.size, 1)).right


@pytest.mark.parametrize("scale", [1e-160, 1e-100, 1e100, 1e150])
def test_numbers_whose_squares_leave_the_range(comm, scale):
    a, b = operands(9, 8, 7, np.float64)
    a, b = a * scale, b * (scale if abs(np.log10(scale)) < 150 else 1 / scale)
    right = a @ b
    for grid in grids_3d(comm.size):
        assert judge(comm, a, b, right, grid).right
        wrong = right.copy()
        wrong[3, 4] += 1e-6 * np.linalg.norm(right[3] / right.max()) * right.max()
        assert not judge(comm, a, b, wrong, grid).right


def test_rows_of_very_different_size_are_judged_each_by_its_own(comm):
    a, b = operands(12, 8, 7, np.float64)
    a *= 10.0 ** np.linspace(-200, 200, 12)[:, None]
    right = a @ b
    for grid in grids_3d(comm.size):
        assert judge(comm, a, b, right, grid).right
        for row in (0, 5, 11):
            wrong = right.copy()
            wrong[row, 2] *= 1 + 1e-5
            assert judge(comm, a, b, wrong, grid).facts["rows_wrong"] == 1


def test_a_lost_update_a_swapped_row_and_a_zero_block_are_caught(comm):
    a, b = operands(20, 10, 12, np.float64)
    right = a @ b
    for grid in grids_3d(comm.size):
        missing = right - np.outer(a[:, 4], b[4])
        assert judge(comm, a, b, missing, grid).facts["rows_wrong"] == 20
        swapped = right.copy()
        swapped[[2, 9]] = swapped[[9, 2]]
        assert judge(comm, a, b, swapped, grid).facts["rows_wrong"] == 2
        assert not judge(comm, a, b, np.zeros_like(right), grid).right


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_not_finite_input_is_computed_counted_and_still_checked(comm, dtype, odd):
    a, b = operands(9, 8, 7, dtype)
    a[3, 2] = odd
    b[1, 5] = odd
    with np.errstate(invalid="ignore"):
        right = a @ b
    for grid in grids_3d(comm.size):
        verdict = judge(comm, a, b, right, grid)
        assert verdict.right
        assert verdict.facts["elements_not_finite"] == 7 + 9 - 1
        assert "1 rows of A and 1 columns of B" in verdict.reason
        for row, column, value in ((0, 0, odd), (3, 1, 1.0), (6, 5, 0.0), (7, 2, right[7, 2] * 1.01)):
            wrong = right.copy()
            wrong[row, column] = value
            assert not judge(comm, a, b, wrong, grid).right, (row, column)


@pytest.mark.parametrize("bit", range(0, 63, 2))
def test_a_flipped_bit_above_the_rounding_errors_is_caught(comm, bit):
    a, b = operands(9, 8, 7, np.float64)
    right = a @ b
    wrong = right.copy()
    wrong.view(np.int64)[4, 3] ^= 1 << bit
    expected = not abs(wrong[4, 3] - right[4, 3]) < 1e-13
    for grid in grids_3d(comm.size):
        assert judge(comm, a, b, wrong, grid).right != expected or bit < 20


def test_a_nan_out_of_nowhere_is_wrong(comm):
    a, b = operands(9, 8, 7, np.float64)
    wrong = a @ b
    wrong[4, 4] = np.nan
    for grid in grids_3d(comm.size):
        verdict = judge(comm, a, b, wrong, grid)
        assert not verdict.right
        assert "no input" in verdict.reason


def test_overflow_is_counted_and_not_called_wrong(comm):
    a = np.full((4, 6), 1e30, np.float32)
    b = np.full((6, 5), 1e30, np.float32)
    a[0] = 1
    with np.errstate(over="ignore"):
        c = a @ b
    for grid in grids_3d(comm.size):
        verdict = judge(comm, a, b, c, grid)
        assert verdict.right
        assert "overflow in 3 rows" in verdict.reason


def test_underflow_is_not_called_wrong(comm):
    a = np.full((4, 6), 1e-30, np.float32)
    for grid in grids_3d(comm.size):
        assert judge(comm, a, a.T.copy(), np.zeros((4, 4), np.float32), grid).right


def test_tolerance_leaves_room_for_the_promised_faults():
    for dtype, fault in FINEST.items():
        assert tolerance(np.dtype(dtype), k=65_536, n=65_536) < fault
