"""Multiply dense matrices: C = op(A) op(B).

The operands are read from files (HDF5, .npy or .npz, each rank only its part) or generated from --seed; C is written
block by block by all ranks and checked by Freivalds' method before the run calls itself verified.

\b
Examples:
  mpirun -n 4 hpcmpi matmul --n 4096 -o C.h5
  mpirun -n 2 hpcmpi matmul --a X.h5:/data --b X.h5:/data --transpose-a -o gram.h5
  mpirun -n 2 hpcmpi matmul --n 8192 --strassen 2 -o C.h5
  mpirun -n 2 hpcmpi matmul --a A.h5 --b B.h5 --memory 1GiB -o C.h5
  hpcmpi matmul --n 8192 --ranks 64 --explain
  mpirun -n 8 hpcmpi matmul --m 1024 --k 65536 --n 1024 --grid 2x1x4 -o C.h5
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hpcmpi.record import Example, count, option, seed, size_in_bytes

PUBLIC = {"matmul": "library", "matmul_layout": "library"}
DTYPES = ("float32", "float64", "complex64", "complex128")
LEAST_MEMORY = 1 << 20
MOST_LEVELS = 4  # of Strassen-Winograd
METHODS = ("auto", "summa", "ring", "3d", "cannon")


def grid_of(text: str) -> tuple[int, ...]:
    """Two or three numbers of ranks from ``4x2`` or ``4x2x2``; ValueError for anything else."""
    parts = text.lower().split("x")
    if len(parts) not in (2, 3) or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"{text!r} is not a grid such as 4x2 or 4x2x2")
    return tuple(map(int, parts))


def grid_text(text: str) -> str:
    """A grid as :func:`grid_of` reads it, in its usual form; ValueError for anything else."""
    return "x".join(map(str, grid_of(text)))


EXAMPLES = (
    Example("--n 60 --seed 5", close={"C": 1e-13}),
    Example("--m 7 --n 5 --k 11 --dtype complex64", close={"C": 1e-5}),
    Example("--n 200 --memory 1MiB", close={"C": 1e-13}, aside=True),
)


@dataclass(frozen=True)
class Params:
    """Options of ``hpcmpi matmul``; op(A) is m x k, op(B) is k x n.

    None stands for what the files say, or for what ``--n`` says where nothing else does.
    """

    n: int | None = option(None, "Columns of C; alone, every dimension of generated operands.", parse=count)
    m: int | None = option(None, "Rows of C.", parse=count)
    k: int | None = option(None, "Columns of op(A), rows of op(B).", parse=count)
    a: str | None = option(None, "Left operand; generated where not given.", metavar="FILE[:/DATASET]")
    b: str | None = option(None, "Right operand; generated where not given.", metavar="FILE[:/DATASET]")
    transpose_a: bool = option(False, "Take op(A) as the transpose of what A holds.")
    transpose_b: bool = option(False, "Take op(B) as the transpose of what B holds.")
    dtype: str | None = option(
        None,
        "Arithmetic; by default that of the files, or float64. Files of another dtype are converted; numbers too large "
        "for it are refused.",
        choices=DTYPES,
    )
    method: str = option(
        "auto",
        "summa: 2-D blocks; ring: 1-D blocks; 3d: the inner dimension is cut too; cannon: square grids, for teaching; "
        "auto: the cheapest of all grids by its cost, but for cannon. A rank or a tenth of them may be left idle.",
        choices=METHODS,
    )
    grid: str | None = option(
        None, "Ranks along m, n and k; by default the cheapest.", parse=grid_text, metavar="PMxPN[xPK]"
    )
    strassen: int = option(
        0,
        "Levels of Strassen-Winograd, at most 4, of which as many are taken as pay on each rank's blocks: a level "
        "halves them, down to 1024 rows, 2048 columns and 2048 terms. Faster, with larger errors, which are measured "
        "and told; more memory. Not with ring.",
        parse=count,
        metavar="LEVELS",
    )
    memory: int | None = option(
        None,
        "Multiply in so much memory a rank, 1MiB or more, beside the program's own: what does not fit is streamed by "
        "tiles, C through --scratch; operands in chunks or .npz are copied there first.",
        parse=size_in_bytes,
        metavar="BYTES",
    )
    scratch: str | None = option(
        None, "Folder for what --memory streams through; else that for temporary files.", metavar="FOLDER"
    )
    seed: int = option(1, "Seed of generated operands.", parse=seed)

    def __post_init__(self) -> None:
        """Refuse what is incomplete, with ValueError."""
        if self.a is None and self.b is None and self.n is None:
            raise ValueError("what to multiply? Give --n, or --m --n --k, or files with --a and --b")
        if self.memory is not None and self.memory < LEAST_MEMORY:
            raise ValueError(f"--memory {self.memory}: at least 1MiB a rank is needed")
        if self.memory is not None and (self.method != "auto" or self.strassen):
            raise ValueError("--memory has a method of its own, and goes without --method and --strassen")
        if self.memory is None and self.scratch is not None:
            raise ValueError("--scratch goes with --memory")
        if self.strassen > MOST_LEVELS:
            raise ValueError(f"--strassen {self.strassen}: at most {MOST_LEVELS} levels, errors grow with each")
        if self.transpose_a and self.a is None:
            raise ValueError("--transpose-a needs --a: a generated operand is made as it is used")
        if self.transpose_b and self.b is None:
            raise ValueError("--transpose-b needs --b: a generated operand is made as it is used")


@dataclass(frozen=True, kw_only=True)
class Resolved(Params):
    """:class:`Params` with the sizes and the dtype of the product, from the options or the files.

    ``units`` are the bytes that must be read and inflated at once of A's file and B's: a chunk of HDF5; 0 where any
    part can be read by itself.
    """

    n: int
    m: int
    k: int
    dtype: str
    units: tuple[int, int] = field(default=(0, 0), metadata={"derived": True})
