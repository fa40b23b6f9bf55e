"""Compare ``hpcmpi matmul --strassen 1`` and ``2`` with the classical product, and tell their measured errors.

The errors are those that a verified run tells: of sampled elements, over |A| |B|, beside those of a classical product
and the classical bound.
"""

import argparse
import dataclasses
import json
import subprocess

import matmul_command
from alternate import Contender, alternate, beside, print_ratio, print_times

GOALS = {1: 1.08, 2: 1.13}


def by_strassen(options: argparse.Namespace, dtype: str, levels: int) -> Contender:
    """The same command with ``levels`` of Strassen-Winograd."""
    plain = matmul_command.hpcmpi(options, dtype, ranks=options.ranks, threads=1)
    command = [*plain.command, "--strassen", str(levels)]
    return dataclasses.replace(plain, name=f"{plain.name}, {levels} levels", command=command)


def error(options: argparse.Namespace, dtype: str, levels: int) -> str:
    """What a verified run says of its error."""
    how = [beside("mpirun"), "-n", str(options.ranks), beside(options.hpcmpi), "matmul", "--n", str(options.n)]
    how += ["--dtype", dtype, "--strassen", str(levels), "--threads", "1", "--no-output", "--json"]
    facts = json.loads(subprocess.run(how, capture_output=True, text=True, check=True).stdout)
    if not facts["strassen_levels"]:
        return "multiplied classically"
    return (
        f"error {facts['error_measured']:.1e}, of a classical product {facts['error_classical']:.1e}, "
        f"classical bound {facts['error_classical_bound']:.1e}, of Strassen's own bound {facts['error_over_bound']:.1e}"
    )


def main() -> None:
    """Run the comparison for each dtype."""
    parser = matmul_command.parser(__doc__)
    parser.add_argument("--ranks", type=int, default=2, help="with 1 thread each")
    options = parser.parse_args()
    for dtype in options.dtype:
        classical = matmul_command.hpcmpi(options, dtype, ranks=options.ranks, threads=1)
        contenders = [classical, *(by_strassen(options, dtype, levels) for levels in GOALS)]
        print(f"\n{dtype}, n = {options.n}")
        times = alternate(contenders, options.rounds)
        print_times(contenders, times, matmul_command.gigaflop(options.n), "Gflop/s")
        for (levels, goal), seconds in zip(GOALS.items(), times[1:], strict=True):
            print_ratio(f"speed of {levels} levels over classical", times[0], seconds, at_least=goal)
        for levels in GOALS:
            print(f"{levels} levels: {error(options, dtype, levels)}", flush=True)


if __name__ == "__main__":
    main()
