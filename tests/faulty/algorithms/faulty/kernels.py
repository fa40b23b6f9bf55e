"""A compiled loop."""

from __future__ import annotations

from hpcmpi.jit import kernel


@kernel()
def fill(numbers, start):
    """Write ``start``, ``start + 1`` and so on."""
    for i in range(numbers.size):
        numbers[i] = start + i
