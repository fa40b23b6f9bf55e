"""Compare ``hpcmpi sort`` with Polars' ``Series.sort`` on two threads."""

import sys

import sort_command
from alternate import Contender, alternate, print_ratio, print_times, require, seconds

POLARS_PROGRAM = """
import json, os, sys, time
os.environ["POLARS_MAX_THREADS"] = "2"
import numpy as np
import polars as pl

n, dtype = int(float(sys.argv[1])), sys.argv[2]
rng = np.random.default_rng(1)
series = pl.Series(rng.random(n) if dtype == "float64" else rng.integers(-2**63, 2**63 - 1, n))
start = time.perf_counter()
series.sort()
taken = time.perf_counter() - start
print(json.dumps(dict.fromkeys(("seconds_min", "seconds_median", "seconds_max"), taken)))
"""


def main() -> None:
    """Compare."""
    parser = sort_command.parser(__doc__)
    parser.add_argument("--peer-python", default=sys.executable, help="Python that has Polars, if it has its own")
    options = parser.parse_args()
    require(options.peer_python, ["polars", "numpy"], "pip install polars (see --peer-python)")
    program = [options.peer_python, "-c", POLARS_PROGRAM, options.n, options.dtype]
    contenders = [Contender("Polars, 2 threads", program, read=seconds)]
    contenders += [sort_command.hpcmpi(options, ranks=r, threads=t) for r, t in ((2, 1), (1, 2))]
    times = alternate(contenders, options.rounds)
    print_times(contenders, times, float(options.n) / 1e6, "Mkey/s")
    for contender, taken in zip(contenders[1:], times[1:], strict=True):
        print_ratio(f"speed of {contender.name} over Polars", times[0], taken, at_least=3.0)


if __name__ == "__main__":
    main()
