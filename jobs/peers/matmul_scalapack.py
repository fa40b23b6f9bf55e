"""Compare ``hpcmpi matmul`` with ScaLAPACK's pdgemm (psgemm), which multiplies with the very BLAS that NumPy uses.

First the peer's local gemm is checked against NumPy's, then its block sizes, panels and grids are tried, and the
best go against hpcmpi: one with ScaLAPACK's default panel, as a user finds it, one with any panel. The
peer's product is verified in every run.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matmul_command
import matmul_local
from alternate import ComparisonError, Contender, alternate, print_ratio, print_times, require, seconds

SOURCE = Path(__file__).with_suffix(".c")
INSTALL = "install Debian's packages libscalapack-mpich-dev, libmpich-dev and mpich, and NumPy's wheel from PyPI"
DEFAULT_PANEL = 32
"""What ScaLAPACK's own PILAENV answers."""

FIND_BLAS = """
import pathlib, numpy
for library in pathlib.Path(numpy.__path__[0]).with_name("numpy.libs").glob("libscipy_openblas64_*.so*"):
    print(library)
"""


@dataclass(frozen=True)
class Tuning:
    """The parameters of pdgemm: block size, panel width, grid. Block size 0 is a local gemm instead."""

    block: int
    panel: int
    rows: int
    columns: int

    def __str__(self) -> str:
        """The text of a table's line."""
        return f"block {self.block}, panel {self.panel}, grid {self.rows} x {self.columns}"


def find(program: str) -> str:
    """Path of a program of the peer's."""
    path = shutil.which(program)
    if path is None:
        raise ComparisonError(f"{program} is missing: {INSTALL}")
    return path


def build(folder: Path, dtype: str) -> Path:
    """The peer's program for ``dtype``, linked with NumPy's own OpenBLAS."""
    require(sys.executable, ["numpy"], INSTALL)
    found = subprocess.run([sys.executable, "-c", FIND_BLAS], capture_output=True, text=True, check=True)
    blas = found.stdout.strip()
    if not blas:
        raise ComparisonError(f"this NumPy brings no OpenBLAS of its own: {INSTALL}")
    program = folder / f"matmul_scalapack_{dtype}"
    command = [find("mpicc.mpich"), "-std=c11", "-O2", "-o", str(program), str(SOURCE)]
    command += ["-DSINGLE"] if dtype == "float32" else []
    command += [blas, f"-Wl,-rpath,{Path(blas).parent}", "-lscalapack-mpich", "-lm"]
    compiled = subprocess.run(command, capture_output=True, text=True, check=False)
    if compiled.returncode:
        raise ComparisonError(f"{compiled.stderr}\nThe peer cannot be built: {INSTALL}")
    return program


def scalapack(options: argparse.Namespace, program: Path, tuning: Tuning) -> Contender:
    """The peer's program with one set of parameters, started by the mpirun of the MPI it is linked with."""
    numbers = [options.n, tuning.block, tuning.panel, tuning.rows, tuning.columns, options.repeat]
    return Contender(
        f"ScaLAPACK, {tuning}" if tuning.block else f"the peer's BLAS, {options.ranks} local",
        [find("mpirun.mpich"), "-n", str(options.ranks), str(program), *map(str, numbers)],
        threads=1,
        read=partial(seconds, statistic=options.statistic),
    )


def tune(options: argparse.Namespace, program: Path) -> list[Tuning]:
    """The best parameters with ScaLAPACK's default panel, and the best of all."""
    grids = [(rows, options.ranks // rows) for rows in range(1, options.ranks + 1) if options.ranks % rows == 0]
    panels = dict.fromkeys((DEFAULT_PANEL, *options.panels))
    tunings = [Tuning(block, panel, *grid) for panel in panels for block in options.blocks for grid in grids]
    tried = matmul_command.shortest(options, [scalapack(options, program, tuning) for tuning in tunings])
    taken = dict(zip(tunings, tried, strict=True))
    default = min((tuning for tuning in taken if tuning.panel == DEFAULT_PANEL), key=taken.__getitem__)
    return list(dict.fromkeys((default, min(taken, key=taken.__getitem__))))


def compare(options: argparse.Namespace, program: Path, dtype: str) -> None:
    """All of the comparison for one dtype."""
    work = matmul_command.gigaflop(options.n)
    print(f"\n{dtype}, n = {options.n}, {options.ranks} ranks x 1 thread: the peer's local gemm")
    gemms = [
        matmul_local.local(options, dtype, options.ranks),
        scalapack(options, program, Tuning(0, 0, 0, 0)),
    ]
    times = alternate(gemms, options.rounds)
    print_times(gemms, times, work, "Gflop/s")
    print_ratio("speed of the peer's gemm over NumPy's", times[0], times[1], at_least=0.97)

    print(f"\n{dtype}: the peer's parameters")
    best = tune(options, program)

    print(f"\n{dtype}: hpcmpi against the peer at its best")
    contenders = [matmul_command.hpcmpi(options, dtype, ranks=options.ranks, threads=1)]
    contenders += [scalapack(options, program, tuning) for tuning in best]
    times = alternate(contenders, options.rounds)
    print_times(contenders, times, work, "Gflop/s")
    for contender, tuning, peer_times in zip(contenders[1:], best, times[1:], strict=True):
        goal = 1.2 if tuning.panel == DEFAULT_PANEL else None
        print_ratio(f"speed of hpcmpi over {contender.name}", peer_times, times[0], at_least=goal)


def main() -> None:
    """Build the peer, tune it and compare."""
    parser = matmul_command.peer_parser(__doc__)
    parser.add_argument("--blocks", type=int, nargs="+", default=[64, 128, 256], help="block sizes to try")
    parser.add_argument(
        "--panels", type=int, nargs="+", default=[256], help=f"panels to try beside the default of {DEFAULT_PANEL}"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hpcmpi-peer-") as folder:
        for dtype in options.dtype:
            compare(options, build(Path(folder), dtype), dtype)


if __name__ == "__main__":
    main()
