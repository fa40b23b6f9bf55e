"""Peak memory of ``hpcmpi sort`` above that after its imports, over the rank's share of the keys, at its goal.

Not a comparison with a peer: the share is what no program can do without. Keys are generated, and so lie in memory
beside the result.
"""

import argparse

import sort_command
from alternate import beside, peak_over_share

GOAL = 2.5


def ratio(options: argparse.Namespace, ranks: int, *more: str) -> float:
    """Peak above the baseline over the share, of the rank where each is largest."""
    how = [beside("mpirun"), "-n", str(ranks), beside(options.hpcmpi), "sort", "--n", options.n]
    return peak_over_share([*how, "--dtype", options.dtype, "--threads", "1", *more, "--no-output", "--json"])


def main() -> None:
    """Measure each number of ranks and print the ratios."""
    options = sort_command.parser(__doc__).parse_args()
    for generate in ("uniform", "few"):
        for ranks in (1, 2, 4, 7):
            found = ratio(options, ranks, "--generate", generate)
            print(f"{generate} {options.dtype}, n = {options.n}, {ranks} ranks: {found:.2f}; ", end="")
            print(f"goal at most {GOAL}: {'met' if found <= GOAL else 'MISSED'}", flush=True)


if __name__ == "__main__":
    main()
