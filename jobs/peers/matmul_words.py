"""Words that ``hpcmpi matmul`` moves, over the memory-independent lower bound, on the best grid. Nothing is run.

For each shape m:n:k and number of ranks: the grid that ``auto`` takes on a network so slow that words decide, and how
many ranks it leaves idle (one, or a tenth); beside it the grid that moves fewest words with every rank at work. Fewer
ranks than the bound counts may move less than it allows, as each holds more from the start. Not a comparison with a
peer: ``tests/test_matmul_cost.py`` holds the same numbers against the closed form.
"""

import argparse
import math

from hpcmpi.algorithms.matmul import Resolved
from hpcmpi.algorithms.matmul.cost import plans
from hpcmpi.machine import Machine
from hpcmpi.record import Cost

GOAL = 1.4


def over(plan: Cost) -> str:
    """Grid, words over the bound."""
    bound = plan.lower_bound or math.inf
    return f"{' x '.join(map(str, plan.grid)):>12}  {plan.words / bound:5.2f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", nargs="+", type=int, default=[4, 5, 6, 7, 8, 12, 13, 16, 27, 32, 61, 64, 100, 128])
    parser.add_argument("--shapes", nargs="+", default=["1:1:1", "16:1:1", "1:1:16", "4:4:1"], help="m:n:k")
    parser.add_argument("--unit", type=int, default=15120, help="what m, n and k are multiples of")
    options = parser.parse_args()
    slow = Machine(bandwidth=1.0, latency=0.0)
    print("   m:n:k     P   best grid  words/bound  idle   all ranks  words/bound")
    for shape in options.shapes:
        m, n, k = (options.unit * int(extent) for extent in shape.split(":"))
        for ranks in options.ranks:
            ways = plans(Resolved(m=m, n=n, k=k, dtype="float64"), ranks, slow)
            best = ways[0]
            everyone = next(way for way in ways if math.prod(way.grid) == ranks)
            above = "" if best.words <= GOAL * (best.lower_bound or math.inf) else "  the best there is"
            idle = ranks - math.prod(best.grid)
            print(f"{shape:>8}  {ranks:4}{over(best)}  {idle:10}{over(everyone)}{above}")


if __name__ == "__main__":
    main()
