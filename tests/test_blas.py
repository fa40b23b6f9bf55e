"""gemm against NumPy's product: every dtype, order, stride and size, by CBLAS and without it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcmpi import blas
from hpcmpi.blas import DTYPES, gemm, gemm_by_numpy


def without_cblas(a, b, c, *, accumulate=False):
    """gemm on a machine whose BLAS offers no CBLAS."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blas, "library", lambda: None)
        blas._cblas.cache_clear()
        gemm(a, b, c, accumulate=accumulate)
    blas._cblas.cache_clear()


ROUTINES = {"gemm": gemm, "gemm_by_numpy": gemm_by_numpy, "without cblas": without_cblas}


@pytest.fixture(params=ROUTINES)
def multiply(request):
    return ROUTINES[request.param]


def padded(shape, dtype, above, below, step):
    """A view of ``shape`` into a larger array: offset, with gaps between elements."""
    rows, columns = (above + step[d] * max(0, shape[d]) + below for d in range(2))
    whole = np.full((rows, columns), np.nan, dtype)
    return whole[above : above + step[0] * shape[0] : step[0], above : above + step[1] * shape[1] : step[1]]


LAYOUTS = {
    "C": np.empty,
    "Fortran": lambda shape, dtype: np.empty(shape, dtype, order="F"),
    "view": lambda shape, dtype: padded(shape, dtype, 3, 2, (1, 1)),
    "transposed view": lambda shape, dtype: padded(shape[::-1], dtype, 1, 4, (1, 1)).T,
    "every second row": lambda shape, dtype: padded(shape, dtype, 0, 1, (2, 1)),
    "every third column": lambda shape, dtype: padded(shape, dtype, 1, 0, (1, 3)),
    "both strided": lambda shape, dtype: padded(shape, dtype, 1, 1, (2, 3)),
    "rows backwards": lambda shape, dtype: np.empty(shape, dtype)[::-1],
    "columns backwards": lambda shape, dtype: np.empty(shape, dtype)[:, ::-1],
    "part of a record": lambda shape, dtype: np.empty(shape, [("x", dtype), ("y", dtype)])["y"],
    "unaligned": lambda shape, dtype: np.empty(shape, [("flag", "i1"), ("x", dtype)])["x"],
}


def draw(rng, shape, dtype):
    values = rng.uniform(-1, 1, shape) + (1j * rng.uniform(-1, 1, shape) if np.dtype(dtype).kind == "c" else 0)
    return values.astype(dtype)


def laid_out(layout, values):
    view = LAYOUTS[layout](values.shape, values.dtype)
    view[...] = values
    return view


def assert_multiplies(multiply, a, b, c):
    """Both ways of ``multiply``, on operands laid out as they are, into ``c`` as it is; nothing else changes."""
    product = a.astype(np.clongdouble) @ b.astype(np.clongdouble)
    slack = 4 * np.finfo(c.dtype).eps * (a.shape[1] + 2)
    kept = a.copy(), b.copy()
    whole = c if c.base is None else c.base
    c[...] = 7
    around = whole.copy()
    multiply(a, b, c, accumulate=True)
    np.testing.assert_allclose(c, product + 7, rtol=0, atol=slack)
    c[...] = np.nan
    multiply(a, b, c)
    np.testing.assert_allclose(c, product, rtol=0, atol=slack)
    c[...] = 7
    assert whole.tobytes() == around.tobytes(), "wrote beyond c"
    assert np.array_equal(a, kept[0])
    assert np.array_equal(b, kept[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout_a", LAYOUTS)
def test_operands_of_any_layout(multiply, layout_a, dtype):
    rng = np.random.default_rng(1)
    for layout_b, (m, k, n) in itertools.product(LAYOUTS, ((5, 7, 6), (1, 4, 3), (4, 1, 1))):
        a, b = laid_out(layout_a, draw(rng, (m, k), dtype)), laid_out(layout_b, draw(rng, (k, n), dtype))
        assert_multiplies(multiply, a, b, np.empty((m, n), dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout_c", LAYOUTS)
def test_products_of_any_layout(multiply, layout_c, dtype):
    rng = np.random.default_rng(2)
    for m, k, n in ((5, 7, 6), (1, 4, 3), (3, 4, 1), (1, 1, 1)):
        a, b = draw(rng, (m, k), dtype), laid_out("Fortran", draw(rng, (k, n), dtype))
        assert_multiplies(multiply, a, b, LAYOUTS[layout_c]((m, n), dtype))


@given(
    st.tuples(*[st.integers(0, 9)] * 3),
    st.tuples(*[st.sampled_from(list(LAYOUTS))] * 3),
    st.sampled_from(DTYPES),
    st.sampled_from(list(ROUTINES)),
    st.integers(0, 2**32 - 1),
)
def test_any_small_product(sizes, layouts, dtype, routine, seed):
    (m, k, n), rng = sizes, np.random.default_rng(seed)
    a, b = laid_out(layouts[0], draw(rng, (m, k), dtype)), laid_out(layouts[1], draw(rng, (k, n), dtype))
    assert_multiplies(ROUTINES[routine], a, b, LAYOUTS[layouts[2]]((m, n), dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n"), [(0, 0), (0, 5), (5, 0)])
def test_an_empty_product_is_left_alone(multiply, dtype, m, n):
    multiply(np.empty((m, 3), dtype), np.empty((3, n), dtype), np.empty((m, n), dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_empty_sum_is_zero_and_adds_nothing(multiply, dtype):
    c = np.full((4, 5), np.nan, dtype)
    multiply(np.empty((4, 0), dtype), np.empty((0, 5), dtype), c)
    assert np.array_equal(c, np.zeros((4, 5)))
    c[...] = 3
    multiply(np.empty((4, 0), dtype), np.empty((0, 5), dtype), c, accumulate=True)
    assert np.array_equal(c, np.full((4, 5), 3))


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_fresh_memory_holds_does_not_reach_the_product(multiply, dtype, garbage):
    for order in ("C", "F"):
        c = np.full((40, 30), garbage, dtype, order=order)
        multiply(np.ones((40, 20), dtype), np.ones((20, 30), dtype), c)
        assert np.array_equal(c, np.full((40, 30), 20))


@pytest.mark.parametrize("dtype", DTYPES)
def test_not_finite_elements_reach_their_rows_and_columns_and_no_others(multiply, dtype):
    a, b, c = np.ones((4, 3), dtype), np.ones((3, 5), dtype), np.zeros((4, 5), dtype)
    a[1, 2], b[0, 3] = np.nan, np.nan
    multiply(a, b, c, accumulate=True)
    expected = np.full((4, 5), 3.0)
    expected[1], expected[:, 3] = np.nan, np.nan
    assert np.array_equal(np.isnan(c), np.isnan(expected))
    assert np.array_equal(c[~np.isnan(c)], expected[~np.isnan(expected)])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_product_of_many_strips(monkeypatch, dtype):
    monkeypatch.setattr(blas, "_STRIP_BYTES", 1000)
    rng = np.random.default_rng(3)
    a, b = draw(rng, (101, 33), dtype), draw(rng, (33, 57), dtype)
    for layout in ("C", "Fortran", "both strided"):
        assert_multiplies(gemm_by_numpy, a, b, LAYOUTS[layout]((101, 57), dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_enough_for_threads_and_blocked_kernels(multiply, dtype):
    rng = np.random.default_rng(4)
    a, b = draw(rng, (300, 260), dtype), draw(rng, (260, 310), dtype)
    c = np.full((300, 310), np.nan, dtype)
    multiply(a, b, c)
    np.testing.assert_allclose(c, a @ b, rtol=0, atol=600 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_in_the_other_order_are_numbers_all_the_same(multiply, dtype):
    swapped = np.dtype(dtype).newbyteorder()
    rng = np.random.default_rng(5)
    a, b, c = (
        draw(rng, (4, 3), dtype).astype(swapped),
        draw(rng, (3, 5), dtype).astype(swapped),
        np.empty((4, 5), swapped),
    )
    assert_multiplies(multiply, a, b, c)


@pytest.mark.parametrize("dtype", DTYPES)
def test_operands_whose_rows_overlap_in_memory(multiply, dtype):
    rng = np.random.default_rng(6)
    windows = np.lib.stride_tricks.sliding_window_view(draw(rng, 12, dtype), 5)
    repeated = np.broadcast_to(draw(rng, 5, dtype), (8, 5))
    for a, b in itertools.product((windows, repeated), (windows[:5], windows[:5].T, repeated.T, repeated[:5])):
        assert_multiplies(multiply, a, b, np.empty((8, b.shape[1]), dtype))


def test_numpys_own_blas_is_found_here():
    handle, prefix, suffix, _ = blas.library()
    assert hasattr(handle, f"{prefix}zgemm{suffix}")
