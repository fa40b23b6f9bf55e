"""y = op(A) x over all ranks: find the sizes, read or generate A and x, multiply, check."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi import generator, norm
from hpcmpi.algorithms.matvec import DEGREE, DTYPES, ITERATIONS, Params, PowerIteration, Resolved
from hpcmpi.algorithms.matvec.check import check_dense, check_eigenpair, check_sparse
from hpcmpi.algorithms.matvec.compressed import read_rows
from hpcmpi.algorithms.matvec.dense import DensePlan, multiply, x_piece
from hpcmpi.algorithms.matvec.entries import CsrRows, assemble, uniform_bounds
from hpcmpi.algorithms.matvec.files import compare_entries
from hpcmpi.algorithms.matvec.generated import (
    Laplacian,
    PowerLaw,
    laplacian,
    laplacian_nonzeros,
    laplacian_surface,
    power_law,
)
from hpcmpi.algorithms.matvec.power import inner, power_iteration
from hpcmpi.algorithms.matvec.sparse import SparsePlan
from hpcmpi.comm import agreement
from hpcmpi.dtypes import real_itemsize
from hpcmpi.errors import InputError, UsageError
from hpcmpi.partition import Range, grid_block
from hpcmpi.record import Block, Cost, Result, Saved, Scalar, Snapshot, Verdict
from hpcmpi.store import matrix_market
from hpcmpi.store.arithmetic import arithmetic_dtype
from hpcmpi.store.matrix_market import MatrixMarket, open_matrix_market
from hpcmpi.store.reader import Source, open_source
from hpcmpi.store.sample import Sample, compared
from hpcmpi.store.sparse import SparseSource, open_sparse
from hpcmpi.threads import available

Matrix = MatrixMarket | SparseSource | Source
Report = Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class Opened(Resolved):
    """:class:`Resolved` with the matrix and the vector open: None for what is generated dense."""

    matrix: Matrix | Laplacian | PowerLaw | None = field(metadata={"derived": True})
    vector: Source | None = field(metadata={"derived": True})


@dataclass
class Problem:
    """The product, this rank's part of x, and room for its part of y, which begins at row ``start``.

    ``first`` is what an iteration begins with; ``x`` is then where it ends, or where it is after ``products``.
    """

    product: DensePlan | SparsePlan
    x: NDArray[Any]
    first: NDArray[Any]
    y: NDArray[Any]
    start: int
    nonzeros: int
    spec: Resolved
    plan: Cost
    products: int = 0
    samples: tuple[Sample, ...] = ()  # of what was read from files


def resolve(comm: MPI.Comm, params: Params) -> Opened:
    """``params`` with sizes, dtype, layout and non-zeros from the headers of the files, which are opened once, here.

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


def _filled_in(params: Params, matrix: Matrix | None, vector: Source | None) -> Opened:
    sizes = {"m": params.m, "n": params.n}
    said_by = {name: f"--{name}" for name, size in sizes.items() if size is not None}

    def settle(dim: str, size: int, source: str) -> None:
        known = sizes[dim]
        if known is not None and known != size:
            text = f"{source}: op(A) has {dim} = {size}, but {said_by[dim]} says {dim} = {known}"
            raise UsageError(text) if said_by[dim] == f"--{dim}" else InputError(text)
        sizes[dim], said_by[dim] = size, source

    layout, nonzeros = "dense", 0
    made: Matrix | Laplacian | PowerLaw | None = matrix
    if matrix is not None:
        rows, columns = matrix.shape[:: -1 if params.transpose else 1]
        settle("m", rows, str(matrix))
        settle("n", columns, str(matrix))
        if not isinstance(matrix, Source):
            layout, nonzeros = "mtx" if isinstance(matrix, MatrixMarket) else matrix.layout, matrix.nonzeros
    elif params.laplacian is not None:
        made = Laplacian(params.laplacian)
        layout, nonzeros = "laplacian", laplacian_nonzeros(params.laplacian)
        for dim in sizes:
            settle(dim, int(np.prod(params.laplacian, dtype=object)), "--laplacian")
    elif params.power_law is not None:
        made = PowerLaw(params.power_law, params.degree or DEGREE)
        layout, nonzeros = "power-law", made.n * made.degree
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
    held = [source for source in (matrix, vector) if source is not None]
    dtype, iteration = arithmetic_dtype(params.dtype, held, DTYPES), None
    given |= {"m": m, "n": n, "dtype": dtype}
    if isinstance(made, PowerLaw):
        given["degree"] = made.degree
    if params.iterate == "power":
        reachable = 1e-4 if real_itemsize(dtype) == 4 else 1e-8
        iteration = PowerIteration(params.iterations or ITERATIONS, params.tolerance or reachable)
        given["iterations"] = iteration.products
    return Opened(**given, layout=layout, nonzeros=nonzeros, iteration=iteration, matrix=made, vector=vector)


def prepare(comm: MPI.Comm, spec: Opened, plan: Cost) -> Problem:
    """The matrix, read or generated and dealt, and this rank's part of x."""
    m, n, dtype = spec.m, spec.n, np.dtype(spec.dtype)
    product: DensePlan | SparsePlan
    samples = list[Sample]()
    if spec.matrix is None or isinstance(spec.matrix, Source):
        grid = (plan.grid[0], plan.grid[1])
        product = DensePlan(comm, _dense_block(comm, spec, grid, samples), m=m, n=n, grid=grid, threads=available())
        nonzeros, rows, columns = m * n, product.rows, x_piece(n, grid, comm.rank)
    else:
        held = _sparse_rows(comm, spec, spec.matrix, dtype)
        bounds = held.bounds if m == n else uniform_bounds(n, comm.size)
        product = SparsePlan(comm, held.indptr, held.indices, held.data, bounds=bounds, threads=available())
        nonzeros = comm.allreduce(len(held.data))
        rows, columns = (Range(int(x[comm.rank]), int(x[comm.rank + 1])) for x in (held.bounds, bounds))
    if spec.vector is None:
        x = generator.uniform(spec.seed, Range(0, 1), columns, dtype, stream=1)[0]
    else:
        x = spec.vector.read(comm, (columns,), dtype)
    if isinstance(product, SparsePlan):
        product.x[...] = x
        x = product.x  # where it need not be copied
    y = np.zeros(rows.size, dtype)  # the first touch of fresh memory belongs to the preparation
    if spec.iteration:
        _check_start(comm, x, spec.x or "x")
    first = x.copy() if spec.iteration else x
    if spec.vector is not None:
        samples.append(Sample(spec.vector, spec.seed).hold(first, (columns,)))
    return Problem(product, x, first, y, rows.start, nonzeros, spec, plan, samples=tuple(samples))


def _check_start(comm: MPI.Comm, x: NDArray[Any], source: str) -> None:
    """Raise InputError, on all ranks, for a vector that has no direction."""
    finite, zero = comm.allreduce(bool(np.isfinite(x).all()), MPI.LAND), comm.allreduce(not x.any(), MPI.LAND)
    with agreement(comm):
        if not finite:
            raise InputError(f"{source}: holds numbers that are not finite: --iterate power cannot start there")
        if zero:
            raise InputError(f"{source}: is zero, which --iterate power multiplies in vain: another vector is expected")


def _dense_block(comm: MPI.Comm, spec: Opened, grid: tuple[int, int], samples: list[Sample]) -> NDArray[Any]:
    """This rank's block of op(A), generated or read. Appends a sample of what it reads."""
    part, source = grid_block((spec.m, spec.n), grid, comm.rank), spec.matrix
    if not isinstance(source, Source):
        return generator.uniform(spec.seed, part[0], part[1], spec.dtype, stream=0)
    stored = part[::-1] if spec.transpose else part
    block = source.read(comm, stored, spec.dtype)
    samples.append(Sample(source, spec.seed).hold(block, stored))
    return block.T if spec.transpose else block


def _sparse_rows(
    comm: MPI.Comm, spec: Resolved, matrix: MatrixMarket | SparseSource | Laplacian | PowerLaw, dtype: np.dtype[Any]
) -> CsrRows:
    m, n, transpose = spec.m, spec.n, spec.transpose
    if isinstance(matrix, Laplacian):
        return laplacian(comm, matrix.extents, dtype)
    if isinstance(matrix, PowerLaw):
        rows = power_law(comm, n, matrix.degree, spec.seed, dtype)
        if not transpose:
            return rows
        mine = Range(int(rows.bounds[comm.rank]), int(rows.bounds[comm.rank + 1]))
        return assemble(comm, rows.indices, np.repeat(np.arange(*mine), np.diff(rows.indptr)), rows.data, m=m, n=n)
    if isinstance(matrix, MatrixMarket):
        entries = matrix.read(comm)
        places = (entries.columns, entries.rows) if transpose else (entries.rows, entries.columns)
        return assemble(comm, *places, entries.values.astype(dtype, copy=False), m=m, n=n)
    return read_rows(comm, matrix.layout, matrix.arrays, m=m, n=n, transpose=transpose, dtype=dtype)


def resumable(spec: Resolved) -> bool:
    """Whether it is an iteration."""
    return spec.iteration is not None


def save(_comm: MPI.Comm, problem: Problem) -> Snapshot:
    """The vector after the products that have been made."""
    return Snapshot({"x": Block(problem.x, (problem.start,), (problem.spec.n,))}, {"products": problem.products})


def restore(comm: MPI.Comm, problem: Problem, saved: Saved) -> None:
    """Take the vector."""
    mine = Range(problem.start, problem.start + len(problem.x))
    problem.x[...] = saved.read(comm, "x", (mine,), problem.x.dtype)
    problem.products = int(saved.facts["products"])


def run(comm: MPI.Comm, problem: Problem, report: Report, checkpoint: Callable[[], None] = lambda: None) -> Result:
    """Multiply, or iterate, once; ``report`` is told the fraction that is done."""
    if problem.spec.iteration:
        return _iterate(comm, problem, problem.spec.iteration, report, checkpoint)
    before = collective.traffic.bytes_received
    y = problem.product(problem.x, problem.y, report)
    words = (collective.traffic.bytes_received - before) // y.itemsize
    array = Block(y, (problem.start,), (problem.spec.m,), ("m",))
    facts, lines = _told(comm, problem, words)
    return Result({"y": array}, _work(problem), _unit(problem), facts, lines)


def _iterate(
    comm: MPI.Comm, problem: Problem, iteration: PowerIteration, report: Report, checkpoint: Callable[[], None]
) -> Result:
    words = 0

    def multiply_counted(x: NDArray[Any]) -> NDArray[Any]:
        nonlocal words
        before = collective.traffic.bytes_received
        y = problem.product(x, problem.y, lambda _fraction: None)
        words = (collective.traffic.bytes_received - before) // y.itemsize
        return y

    def between(products: int) -> None:
        problem.products = products
        checkpoint()

    if not problem.products:
        problem.x[...] = problem.first
    y, pair = power_iteration(
        comm, multiply_counted, problem.x,
        iterations=iteration.products, tolerance=iteration.tolerance, advance=report,
        begun=problem.products, checkpoint=between,
    )  # fmt: skip
    problem.products = 0
    facts, lines = _told(comm, problem, words)
    facts |= {"eigenvalue": pair.value.real, "residual": pair.residual}
    facts |= {"products": pair.products, "converged": pair.converged, "tolerance": iteration.tolerance}
    if y.dtype.kind == "c":
        facts["eigenvalue_imag"] = pair.value.imag
    value = pair.value if y.dtype.kind == "c" else pair.value.real
    said = f"lambda = {value!r}, |A x - lambda x| = {pair.residual:.2g} |lambda| after {pair.products} products"
    arrays = {
        name: Block(part, (problem.start,), (problem.spec.m,), ("m",)) for name, part in (("x", problem.x), ("y", y))
    }
    return Result(arrays, _work(problem) * pair.products, _unit(problem), facts, (said, *lines))


def _work(problem: Problem) -> int:
    return problem.nonzeros * (problem.y.itemsize if problem.spec.layout == "dense" else 1)


def _unit(problem: Problem) -> str:
    return "B/s" if problem.spec.layout == "dense" else "nonzero/s"


def _told(comm: MPI.Comm, problem: Problem, words: int) -> tuple[dict[str, Scalar], tuple[str, ...]]:
    """What the file keeps, and rank 0 says, of a product in which this rank received ``words``."""
    spec, total = problem.spec, comm.allreduce(words)
    facts: dict[str, Scalar] = {
        "size": f"{spec.m} x {spec.n}, {problem.y.dtype}",
        "method_used": problem.plan.method,
        "grid": " x ".join(map(str, problem.plan.grid)),
        "words_exchanged": total,
        "words_busiest": comm.allreduce(words, MPI.MAX),
    }
    said = f"{total} words exchanged"
    if isinstance(problem.product, SparsePlan):
        most = comm.allreduce(len(problem.product.data), MPI.MAX)
        spread = most * comm.size / max(1, problem.nonzeros)
        facts |= {"nonzeros": problem.nonzeros, "nonzeros_busiest_over_mean": spread}
        facts["size"] = f"{spec.m} x {spec.n} with {problem.nonzeros} non-zeros, {problem.y.dtype}"
        if spec.laplacian is not None and comm.size > 1:
            surface = laplacian_surface(spec.laplacian, comm.size)
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
    y, product, spec = result.arrays["y"].local, problem.product, problem.spec
    if isinstance(product, DensePlan):
        verdict = check_dense(comm, product, problem.x, y, seed=spec.seed)
    else:
        verdict = check_sparse(comm, product, problem.x, y, start=problem.start, seed=spec.seed)
        if spec.a is not None:
            verdict = compare_entries(comm, spec.a, product, verdict, start=problem.start, transpose=spec.transpose)
    if problem.spec.iteration is None or not verdict.right:
        return verdict
    facts = result.facts
    value = complex(float(facts["eigenvalue"]), float(facts.get("eigenvalue_imag", 0)))
    found = check_eigenpair(comm, problem.x, y, value, float(facts["residual"]), float(facts["tolerance"]))
    return Verdict(found.right, f"{found.reason}; {verdict.reason}", {**verdict.facts, **found.facts})


def warm_up(spec: Resolved) -> None:
    """Compile or load the kernels that the run will call, by a tiny product of the same kind."""
    dtype, alone = np.dtype(spec.dtype), MPI.COMM_SELF
    if spec.iteration:
        one = np.ones(1, dtype)
        inner(alone, one, one)
        norm(alone, one)
    if spec.layout == "dense":
        a = np.ones((3, 2), dtype)
        a = a.T if spec.transpose else a
        multiply(a, np.ones(a.shape[1], dtype), np.empty(len(a), dtype), spec.transpose, 1)
        return
    if spec.layout == "mtx":
        matrix_market.warm_up()
    rows = power_law(alone, 3, 2, 1, dtype) if spec.layout == "power-law" else laplacian(alone, (3,), dtype)
    plan = SparsePlan(alone, rows.indptr, rows.indices, rows.data, bounds=rows.bounds, threads=1)
    check_sparse(alone, plan, plan.x, plan(plan.x), start=0, seed=1)
    plan.free()
