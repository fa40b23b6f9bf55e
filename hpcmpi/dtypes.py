"""What NumPy's dtypes cost, by their names: bytes, floating-point operations, speed."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike


def itemsize(dtype: DTypeLike) -> int:
    """Bytes of an element."""
    return np.dtype(dtype).itemsize


def real_itemsize(dtype: DTypeLike) -> int:
    """Bytes of a real number of the precision of ``dtype``: half a complex element."""
    return np.dtype(dtype).itemsize // (2 if np.dtype(dtype).kind == "c" else 1)


def flops_per_term(dtype: DTypeLike) -> int:
    """Real additions and multiplications in one term of a dot product."""
    return 8 if np.dtype(dtype).kind == "c" else 2


def double_precision(dtype: DTypeLike) -> np.dtype[np.float64] | np.dtype[np.complex128]:
    """float64, or complex128 for complex ``dtype``."""
    return np.dtype(np.complex128) if np.dtype(dtype).kind == "c" else np.dtype(np.float64)
