"""``C = A B``, ``C += A B`` and ``C -= A B`` on strided views, without temporaries, by the BLAS that NumPy brings.

NumPy's own ``matmul`` cannot accumulate into its output, so a product made of panels would pass through a temporary as
large as C for each panel. CBLAS takes alpha, beta, transposition and leading dimensions; it is found in the library
that NumPy has loaded already. Where no such library offers CBLAS under a known name, NumPy does the same work in strips
that stay in cache.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROW_MAJOR, _NO_TRANS, _TRANS = 101, 111, 112
_LETTER = {"float32": "s", "float64": "d", "complex64": "c", "complex128": "z"}
DTYPES = tuple(_LETTER)

_STRIP_BYTES = 1 << 20  # fits a core's second-level cache beside the operands
_INT32_MAX = 2**31 - 1


@cache
def library() -> tuple[ctypes.CDLL, str, str, bool] | None:
    """(Library, symbol prefix, symbol suffix, 64-bit integers?) of NumPy's BLAS, or None where CBLAS is not found."""
    from threadpoolctl import threadpool_info

    found = [lib for lib in threadpool_info() if lib["user_api"] == "blas"]
    for info in sorted(found, key=lambda lib: "numpy" not in lib["filepath"]):
        try:
            handle = ctypes.CDLL(info["filepath"])
        except OSError:
            continue
        for prefix in ("scipy_cblas_", "cblas_"):
            for suffix in ("64_", ""):
                if hasattr(handle, f"{prefix}dgemm{suffix}"):
                    return handle, prefix, suffix, suffix == "64_" or _built_with_64_bit_integers(handle)
    return None


def _built_with_64_bit_integers(handle: ctypes.CDLL) -> bool:
    """Whether an OpenBLAS without the usual suffix was built with INTERFACE64 all the same."""
    if not hasattr(handle, "openblas_get_config"):
        return False
    handle.openblas_get_config.restype = ctypes.c_char_p
    return b"USE64BITINT" in (handle.openblas_get_config() or b"")


@cache
def _cblas(dtype: np.dtype[Any]) -> tuple[Callable[..., None], type, bool] | None:
    """(Function, type of its alpha and beta, 64-bit integers?) for ``dtype``, or None."""
    found = library()
    if found is None or dtype.name not in _LETTER or not dtype.isnative:
        return None
    handle, prefix, suffix, wide = found
    function = handle[f"{prefix}{_LETTER[dtype.name]}gemm{suffix}"]  # indexing gives a function of our own
    scalar = {"float32": ctypes.c_float, "float64": ctypes.c_double}.get(dtype.name, ctypes.c_void_p)
    i, p = (ctypes.c_int64 if wide else ctypes.c_int32), ctypes.c_void_p
    function.restype = None
    function.argtypes = [*[ctypes.c_int] * 3, i, i, i, scalar, p, i, p, i, scalar, p, i]
    return function, scalar, wide


def _layout(x: NDArray[Any]) -> tuple[int, int] | None:
    """(CBLAS transposition, leading dimension) with which ``x`` can be passed as it is, or None."""
    rows, columns = x.shape
    for trans, (along, across), (length, lines) in (
        (_NO_TRANS, (x.strides[1], x.strides[0]), (columns, rows)),
        (_TRANS, (x.strides[0], x.strides[1]), (rows, columns)),
    ):
        if along != x.itemsize and length > 1:
            continue
        if lines == 1:
            return trans, max(1, length)
        if across % x.itemsize == 0 and across // x.itemsize >= max(1, length):
            return trans, across // x.itemsize
    return None


def gemm(a: NDArray[Any], b: NDArray[Any], c: NDArray[Any], *, accumulate: bool = False, alpha: float = 1.0) -> None:
    """Compute ``c = alpha * a @ b``, or ``c += alpha * a @ b`` with ``accumulate``.

    Shapes (m, k), (k, n), (m, n); one dtype of float32, float64, complex64, complex128; any strides, but ``c`` must
    have unit stride along one of its dimensions and must not overlap the others. The GIL is released meanwhile.
    """
    if c.size == 0:
        return
    if a.shape[1] == 0:
        if not accumulate:
            c[...] = 0
        return
    c_layout = _layout(c)
    if c_layout and c_layout[0] == _TRANS:
        a, b, c, c_layout = b.T, a.T, c.T, (_NO_TRANS, c_layout[1])
    routine = _cblas(c.dtype)
    (m, k), n = a.shape, b.shape[1]
    if routine is None or c_layout is None or (not routine[2] and max(m, n, k, c_layout[1]) > _INT32_MAX):
        gemm_by_numpy(a, b, c, accumulate=accumulate, alpha=alpha)
        return
    a_layout, b_layout = _layout(a), _layout(b)
    if a_layout is None:
        a, a_layout = np.ascontiguousarray(a), (_NO_TRANS, k)
    if b_layout is None:
        b, b_layout = np.ascontiguousarray(b), (_NO_TRANS, n)
    if not routine[2] and max(a_layout[1], b_layout[1]) > _INT32_MAX:
        gemm_by_numpy(a, b, c, accumulate=accumulate, alpha=alpha)
        return
    function, scalar, _ = routine
    one: float
    if scalar is ctypes.c_void_p:  # complex scalars go by address
        factor, beta = np.full((), alpha, c.dtype), np.full((), accumulate, c.dtype)
        one, keep = factor.ctypes.data, beta.ctypes.data
    else:
        one, keep = float(alpha), int(accumulate)
    function(
        _ROW_MAJOR, a_layout[0], b_layout[0], m, n, k,
        one, a.ctypes.data, a_layout[1], b.ctypes.data, b_layout[1],
        keep, c.ctypes.data, c_layout[1],
    )  # fmt: skip


def gemm_by_numpy(
    a: NDArray[Any], b: NDArray[Any], c: NDArray[Any], *, accumulate: bool = False, alpha: float = 1.0
) -> None:
    """What :func:`gemm` does, without CBLAS."""
    rows = max(1, _STRIP_BYTES // max(1, c.shape[1] * c.itemsize))
    strip = np.empty((min(rows, c.shape[0]), c.shape[1]), c.dtype)
    for top in range(0, c.shape[0], rows):
        target = c[top : top + rows]
        part = np.matmul(a[top : top + rows], b, out=strip[: len(target)])
        if alpha != 1:
            np.multiply(part, alpha, out=part)
        if accumulate:
            target += part
        else:
            target[...] = part
