"""Compare ``hpcmpi matmul`` with Heat's ``ht.matmul`` on split arrays.

Heat's speed depends on how the operands are split, so all pairs asked for are tried once and the best goes against
hpcmpi. A pair with None keeps a whole operand on every rank; 0,None and None,1 need no communication then.
"""

import argparse
import sys
from functools import partial

import matmul_command
from alternate import TIMED, Contender, alternate, beside, print_ratio, print_times, require, seconds

HEAT_PROGRAM = (
    TIMED
    + """
import heat as ht
import torch

n, dtype, repeat, threads = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
splits = [None if split == "None" else int(split) for split in sys.argv[5].split(",")]
torch.set_num_threads(threads)
A, B = (ht.random.rand(n, n, dtype=getattr(ht, dtype), split=split) - 0.5 for split in splits)
products = []

def multiply():
    products[:] = [ht.matmul(A, B)]

print_timed(multiply, repeat)
x = ht.random.rand(n, 1, dtype=getattr(ht, dtype)) - 0.5
image, expected = (ht.resplit(ht.matmul(M, v)) for M, v in ((products[0], x), (A, ht.resplit(ht.matmul(B, x)))))
error, size = ht.norm(image - expected), ht.norm(image)
if not float(error) <= float(size) * (1e-10 if dtype == "float64" else 1e-3):
    sys.exit("Heat's product is wrong")
"""
)
SPLITS = ["0,0", "0,1", "1,0", "1,1", "0,None", "None,1", "1,None", "None,0"]


def heat(options: argparse.Namespace, dtype: str, splits: str) -> Contender:
    """Heat with 1 thread a rank, its operands split along the given axes."""
    arguments = [str(options.n), dtype, str(options.repeat), "1", splits]
    program = [options.peer_python, "-c", HEAT_PROGRAM, *arguments]
    return Contender(
        f"Heat, splits {splits}",
        [beside("mpirun", options.peer_python), "-n", str(options.ranks), *program],
        threads=1,
        read=partial(seconds, statistic=options.statistic),
    )


def main() -> None:
    """Try the splits and compare the best."""
    parser = matmul_command.parser(__doc__)
    parser.add_argument("--ranks", type=int, default=2, help="with 1 thread each")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS[:6], metavar="A,B", help=f"of {SPLITS}")
    parser.add_argument("--peer-python", default=sys.executable, help="Python that has Heat, if it has its own")
    options = parser.parse_args()
    require(options.peer_python, ["heat", "torch", "mpi4py"], "pip install heat mpi4py mpich (2 GB; see --peer-python)")
    work = matmul_command.gigaflop(options.n)
    for dtype in options.dtype:
        print(f"\n{dtype}, n = {options.n}, {options.ranks} ranks x 1 thread: Heat's splits, one run each")
        taken = {}
        for splits in options.splits:
            taken[splits] = heat(options, dtype, splits).run()
            print(f"{splits:10} {taken[splits]:10.4f} s {work / taken[splits]:9.1f} Gflop/s", flush=True)
        best = min(taken, key=taken.__getitem__)
        contenders = [
            matmul_command.hpcmpi(options, dtype, ranks=options.ranks, threads=1),
            heat(options, dtype, best),
        ]
        print(f"\n{dtype}: hpcmpi against Heat at its best")
        times = alternate(contenders, options.rounds)
        print_times(contenders, times, work, "Gflop/s")
        print_ratio("speed of hpcmpi over Heat", times[1], times[0])


if __name__ == "__main__":
    main()
