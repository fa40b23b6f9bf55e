"""Elements that are left out: those equal to a fill value, and NaN where that is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcmpi.algorithms.reduce.exact_kernels import AT_GREATEST, AT_LEAST, AT_NAN, GREATEST, LEAST, NOWHERE
from hpcmpi.errors import InputError

_MAGNITUDE = 2**63 - 1
ORDER_OF_NOTHING = (2**63 - 1, -(2**63), NOWHERE, NOWHERE, NOWHERE)


@dataclass(frozen=True)
class Missing:
    """Elements equal to ``fill``, a number of the array's dtype, are left out, and with ``omit`` NaN.

    With ``refuse`` a NaN that is not left out is an error.
    """

    fill: Any = None
    omit: bool = False
    refuse: bool = False

    @property
    def leaves_out(self) -> bool:
        """Whether anything can be left out."""
        return self.fill is not None or self.omit

    def among(self, rows: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Which elements of ``rows``, of the array's dtype or one that holds its values, are left out; None if none."""
        if not self.leaves_out:
            return None
        found = np.isnan(rows) if self.omit else np.zeros(rows.shape, np.bool_)
        if self.fill is not None:
            found |= rows == rows.dtype.type(self.fill)
        return found if found.any() else None


NONE_MISSING = Missing()


def missing(dtype: np.dtype[Any], fill: Any, nan_policy: str) -> Missing:
    """What is left out of an array of ``dtype``; ``fill`` is a number, or one in text, or None.

    NaN as fill value is NaN left out. Raises InputError for a number that the dtype does not have.
    """
    has_nan = dtype.kind in "fc"
    value = None if fill is None else _scalar(fill, np.dtype(dtype.newbyteorder("=")))
    if value is not None and np.isnan(value):
        value, nan_policy = None, "omit"
    return Missing(value, has_nan and nan_policy == "omit", has_nan and nan_policy == "raise")


def number(text: str) -> int | float | complex:
    """A number as exact as its text; ValueError for what is none."""
    for kind in (int, float, complex):
        try:
            return kind(text)
        except ValueError:
            continue
    raise ValueError(f"{text!r} is not a number")


def _scalar(value: Any, dtype: np.dtype[Any]) -> Any:
    """``value`` as a scalar of ``dtype``."""
    try:
        exact = number(value) if isinstance(value, str) else value.item() if isinstance(value, np.generic) else value
        if dtype.kind in "biu" and isinstance(exact, float) and exact.is_integer():
            exact = int(exact)
        with np.errstate(all="ignore"):
            found = dtype.type(exact)
            same = exact != exact or found == exact or (dtype.kind in "fc" and np.isfinite(found))  # noqa: PLR0124
    except (TypeError, ValueError, OverflowError):
        same = False
    if not same or np.ndim(found):
        raise InputError(f"fill value {value!r}: {dtype} has no such number")
    return found


def order_of_kept(rows: NDArray[Any], numbers: NDArray[Any], skipped: NDArray[np.bool_], at: int) -> NDArray[np.int64]:
    """State of the order (lines, 5), as the kernels have it, of the elements of ``rows`` that are not ``skipped``.

    ``rows`` is (lines, n) float64, or 64-bit integers, and ``numbers`` the same as float64 or int64 in the same order.
    First elements have index ``at``.
    """
    order = np.full((len(rows), 5), ORDER_OF_NOTHING, np.int64)
    undefined = np.isnan(rows) & ~skipped if rows.dtype.kind == "f" else np.zeros(rows.shape, np.bool_)
    kept = ~(skipped | undefined)
    some, lines = kept.any(axis=1), np.arange(len(rows))
    images = numbers.view(np.int64)
    keys = images ^ ((images >> 63) & _MAGNITUDE) if numbers.dtype.kind == "f" else images
    infinite = numbers.dtype.kind == "f"
    for key, place, end, limit in (
        (LEAST, AT_LEAST, np.min, np.inf if infinite else _MAGNITUDE),
        (GREATEST, AT_GREATEST, np.max, -np.inf if infinite else -_MAGNITUDE - 1),
    ):
        filled = np.where(kept, numbers, numbers.dtype.type(limit))
        found = filled.argmin(axis=1) if key == LEAST else filled.argmax(axis=1)
        # What is found is left out only where all that is kept is as extreme as what stands for it.
        found = np.where(kept[lines, found], found, kept.argmax(axis=1))
        order[some, key] = end(np.where(kept, keys, ORDER_OF_NOTHING[key]), axis=1)[some]
        order[some, place] = at + found[some]
    any_undefined = undefined.any(axis=1)
    order[any_undefined, AT_NAN] = at + undefined.argmax(axis=1)[any_undefined]
    return order
