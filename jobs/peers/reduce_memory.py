"""Compare the reductions of ``hpcmpi`` in memory with reading the same memory, NumPy and OpenBLAS.

Every round is a fresh process, or two ranks, that times all contenders in turn on the same arrays. The reader is the
fastest of several plain read-only loops: sums in 8, 16 and 32 vectors, with and without prefetching, and a Kahan sum
in lanes, all compiled by Numba; it is a bound for whatever reads memory once. NumPy's sum on two threads, or two ranks,
adds two halves. OpenBLAS's dot is NumPy's ``x @ y``.
"""

import argparse
import json
import sys
from functools import partial
from statistics import median

from alternate import ROUNDS, Contender, alternate, beside, print_ratio

PROGRAM = """
import json, os, sys, time
from concurrent.futures import ThreadPoolExecutor
n, threads, tries = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = str(threads)
import numba, numpy as np
from mpi4py import MPI
import hpcmpi
from hpcmpi import dot, generator, reduce
from hpcmpi.partition import Range, block
from hpcmpi.simd_lanes import STEP, lane_fold
from hpcmpi.jit import kernel

comm = MPI.COMM_WORLD
mine = block(n, comm.size, comm.rank)
x, y, wide = (generator.uniform(seed, Range(0, 1), mine, "float64")[0] for seed in (1, 2, 3))
wide *= 10.0 ** np.random.default_rng(comm.rank).uniform(-300, 300, len(wide))

prefetched = lane_fold(["add floats"], lambda v, c: (v.bits(),), arrays=1, scalars=0)

@numba.njit(nogil=True)
def read_prefetched(a, out):
    prefetched(a, a.size // STEP * STEP, a, out)

@numba.njit(nogil=True, fastmath=True)
def read_plain(a, out):
    total = 0.0
    for i in range(a.size):
        total += a[i]
    out[0] = total

def reader_of_ways(ways):
    @numba.njit(nogil=True, fastmath=True)
    def read(a, out):
        total = np.zeros(ways)
        for at in range(0, a.size // ways * ways, ways):
            for k in range(ways):
                total[k] += a[at + k]
        out[0] = total.sum()
    return read

@numba.njit(nogil=True)
def read_kahan(a, out):
    total, lost = np.zeros(32), np.zeros(32)
    for at in range(0, a.size // 32 * 32, 32):
        for k in range(32):
            term = a[at + k] - lost[k]
            new = total[k] + term
            lost[k] = (new - total[k]) - term
            total[k] = new
    out[0] = total.sum()

readers = {"prefetched": read_prefetched, "plain": read_plain, "64 ways": reader_of_ways(64),
           "256 ways": reader_of_ways(256), "Kahan": read_kahan}
pool = ThreadPoolExecutor(threads)

def on_threads(work, *arrays):
    cuts = [[a[block(len(a), threads, t).slice] for a in arrays] for t in range(threads)]
    return [work(*cut) for cut in cuts] if threads == 1 else list(pool.map(lambda cut: work(*cut), cuts))

def summed(values):
    return comm.allreduce(sum(values)) if comm.size > 1 else sum(values)

contenders = {f"read {name}": lambda r=r: on_threads(lambda a: r(a, np.zeros(8)), x) for name, r in readers.items()}
contenders |= {
    "np.sum": lambda: summed(on_threads(np.sum, x)),
    "exact sum": lambda: hpcmpi.sum(comm, x),
    "reduce sum": lambda: reduce(comm, x, "sum"),
    "fast sum": lambda: reduce(comm, x, "sum", fast=True),
    "min max mean var": lambda: reduce(comm, x, ["min", "max", "mean", "var"]),
    "wide exact sum": lambda: hpcmpi.sum(comm, wide),
    "OpenBLAS dot": lambda: summed(on_threads(np.dot, x, y)),
    "exact dot": lambda: dot(comm, x, y),
    "norm": lambda: hpcmpi.norm(comm, x),
}
times = {name: [] for name in contenders}
for attempt in range(tries + 1):  # the first compiles and touches
    for name, run in contenders.items():
        comm.Barrier()
        start = time.perf_counter()
        run()
        times[name].append(comm.allreduce(time.perf_counter() - start, MPI.MAX))
if comm.rank == 0:
    print(json.dumps({name: sorted(t[1:])[(tries - 1) // 2] for name, t in times.items()}))
"""


def main() -> None:
    """Run the rounds and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10**8, help="float64 numbers in all")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="fresh processes of each kind")
    parser.add_argument("--tries", type=int, default=5, help="runs of each contender in a process; their median counts")
    parser.add_argument("--layouts", nargs="+", default=["1x1", "1x2", "2x1"], help="ranks x threads")
    options = parser.parse_args()
    for layout in options.layouts:
        ranks, threads = layout.split("x")
        seen: list[dict[str, float]] = []
        command = [beside("mpirun"), "-n", ranks, sys.executable, "-c", PROGRAM, str(options.n), threads]
        contender = Contender(layout, [*command, str(options.tries)], read=partial(keep, seen))
        alternate([contender], options.rounds)
        print(f"\n{layout}: medians of {options.rounds} processes, milliseconds")
        for name in seen[0]:
            print(f"  {name:18} {1e3 * median(times[name] for times in seen):9.2f}")
        read = [min(t for name, t in times.items() if name.startswith("read")) for times in seen]

        def column(name: str, seen: list[dict[str, float]] = seen) -> list[float]:
            return [times[name] for times in seen]

        print_ratio("read-only time over fast sum", read, column("fast sum"), at_least=0.95)
        print_ratio("exact sum over read-only time", column("exact sum"), read, at_most=1.10)
        print_ratio("exact sum over np.sum", column("exact sum"), column("np.sum"), at_most=1.0)
        print_ratio("min, max, mean, var over read-only time", column("min max mean var"), read, at_most=1.40)
        print_ratio("exact dot over OpenBLAS", column("exact dot"), column("OpenBLAS dot"), at_most=1.20)
        print_ratio("wide data over usual exact sum", column("wide exact sum"), column("exact sum"), at_most=4.0)


def keep(seen: list[dict[str, float]], output: str) -> float:
    """Keep the times in a process's output; the time of its exact sum."""
    seen.append(json.loads(output))
    return seen[-1]["exact sum"]


if __name__ == "__main__":
    main()
