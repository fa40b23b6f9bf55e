"""Overlap of ``hpcmpi matmul`` with a slow network: its time over the larger of compute time and words over bandwidth.

Not a comparison with a peer: the limit is what no program can beat that moves these words. The command that starts P
ranks over the hosts is given with --launch and may be anything: ``mpirun -hosts a,b,c,d -n 4``, ``srun -N 4 -n 4``. The
compute time is that of local products of the same shape on the same ranks, without communication; the bandwidth is
given. Every round measures both, in turn. With --received, a command that prints the bytes that each host has received
so far, as ``NAME BYTES`` lines, the bytes on the wire are compared with those that hpcmpi counts.
"""

import argparse
import json
import shlex
import subprocess
import sys
from functools import partial

from alternate import ROUNDS, TIMED, ComparisonError, Contender, alternate, beside, print_ratio, print_times, seconds

LOCAL_PROGRAM = (
    TIMED
    + """
import numpy as np

m, k, n, repeat = map(int, sys.argv[1:5])
numbers = np.random.default_rng(comm.rank)
A, B, C = numbers.random((m, k)) - 0.5, numbers.random((k, n)) - 0.5, np.empty((m, n))
print_timed(lambda: np.matmul(A, B, out=C), repeat)
"""
)


def total(command: str) -> int:
    """Bytes received by all hosts so far."""
    told = subprocess.run(shlex.split(command), capture_output=True, text=True, check=True).stdout
    return sum(int(line.split()[1]) for line in told.splitlines())


def main() -> None:
    """Run the comparison that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launch", required=True, help="command that starts the ranks; ours is appended")
    parser.add_argument("--grid", default="2x2x1", help="ranks along m, n and k: PMxPNxPK")
    parser.add_argument("--n", type=int, default=4096, help="order of the matrices")
    parser.add_argument("--bandwidth", type=float, default=119.7e6, help="bytes a second of a link")
    parser.add_argument("--hosts", type=int, help="with as many ranks each; by default one rank a host")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="alternating rounds; fewer than 5 say little")
    parser.add_argument("--repeat", type=int, default=3, help="products a process; the median counts")
    parser.add_argument("--hpcmpi", default="hpcmpi", help="path, or name beside this Python or on PATH")
    parser.add_argument("--received", help="command that tells what each host has received")
    options = parser.parse_args()
    launch, n = shlex.split(options.launch), options.n
    pm, pn, pk = (int(extent) for extent in options.grid.split("x"))
    product = ["matmul", "--n", str(n), "--grid", options.grid, "--threads", "1", "--repeat", str(options.repeat)]
    ours = [*launch, beside(options.hpcmpi), *product, "--no-verify", "--no-output", "--quiet", "--json"]
    sizes = [str(-(-n // pm)), str(-(-n // pk)), str(-(-n // pn)), str(options.repeat)]
    local = [*launch, sys.executable, "-c", LOCAL_PROGRAM, *sizes]
    read = partial(seconds, statistic="median")
    contenders = [
        Contender(f"hpcmpi, grid {options.grid}", ours, threads=1, read=read),
        Contender("local products", local, threads=1, read=read),
    ]
    before = total(options.received) if options.received else 0
    ended = subprocess.run(ours, env=contenders[0].environment(), capture_output=True, text=True, check=False)
    if ended.returncode:
        raise ComparisonError(ended.stderr)
    facts = json.loads(ended.stdout)
    if options.received:
        on_the_wire, counted = total(options.received) - before, facts["bytes_in_messages"] * options.repeat
        print(f"bytes on the wire: {on_the_wire:.4g}, counted: {counted:.4g}")
        print_ratio("bytes on the wire over those counted", [on_the_wire], [counted], at_least=0.97, at_most=1.03)
    most, bound = facts["bytes_received_most"], facts["bytes_received_lower_bound"]
    print(f"the busiest rank received {most:.4g} bytes, {most / bound:.2f}x the lower bound")
    hosts = options.hosts or pm * pn * pk
    # Ranks of a host share one link, and what they read from each other's memory does not come by it.
    on_a_link = most if hosts == pm * pn * pk else facts["bytes_in_messages"] / hosts
    network = on_a_link / options.bandwidth
    times = alternate(contenders, options.rounds)
    print_times(contenders, times, 2e-9 * n**3, "Gflop/s")
    limits = [max(network, compute) for compute in times[1]]
    print(f"words over bandwidth: {network:.3f} s")
    print_ratio("time over the larger of compute and network", times[0], limits, at_most=1.30)


if __name__ == "__main__":
    main()
