"""Values that reductions owe to their dtype: overflow, edges of histograms, elements that are left out."""

from __future__ import annotations

import numpy as np
import pytest

from hpcmpi.algorithms.reduce.check import check
from hpcmpi.algorithms.reduce.lines import Layout
from hpcmpi.algorithms.reduce.reduction import Request, Work, evaluate
from hpcmpi.partition import Range, block


def judged(comm, a, request, axis=None, split=0, spoil=lambda _values: None, block_elements=1000):
    """Answers to ``request`` about ``a``, dealt along dimension ``split``, and the verdict on them."""
    part = tuple(block(n, comm.size, comm.rank) if d == split else Range(0, n) for d, n in enumerate(a.shape))
    layout = Layout(a.shape, axis, split, part)
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
