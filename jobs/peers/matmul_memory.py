"""Peak memory of ``hpcmpi matmul`` above that after its imports, over the rank's share of A, B and C.

Not a comparison with a peer: the share is what no program can do without. Memory that the ranks of a node share is
counted on every rank that touches it, so the figure is an upper bound.
"""

import argparse

import matmul_command
from alternate import beside, peak_over_share

GOAL = 1.35


def ratio(options: argparse.Namespace, dtype: str, ranks: int) -> float:
    """Peak above the baseline over the share, of the rank where each is largest."""
    how = [beside("mpirun"), "-n", str(ranks), beside(options.hpcmpi), "matmul", "--n", str(options.n)]
    return peak_over_share([*how, "--dtype", dtype, "--threads", "1", "--no-output", "--json"])


def main() -> None:
    """Measure each number of ranks and print the ratios."""
    options = matmul_command.parser(__doc__).parse_args()
    for dtype in options.dtype:
        for ranks in (1, 2, 7, 16):
            found = ratio(options, dtype, ranks)
            print(f"{dtype}, n = {options.n}, {ranks} ranks: {found:.2f}; goal at most {GOAL}: ", end="")
            print("met" if found <= GOAL else "MISSED", flush=True)


if __name__ == "__main__":
    main()
