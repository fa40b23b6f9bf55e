"""Values of any numeric dtype as questions about keys of another: exact, as if both were real numbers.

A question is an image, and whether keys that have it lie below. Where no key equals a value, the nearest key dtype's
number on one side of it takes its place, and the side of the search no longer matters.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcmpi.algorithms.sort.keys import Codec
from hpcmpi.errors import InputError


def questions(values: NDArray[Any], code: Codec, side: str) -> NDArray[np.int64]:
    """(m, 2) of ``values`` (m,): the images to search for, and 1 where keys that have them lie below, else 0.

    ``code`` is that of ascending keys, among which there is no -0.0: it is taken for 0.0. NaN is above all numbers.
    InputError for values that are not real numbers.
    """
    if values.dtype.kind not in "biuf":
        raise InputError(f"values are {values.dtype}; integers or floats are expected, to compare with {code.dtype}")
    if values.dtype.kind == "b":
        values = values.astype(np.uint8)
    right = np.full(values.size, side == "right")
    if code.dtype.kind == "f":
        near, order = _as_floats(values, code.dtype)
        near[near == 0] = 0.0
    else:
        near, order = _as_integers(values, code.dtype, up=side == "left")
    right = np.where(order == 0, right, order > 0)
    return np.stack([code.encode(near).astype(np.int64), right.astype(np.int64)], axis=1)


def _as_floats(values: NDArray[Any], dtype: np.dtype[Any]) -> tuple[NDArray[Any], NDArray[np.int8]]:
    """``values`` rounded to ``dtype``, and whether they are above (1) or below (-1) what they were rounded to."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # of signalling NaN
        near = values.astype(dtype)
    if values.dtype.kind == "f":
        return near, _sign(values > near, values < near)
    limits, wide = np.iinfo(values.dtype), near.astype(np.float64)
    past, before = wide >= 2.0 ** int(limits.max).bit_length(), wide < float(limits.min)
    back = np.where(past | before, 0, wide).astype(values.dtype)  # exact: an integer's rounding is one
    return near, np.where(past, -1, np.where(before, 1, _sign(values > back, values < back))).astype(np.int8)


def _as_integers(values: NDArray[Any], dtype: np.dtype[Any], *, up: bool) -> tuple[NDArray[Any], NDArray[np.int8]]:
    """``values`` rounded up or down to ``dtype``; 1 where they are above all of it, or NaN, and -1 where below."""
    least, most = (0, 1) if dtype.kind == "b" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # of signalling NaN
            wide = values.astype(np.promote_types(values.dtype, np.float64))
            whole = np.ceil(wide) if up else np.floor(wide)
        above, below = ~(whole < 2.0 ** most.bit_length()), whole < float(least)
    else:
        theirs = np.iinfo(values.dtype)
        whole = values
        above = whole > values.dtype.type(most) if most < theirs.max else np.zeros(values.size, np.bool_)
        below = whole < values.dtype.type(least) if least > theirs.min else np.zeros(values.size, np.bool_)
    near = np.where(above | below, whole.dtype.type(0), whole).astype(dtype)
    near[above], near[below] = most, least
    return near, _sign(above, below)


def _sign(above: NDArray[np.bool_], below: NDArray[np.bool_]) -> NDArray[np.int8]:
    return np.asarray(above.astype(np.int8) - below.astype(np.int8))
