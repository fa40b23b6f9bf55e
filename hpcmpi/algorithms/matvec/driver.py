"""y = op(A) x over all ranks: find the sizes, read or generate A and x, multiply, check."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi import generator, norm
from hpcmpi.algorithms.matvec import DEGREE, DTYPES, ITERATIONS, Params, Resolved
from hpcmpi.algorithms.matvec.check import check_dense, check_eigenpair, check_sparse
from hpcmpi.algorithms.matvec.compressed import read_rows
from hpcmpi.algorithms.matvec.dense import DensePlan, multiply, x_piece
from hpcmpi.algorithms.matvec.entries import Rows, assemble, uniform_bounds
from hpcmpi.algorithms.matvec.files import compare_entries
from hpcmpi.algorithms.matvec.generated import laplacian, laplacian_nonzeros, laplacian_surface, power_law
from hpcmpi.algorithms.matvec.power import inner, power_iteration
from hpcmpi.algorithms.matvec.sparse import SparsePlan
from hpcmpi.comm import agreement
from hpcmpi.errors import InputError, UsageError
from hpcmpi.partition import Range, grid_block
from hpcmpi.record import Block, Cost, Result, Saved, Scalar, Snapshot, Verdict
from hpcmpi.store import matrix_market
from hpcmpi.store.matrix_market import MatrixMarket, open_matrix_market
from hpcmpi.store.reader import Source, open_source
from hpcmpi.store.sample import Sample, compared
from hpcmpi.store.sparse import SparseSource, open_sparse
from hpcmpi.threads import available

Matrix = MatrixMarket | SparseSource | Source


@dataclass
class Problem:
    """The plan of the product, this rank's part of x, and room for its part of y, which begins at row ``start``.

    ``first`` is what an iteration begins with; ``x`` is then where it ends, or where it is after ``products``.
    """

    plan: DensePlan | SparsePlan
    x: NDArray[Any]
    first: NDArray[Any]
    y: NDArray[Any]
    start: int
    m: int
    n: int
    nonzeros: int
    params: Resolved
    grid: tuple[int, ...]
    products: int = 0
    samples: tuple[Sample, ...] = ()  # of what was read from files

    def multiply(self, x: NDArray[Any], report: Callable[[float], None]) -> NDArray[Any]:
        """This rank's part of A ``x``, in ``y``."""
        return self.plan(x, self.y, report)

    def check(self, comm: MPI.Comm, x: NDArray[Any], y: NDArray[Any]) -> Verdict:
        """Whether ``y`` is A ``x``, and a sparse A that of its file."""
        params, seed = self.params, self.params.seed
        if isinstance(self.plan, DensePlan):
            return check_dense(comm, self.plan, x, y, seed=seed)
        verdict = check_sparse(comm, self.plan, x, y, start=self.start, seed=seed)
        if params.a is None:
            return verdict
        return compare_entries(comm, params.a, self.plan, verdict, start=self.start, transpose=params.transpose)


def resolve(comm: MPI.Comm, params: Params) -> Resolved:
    """``params`` with sizes, dtype, layout and non-zeros filled in from the headers of the files.

    Raises InputError for files that do not fit together and UsageError for options that contradict them.
    """
    matrix = _open_matrix(comm, params.a) if params.a else None
    vector = open_source(comm, params.x, ndim=1) if params.x else None
    with agreement(comm):
        return _filled_in(params, matrix, vector)


def _open_matrix(comm: MPI.Comm, where: str) -> Matrix:
    found = open_matrix_market(comm, where) or open_sparse(comm, where)
    if found is not None:
        return found
    try:
        return open_source(comm, where, ndim=2)
    except InputError as error:
        with agreement(comm):
            also = "; nor MatrixMarket, whose first bytes are '%%MatrixMarket', nor .npz" * ("neither" in str(error))
            raise InputError(f"{error}{also}") from None


def _filled_in(params: Params, matrix: Matrix | None, vector: Source | None) -> Resolved:
    sizes = {"m": params.m, "n": params.n}
    said_by = {name: f"--{name}" for name, size in sizes.items() if size is not None}

    def settle(dim: str, size: int, source: str) -> None:
        known = sizes[dim]
        if known is not None and known != size:
            text = f"{source}: op(A) has {dim} = {size}, but {said_by[dim]} says {dim} = {known}"
            raise UsageError(text) if said_by[dim] == f"--{dim}" else InputError(text)
        sizes[dim], said_by[dim] = size, source

    layout, nonzeros = "dense", 0
    if matrix is not None:
        rows, columns = matrix.shape[:: -1 if params.transpose else 1]
        settle("m", rows, str(matrix))
        settle("n", columns, str(matrix))
        if not isinstance(matrix, Source):
            layout, nonzeros = "mtx" if isinstance(matrix, MatrixMarket) else matrix.layout, matrix.nonzeros
    elif params.laplacian is not None:
        layout, nonzeros = "laplacian", laplacian_nonzeros(params.laplacian)
        for dim in sizes:
            settle(dim, int(np.prod(params.laplacian, dtype=object)), "--laplacian")
    elif params.power_law is not None:
        layout, nonzeros = "power-law", params.power_law * (params.degree or DEGREE)
        for dim in sizes:
            settle(dim, params.power_law, "--power-law")
    if layout != "dense" and params.method not in ("auto", "rows"):
        raise UsageError(f"a sparse matrix is dealt in rows: --method {params.method} is for dense ones")
    if vector is not None:
        settle("n", vector.shape[0], str(vector))
    n = sizes["n"]
    m = n if sizes["m"] is None and matrix is None else sizes["m"]
    if params.iterate == "power" and m != n:
        raise InputError(f"op(A) is {m} x {n}: only a square matrix has eigenvectors")
    if params.iterate == "power" and n == 0:
        raise InputError("op(A) is 0 x 0: an empty matrix has no eigenvectors")
    given = {field.name: getattr(params, field.name) for field in dataclasses.fields(Params)}
    given |= {"m": m, "n": n, "dtype": _dtype(params.dtype, matrix, vector)}
    if params.power_law is not None:
        given["degree"] = params.degree or DEGREE
    if params.iterate == "power":
        given["iterations"] = params.iterations or ITERATIONS
    return Resolved(**given, layout=layout, nonzeros=nonzeros)


def _dtype(requested: str | None, matrix: Matrix | None, vector: Source | None) -> str:
    """Dtype to compute in, of those that the sources can be converted to."""
    sources = [source for source in (matrix, vector) if source is not None]
    for source in sources:
        if source.dtype.kind not in "biufc":
            raise InputError(
                f"{source}: holds {source.holds if isinstance(source, Source) else source.dtype}, not numbers"
            )
        if requested and not np.can_cast(source.dtype, requested, "same_kind"):
            raise InputError(f"{source}: holds {source.dtype}, which --dtype {requested} would cut off")
    kinds = [  # a sparse matrix of whole numbers is a graph, whose eigenvectors are none
        np.dtype(np.float64) if s.dtype.kind in "biu" and not isinstance(s, Source) else s.dtype for s in sources
    ]
    dtype = requested or str(np.result_type(*kinds) if kinds else "float64")
    if dtype not in DTYPES:
        raise InputError(
            f"{' and '.join(map(str, sources))}: {dtype} is none of {', '.join(DTYPES)}; --dtype float64 converts it"
        )
    return dtype


def prepare(comm: MPI.Comm, params: Resolved, plan: Cost) -> Problem:
    """The matrix, read or generated and dealt, and this rank's part of x."""
    m, n, dtype = params.m or 0, params.n or 0, np.dtype(params.dtype or "float64")
    product: DensePlan | SparsePlan
    samples = list[Sample]()
    if params.layout == "dense":
        grid = (plan.grid[0], plan.grid[1])
        product = DensePlan(comm, _dense_block(comm, params, grid, samples), m=m, n=n, grid=grid, threads=available())
        nonzeros, rows, columns = m * n, product.rows, x_piece(n, grid, comm.rank)
    else:
        held = _sparse_rows(comm, params, dtype)
        bounds = held.bounds if m == n else uniform_bounds(n, comm.size)
        product = SparsePlan(comm, held.indptr, held.indices, held.data, bounds=bounds, threads=available())
        nonzeros = comm.allreduce(len(held.data))
        rows, columns = (Range(int(x[comm.rank]), int(x[comm.rank + 1])) for x in (held.bounds, bounds))
    if params.x is None:
        x = generator.uniform(params.seed, Range(0, 1), columns, dtype, stream=1)[0]
    else:
        vector = open_source(comm, params.x, ndim=1)
        x = vector.read(comm, (columns,), dtype)
    if isinstance(product, SparsePlan):
        product.x[...] = x
        x = product.x  # where it need not be copied
    y = np.zeros(rows.size, dtype)  # the first touch of fresh memory belongs to the preparation
    if params.iterate == "power":
        _check_start(comm, x, params.x or "x")
    first = x.copy() if params.iterate == "power" else x
    if params.x is not None:
        samples.append(Sample(vector, params.seed).hold(first, (columns,)))
    return Problem(product, x, first, y, rows.start, m, n, nonzeros, params, plan.grid, samples=tuple(samples))


def _check_start(comm: MPI.Comm, x: NDArray[Any], source: str) -> None:
    """Raise InputError, on all ranks, for a vector that has no direction."""
    finite, zero = comm.allreduce(bool(np.isfinite(x).all()), MPI.LAND), comm.allreduce(not x.any(), MPI.LAND)
    with agreement(comm):
        if not finite:
            raise InputError(f"{source}: holds numbers that are not finite: --iterate power cannot start there")
        if zero:
            raise InputError(f"{source}: is zero, which --iterate power multiplies in vain: another vector is expected")


def _dense_block(comm: MPI.Comm, params: Resolved, grid: tuple[int, int], samples: list[Sample]) -> NDArray[Any]:
    """This rank's block of op(A), generated or read; of what is read, a sample is appended."""
    part = grid_block((params.m or 0, params.n or 0), grid, comm.rank)
    dtype = params.dtype or "float64"
    if params.a is None:
        return generator.uniform(params.seed, part[0], part[1], dtype, stream=0)
    source = open_source(comm, params.a, ndim=2)
    stored = part[::-1] if params.transpose else part
    block = source.read(comm, stored, dtype)
    samples.append(Sample(source, params.seed).hold(block, stored))
    return block.T if params.transpose else block


def _sparse_rows(comm: MPI.Comm, params: Resolved, dtype: np.dtype[Any]) -> Rows:
    m, n = params.m or 0, params.n or 0
    if params.laplacian is not None:
        return laplacian(comm, params.laplacian, dtype)
    if params.power_law is not None:
        rows = power_law(comm, n, params.degree or DEGREE, params.seed, dtype)
        if not params.transpose:
            return rows
        mine = Range(int(rows.bounds[comm.rank]), int(rows.bounds[comm.rank + 1]))
        return assemble(comm, rows.indices, np.repeat(np.arange(*mine), np.diff(rows.indptr)), rows.data, m=m, n=n)
    matrix = _open_matrix(comm, params.a or "")
    if isinstance(matrix, MatrixMarket):
        entries = matrix.read(comm)
        places = (entries.columns, entries.rows) if params.transpose else (entries.rows, entries.columns)
        return assemble(comm, *places, entries.values.astype(dtype, copy=False), m=m, n=n)
    if not isinstance(matrix, SparseSource):
        raise InputError(f"{matrix}: is no longer a sparse matrix")
    return read_rows(comm, matrix.layout, matrix.arrays, m=m, n=n, transpose=params.transpose, dtype=dtype)


def resumable(params: Resolved) -> bool:
    """Whether it is an iteration."""
    return params.iterate == "power"


def save(_comm: MPI.Comm, problem: Problem) -> Snapshot:
    """The vector after the products that have been made."""
    return Snapshot({"x": Block(problem.x, (problem.start,), (problem.n,))}, {"products": problem.products})


def restore(comm: MPI.Comm, problem: Problem, saved: Saved) -> None:
    """Take the vector."""
    mine = Range(problem.start, problem.start + len(problem.x))
    problem.x[...] = saved.read(comm, "x", (mine,), problem.x.dtype)
    problem.products = int(saved.facts["products"])


def run(
    comm: MPI.Comm, problem: Problem, report: Callable[[float], None], checkpoint: Callable[[], None] = lambda: None
) -> Result:
    """Multiply, or iterate, once; ``report`` is told the fraction that is done."""
    if problem.params.iterate == "power":
        return _iterate(comm, problem, report, checkpoint)
    before = collective.traffic.bytes_received
    y = problem.multiply(problem.x, report)
    words = (collective.traffic.bytes_received - before) // y.itemsize
    array = Block(y, (problem.start,), (problem.m,), ("m",))
    facts, lines = _told(comm, problem, words)
    return Result({"y": array}, _work(problem), _unit(problem), facts, lines)


def _iterate(
    comm: MPI.Comm, problem: Problem, report: Callable[[float], None], checkpoint: Callable[[], None]
) -> Result:
    words = 0

    def multiply_counted(x: NDArray[Any]) -> NDArray[Any]:
        nonlocal words
        before = collective.traffic.bytes_received
        y = problem.multiply(x, lambda _fraction: None)
        words = (collective.traffic.bytes_received - before) // y.itemsize
        return y

    def between(products: int) -> None:
        problem.products = products
        checkpoint()

    if not problem.products:
        problem.x[...] = problem.first
    y, pair = power_iteration(
        comm, multiply_counted, problem.x,
        iterations=problem.params.iterations or ITERATIONS, tolerance=_tolerance(problem.params), advance=report,
        begun=problem.products, checkpoint=between,
    )  # fmt: skip
    problem.products = 0
    facts, lines = _told(comm, problem, words)
    facts |= {"eigenvalue": pair.value.real, "residual": pair.residual}
    facts |= {"products": pair.products, "converged": pair.converged, "tolerance": _tolerance(problem.params)}
    if y.dtype.kind == "c":
        facts["eigenvalue_imag"] = pair.value.imag
    value = pair.value if y.dtype.kind == "c" else pair.value.real
    said = f"lambda = {value!r}, |A x - lambda x| = {pair.residual:.2g} |lambda| after {pair.products} products"
    arrays = {name: Block(part, (problem.start,), (problem.m,), ("m",)) for name, part in (("x", problem.x), ("y", y))}
    return Result(arrays, _work(problem) * pair.products, _unit(problem), facts, (said, *lines))


def _tolerance(params: Resolved) -> float:
    single = params.dtype in ("float32", "complex64")
    return params.tolerance or (1e-4 if single else 1e-8)


def _work(problem: Problem) -> int:
    return problem.nonzeros * (problem.y.itemsize if problem.params.layout == "dense" else 1)


def _unit(problem: Problem) -> str:
    return "B/s" if problem.params.layout == "dense" else "nonzero/s"


def _told(comm: MPI.Comm, problem: Problem, words: int) -> tuple[dict[str, Scalar], tuple[str, ...]]:
    """What the file keeps, and rank 0 says, of a product in which this rank received ``words``."""
    params, total = problem.params, comm.allreduce(words)
    facts: dict[str, Scalar] = {
        "size": f"{problem.m} x {problem.n}, {problem.y.dtype}",
        "method_used": "rows" if problem.grid[1] == 1 else "columns" if problem.grid[0] == 1 else "grid",
        "grid": " x ".join(map(str, problem.grid)),
        "words_exchanged": total,
        "words_busiest": comm.allreduce(words, MPI.MAX),
    }
    said = f"{total} words exchanged"
    if isinstance(problem.plan, SparsePlan):
        most = comm.allreduce(len(problem.plan.data), MPI.MAX)
        spread = most * comm.size / max(1, problem.nonzeros)
        facts |= {"nonzeros": problem.nonzeros, "nonzeros_busiest_over_mean": spread}
        facts["size"] = f"{problem.m} x {problem.n} with {problem.nonzeros} non-zeros, {problem.y.dtype}"
        if params.laplacian is not None and comm.size > 1:
            surface = laplacian_surface(params.laplacian, comm.size)
            facts |= {"surface": surface, "words_over_surface": total / max(1, surface)}
            said += f", {total / max(1, surface):.3f} of the surface"
        said += f"; the busiest rank has {spread:.3f} of the mean of non-zeros"
    return facts, (said,)


def verify(comm: MPI.Comm, problem: Problem, result: Result) -> Verdict:
    """The identity of dot products, w . (A x) = (A^T w) . x, and a sample of A and x against their files.

    Of an eigenpair, also its residual and length.
    """
    return compared(comm, problem.samples, _verdict(comm, problem, result))


def _verdict(comm: MPI.Comm, problem: Problem, result: Result) -> Verdict:
    y = result.arrays["y"].local
    verdict = problem.check(comm, problem.x, y)
    if problem.params.iterate != "power" or not verdict.right:
        return verdict
    facts = result.facts
    value = complex(float(facts["eigenvalue"]), float(facts.get("eigenvalue_imag", 0)))
    found = check_eigenpair(comm, problem.x, y, value, float(facts["residual"]), float(facts["tolerance"]))
    return Verdict(found.right, f"{found.reason}; {verdict.reason}", {**verdict.facts, **found.facts})


def warm_up(params: Resolved) -> None:
    """Compile or load the kernels that the run will call, by a tiny product of the same kind."""
    dtype, alone = np.dtype(params.dtype or "float64"), MPI.COMM_SELF
    if params.iterate == "power":
        one = np.ones(1, dtype)
        inner(alone, one, one)
        norm(alone, one)
    if params.layout == "dense":
        a = np.ones((3, 2), dtype)
        a = a.T if params.transpose else a
        multiply(a, np.ones(a.shape[1], dtype), np.empty(len(a), dtype), params.transpose, 1)
        return
    if params.layout == "mtx":
        matrix_market.warm_up()
    rows = power_law(alone, 3, 2, 1, dtype) if params.layout == "power-law" else laplacian(alone, (3,), dtype)
    plan = SparsePlan(alone, rows.indptr, rows.indices, rows.data, bounds=rows.bounds, threads=1)
    check_sparse(alone, plan, plan.x, plan(plan.x), start=0, seed=1)
    plan.free()
