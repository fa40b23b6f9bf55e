"""Compare ``hpcmpi sort`` over a network with the time that the bytes it exchanges take on the wire.

``--launcher`` is what starts ranks on several hosts, as one string, e.g. "mpirun -hosts a,b,c,d -ppn 1 -n 4". A rank
receives (P - 1)/P of its share of the keys through its host's link, of ``--megabytes`` a second, which a plain transfer
between two hosts measures (a shaped link of 1 Gbit/s: 119.7).
"""

import json
import shlex

import sort_command
from alternate import Contender, alternate, beside, print_ratio, print_times

GOAL = 1.3


def main() -> None:
    """Measure."""
    parser = sort_command.parser(__doc__, n="4e7")
    parser.add_argument("--launcher", required=True, help="command that starts the ranks")
    parser.add_argument("--ranks", type=int, default=4, help="ranks that it starts")
    parser.add_argument("--hosts", type=int, default=4, help="hosts that they share evenly")
    parser.add_argument("--megabytes", type=float, default=119.7, help="MB/s that a link carries one way")
    options = parser.parse_args()
    run = [*shlex.split(options.launcher), beside(options.hpcmpi), "sort", "--n", options.n, "--dtype", options.dtype]
    contender = Contender(
        f"hpcmpi, {options.ranks} ranks on {options.hosts} hosts",
        [*run, "--threads", "1", "--no-verify", "--no-output", "--quiet", "--json"],
        read=lambda output: float(json.loads(output[output.index("{") :])["seconds_min"]),
    )
    times = alternate([contender], options.rounds)
    host = float(options.n) * 8 / options.hosts
    wire = host * (options.hosts - 1) / options.hosts / (options.megabytes * 1e6)
    print_times([contender], times, float(options.n) / 1e6, "Mkey/s")
    print(f"the exchanged bytes take {wire:.3f} s on the wire")
    print_ratio("time of hpcmpi over the wire's", times[0], [wire] * options.rounds, at_most=GOAL)


if __name__ == "__main__":
    main()
