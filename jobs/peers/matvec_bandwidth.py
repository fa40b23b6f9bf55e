"""Compare dense ``hpcmpi matvec`` with the read-only bandwidth of the machine, and with NumPy.

read: a compiled sum over as many bytes on as many ranks and threads: nothing that reads a matrix is faster.
numpy: the product of each rank's rows by NumPy's BLAS, x replicated, nothing exchanged but y.
cache: matrices that stay in cache, hpcmpi's kernel against BLAS in one process, calls in turn.
"""

import argparse
import sys
from functools import partial

from alternate import ROUNDS, TIMED, Contender, alternate, beside, print_ratio, print_times, require, seconds
from matmul_command import Help

READ_PROGRAM = (
    TIMED
    + """
import numba
import numpy as np

n, dtype, repeat, threads = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
numba.set_num_threads(threads)
A = np.empty((n * (comm.rank + 1) // comm.size - n * comm.rank // comm.size, n), dtype)
A[...] = 0.5
sums = np.zeros(threads, dtype)

@numba.njit(parallel=True, fastmath=True)
def read(A, sums):
    for t in numba.prange(sums.size):
        for i in range(len(A) * t // sums.size, len(A) * (t + 1) // sums.size):
            row, s = A[i], A.dtype.type(0)
            for j in range(row.size):
                s += row[j]
            sums[t] += s

read(A, sums)
print_timed(lambda: read(A, sums), repeat)
"""
)
NUMPY_PROGRAM = (
    TIMED
    + """
import numpy as np

n, dtype, repeat = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
rows = [n * (rank + 1) // comm.size - n * rank // comm.size for rank in range(comm.size)]
A = np.random.default_rng(comm.rank).random((rows[comm.rank], n), np.dtype(dtype).type)
x, y, z = np.ones(n, dtype), np.empty(len(A), dtype), np.empty(n, dtype)

def multiply():
    np.dot(A, x, out=y)
    comm.Allgatherv(y, [z, rows])

multiply()
print_timed(multiply, repeat)
"""
)
CACHE_PROGRAM = """
import json, sys, time
import numpy as np
from hpcmpi.algorithms.matvec.dense import multiply

n, dtype, contender = int(sys.argv[1]), sys.argv[2], sys.argv[3]
A = np.random.default_rng(1).random((n, n), np.dtype(dtype).type)
x, y = np.ones(n, dtype), np.empty(n, dtype)
run = (lambda: np.dot(A, x, out=y)) if contender == "numpy" else (lambda: multiply(A, x, y, False, 1))
calls = max(1, 10**8 // n**2)
def block():
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls
run()
times = sorted(block() for _ in range(9))
print(json.dumps({"seconds_min": times[0], "seconds_median": times[4]}))
"""


def main() -> None:
    """Run the comparisons that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    parser.add_argument("--n", type=int, default=16384, help="order of the matrix")
    parser.add_argument("--dtype", nargs="+", choices=["float64", "float32"], default=["float64"])
    parser.add_argument("--layout", nargs="+", default=["2x1", "1x2"], help="RANKSxTHREADS")
    parser.add_argument("--compare", nargs="+", choices=["read", "numpy", "cache"], default=["read", "numpy"])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="alternating rounds; fewer than 5 say little")
    parser.add_argument("--repeat", type=int, default=7, help="products a process")
    parser.add_argument("--statistic", choices=["min", "median"], default="min", help="which of a process's counts")
    parser.add_argument("--hpcmpi", default="hpcmpi", help="path, or name beside this Python or on PATH")
    options = parser.parse_args()
    require(sys.executable, ["mpi4py", "numpy", "numba"], "pip install 'hpcmpi[mpich]'")
    read = partial(seconds, statistic=options.statistic)
    peers = [name for name in ("read", "numpy") if name in options.compare]
    for dtype in options.dtype:
        for layout in options.layout if peers else ():
            ranks, threads = (int(number) for number in layout.split("x"))
            arguments = ["--n", str(options.n), "--dtype", dtype, "--threads", str(threads)]
            arguments += ["--repeat", str(options.repeat), "--no-verify", "--no-output", "--quiet", "--json"]
            launch = [beside("mpirun"), "-n", str(ranks)]
            contenders = [Contender("hpcmpi", [*launch, beside(options.hpcmpi), "matvec", *arguments], read=read)]
            for name in peers:
                program = READ_PROGRAM if name == "read" else NUMPY_PROGRAM
                words = [str(options.n), dtype, str(options.repeat), str(threads)]
                contenders.append(
                    Contender(name, [*launch, sys.executable, "-c", program, *words], threads=threads, read=read)
                )
            print(f"\n{dtype}, n = {options.n}, {ranks} ranks x {threads} threads")
            times = alternate(contenders, options.rounds)
            gigabytes = options.n**2 * (8 if dtype == "float64" else 4) / 1e9
            print_times(contenders, times, gigabytes, "GB/s")
            for name, peer in zip(peers, times[1:], strict=True):
                goal = 0.95 if name == "read" else None
                print_ratio(f"speed over that of {name}", peer, times[0], at_least=goal)
        if "cache" in options.compare:
            for n in (256, 512, 1024):
                pair = [
                    Contender(name, [sys.executable, "-c", CACHE_PROGRAM, str(n), dtype, name], threads=1, read=read)
                    for name in ("hpcmpi", "numpy")
                ]
                print(f"\n{dtype}, n = {n}, in cache, one thread")
                times = alternate(pair, options.rounds)
                print_times(pair, times, n * n * (8e-9 if dtype == "float64" else 4e-9), "GB/s")
                print_ratio("speed over that of numpy", times[1], times[0])


if __name__ == "__main__":
    main()
