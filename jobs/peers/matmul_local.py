"""Compare ``hpcmpi matmul`` with the same work without communication, and with itself on other layouts.

local: 2 ranks x 1 thread against two ranks that each multiply (n/2 x n) by (n x n) with NumPy and exchange nothing.
ranks: 4 and 16 ranks against 2 ranks, all with 1 thread a rank, on whatever cores there are.
threads: 1 rank x 2 threads against 2 ranks x 1 thread.
"""

import argparse
import sys
from functools import partial

import matmul_command
from alternate import TIMED, Contender, alternate, beside, print_ratio, print_times, require, seconds

LOCAL_PROGRAM = (
    TIMED
    + """
import numpy as np

n, dtype, repeat = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
numbers = np.random.default_rng(comm.rank)
A, B = (numbers.random(shape, dtype) - np.dtype(dtype).type(0.5) for shape in ((n // comm.size, n), (n, n)))
C = np.empty((n // comm.size, n), dtype)
print_timed(lambda: np.matmul(A, B, out=C), repeat)
"""
)


def local(options: argparse.Namespace, dtype: str, ranks: int) -> Contender:
    """Products on ``ranks`` ranks that share nothing, with as many operations in all as one distributed product."""
    require(sys.executable, ["mpi4py", "numpy"], "pip install 'hpcmpi[mpich]'")
    arguments = [str(options.n), dtype, str(options.repeat)]
    return Contender(
        f"numpy, {ranks} local",
        [beside("mpirun"), "-n", str(ranks), sys.executable, "-c", LOCAL_PROGRAM, *arguments],
        threads=1,
        read=partial(seconds, statistic=options.statistic),
    )


def main() -> None:
    """Run the comparisons that the command line asks for."""
    parser = matmul_command.parser(__doc__)
    parser.add_argument(
        "--compare", nargs="+", choices=["local", "ranks", "threads"], default=["local"], help="as above"
    )
    options = parser.parse_args()
    for dtype in options.dtype:
        two = matmul_command.hpcmpi(options, dtype, ranks=2, threads=1)
        for comparison in options.compare:
            if comparison == "local":
                others = [local(options, dtype, ranks=2)]
            elif comparison == "ranks":
                others = [matmul_command.hpcmpi(options, dtype, ranks=ranks, threads=1) for ranks in (4, 16)]
            else:
                others = [matmul_command.hpcmpi(options, dtype, ranks=1, threads=2)]
            print(f"\n{dtype}, n = {options.n}")
            two_times, *times = alternate([two, *others], options.rounds)
            print_times([two, *others], [two_times, *times], matmul_command.gigaflop(options.n), "Gflop/s")
            if comparison == "local":
                print_ratio("speed of local products reached", times[0], two_times, at_least=0.97)
            elif comparison == "ranks":
                print_ratio("time of 4 ranks over that of 2", times[0], two_times, at_most=1.10)
                print_ratio("time of 16 ranks over that of 2", times[1], two_times, at_most=1.10)
            else:
                print_ratio("speed of 1 x 2 over that of 2 x 1", two_times, times[0], at_least=0.90)


if __name__ == "__main__":
    main()
