"""A compiled loop."""

from __future__ import annotations

import numba


@numba.njit(cache=True)
def fill(numbers, start):
    """Write ``start``, ``start + 1`` and so on."""
    for i in range(numbers.size):
        numbers[i] = start + i
