"""The dtype in which to compute with the numbers that files hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpcmpi.errors import InputError
from hpcmpi.store.matrix_market import MatrixMarket
from hpcmpi.store.reader import Source
from hpcmpi.store.sparse import SparseSource


def arithmetic_dtype(
    requested: str | None, sources: Sequence[MatrixMarket | SparseSource | Source], allowed: Sequence[str]
) -> str:
    """The ``requested`` dtype or else NumPy's result type of ``sources``, float64 without any; one of ``allowed``.

    A sparse matrix of whole numbers is a graph, which is computed with in float64. Raises InputError for a source that
    cannot be converted, and for a dtype that is not allowed.
    """
    for source in sources:
        if source.dtype.kind not in "biufc":
            found = source.holds if isinstance(source, Source) else source.dtype
            raise InputError(f"{source}: holds {found}, not numbers")
        if requested and not np.can_cast(source.dtype, requested, "same_kind"):
            raise InputError(f"{source}: holds {source.dtype}, which --dtype {requested} would cut off")
    dtypes = [np.dtype(np.float64) if s.dtype.kind in "biu" and not isinstance(s, Source) else s.dtype for s in sources]
    dtype = requested or str(np.result_type(*dtypes) if dtypes else "float64")
    if dtype not in allowed:
        raise InputError(
            f"{' and '.join(map(str, sources))}: {dtype} is none of {', '.join(allowed)}; --dtype float64 converts it"
        )
    return dtype
