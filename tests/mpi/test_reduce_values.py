"""Values that reductions owe to their dtype: overflow, edges of histograms, elements that are left out."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

from hpcmpi import reduce
from hpcmpi.algorithms.reduce import reduction
from hpcmpi.algorithms.reduce.check import check
from hpcmpi.algorithms.reduce.lines import Layout
from hpcmpi.algorithms.reduce.reduction import Request, Work, evaluate
from hpcmpi.errors import InputError
from hpcmpi.partition import Range, block


def judged(comm, a, request, axis=None, split=0, spoil=lambda _values: None, block_elements=1000):
    """Answers to ``request`` about ``a``, dealt along dimension ``split``, and the verdict on them."""
    part = tuple(block(n, comm.size, comm.rank) if d == split else Range(0, n) for d, n in enumerate(a.shape))
    axes = (axis,) if isinstance(axis, int) else axis
    layout = Layout(a.shape, axes, split, part)
    work = Work(lambda box: a[tuple(r.slice for r in box)], 2, block_elements)
    answers = evaluate(comm, layout, a.dtype, request, work, sealed=True)
    spoil(answers.values)
    return answers, check(comm, layout, a.dtype, request, work, answers)


OVERFLOWING = {
    "float32 sum": (np.full(30, 3e38, "f4"), "sum", np.inf),
    "float32 negative sum": (np.full(30, -3e38, "f4"), "sum", -np.inf),
    "float32 norm": (np.full(30, 3e38, "f4"), "norm", np.inf),
    "float32 var": (np.array([0, 1e30, 1e30, 1e30] * 5, "f4"), "var", np.inf),
    "float16 sum": (np.ones(70_000, "f2"), "sum", np.inf),
    "float16 norm": (np.full(40, 6e4, "f2"), "norm", np.inf),
    "float16 std is in range": (np.tile(np.array([6e4, -6e4], "f2"), 50), "std", 6e4),
    "float16 var": (np.tile(np.array([6e4, -6e4], "f2"), 50), "var", np.inf),
    "float16 mean is in range": (np.full(70_000, 60_000, "f2"), "mean", 60_000),
    "the largest float16": (np.array([65_504, 15.5], "f2"), "sum", 65_504),
    "half a unit above it": (np.array([65_504, 16], "f2"), "sum", np.inf),
    "float32 product": (np.full(30, 1e30, "f4"), "prod", np.inf),
    "complex64 real part": (np.full(30, 3e38 + 1j, "c8"), "sum", complex(np.inf, 30)),
    "complex64 imaginary part": (np.full(30, 1 - 3e38j, "c8"), "sum", complex(30, -np.inf)),
    "complex64 norm": (np.full(30, 3e38 + 1j, "c8"), "norm", np.inf),
    "float64 sum": (np.full(30, 1.7e308), "sum", np.inf),
}


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("name", OVERFLOWING)
def test_what_overflows_is_infinite_and_verified(comm, name, fast):
    a, op, expected = OVERFLOWING[name]
    answers, verdict = judged(comm, a, Request((op,), fast=fast))
    assert answers.values[op] == expected
    assert verdict.right, verdict.reason
    columns = np.stack([a, np.ones_like(a)], axis=1)
    answers, verdict = judged(comm, columns, Request((op,), fast=fast), axis=0, split=1)
    assert verdict.right, verdict.reason
    assert all(value == expected for value in answers.values[op][: int(block(2, comm.size, comm.rank).start == 0)])


@pytest.mark.parametrize(("dtype", "large"), [("f2", 3e4), ("f4", 1e38), ("c8", 1e38)])
@pytest.mark.parametrize("op", ["sum", "norm", "mean", "var", "std"])
def test_an_infinity_that_no_overflow_explains_is_found(comm, dtype, large, op):
    def spoil(values):
        values[op] = np.full_like(values[op], np.inf)

    # Means and deviations are always in range; the sum, norm and variance of this are only just.
    a = np.array([large, large / 2, *[0] * 30], dtype) if op != "var" else np.array([large**0.5, *[0] * 31], dtype)
    answers, verdict = judged(comm, a, Request((op,)), spoil=spoil)
    assert not verdict.right, answers.values


@pytest.mark.parametrize("op", ["sum", "norm"])
def test_a_number_in_place_of_an_infinity_is_found(comm, op):
    def spoil(values):
        values[op] = np.full_like(values[op], np.finfo("f4").max)

    _answers, verdict = judged(comm, np.full(30, 3e38, "f4"), Request((op,)), spoil=spoil)
    assert not verdict.right


DECIMALS = np.random.default_rng(0).random(3000)
HISTOGRAMS = {
    "two decimals": (np.round(DECIMALS, 2), 10, (0, 1)),
    "one decimal": (np.round(DECIMALS, 1), 10, (0, 1)),
    "its own range": (np.round(DECIMALS, 1), 7, None),
    "one bin": (np.round(DECIMALS, 1), 1, (0, 1)),
    "all on edges": (np.arange(11) / 10, 10, (0, 1)),
    "outside and NaN": (np.where(DECIMALS < 0.1, np.nan, np.round(3 * DECIMALS, 1)), 30, (0.1, 2.1)),
    "one value": (np.full(20, 0.3), 3, None),
    "an empty range": (np.round(DECIMALS, 1), 4, (0.3, 0.3)),
    "nothing": (np.zeros(0), 5, None),
    "negative": (np.round(DECIMALS, 1) - 0.5, 9, (-0.5, 0.5)),
    "as NumPy's scalars": (np.round(DECIMALS, 1), 10, (np.float64(0), np.float64(1))),
}


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4"])
@pytest.mark.parametrize("name", HISTOGRAMS)
def test_histograms_of_floats_are_numpys(comm, name, dtype):
    numbers, bins, limits = HISTOGRAMS[name]
    a = numbers.astype(dtype)
    counts, edges = np.histogram(a.astype(a.dtype.newbyteorder("=")), bins, limits)
    mine = a[block(len(a), comm.size, comm.rank).slice]
    found, found_edges = reduce(comm, mine, "histogram", bins=bins, range=limits)
    assert np.array_equal(found, counts)
    assert found_edges.dtype == edges.dtype
    assert np.array_equal(found_edges, edges)
    answers, verdict = judged(comm, a, Request(("histogram",), bins=bins, range=limits))
    assert np.array_equal(answers.values["histogram"], counts)
    assert verdict.right, verdict.reason


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "i4", "u8", "i8"])
def test_histograms_of_integers_are_numpys(comm, dtype):
    about = np.iinfo(dtype if dtype != "?" else "u1")
    wide = np.random.default_rng(1).integers(about.min, about.max, 500, about.dtype, endpoint=True).astype(dtype)
    for limits in (None, (0.0, 100.0), (-20, 20.5)):
        counts, edges = np.histogram(wide if dtype != "?" else wide.astype("u1"), 10, limits)
        mine = wide[block(len(wide), comm.size, comm.rank).slice]
        found, found_edges = reduce(comm, mine, "histogram", range=limits)
        assert np.array_equal(found, counts)
        assert found_edges.dtype == edges.dtype == np.float64
        assert np.array_equal(found_edges, edges)
        assert judged(comm, wide, Request(("histogram",), range=limits))[1].right


def test_widths_of_histograms_at_the_ends_of_the_dtypes(comm):
    least = np.array([0, 5e-324, 1.5e-323])
    found, edges = reduce(comm, least if comm.rank == 0 else least[:0], "histogram", bins=3)
    assert found.tolist() == [1, 1, 1]
    assert edges.tolist() == [0, 5e-324, 1e-323, 1.5e-323]
    # NumPy has an IndexError here: the width of the range overflows float16.
    far = np.array([-60000, 60000, 0, 1], "f2")
    found, edges = reduce(comm, far if comm.rank == 0 else far[:0], "histogram", bins=4, range=(-60000, 60000))
    assert found.tolist() == [1, 0, 2, 1]
    assert edges.dtype == np.float16
    for bins, limits, dtype in ((10, (1, 1.0001), "f2"), (2, (0, 1e39), "f4"), (4, None, "f2")):
        with pytest.raises(InputError, match="too many bins"):
            reduce(comm, far.astype(dtype), "histogram", bins=bins, range=limits)


@pytest.mark.parametrize("limits", [None, (0.0, 1.0)])
def test_edges_that_are_not_numpys_are_found(comm, limits, monkeypatch):
    a = np.arange(5, dtype="f4")
    for spoilt in (lambda edges: edges.astype("f8"), lambda edges: edges + np.float32(1e-6)):
        with monkeypatch.context() as patch:
            patch.setattr(
                reduction, "equal_bins", lambda *args, spoilt=spoilt, made=reduction.equal_bins: spoilt(made(*args))
            )
            _answers, verdict = judged(comm, a, Request(("histogram",), range=limits))
        assert not verdict.right


AXES = [
    (0,),
    (1,),
    (2,),
    (3,),
    (0, 1),
    (1, 2),
    (2, 3),
    (0, 2),
    (1, 3),
    (0, 3),
    (0, 1, 2),
    (0, 1, 3),
    (0, 2, 3),
    (1, 2, 3),
]
FOUR = np.random.default_rng(9).integers(-9, 9, (5, 3, 6, 4))


@pytest.mark.parametrize("dtype", ["f8", "f4", "i8", "c16"])
@pytest.mark.parametrize("axes", [*AXES, (0, 1, 2, 3)])
def test_any_axes_give_what_numpy_gives(comm, axes, dtype):
    a = FOUR.astype(dtype)
    ops = ["sum", "mean", "var", "any", "count-nonzero", *([] if dtype == "c16" else ["max", "prod"])]
    mine = a[block(len(a), comm.size, comm.rank).slice]
    turned = tuple(axis - a.ndim if number % 2 else axis for number, axis in enumerate(axes[::-1]))
    values = reduce(comm, mine, ops, axis=turned)
    for op in ops:
        whole = getattr(np, op.replace("-", "_"))(a, axis=axes)
        if 0 not in axes:
            expected = whole[block(len(a), comm.size, comm.rank).slice]
        elif whole.ndim:
            longest = int(np.argmax(whole.shape))
            where = block(whole.shape[longest], comm.size, comm.rank).slice
            expected = whole[(*[slice(None)] * longest, where)]
        else:
            expected = whole
        np.testing.assert_allclose(values[op], expected, rtol=1e-6 if dtype == "f4" else 1e-14)
        assert np.shape(values[op]) == np.shape(expected)
        assert values[op].dtype == whole.dtype


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("block_elements", [7, 64, 10_000])
def test_streamed_blocks_along_any_axes_are_verified_and_the_same(comm, axes, block_elements):
    a = FOUR * 0.1
    ops = ("sum", "var", "prod", "max", "all")
    for split in range(a.ndim):
        if split in axes[1:]:
            ops = tuple(op for op in ops if op != "prod")  # whose factors come in order
        answers, verdict = judged(comm, a, Request(ops), axes, split, block_elements=block_elements)
        alone, _ = judged(MPI.COMM_SELF, a, Request(ops), axes, split)
        assert verdict.right, verdict.reason
        place = tuple(r.slice for r in answers.owned)
        assert all(np.array_equal(answers.values[op], alone.values[op][place]) for op in ops)


def test_places_along_several_axes_are_refused(comm):
    with pytest.raises(InputError, match="argmax along several dimensions"):
        reduce(comm, np.ones((2, 3, 4)), "argmax", axis=(0, 1))
    assert reduce(comm, np.ones((2, 3)) if comm.rank == 0 else np.zeros((1, 3)), "argmax", axis=(0, 1)) == 0


RANDOM = np.random.default_rng(12)
GAPS = np.where(RANDOM.random((40, 6, 5)) < 0.3, np.nan, RANDOM.standard_normal((40, 6, 5)))
GAPS[:, 2, 3] = np.nan  # a line of which nothing is left
NAN_FUNCTIONS = {
    "sum": np.nansum,
    "prod": np.nanprod,
    "min": np.nanmin,
    "max": np.nanmax,
    "mean": np.nanmean,
    "var": np.nanvar,
    "std": np.nanstd,
    "norm": lambda a, axis=None: np.sqrt(np.nansum(a * a, axis=axis)),
    "any": lambda a, axis=None: np.any(np.nan_to_num(a), axis=axis),
    "all": lambda a, axis=None: np.all(np.where(np.isnan(a), 1, a), axis=axis),
    "count-nonzero": lambda a, axis=None: np.count_nonzero(np.nan_to_num(a), axis=axis),
    "kept": lambda a, axis=None: np.count_nonzero(~np.isnan(a), axis=axis),
}


def left_out_as(kind, a):
    """``a`` with something else in place of NaN, and the options that leave it out."""
    if kind == "NaN":
        return a, {"nan_policy": "omit"}
    if kind == "NaN as fill value":
        return a, {"fill_value": float("nan")}
    if kind == "float32 fill value":
        return np.where(np.isnan(a), 9.96921e36, a).astype("f4"), {"fill_value": 9.96921e36}
    if kind == "both":
        return np.where(np.isnan(a) & (np.arange(a.shape[0]) % 2 == 0)[:, None, None], -999, a), {
            "fill_value": -999, "nan_policy": "omit",
        }  # fmt: skip
    return np.where(np.isnan(a), -128, np.round(a)).astype(kind), {"fill_value": -128}


@pytest.mark.filterwarnings("ignore:.*empty slice|Degrees of freedom|All-NaN|Mean of empty:RuntimeWarning")
@pytest.mark.parametrize("axes", [None, (0,), (1,), (2,), (0, 2), (0, 1)])
@pytest.mark.parametrize("kind", ["NaN", "NaN as fill value", "float32 fill value", "both", "i1", "i8"])
def test_what_is_left_out_is_left_out_as_by_numpys_nan_functions(comm, kind, axes):
    numbers = GAPS if kind[0] != "i" else np.where(np.isnan(GAPS), np.nan, np.round(GAPS))
    if kind[0] == "i":  # extremes of nothing are refused for integers
        numbers = numbers.copy()
        numbers[0] = numbers[:, 0] = numbers[:, :, 0] = 1
    a, options = left_out_as(kind, numbers)
    expected_of = numbers.astype("f4").astype("f8") if a.dtype == np.float32 else numbers
    ops = tuple(op for op in NAN_FUNCTIONS if op != "kept")
    for split in (0, 1):
        request = Request(tuple(op for op in ops if op != "prod" or split == 0 or axes == (2,)), **options)
        answers, verdict = judged(comm, a, request, axes, split, block_elements=61)
        assert verdict.right, verdict.reason
        alone, _ = judged(MPI.COMM_SELF, a, request, axes, split)
        for op, values in answers.values.items():
            expected = NAN_FUNCTIONS[op](expected_of, axis=axes)[tuple(r.slice for r in answers.owned)]
            rough = {"rtol": 2e-6 if a.dtype == np.float32 else 1e-12, "atol": 1e-30}
            np.testing.assert_allclose(values, expected, **rough, err_msg=f"{op} {split}")
            assert np.array_equal(values, alone.values[op][tuple(r.slice for r in answers.owned)], equal_nan=True)


@pytest.mark.parametrize("fast", [False, True])
def test_plain_sums_leave_out_too(comm, fast):
    a = np.where(np.isnan(GAPS), 1e36, 1e3 + GAPS)
    ops = ("sum", "mean", "var", "std", "norm")
    for axes in (None, (0,)):
        request = Request(ops, fast=fast, fill_value=1e36)
        answers, verdict = judged(comm, a, request, axes)
        assert verdict.right, verdict.reason
        place = tuple(r.slice for r in answers.owned)
        with np.errstate(all="ignore"):
            kept = np.ma.masked_equal(a, 1e36)
            for op in ("sum", "mean", "var"):
                expected = getattr(kept, op)(axis=axes)
                expected = np.ma.filled(expected, 0 if op == "sum" else np.nan)[place]
                np.testing.assert_allclose(answers.values[op], expected, rtol=1e-9)


@pytest.mark.parametrize("dtype", ["f8", "f4", "i4", "i8", "u8", "u1", "?"])
def test_places_are_those_of_the_whole_array(comm, dtype):
    a = np.tile(np.array([7, 0, 9, 7, 9, 1, 0, 8], dtype), 9)
    worst = {"f": np.inf, "i": 2**31 - 1, "u": 255, "b": True}[a.dtype.kind]
    left = a.dtype.type(0)
    extreme = np.full(
        9, worst, dtype
    )  # all that is kept is as extreme as can be, and what is left out stands before it
    extreme[:4] = left
    for mine in (a, extreme):
        kept = np.flatnonzero(mine != left)
        ops = ("argmin", "argmax", "min", "max")
        answers, verdict = judged(comm, mine, Request(ops, fill_value=left))
        assert verdict.right, verdict.reason
        assert answers.values["argmin"] == kept[mine[kept].argmin()]
        assert answers.values["argmax"] == kept[mine[kept].argmax()]
        assert answers.values["min"] == mine[kept].min()
        assert answers.values["max"] == mine[kept].max()


def test_histograms_leave_out_too(comm):
    a = np.array([1, 2, 3, -99, 2, -99, 5], "i2")
    for limits in (None, (0, 10)):
        answers, verdict = judged(comm, a, Request(("histogram",), bins=4, range=limits, fill_value=-99))
        counts, edges = np.histogram(a[a != -99], 4, limits)
        assert np.array_equal(answers.values["histogram"], counts)
        assert np.array_equal(answers.edges, edges)
        assert answers.values["kept"] == 5
        assert verdict.right, verdict.reason
    answers, verdict = judged(comm, np.full(4, np.nan), Request(("histogram",), bins=4, nan_policy="omit"))
    assert verdict.right, verdict.reason
    assert answers.edges.tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_where_nothing_is_left(comm):
    for dtype, options in (("f8", {"nan_policy": "omit"}), ("f4", {"fill_value": 5}), ("i4", {"fill_value": 5})):
        a = np.full(6, np.nan if dtype == "f8" else 5, dtype)
        values = reduce(comm, a, ["sum", "prod", "mean", "var", "norm", "any", "all", "count_nonzero"], **options)
        assert list(values.values())[:2] == [0, 1]
        assert np.isnan([values["mean"], values["var"]]).all()
        assert [values[op] for op in ("norm", "any", "all", "count_nonzero", "kept")] == [0, False, True, 0, 0]
        if dtype == "i4":
            with pytest.raises(InputError, match="min: all elements are left out"):
                reduce(comm, a, "min", **options)
        else:
            assert np.isnan(reduce(comm, a, "min", **options))
        with pytest.raises(InputError, match="argmax: all elements are left out"):
            reduce(comm, a, "argmax", **options)


def test_nan_can_be_refused(comm):
    a = np.where(np.arange(9) == 4, np.nan, 1.0)
    assert np.isnan(reduce(comm, a, "sum"))
    for axis in (None, 0):
        with pytest.raises(InputError, match="NaN is among the elements"):
            reduce(comm, np.stack([np.ones(9), a], axis=1), ["sum", "max"], axis, nan_policy="raise")
    assert reduce(comm, np.arange(3), "max", nan_policy="raise") == 2
    assert reduce(comm, a, "sum", nan_policy="raise", fill_value=float("nan")) == 8 * comm.size
    for wrong in ({"nan_policy": "drop"}, {"fill_value": "x"}, {"fill_value": 1j}, {"fill_value": [1, 2]}):
        with pytest.raises(InputError):
            reduce(comm, a, "sum", **wrong)
    for value in (300, 1.5, -1, np.inf):
        with pytest.raises(InputError, match="uint8 has no such number"):
            reduce(comm, np.zeros(3, "u1"), "sum", fill_value=value)


@pytest.mark.parametrize("op", ["sum", "mean", "min", "kept", "prod", "all", "histogram"])
def test_a_wrong_answer_beside_what_is_left_out_is_found(comm, op):
    def spoil(values):
        values[op] = ~values[op] if values[op].dtype == bool else values[op] + 1

    request = Request((op if op != "kept" else "sum",), fill_value=float("nan"), range=(-1.0, 1.0))
    _answers, verdict = judged(comm, GAPS.reshape(-1), request, spoil=spoil)
    assert not verdict.right
    assert f"{op} wrong" in verdict.reason
