"""Compare hpcmpi's start-up with that of the packages it cannot do without, as whole processes seen from outside.

``hpcmpi --help`` against importing click, and a small product on 2 ranks against importing NumPy, h5py and MPI there.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from alternate import Contender, alternate, beside, print_ratio, print_times, require

GOAL = 1.5


def main() -> None:
    """Start all in turn, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21, help="alternating rounds; starts vary more than products")
    parser.add_argument("--hpcmpi", default="hpcmpi", help="path, or name beside this Python or on PATH")
    options = parser.parse_args()
    require(sys.executable, ["click", "h5py", "mpi4py", "numpy"], "pip install 'hpcmpi[mpich]'")
    hpcmpi, python, two_ranks = beside(options.hpcmpi), sys.executable, [beside("mpirun"), "-n", "2"]
    commands = {
        "hpcmpi --help": [hpcmpi, "--help"],
        "import click": [python, "-c", "import click"],
        "hpcmpi matmul --n 64, 2 ranks": [*two_ranks, hpcmpi, "matmul", "--n", "64"],
        "import numpy, h5py, mpi4py.MPI, 2 ranks": [*two_ranks, python, "-c", "import numpy, h5py, mpi4py.MPI"],
    }
    # The product leaves its record in the folder it is started in.
    with tempfile.TemporaryDirectory() as folder:
        contenders = [Contender(name, words, read=None, folder=Path(folder)) for name, words in commands.items()]
        alternate(contenders, 1)  # not counted: fills the caches of files and of compiled modules
        times = alternate(contenders, options.rounds)
    print_times(contenders, times)
    print_ratio("time of --help over importing click", times[0], times[1], at_most=GOAL)
    print_ratio("time of a small product over importing its packages", times[2], times[3], at_most=GOAL)


if __name__ == "__main__":
    main()
