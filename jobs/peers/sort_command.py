"""What the comparisons of ``hpcmpi sort`` share: its command line and their options."""

import argparse

from alternate import ROUNDS, Contender, beside, seconds


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Help that keeps a description's lines and tells defaults."""


def parser(description: str | None, *, n: str = "1e8") -> argparse.ArgumentParser:
    """The options that every comparison of sorting has."""
    options = argparse.ArgumentParser(description=description, formatter_class=Help)
    options.add_argument("--n", default=n, help="keys")
    options.add_argument("--dtype", choices=["float64", "int64"], default="float64")
    options.add_argument("--rounds", type=int, default=ROUNDS, help="alternating rounds; fewer than 5 say little")
    options.add_argument("--hpcmpi", default="hpcmpi", help="path, or name beside this Python or on PATH")
    return options


def hpcmpi(
    options: argparse.Namespace, *more: str, ranks: int, threads: int, generate: str = "uniform", dtype: str = ""
) -> Contender:
    """``hpcmpi sort`` of generated keys, once a process, neither checking nor writing; ``more`` are further options."""
    keys = ["--n", options.n, "--dtype", dtype or options.dtype, "--generate", generate, "--threads", str(threads)]
    mutes = ["--no-verify", "--no-output", "--quiet", "--json"]
    launcher = [beside("mpirun"), "-n", str(ranks)] if ranks > 1 else []
    return Contender(
        " ".join([f"hpcmpi, {ranks} x {threads}", dtype or options.dtype, generate, *more]),
        [*launcher, beside(options.hpcmpi), "sort", *keys, *more, *mutes],
        read=seconds,
    )
