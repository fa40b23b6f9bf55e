"""Compare ``hpcmpi bfs`` on ranks of several hosts with as many ranks on one host.

``--launcher`` is what starts ranks on several hosts, as one string, e.g. "mpirun -hosts a,b,c,d -ppn 1 -n 4".
"""

import dataclasses
import shlex

import bfs_command
from alternate import alternate, print_ratio, print_times

GOAL = 0.5


def main() -> None:
    """Measure."""
    parser = bfs_command.parser(__doc__)
    parser.add_argument("--launcher", required=True, help="command that starts the ranks on several hosts")
    parser.add_argument("--ranks", type=int, default=4, help="ranks that it starts")
    options = parser.parse_args()
    one = bfs_command.hpcmpi(options, f"{options.ranks}x1", ["--no-output", "--json", "--no-verify"])
    program = list(one.command[one.command.index("-n") + 2 :])
    several = dataclasses.replace(
        one,
        name=f"hpcmpi, {options.ranks} ranks on several hosts",
        command=[*shlex.split(options.launcher), *program],
        read=lambda output: bfs_command.searching(output[output.index("{") :]),
    )
    times = alternate([one, several], options.rounds)
    print(f"scale {options.scale}, edge factor {options.edge_factor}: seconds for 10^9 edges, and GTEPS")
    print_times([one, several], times, 1.0, "GTEPS")
    print_ratio("speed on several hosts over that on one", times[0], times[1], at_least=GOAL)


if __name__ == "__main__":
    main()
