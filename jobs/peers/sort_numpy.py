"""Compare ``hpcmpi sort`` with ``np.sort`` in place, and ``--argsort`` with ``np.argsort``, on one thread.

Every run is a process of its own. NumPy sorts in place; hpcmpi leaves its input alone and fills memory that was touched
before. NumPy is tried with its own choice of instructions and without AVX-512, and the faster of the two counts: on
Zen 4 its AVX-512 sort is the slower by far. ``--distributions`` compares hpcmpi's own distributions and dtypes with
uniform float64 keys instead.
"""

import sys
from statistics import median

import sort_command
from alternate import Contender, alternate, print_ratio, print_times, seconds

NUMPY_PROGRAM = """
import json, sys, time
import numpy as np

n, dtype, what = int(float(sys.argv[1])), sys.argv[2], sys.argv[3]
rng = np.random.default_rng(1)
keys = rng.random(n) if dtype == "float64" else rng.integers(-2**63, 2**63 - 1, n)
start = time.perf_counter()
keys.sort() if what == "sort" else keys.argsort()
taken = time.perf_counter() - start
print(json.dumps(dict.fromkeys(("seconds_min", "seconds_median", "seconds_max"), taken)))
"""
DISTRIBUTIONS = ["normal", "zipf", "nearly-sorted", "reverse", "few", "equal", "one-rank"]


def main() -> None:
    """Compare."""
    parser = sort_command.parser(__doc__)
    parser.add_argument("--argsort", action="store_true", help="compare orders")
    parser.add_argument("--distributions", action="store_true", help="compare with uniform keys, on two ranks")
    options = parser.parse_args()
    if options.distributions:
        contenders = [sort_command.hpcmpi(options, ranks=2, threads=1)]
        contenders += [sort_command.hpcmpi(options, ranks=2, threads=1, generate=name) for name in DISTRIBUTIONS]
        contenders.append(sort_command.hpcmpi(options, ranks=2, threads=1, dtype="int64"))
    else:
        what = "argsort" if options.argsort else "sort"
        program = [sys.executable, "-c", NUMPY_PROGRAM, options.n, options.dtype, what]
        flags = ["--argsort"] if options.argsort else []
        without = ["env", "NPY_DISABLE_CPU_FEATURES=X86_V4", *program]
        contenders = [
            Contender(f"np.{what}", program, threads=1, read=seconds),
            Contender(f"np.{what}, no AVX-512", without, threads=1, read=seconds),
        ]
        contenders += [sort_command.hpcmpi(options, *flags, ranks=r, threads=t) for r, t in ((2, 1), (1, 2))]
    times = alternate(contenders, options.rounds)
    print_times(contenders, times, float(options.n) / 1e6, "Mkey/s")
    reference, others = (times[0], 1) if options.distributions else (min(times[:2], key=median), 2)
    for contender, taken in zip(contenders[others:], times[others:], strict=True):
        if options.argsort:
            print_ratio(f"speed of {contender.name} over np.argsort", reference, taken, at_least=5.0)
        elif options.distributions:
            goal = 1.6 if "one-rank" in contender.name else 1.25
            print_ratio(f"time of {contender.name} over uniform float64", taken, reference, at_most=goal)
        else:
            goal = 0.62 if "2 x 1" in contender.name else 0.70
            print_ratio(f"time of {contender.name} over np.sort", taken, reference, at_most=goal)


if __name__ == "__main__":
    main()
