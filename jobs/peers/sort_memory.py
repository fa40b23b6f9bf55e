"""Peak memory of ``hpcmpi sort`` above that after its imports, over the rank's share of the keys, at its goal.

Not a comparison with a peer: the share is what no program can do without. Keys are generated, and so lie in memory
beside the result.
"""

import argparse
import json
import subprocess

import sort_command
from alternate import ComparisonError, beside

GOAL = 2.5


def ratio(options: argparse.Namespace, ranks: int, *more: str) -> float:
    """Peak above the baseline over the share, of the rank where each is largest."""
    how = [beside("mpirun"), "-n", str(ranks), beside(options.hpcmpi), "sort", "--n", options.n]
    command = [*how, "--dtype", options.dtype, "--threads", "1", *more, "--no-output", "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise ComparisonError(ended.stderr)
    facts = json.loads(ended.stdout)
    return float((facts["memory_peak_bytes"] - facts["memory_baseline_bytes"]) / facts["share_bytes"])


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
