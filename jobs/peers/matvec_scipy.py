"""Compare sparse ``hpcmpi matvec`` with SciPy's ``csr_array @ x``, which uses one thread.

Both multiply the same matrix: the Laplacian is built by Kronecker sums in SciPy; the power-law matrix is hpcmpi's own
generator's, whose rows are the same on any number of ranks.
"""

import argparse
import sys
from functools import partial

from alternate import ROUNDS, TIMED, Contender, alternate, beside, print_ratio, print_times, require, seconds
from matmul_command import Help

SCIPY_PROGRAM = (
    TIMED
    + """
import numpy as np
import scipy.sparse as sparse

kind, size, repeat = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if kind == "laplacian":
    line = sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(size, size))
    one, plane = sparse.eye_array(size), sparse.eye_array(size**2)
    A = sparse.kron(line, plane) + sparse.kron(sparse.kron(one, line), one) + sparse.kron(plane, line)
    A = sparse.csr_array(A)
else:
    from hpcmpi.algorithms.matvec.generated import power_law
    rows = power_law(comm, size, 16, 1, np.float64)
    A = sparse.csr_array((rows.data, rows.indices.astype(np.int32), rows.indptr.astype(np.int32)), shape=(size, size))
x = np.random.default_rng(1).random(A.shape[1]) - 0.5
A @ x
print_timed(lambda: A @ x, repeat)
"""
)


def main() -> None:
    """Run the comparisons that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    parser.add_argument("--matrix", nargs="+", choices=["laplacian", "power-law"], default=["laplacian", "power-law"])
    parser.add_argument("--extent", type=int, default=200, help="of the Laplacian's three dimensions")
    parser.add_argument("--rows", type=int, default=4_000_000, help="of the power-law matrix, 16 non-zeros each")
    parser.add_argument("--layout", nargs="+", default=["2x1"], help="RANKSxTHREADS")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="alternating rounds; fewer than 5 say little")
    parser.add_argument("--repeat", type=int, default=9, help="products a process")
    parser.add_argument("--statistic", choices=["min", "median"], default="min", help="which of a process's counts")
    parser.add_argument("--hpcmpi", default="hpcmpi", help="path, or name beside this Python or on PATH")
    options = parser.parse_args()
    require(sys.executable, ["mpi4py", "scipy"], "pip install 'hpcmpi[mpich]' scipy")
    read = partial(seconds, statistic=options.statistic)
    for matrix in options.matrix:
        size = options.extent if matrix == "laplacian" else options.rows
        asked = ",".join([str(size)] * 3) if matrix == "laplacian" else str(size)
        contenders = []
        for layout in options.layout:
            ranks, threads = layout.split("x")
            arguments = [f"--{matrix}", asked, "--threads", threads, "--repeat", str(options.repeat)]
            arguments += ["--no-verify", "--no-output", "--quiet", "--json"]
            command = [beside("mpirun"), "-n", ranks, beside(options.hpcmpi), "matvec", *arguments]
            contenders.append(Contender(f"hpcmpi {layout}", command, read=read))
        program = [sys.executable, "-c", SCIPY_PROGRAM, matrix, str(size), str(options.repeat)]
        contenders.append(Contender("SciPy", program, threads=1, read=read))
        print(f"\n{matrix} {asked}")
        times = alternate(contenders, options.rounds)
        print_times(contenders, times)
        for contender, own in zip(contenders[:-1], times[:-1], strict=True):
            print_ratio(f"{contender.name}: speed over SciPy's", times[-1], own, at_least=1.6)


if __name__ == "__main__":
    main()
