"""Power iteration: the dominant eigenvalue and its eigenvector (von Mises and Pollaczek-Geiringer 1929).

x is multiplied by A and scaled to length 1, again and again; lambda = x* A x is Rayleigh's quotient, and
|A x - lambda x| / |lambda| tells how good the pair is. Dot products and norms are exact (``hpcmpi.dot``,
``hpcmpi.norm``), so that with products whose bits do not depend on the number of ranks, no step of the iteration does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi import dot, norm


class Eigenpair(NamedTuple):
    """Eigenvalue, |A x - lambda x| / |lambda|, products made, and whether the residual is as small as was asked for."""

    value: complex
    residual: float
    products: int
    converged: bool


def inner(comm: MPI.Comm, x: NDArray[Any], y: NDArray[Any]) -> complex:
    """Inner product of the distributed ``x``, conjugated, and ``y``: each real part exact and rounded once."""
    if x.dtype.kind != "c":
        return complex(dot(comm, x, y))
    xr, xi, yr, yi = (np.ascontiguousarray(part) for part in (x.real, x.imag, y.real, y.imag))
    real = dot(comm, np.concatenate([xr, xi]), np.concatenate([yr, yi]))
    return complex(real, dot(comm, np.concatenate([xr, -xi]), np.concatenate([yi, yr])))


def power_iteration(
    comm: MPI.Comm,
    multiply: Callable[[NDArray[Any]], NDArray[Any]],
    x: NDArray[Any],
    *,
    iterations: int,
    tolerance: float,
    advance: Callable[[float], None],
    begun: int = 0,
    checkpoint: Callable[[int], None] = lambda _products: None,
) -> tuple[NDArray[Any], Eigenpair]:
    """Make ``x``, in place, the dominant eigenvector of the matrix that ``multiply`` multiplies with; length 1.

    Returns this rank's part of A x, and the pair, after at most ``iterations`` products. Where the two largest
    eigenvalues are of the same size there is no such vector: then ``converged`` is false. Between two products
    ``checkpoint`` is told how many have been made; with ``x`` as it is then, an iteration that has ``begun`` with these
    goes on. Collective.
    """
    if not begun:
        length = float(norm(comm, x))
        if length == np.inf:  # of finite numbers: their squares overflow
            largest = np.array([np.abs(x).max(initial=0.0)], np.float64)
            _scale(x, float(collective.allreduce(comm, largest, MPI.MAX)[0]))
            length = float(norm(comm, x))
        _scale(x, length)
    difference = np.empty_like(x)
    for products in range(begun + 1, iterations + 1):
        y = multiply(x)
        value = inner(comm, x, y)
        np.multiply(x, x.dtype.type(value if x.dtype.kind == "c" else value.real), out=difference)
        np.subtract(y, difference, out=difference)
        distance, size = float(norm(comm, difference)), abs(value)
        converged = distance <= tolerance * size
        residual = distance / size if size else (0.0 if distance == 0 else np.inf)
        advance(products / iterations)
        length = float(norm(comm, y))
        if converged or products == iterations or not 0 < length < np.inf:
            break
        x[...] = y
        _scale(x, length)
        checkpoint(products)
    return y, Eigenpair(value, residual, products, converged)


def _scale(x: NDArray[Any], length: float) -> None:
    if not 0 < length < np.inf:
        return
    for part in (x.real, x.imag) if x.dtype.kind == "c" else (x,):  # a complex division would overflow in between
        np.divide(part, part.dtype.type(length), out=part)
