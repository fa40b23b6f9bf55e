"""What the comparisons of ``hpcmpi matmul`` share: its command line, their options, the work of a product."""

import argparse
from collections.abc import Sequence
from functools import partial

from alternate import ROUNDS, Contender, alternate, beside, print_times, seconds


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Help that keeps a description's lines and tells defaults."""


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every comparison of products has."""
    options = argparse.ArgumentParser(description=description, formatter_class=Help)
    options.add_argument("--n", type=int, default=8192, help="order of the matrices")
    options.add_argument(
        "--dtype", nargs="+", choices=["float64", "float32"], default=["float64", "float32"], help="compared in turn"
    )
    options.add_argument("--rounds", type=int, default=ROUNDS, help="alternating rounds; fewer than 5 say little")
    options.add_argument("--repeat", type=int, default=3, help="products a process; the first also touches new memory")
    options.add_argument(
        "--statistic", choices=["min", "median"], default="min", help="which of a process's products counts"
    )
    options.add_argument("--hpcmpi", default="hpcmpi", help="path, or name beside this Python or on PATH")
    return options


def hpcmpi(options: argparse.Namespace, dtype: str, *, ranks: int, threads: int) -> Contender:
    """``hpcmpi matmul`` as ``options`` ask, neither checking nor writing."""
    sizes = ["--n", str(options.n), "--dtype", dtype, "--threads", str(threads), "--repeat", str(options.repeat)]
    mutes = ["--no-verify", "--no-output", "--quiet", "--json"]
    return Contender(
        f"hpcmpi, {ranks} x {threads}",
        [beside("mpirun"), "-n", str(ranks), beside(options.hpcmpi), "matmul", *sizes, *mutes],
        read=partial(seconds, statistic=options.statistic),
    )


def peer_parser(description: str | None) -> argparse.ArgumentParser:
    """The options of a comparison with a peer whose parameters have to be found first."""
    options = parser(description)
    options.add_argument("--ranks", type=int, default=2, help="with 1 thread each")
    options.add_argument(
        "--tries", type=int, default=2, help="runs of each of the peer's parameters; the fastest counts"
    )
    return options


def shortest(options: argparse.Namespace, contenders: Sequence[Contender]) -> list[float]:
    """The shortest time of each contender in as many rounds as ``options`` allow for trying; also printed."""
    times = alternate(contenders, options.tries)
    print_times(contenders, times, gigaflop(options.n), "Gflop/s")
    return [min(tries) for tries in times]


def gigaflop(n: int) -> float:
    """Thousand million operations of a product of two n x n matrices."""
    return 2e-9 * n**3
