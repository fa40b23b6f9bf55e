"""Arguments of public functions as plain arrays. What a caller has marked as missing is never taken for a number."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcmpi.errors import InputError


def plain_array(values: Any, name: str) -> NDArray[Any]:
    """``values`` as a plain ``numpy.ndarray``; InputError, which calls them ``name``, where that would lose something.

    Masked elements are refused: their memory holds any number. So they are in lists, and in what becomes a masked array
    when it is read, such as a variable of netCDF4. Local: an error should be agreed on by the caller.
    """
    if type(values) is np.ndarray:
        return values
    try:
        found = None if _has_masked(values) else np.asanyarray(values)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name} is no array of numbers: {error}") from error
    if found is None or np.ma.is_masked(found):
        raise InputError(
            f"{name} has masked elements: choose the others, as .compressed() does, or give them a value by .filled()"
        )
    return np.asarray(found)


def _has_masked(values: Any) -> bool:
    """Whether ``values``, or any of a list, are masked: NumPy makes a plain array of a list of masked ones."""
    if isinstance(values, list | tuple):
        return any(_has_masked(value) for value in values)
    return bool(np.ma.is_masked(values))
