"""Whether this rank's parts of the vectors are what a plan takes; the kernels trust them and check nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcmpi.errors import InputError


def check_vectors(
    rank: int,
    x: NDArray[Any],
    out: NDArray[Any] | None,
    *,
    columns: int,
    rows: int,
    dtype: np.dtype[Any],
    kept: NDArray[Any] | None = None,
) -> None:
    """Raise InputError unless ``x`` is (columns,) of what ``dtype`` can hold, and ``out``, if given, (rows,) of it.

    ``out`` must be another piece of memory than ``x`` and what the plan has ``kept`` for x, which the product reads
    while it writes. Local: it costs less than a microsecond; an agreement could cost more than the product.
    """
    if x.shape != (columns,) or (x.dtype != dtype and not np.can_cast(x.dtype, dtype, "same_kind")):
        raise InputError(f"rank {rank}: x is {x.shape} of {x.dtype}; ({columns},) of {dtype} is its part")
    if out is None:
        return
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise InputError(f"rank {rank}: out is {type(out).__name__}; a NumPy array is expected")
    if out.shape != (rows,) or out.dtype != dtype:
        raise InputError(f"rank {rank}: out is {out.shape} of {out.dtype}; ({rows},) of {dtype} is its part")
    if not out.flags.writeable:
        raise InputError(f"rank {rank}: out is read-only")
    if (kept is not None and _overlap(out, kept)) or ((kept is None or x.base is not kept) and _overlap(out, x)):
        raise InputError(f"rank {rank}: out overlaps x, or where the plan keeps x: y needs memory of its own")


def _overlap(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return bool(np.may_share_memory(a, b)) and bool(np.shares_memory(a, b))  # the first looks at the ends alone
