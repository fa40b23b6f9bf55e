"""Compare ``hpcmpi sort`` with Heat's ``ht.sort`` on two ranks of one thread each."""

import sys

import sort_command
from alternate import TIMED, Contender, alternate, beside, print_ratio, print_times, require, seconds

HEAT_PROGRAM = (
    TIMED
    + """
import heat as ht
import torch

n = int(float(sys.argv[1]))
torch.set_num_threads(1)
keys = ht.random.rand(n, dtype=ht.float64, split=0)
print_timed(lambda: ht.sort(keys), 1)
"""
)


def main() -> None:
    """Compare."""
    parser = sort_command.parser(__doc__, n="2e7")
    parser.add_argument("--peer-python", default=sys.executable, help="Python that has Heat, if it has its own")
    options = parser.parse_args()
    require(options.peer_python, ["heat", "torch", "mpi4py"], "pip install heat mpi4py mpich (2 GB; see --peer-python)")
    launcher = [beside("mpirun", options.peer_python), "-n", "2"]
    program = [*launcher, options.peer_python, "-c", HEAT_PROGRAM, options.n]
    contenders = [Contender("Heat, 2 x 1", program, threads=1, read=seconds)]
    contenders.append(sort_command.hpcmpi(options, ranks=2, threads=1, dtype="float64"))
    times = alternate(contenders, options.rounds)
    print_times(contenders, times, float(options.n) / 1e6, "Mkey/s")
    print_ratio("speed of hpcmpi over Heat", times[0], times[1], at_least=6.0)


if __name__ == "__main__":
    main()
