"""reduce, sum, norm and dot on any number of ranks, against exact rational arithmetic and NumPy."""

from __future__ import annotations

import dataclasses
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

import hpcmpi
from hpcmpi import dot, generator, norm, reduce
from hpcmpi.algorithms.reduce import OPERATIONS, Params, driver
from hpcmpi.algorithms.reduce import exact_kernels as exact
from hpcmpi.algorithms.reduce.accumulator_kernels import DIGITS
from hpcmpi.algorithms.reduce.cost import plans
from hpcmpi.algorithms.reduce.lines import Layout, array_runs
from hpcmpi.algorithms.reduce.outcome import result_dtype
from hpcmpi.algorithms.reduce.product import run_nodes
from hpcmpi.algorithms.reduce.reduction import equal_bins
from hpcmpi.comm import traffic
from hpcmpi.errors import InputError
from hpcmpi.machine import Machine
from hpcmpi.partition import Range, block

N = 20_011
RANDOM = np.random.default_rng(5)
NORMAL = RANDOM.standard_normal(N)
SPREAD = RANDOM.uniform(-300, 300, N)
HARD = {
    "normal": NORMAL,
    "uniform": RANDOM.random(N) - 0.5,
    "large and small": np.concatenate([NORMAL * 1e16, NORMAL]),
    "cancelling": np.concatenate([NORMAL, -NORMAL, [1e-30]]),
    "log-normal": np.exp(10 * NORMAL),
    "any size": NORMAL * 10.0**SPREAD,
    "any size, sorted": np.sort(NORMAL * 10.0**SPREAD),
    "subnormal": NORMAL * 1e-320,
    "around the least normal": NORMAL * 10.0 ** RANDOM.uniform(-323, -290, N),
    "squares underflow": NORMAL * 10.0 ** RANDOM.uniform(-170, -140, N),
    "squares overflow": NORMAL * 1e300,
    "largest, cancelling": np.tile([1.7e308, -1.7e308, 1.0, 5e-324], N // 4),
    "zeros": np.zeros(N),
    "minus zeros": np.full(N, -0.0),
    "sparse": np.where(RANDOM.random(N) < 0.9, 0.0, NORMAL),
    "integers": RANDOM.integers(-(10**6), 10**6, N).astype(float),
    "one value": np.full(N, 0.1),
    "ties": 1 + RANDOM.integers(0, 4, N) * 2.0**-54,
    "sixty binades": NORMAL * 2.0 ** RANDOM.integers(-60, 1, N),
    "every block another size": np.repeat(2.0 ** np.arange(-1000, 1000, 400), 16_400) * RANDOM.random(82_000),
    "full bins": np.full(40_000, np.nextafter(2.0, 0)),  # as large as their binade holds, in blocks that are full
    "full second bins": np.full(40_000, 1 + 2.0**-49 - 2.0**-52),
    "full bins, odd exponents": np.tile(np.nextafter(2.0 ** np.arange(8), 0), 5_000),
    "mean 1e9": 1e9 + NORMAL,
    "few": NORMAL[:5],
}
DTYPES = ("f2", "f4", "f8", ">f8", "i1", "u1", "i2", "i4", "u4", "i8", "u8", "?", "c8", "c16")
NO_COMPLEX = ("prod", "min", "max", "argmin", "argmax", "histogram")


def rows_of(comm, array):
    return array[block(len(array), comm.size, comm.rank).slice].copy()


def rounded(number):
    """The float64 nearest to a rational number."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def root(number):
    """The float64 nearest to the square root of a rational number: floors, with a bit for what is left over."""
    whole, rest = divmod(number.numerator << 6000, number.denominator)
    floor = math.isqrt(whole)
    return rounded(Fraction(2 * floor + (rest != 0 or floor * floor != whole), 2 << 3000))


def moments(x, ddof):
    """Mean, variance, standard deviation and norm, each rounded once."""
    exact = [Fraction(number) for number in x.tolist()]
    total, squares, n = sum(exact), sum(number * number for number in exact), len(exact)
    variance = (squares - total * total / n) / (n - ddof)
    return rounded(total / n), rounded(variance), root(variance), root(squares)


def same(found, expected):
    """Equal bit for bit, or both NaN."""
    return np.array_equal(found, expected, equal_nan=np.asarray(found).dtype.kind in "fc")


def use_plain_loops(monkeypatch):
    """What a processor without wide registers runs."""
    for module in ("partial", "library"):
        monkeypatch.setattr(f"hpcmpi.algorithms.reduce.{module}.has_avx512", lambda: False)


@pytest.mark.parametrize("name", HARD)
def test_sums_are_those_of_fsum_however_the_numbers_are_dealt_out(name, monkeypatch):
    comm, x = MPI.COMM_WORLD, HARD[name]
    expected, shuffled = math.fsum(x), np.random.default_rng(7).permutation(x)
    lopsided = shuffled if comm.rank == comm.size - 1 else shuffled[:0]
    assert same(hpcmpi.sum(comm, rows_of(comm, x)), expected)
    assert same(hpcmpi.sum(comm, lopsided), expected)
    order = reduce(comm, rows_of(comm, shuffled), ["sum", "min", "argmax"])
    assert same(list(order.values()), [expected, x.min(), shuffled.argmax()])
    use_plain_loops(monkeypatch)
    assert same(hpcmpi.sum(comm, rows_of(comm, x[::-1])), expected)
    order = reduce(comm, rows_of(comm, shuffled), ["sum", "min", "argmax"])
    assert same(list(order.values()), [expected, x.min(), shuffled.argmax()])


def test_sums_on_the_users_communicator(comm):
    for x in (HARD["any size"], HARD["normal"]):
        assert hpcmpi.sum(comm, rows_of(comm, x)) == math.fsum(x)
        assert reduce(comm, rows_of(comm, x), "mean") == rounded(sum(map(Fraction, x.tolist())) / len(x))


@pytest.mark.parametrize("name", HARD)
def test_moments_and_products_are_rounded_once(name, monkeypatch):
    comm, x, ddof = MPI.COMM_WORLD, HARD[name][:2500].copy(), 1
    mine, y = rows_of(comm, x), np.random.default_rng(8).permutation(x)
    product = rounded(sum(Fraction(a) * Fraction(b) for a, b in zip(x.tolist(), y.tolist(), strict=True)))
    expected = [*moments(x, ddof), x.min(), x.max()]
    for _ in range(2):
        values = reduce(comm, mine, ["mean", "var", "std", "norm", "min", "max"], ddof=ddof)
        assert list(values.values()) == expected
        assert norm(comm, mine) == values["norm"]
        assert dot(comm, mine, rows_of(comm, y)) == product
        use_plain_loops(monkeypatch)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_operation_on_every_dtype_follows_numpy(comm, dtype):
    x = NORMAL[:3001] * 100
    a = (np.abs(x) if np.dtype(dtype).kind in "u?" else x).astype(dtype)
    if a.dtype.kind == "c":
        a = a * a.dtype.type(1 + 2j)
    ops = [
        op for op in OPERATIONS if op not in ("prod", "histogram") and not (a.dtype.kind == "c" and op in NO_COMPLEX)
    ]
    values = reduce(comm, rows_of(comm, a), ops)
    wide = a.astype({"f": "f8", "c": "c16"}.get(a.dtype.kind, a.dtype))
    for op in ops:
        assert values[op].dtype == result_dtype(op, a.dtype)
        if op in ("min", "max", "argmin", "argmax", "any", "all", "count-nonzero"):
            assert values[op] == getattr(np, op.replace("-", "_"))(a)
        else:
            expected = np.linalg.norm(wide) if op == "norm" else getattr(wide, op)()
            assert values[op].dtype == (np.float64 if op == "norm" and a.dtype.kind in "biu" else values[op].dtype)
            np.testing.assert_allclose(values[op], expected, rtol=2 * np.finfo(result_dtype("mean", a.dtype)).eps)


def test_tables_are_emptied_before_they_overflow():
    x = np.array([1e300, 1e-300, -3.0, 5e-324] * 100)
    bits, digits = x.view(np.uint64), np.zeros((1, DIGITS), np.int64)
    table, strip, filled = np.zeros((2048, 2), np.int64), np.empty(512, np.int64), 0
    for before, after in ((0, 400), (2**30, 0), (0, 400)):
        filled = exact._wide_sum(
            x, bits, bits[0], bits[3], digits[0], np.zeros(3, np.int64), table, strip, filled + before
        )
        assert filled == after
        assert table.any() == (after > 0)
    assert exact._empty_sums(table, digits[0], filled) == 0
    total = sum(int(digit) * Fraction(2) ** (32 * k - 2176) for k, digit in enumerate(digits[0]))
    assert total == 3 * sum(map(Fraction, x.tolist()))


def test_float32_is_rounded_from_the_exact_sum_and_not_twice(comm):
    x = np.array([2.0**24, 1.0, 2.0**-40], np.float32)  # half an ulp and a little: float64 loses the little
    assert hpcmpi.sum(comm, rows_of(comm, x)) == np.float32(2**24 + 2)
    many = (NORMAL * 1e4).astype(np.float32)
    assert hpcmpi.sum(comm, rows_of(comm, many)) == np.float32(math.fsum(many))


SPECIAL = [math.inf, -math.inf, math.nan, -math.nan, 0.0, -0.0, 1.5, -2.0, 1e308, 5e-324]


@settings(max_examples=15)
@given(st.lists(st.sampled_from(SPECIAL), min_size=1, max_size=9), st.integers(0, 2**32))
def test_nan_and_infinities_are_what_numpy_makes_of_them(special, seed):
    comm = MPI.COMM_WORLD
    random = np.random.default_rng(seed)
    x = random.permutation(np.concatenate([random.standard_normal(random.integers(0, 60)), special]))
    with np.errstate(all="ignore"):
        finite = np.isfinite(x).all()
        values = reduce(
            comm, rows_of(comm, x), ["sum", "mean", "var", "norm", "min", "max", "argmin", "argmax", "prod"]
        )
        for op in ("min", "max", "argmin", "argmax"):
            assert same(values[op], getattr(np, op)(x)), op
        if not finite:
            for op in ("sum", "mean", "var"):
                assert same(values[op], getattr(x, op)()), op
            assert same(values["norm"], np.sqrt((x * x).sum()))
        zeros, infinite = (x == 0).any(), np.isinf(x).any()
        product = (
            np.nan if np.isnan(x).any() or (zeros and infinite) else 0.0 if zeros else np.inf if infinite else None
        )
        if product is not None:
            assert same(np.abs(values["prod"]), product)
            assert np.isnan(product) or np.signbit(values["prod"]) == np.signbit(x).sum() % 2


@settings(max_examples=15)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=30),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=30),
)
def test_any_numbers(floats, integers):
    comm = MPI.COMM_WORLD
    x, k = np.array(floats, np.float64), np.array(integers, np.int64)
    assert same(hpcmpi.sum(comm, rows_of(comm, x)), rounded(sum(map(Fraction, floats))))
    assert same(norm(comm, rows_of(comm, x)), root(sum((Fraction(f) ** 2 for f in floats), Fraction(0))))
    assert same(norm(comm, rows_of(comm, k)), root(Fraction(sum(i * i for i in integers))))
    for numbers, dtype in ((k, np.int64), (k.astype(np.uint64), np.uint64)):
        total, limits = sum(map(int, numbers)), np.iinfo(dtype)
        if limits.min <= total <= limits.max:
            assert int(hpcmpi.sum(comm, rows_of(comm, numbers))) == total
        else:
            with pytest.raises(InputError, match="cannot hold"):
                hpcmpi.sum(comm, rows_of(comm, numbers))
        if len(numbers):
            exact = [Fraction(int(i)) for i in numbers]
            mean = sum(exact) / len(exact)
            values = reduce(comm, rows_of(comm, numbers), ["mean", "var", "min", "max"])
            assert same(values["mean"], rounded(mean))
            assert same(values["var"], rounded(sum((i - mean) ** 2 for i in exact) / len(exact)))
            assert (values["min"], values["max"]) == (numbers.min(), numbers.max())


def test_products_are_the_same_bits_on_any_number_of_ranks(comm):
    x = RANDOM_FACTORS
    alone = reduce(MPI.COMM_SELF, x, "prod")
    assert same(reduce(comm, rows_of(comm, x), "prod"), alone)
    lopsided = x if comm.rank == 0 else x[:0]
    assert same(reduce(comm, lopsided, "prod"), alone)
    exact = math.prod(map(Fraction, x.tolist()))
    assert abs(Fraction(float(alone)) / exact - 1) < len(x) * 2.0**-53


RANDOM_FACTORS = np.random.default_rng(11).uniform(0.5, 1.5, 1201) * np.where(np.arange(1201) % 7, 1, -1.02)


def test_products_overflow_only_where_the_result_does(comm):
    x = np.concatenate([np.full(90, 1e200), np.full(90, 1e-200), [3.0, 5e-324, 2.0**1000]])
    expected = math.prod(map(Fraction, x.tolist()))
    assert abs(Fraction(float(reduce(comm, rows_of(comm, x), "prod"))) / expected - 1) < 1e-12
    assert reduce(comm, rows_of(comm, x[:90]), "prod") == math.inf
    assert reduce(comm, rows_of(comm, x[90:180]), "prod") == 0
    k = np.array([3, -5, 7] * 7 + [1, -1] * 50)
    assert int(reduce(comm, rows_of(comm, k), "prod")) == math.prod(k.tolist())
    with pytest.raises(InputError, match="cannot hold"):
        reduce(comm, rows_of(comm, np.array([2**40, 2**40])), "prod")


INTEGER_PRODUCTS = [
    np.full(700, 3),
    np.full(2000, 2),
    np.full(2001, -2),
    np.full(1500, 255, np.uint8),
    np.full(70, -7, np.int8),
    np.array([2**32, 2**32], np.uint64),
    np.array([2**32 - 1, 2**32 + 1], np.uint64),
    np.array([2**32 - 1, 2**31]),
    np.array([2**32, 2**31]),
    np.array([-(2**32), 2**31]),
    np.array([*[2**40] * 40, 0]),
]


@pytest.mark.parametrize("k", INTEGER_PRODUCTS, ids=lambda k: f"{k[0]} ^ {len(k)} {k.dtype}")
def test_integer_products_are_right_or_refused(comm, k):
    expected, limits = math.prod(k.tolist()), np.iinfo(np.uint64 if k.dtype.kind == "u" else np.int64)
    columns = np.stack([k, np.ones_like(k)], axis=1)
    for array, axis in ((k, None), (columns, 0), (np.tile(k, (5, 1)), 1)):
        mine = rows_of(comm, array)
        if limits.min <= expected <= limits.max:
            found = np.atleast_1d(reduce(comm, mine, "prod", axis))
            assert set(found.tolist()) <= {expected, 1}
        else:
            with pytest.raises(InputError, match="cannot hold"):
                reduce(comm, mine, "prod", axis)


@given(st.integers(0, 5000), st.integers(0, 5000))
def test_nodes_of_the_tree_tile_a_run(start, size):
    nodes = run_nodes(start, start + size)
    ends = [(number << level, (number + 1) << level) for level, number in nodes]
    assert [a for a, _ in ends] + [start + size] == [start] + [b for _, b in ends]
    assert len(nodes) <= 2 * 13


AXIS_OPS = [op for op in OPERATIONS if op != "histogram"]


@pytest.mark.filterwarnings("ignore:.*empty slice:RuntimeWarning", "ignore:.*encountered:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:Degrees of freedom:RuntimeWarning")
@pytest.mark.parametrize("shape", [(37, 19, 5), (3, 4), (1, 1), (50, 1), (2, 40), (23, 0), (4, 2, 3, 5)])
def test_lines_along_any_axis(comm, shape):
    a = np.random.default_rng(3).standard_normal(shape)
    mine = rows_of(comm, a)
    for axis in range(-1, a.ndim):
        length = a.shape[axis]
        ops = [op for op in AXIS_OPS if length or op not in ("min", "max", "argmin", "argmax")]
        values = reduce(comm, mine, ops, axis)
        for op in ops:
            function = {"norm": np.linalg.norm, "count-nonzero": np.count_nonzero}.get(op) or getattr(np, op)
            expected = function(a, axis=axis)
            along = int(np.argmax(expected.shape)) if axis % a.ndim == 0 else 0
            expected = np.moveaxis(rows_of(comm, np.moveaxis(expected, along, 0)), 0, along)
            assert values[op].shape == expected.shape, (op, axis)
            np.testing.assert_allclose(values[op], expected, rtol=1e-13, atol=1e-14, err_msg=op)
        lines = np.moveaxis(a, axis, -1)
        if axis % a.ndim == 0 or not a.size:
            continue
        sums = np.array([math.fsum(line) for line in rows_of(comm, lines if axis != 0 else a).reshape(-1, length)])
        assert np.array_equal(values["sum"].reshape(-1), sums)


@pytest.mark.parametrize("dtype", ["f4", "i4", "i8", "u8", "c16", "?"])
def test_lines_of_other_dtypes(comm, dtype):
    a = np.abs(np.random.default_rng(4).standard_normal((29, 11)) * 50).astype(dtype)
    for axis in (0, 1):
        values = reduce(comm, rows_of(comm, a), ["sum", "mean", "norm", "var"], axis)
        for op, value in values.items():
            expected = np.linalg.norm(a, axis=axis) if op == "norm" else getattr(a, op)(axis=axis)
            np.testing.assert_allclose(value, rows_of(comm, expected), rtol=1e-6 if dtype == "f4" else 1e-13)


def test_strided_read_only_and_foreign_arrays(comm):
    x = rows_of(comm, NORMAL)
    spread = np.zeros((2, 3 * len(x)))
    spread[1, ::3] = x
    kept = x.copy()
    x.flags.writeable = False
    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float64)
    expected = math.fsum(NORMAL)
    for view in (spread[1, ::3], x, x.astype(">f8"), unaligned, x.reshape(-1, 1), np.asfortranarray(x[:, None])):
        assert hpcmpi.sum(comm, view) == expected
        assert reduce(comm, view, "sum") == expected
    assert dot(comm, spread[1, ::3], x) == dot(comm, kept, kept)
    assert np.array_equal(x, kept)


@pytest.mark.parametrize("bins", [1, 7, 1000])
def test_histograms_are_those_of_numpy(comm, bins):
    for x, limits in (
        (NORMAL, None),
        (NORMAL, (-1.0, 0.5)),
        (np.round(NORMAL, 1), (-3.0, 3.0)),
        (np.full(9, 2.0), None),
    ):
        counts, edges = reduce(comm, rows_of(comm, x), "histogram", bins=bins, range=limits)
        expected, expected_edges = np.histogram(x, bins, limits)
        assert np.array_equal(counts, expected)
        assert np.array_equal(edges, expected_edges)
    with_nan = np.where(NORMAL > 2, np.nan, NORMAL)
    counts, _edges = reduce(comm, rows_of(comm, with_nan), "histogram", range=(-2.0, 2.0))
    assert np.array_equal(counts, np.histogram(NORMAL[NORMAL <= 2], 10, (-2, 2))[0])
    with pytest.raises(InputError, match="range"):
        reduce(comm, rows_of(comm, with_nan), "histogram")


@pytest.mark.parametrize(
    ("x", "bins", "limits"),
    [
        (NORMAL, 10, (-1.7e308, 1.7e308)),
        (np.array([-1.7e308, 1.7e308]), 10, None),
        (np.array([1e16, 1e16 + 2, 1e16 + 4]), 10, None),
        (np.full(3, 1e300), 2, None),
    ],
)
def test_ranges_that_float64_cannot_cut_have_no_histogram(comm, x, bins, limits):
    with pytest.raises(InputError, match="too many bins for the data range"):
        reduce(comm, rows_of(comm, x), "histogram", bins=bins, range=limits)
    with np.errstate(all="ignore"):
        assert np.array_equal(equal_bins(1e16, 1e16 + 4, 2), np.histogram_bin_edges([], 2, (1e16, 1e16 + 4)))


def test_what_is_no_option_is_refused_by_all_ranks(comm):
    options = [
        {"ddof": 0.5},
        {"ddof": "1"},
        {"axis": 0.5},
        {"axis": 2},
        {"axis": ()},
        {"axis": (0, 0)},
        {"axis": (0, -2)},
        {"axis": (0, 2)},
        {"axis": [0, 1]},
        {"bins": 2.5},
        {"bins": 0},
        {"bins": [0.0, 1.0]},
        {"range": (-math.inf, math.inf)},
        {"range": (1.0,)},
        {"range": (2.0, 1.0)},
        {"range": (math.nan, 1.0)},
        {"range": 3},
    ]
    for wrong in options:
        for ranks in ("all", "last"):
            here = wrong if ranks == "all" or comm.rank == comm.size - 1 else {}
            name = next(iter(wrong))
            with pytest.raises(InputError, match=name):
                reduce(comm, np.ones((2, 3)), "var" if name in ("ddof", "axis") else "histogram", **here)
    comm.Barrier()


def test_options_may_be_numbers_of_any_kind(comm):
    mine = rows_of(comm, NORMAL[:60].reshape(20, 3))
    expected = reduce(comm, mine, ["var", "count-nonzero"], -1, ddof=1)
    found = reduce(comm, mine, ["var", "count_nonzero"], np.int64(1), ddof=1.0)
    assert list(found) == ["var", "count_nonzero"]
    assert [value.tobytes() for value in found.values()] == [value.tobytes() for value in expected.values()]
    assert reduce(comm, mine, "count_nonzero") == 60


def test_dtypes_are_compared_by_what_they_hold(comm):
    k = rows_of(comm, np.arange(10))
    for mixed in ("q", "l", ">i8"):
        mine = k.astype(mixed if comm.rank == 0 else "i8")
        assert hpcmpi.sum(comm, mine) == 45
        values = reduce(comm, mine, ["sum", "max", "argmax", "var", "prod"])
        assert values == {"sum": 45, "max": 9, "argmax": 9, "var": 8.25, "prod": 0}
    for mixed in (">f8", "f8"):
        mine = rows_of(comm, NORMAL).astype(mixed if comm.rank == 0 else "f8")
        assert reduce(comm, mine, "max") == NORMAL.max()


def test_nothing_at_all(comm):
    none = np.zeros((0, 3))
    values = reduce(comm, none, ["sum", "prod", "norm", "any", "all", "count-nonzero"])
    assert list(values.values()) == [0, 1, 0, False, True, 0]
    assert all(math.isnan(v) for v in reduce(comm, none, ["mean", "var", "std"]).values())
    assert hpcmpi.sum(comm, none) == dot(comm, none, none) == norm(comm, none) == 0
    for op in ("min", "argmax"):
        with pytest.raises(InputError, match="without elements"):
            reduce(comm, none, op)


def test_variances_of_too_few(comm):
    with np.errstate(all="ignore"):
        for numbers in ([3.0], [3.0, 4.0]):
            x = np.array(numbers)
            for ddof in (1, 2, 3):
                found = reduce(comm, rows_of(comm, x), "var", ddof=ddof)
                left = max(len(numbers) - ddof, 0)
                expected = np.float64(((x - x.mean()) ** 2).sum()) / left
                assert same(found, expected)


def test_fast_sums_are_close_to_the_exact_ones(comm):
    for x in (NORMAL, 1e9 + NORMAL, NORMAL.astype(np.float32), NORMAL + 1j * NORMAL[::-1]):
        ops = ["sum", "mean", "norm", "var", "std"]
        exact = reduce(comm, rows_of(comm, x), ops)
        fast = reduce(comm, rows_of(comm, x), ops, fast=True)
        for op in ops:
            scale = np.abs(x).sum() if op == "sum" else np.abs(x).max()
            np.testing.assert_allclose(
                fast[op], exact[op], rtol=1e-5 if x.dtype == np.float32 else 1e-10, atol=scale * 1e-12
            )


@pytest.mark.parametrize(
    ("ops", "change", "found"),
    [
        ("sum", lambda a: a.astype("U3"), "cannot reduce"),
        ("sum", lambda a: a.astype(np.longdouble), "cannot reduce"),
        ("min", lambda a: a.astype(complex), "real numbers"),
        ("median", lambda a: a, "median"),
        ((), lambda a: a, "operations"),
    ],
)
def test_what_cannot_be_reduced_is_refused_by_all_ranks(comm, ops, change, found):
    with pytest.raises(InputError, match=found):
        reduce(comm, change(np.ones(5)), ops)
    comm.Barrier()


def test_blocks_that_differ_are_refused_by_all_ranks(comm):
    if comm.size > 1:
        mine = np.ones((3, 2), np.float32 if comm.rank == 1 else np.float64)
        with pytest.raises(InputError, match="rank"):
            reduce(comm, mine, "sum")
        with pytest.raises(InputError, match="rank 1"):
            dot(comm, np.ones(3), np.ones(4 if comm.rank == 1 else 3))
        with pytest.raises(InputError, match="cannot reduce"):
            hpcmpi.sum(comm, np.ones(3, "U1" if comm.rank == 1 else "f8"))
        with pytest.raises(InputError, match="different dtypes"):
            norm(comm, np.ones(3, "c8" if comm.rank == 1 else "f8"))
    with pytest.raises(InputError, match="axis"):
        reduce(comm, np.ones((3, 2)), "sum", 2)


def test_all_that_adds_up_travels_in_one_message(comm):
    mine, sent = rows_of(comm, NORMAL), []
    for ops in (["sum"], ["sum", "var", "count-nonzero", "norm", "any"]):
        before = traffic.messages
        reduce(comm, mine, ops)
        sent.append(traffic.messages - before)
    assert sent[0] == sent[1]
    assert (sent[0] > 0) == (comm.size > 1)
    before = traffic.messages
    dot(comm, mine, mine)
    assert traffic.messages - before == (comm.size > 1)
    before = traffic.messages
    hpcmpi.sum(comm, mine)
    assert traffic.messages - before == (comm.size > 1)


# What the runner calls


def solved(comm, **options):
    params = driver.resolve(comm, Params(**options))
    driver.warm_up(params)
    plan = plans(params, comm.size, Machine())[0]
    problem = driver.prepare(comm, params, plan)
    return problem, driver.run(comm, problem, lambda _fraction: None)


CASES = [
    {"n": (5000,)},
    {"n": (70, 30), "axis": (0,)},
    {"n": (30, 8, 9), "axis": (1,)},
    {"n": (2, 900), "axis": (1,)},
    {"n": (2, 900)},
    {"n": (6, 2, 40), "axis": (2,), "dtype": "float32"},
    {"n": (3, 5, 700)},
    {"n": (30, 8, 9), "axis": (0, 2)},
    {"n": (3, 40, 9), "axis": (0, 1)},
    {"n": (5, 4, 30, 3), "axis": (-1, 1), "dtype": "float32"},
    {"n": (9, 70), "axis": (1, 0)},
]


def along_several(case):
    return len(case.get("axis", ())) > 1 and len(case["axis"]) < len(case["n"])


@pytest.mark.parametrize("case", CASES)
def test_streamed_answers_are_those_from_memory_and_both_are_verified(comm, case):
    ops = tuple(op for op in OPERATIONS if op != "histogram" or "axis" not in case)
    ops = tuple(op for op in ops if not (along_several(case) and op in ("argmin", "argmax")))
    found = {}
    for method, size in (("memory", 1 << 20), ("stream", 1 << 20), ("stream", 4096), ("stream", 800)):
        problem, result = solved(comm, op=ops, method=method, block=size, **case)
        verdict = driver.verify(comm, problem, result)
        assert verdict.right, verdict.reason
        values = {name: (a.start, a.shape, a.local.tobytes()) for name, a in result.arrays.items()}
        assert found.setdefault("first", values) == values


@given(st.lists(st.integers(0, 6), min_size=1, max_size=4), st.integers(1, 40), st.data())
def test_blocks_are_runs_of_bounded_length_that_tile_the_part(shape, longest, data):
    split = data.draw(st.integers(0, len(shape) - 1))
    part = tuple(Range(0, n) for n in shape)
    if shape[split]:
        part = (*part[:split], Range(shape[split] // 3, shape[split]), *part[split + 1 :])
    whole = np.arange(math.prod(shape)).reshape(shape)
    mine = whole[tuple(r.slice for r in part)]
    first_of = int(mine.flat[0]) if mine.size and split == 0 else 0
    found = []
    runs = array_runs(MPI.COMM_SELF, Layout(tuple(shape), None, split, part), lambda b: whole[at(b)], longest)
    for _done, first, values in runs:
        assert values.size <= longest
        assert first == first_of + sum(map(len, found))
        found.append(values.reshape(-1))
    assert np.array_equal(np.concatenate([np.zeros(0, int), *found]), mine.reshape(-1))


def at(box):
    return tuple(r.slice for r in box)


@pytest.mark.parametrize("beside", [0, 50, 1 << 19])
def test_any_box_of_a_generated_array_can_be_drawn(comm, beside, monkeypatch):
    monkeypatch.setattr(driver, "_BESIDE", beside)
    for shape in ((50,), (4, 9), (4, 5, 6), (3, 4, 2, 5)):
        params = Params(n=shape, dtype="float64", method="stream")
        problem = driver.prepare(comm, params, plans(params, comm.size, Machine())[0])
        whole = problem.fetch(comm, tuple(Range(0, n) for n in shape))
        rows = generator.uniform(1, Range(0, shape[0]), Range(0, math.prod(shape[1:])), np.float64)
        assert len(shape) == 1 or np.array_equal(whole.reshape(shape[0], -1), rows)
        for box in itertools.product(*([Range(0, n), Range(1, n - 1), Range(n, n)] for n in shape)):
            assert np.array_equal(problem.fetch(comm, box), whole[at(box)])


def test_the_same_bits_as_on_one_rank(comm):
    for case in CASES:
        places = ("argmin", "argmax") if along_several(case) else ()
        ops = tuple(op for op in OPERATIONS if op not in ("histogram", *places))
        _, alone = solved(MPI.COMM_SELF, op=ops, **case)
        _, together = solved(comm, op=ops, **case)
        for name, array in together.arrays.items():
            whole = alone.arrays[name].local
            place = tuple(slice(s, s + k) for s, k in zip(array.start, array.local.shape, strict=True))
            assert array.local.tobytes() == whole[place].tobytes(), (case, name)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("op", OPERATIONS)
def test_a_wrong_answer_is_found(comm, op, fast):
    problem, result = solved(comm, n=(4000,), op=(op, "sum"), fast=fast)
    assert driver.verify(comm, problem, result).right
    value = problem.answers.values[op]
    if value.dtype == bool:
        spoilt = ~value
    elif value.dtype.kind == "f":
        spoilt = value + max(abs(value), np.float64(5e-324)) * (
            1e-3 if fast else {"prod": 1e-9, "var": 2e-15, "std": 2e-15}.get(op, 4e-16)
        )
        spoilt = np.asarray(spoilt if spoilt != value else value + 1)
    else:
        spoilt = value + 1
    problem.answers.values[op] = spoilt
    verdict = driver.verify(comm, problem, result)
    assert not verdict.right
    assert f"{op} wrong" in verdict.reason


def test_a_lost_bit_is_found(comm):
    for case in ({"n": (4000,)}, {"n": (40, 9), "axis": (0,)}, {"n": (40, 9), "axis": (1,)}):
        problem, result = solved(comm, op=("sum", "norm"), **case)
        assert driver.verify(comm, problem, result).right
        problem.answers.seals = [(sums ^ np.uint64(1), squares) for sums, squares in problem.answers.seals]
        assert not driver.verify(comm, problem, result).right


def test_a_file_of_every_dtype(comm, tmp_path_factory):
    folder = comm.bcast(str(tmp_path_factory.mktemp("reduce")) if comm.rank == 0 else None)
    for dtype in ("f4", ">f8", "i8", "u2", "c8", "?"):
        a = np.abs(NORMAL[:990].reshape(33, 30) * 9).astype(dtype)
        if comm.rank == 0:
            np.save(f"{folder}/{dtype[-2:]}.npy", a)
        comm.Barrier()
        for method in ("memory", "stream"):
            ops = ("mean", "norm", "count-nonzero")
            problem, result = solved(
                comm, input=f"{folder}/{dtype[-2:]}.npy", op=ops, axis=(0,), method=method, block=999
            )
            assert driver.verify(comm, problem, result).right
            place = problem.answers.owned[0].slice
            np.testing.assert_allclose(result.arrays["mean"].local, a.mean(axis=0)[place], rtol=1e-6)
        comm.Barrier()


def test_costs_hold_what_the_array_takes():
    for ranks in (1, 3, 16):
        params = Params(n=(10**9,), op=("sum",), dtype="float64")
        memory, stream = plans(params, ranks, Machine())
        assert memory.memory >= 8 * 10**9 / ranks > stream.memory
        assert [plan.method for plan in plans(dataclasses.replace(params, method="stream"), ranks, Machine())] == [
            "stream"
        ]
