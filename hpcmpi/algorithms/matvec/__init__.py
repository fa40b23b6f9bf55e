"""Multiply a matrix and a vector: y = op(A) x, dense or sparse; or find the dominant eigenpair.

A is a dense array (HDF5, .npy), a sparse matrix (MatrixMarket .mtx or .mtx.gz, SciPy's .npz, an HDF5 group of indptr,
indices and data), or generated. Each rank reads its part. Rows of a sparse matrix are dealt so that all ranks hold as
many non-zeros; a rank receives the entries of x that its rows refer to, and no others, while it multiplies the rows
that wait for none. In blocks of rows, each element of y is one sum in a fixed order: the same bits on any number of
ranks and threads.

\b
Examples:
  mpirun -n 4 hpcmpi matvec --n 16384 -o y.h5
  mpirun -n 4 hpcmpi matvec --a A.h5:/data --x x.npy --transpose -o y.h5
  mpirun -n 2 hpcmpi matvec --laplacian 200,200,200 --repeat 10
  mpirun -n 4 hpcmpi matvec --a bcsstk30.mtx.gz --iterate power -o eigen.h5
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from hpcmpi.record import Example, count, option, seed

PUBLIC = {"matvec": "library", "matvec_plan": "library"}
DTYPES = ("float32", "float64", "complex64", "complex128")
METHODS = ("auto", "rows", "columns", "grid")
WIDEST_STENCIL = 4  # dimensions
DEGREE, ITERATIONS = 16, 1000


def extents(text: str) -> tuple[int, ...]:
    """Grid sizes from ``200,200,200``; ValueError for anything else."""
    sizes = tuple(count(part) for part in text.split(","))
    if len(sizes) > WIDEST_STENCIL:
        raise ValueError(f"{text!r} has {len(sizes)} dimensions, {WIDEST_STENCIL} at most are expected")
    return sizes


def positive(text: str) -> float:
    """Positive number; ValueError for anything else."""
    number = float(text)
    if not 0 < number < math.inf:
        raise ValueError(f"{text!r} is not a positive number")
    return number


EXAMPLES = (
    Example("--n 50 --m 30", same=("y",)),
    Example("--power-law 300 --dtype float32", same=("y",)),
    Example("--laplacian 9,7 --iterate power --tolerance 1e-3", same=("x", "y"), stops=True),
)


@dataclass(frozen=True)
class Params:
    """Options of ``hpcmpi matvec``; op(A) is m x n.

    None stands for what the file says, or for what ``--n`` says where nothing else does.
    """

    n: int | None = option(None, "Columns of op(A); alone, both dimensions of a generated dense matrix.", parse=count)
    m: int | None = option(None, "Rows of op(A).", parse=count)
    a: str | None = option(None, "Matrix; generated where not given.", metavar="FILE[:/DATASET]")
    x: str | None = option(None, "Vector; generated where not given.", metavar="FILE[:/DATASET]")
    laplacian: tuple[int, ...] | None = option(
        None,
        "Sparse Laplacian of a grid of these sizes, 2 d + 1 points a row, the last index fastest.",
        parse=extents,
        metavar="NX[,NY[,NZ]]",
    )
    power_law: int | None = option(
        None, "Sparse random n x n matrix: row lengths and column counts follow a power law.", parse=count, metavar="N"
    )
    degree: int | None = option(None, f"Mean non-zeros in a row of --power-law; by default {DEGREE}.", parse=count)
    transpose: bool = option(False, "Take op(A) as the transpose of what A holds.")
    dtype: str | None = option(
        None,
        "Arithmetic; by default that of the files, or float64. Files of another dtype are converted.",
        choices=DTYPES,
    )
    method: str = option(
        "auto",
        "How a dense matrix is dealt: in blocks of rows, of columns, or on a 2-D grid; auto: by cost.",
        choices=METHODS,
    )
    iterate: str = option(
        "none",
        "power: multiply again and again until x is the dominant eigenvector; of those that the first x has a part in.",
        choices=("none", "power"),
    )
    iterations: int | None = option(None, f"Most products of --iterate power; by default {ITERATIONS}.", parse=count)
    tolerance: float | None = option(
        None,
        "Residual |A x - lambda x| / |lambda| at which --iterate ends; by default 1e-8, or 1e-4 in single precision.",
        parse=positive,
    )
    seed: int = option(1, "Seed of what is generated.", parse=seed)

    def __post_init__(self) -> None:
        """Refuse what is incomplete or contradicts itself, with ValueError."""
        named = {"--a": self.a, "--laplacian": self.laplacian, "--power-law": self.power_law}
        given = [name for name, value in named.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} each give a matrix: choose one")
        if not given and self.n is None:
            raise ValueError("what to multiply? Give --n, --a FILE, --laplacian or --power-law")
        if self.transpose and not given:
            raise ValueError("--transpose needs --a or --power-law: a generated dense matrix is made as it is used")
        if self.power_law is not None and self.power_law >= 2**32:
            raise ValueError("--power-law must be below 2^32")
        if self.degree is not None and self.power_law is None:
            raise ValueError("--degree is of --power-law, which is not given")
        for name, value in {"--iterations": self.iterations, "--tolerance": self.tolerance}.items():
            if value is not None and self.iterate == "none":
                raise ValueError(f"{name} is of --iterate power, which is not given")
        if self.degree == 0:
            raise ValueError("--degree must be at least 1")
        if self.iterations == 0:
            raise ValueError("--iterations must be at least 1")
        if self.iterate == "power" and self.method not in ("auto", "rows"):
            raise ValueError(f"--iterate power needs x and y dealt alike, which --method {self.method} does not do")


class PowerIteration(NamedTuple):
    """At most so many ``products``, until |A x - lambda x| / |lambda| is at most ``tolerance``."""

    products: int
    tolerance: float


@dataclass(frozen=True, kw_only=True)
class Resolved(Params):
    """:class:`Params` with all that the inputs' headers tell.

    ``layout`` is ``dense`` or how the sparse matrix comes: ``mtx``, ``csr``, ``csc``, ``coo``, ``laplacian``,
    ``power-law``. ``nonzeros`` is the number of stored entries, after a symmetric half has been completed; exact or,
    where only reading tells, an upper bound. ``iteration`` is None for a single product.
    """

    n: int
    m: int
    dtype: str
    layout: str = "dense"
    nonzeros: int = 0
    iteration: PowerIteration | None = field(default=None, metadata={"derived": True})
