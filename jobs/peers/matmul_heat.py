"""Compare ``hpcmpi matmul`` with Heat's ``ht.matmul`` on split arrays.

Heat's speed depends on how the operands are split, so all pairs asked for are tried first and the best goes against
hpcmpi. If it keeps a whole operand on every rank (None), so does the best that distributes both, as hpcmpi does: 0,None
and None,1 communicate nothing, at the price of memory that does not shrink with more ranks.
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
    parser = matmul_command.peer_parser(__doc__)
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS[:6], metavar="A,B", help=f"of {SPLITS}")
    parser.add_argument("--peer-python", default=sys.executable, help="Python that has Heat, if it has its own")
    options = parser.parse_args()
    require(
        options.peer_python,
        ["heat", "torch", "mpi4py", "h5py"],  # without h5py Heat 1.8 does not import
        "pip install heat h5py mpi4py mpich (2 GB; see --peer-python)",
    )
    work = matmul_command.gigaflop(options.n)
    for dtype in options.dtype:
        print(f"\n{dtype}, n = {options.n}, {options.ranks} ranks x 1 thread: Heat's splits")
        tried = matmul_command.shortest(options, [heat(options, dtype, splits) for splits in options.splits])
        taken = dict(zip(options.splits, tried, strict=True))
        distributed = [splits for splits in options.splits if "None" not in splits]
        best = [min(pairs, key=taken.__getitem__) for pairs in (distributed, options.splits) if pairs]
        contenders = [matmul_command.hpcmpi(options, dtype, ranks=options.ranks, threads=1)]
        contenders += [heat(options, dtype, splits) for splits in dict.fromkeys(best)]
        print(f"\n{dtype}: hpcmpi against Heat at its best")
        times = alternate(contenders, options.rounds)
        print_times(contenders, times, work, "Gflop/s")
        for contender, peer_times in zip(contenders[1:], times[1:], strict=True):
            print_ratio(f"speed of hpcmpi over {contender.name}", peer_times, times[0], at_least=1.8)


if __name__ == "__main__":
    main()
