"""Compare commands by running them in turn: A B A B ..., each time in a fresh process.

Machines are shared and noisy, and noise lasts: two blocks of runs, one after the other, measure the machine as
much as the programs. In alternation a slow minute hits all contenders, so the ratio within each round is steadier
than any time. Both the ratio of the medians and the median of the ratios are told; where they disagree, the
machine was too noisy to say.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

ROUNDS = 5
"""The fewest rounds whose median means something."""

_SLOWING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_HANG_SECONDS = 1800

Statistic = Literal["min", "median"]


TIMED = """
import json, statistics, sys, time
from mpi4py import MPI

comm = MPI.COMM_WORLD

def print_timed(run, repeat):
    seconds = []
    for _ in range(repeat):
        comm.Barrier()
        start = time.perf_counter()
        run()
        seconds.append(comm.allreduce(time.perf_counter() - start, MPI.MAX))
    if comm.rank == 0:
        ordered = min(seconds), statistics.median(seconds), max(seconds)
        print(json.dumps(dict(zip(("seconds_min", "seconds_median", "seconds_max"), ordered))))
"""
"""Beginning of a peer program in Python: ``print_timed(run, repeat)`` prints what ``seconds`` reads."""


class ComparisonError(SystemExit):
    """A contender that cannot be run or measured: the text goes to stderr and the exit status is 1."""


def seconds(output: str, statistic: Statistic = "min") -> float:
    """The time in a program's standard output, one JSON object with ``seconds_min`` and ``seconds_median``."""
    return float(json.loads(output)[f"seconds_{statistic}"])


def peak_over_share(command: Sequence[str]) -> float:
    """Peak memory of a run of hpcmpi above that after its imports, over its share; the largest of all ranks."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise ComparisonError(ended.stderr)
    facts = json.loads(ended.stdout)
    return float((facts["memory_peak_bytes"] - facts["memory_baseline_bytes"]) / facts["share_bytes"])


@dataclass(frozen=True)
class Contender:
    """A command to time.

    ``threads`` sets the thread count of OpenMP and BLAS for a command that has no option of its own for it; None
    unsets them. ``read`` finds the seconds in the standard output; None times the whole process from outside.
    """

    name: str
    command: Sequence[str]
    threads: int | None = None
    read: Callable[[str], float] | None = seconds
    folder: Path | None = None

    def environment(self) -> dict[str, str]:
        """What the command sees: ours, without the settings that slow OpenBLAS or share out threads."""
        kept = {name: value for name, value in os.environ.items() if name not in (*_SLOWING, *_THREADS)}
        counts = {} if self.threads is None else dict.fromkeys(_THREADS, str(self.threads))
        return {**kept, **counts}

    def run(self) -> float:
        """The seconds of one run. Raises ``ComparisonError`` if it fails, hangs or prints no time."""
        start = time.perf_counter()
        try:
            ended = subprocess.run(
                self.command,
                env=self.environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_HANG_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ComparisonError(f"{self.name}: {error}") from error
        elapsed = time.perf_counter() - start
        if ended.returncode:
            words = " ".join("..." if "\n" in word else word for word in self.command)
            said = (ended.stderr or ended.stdout)[-2000:]
            raise ComparisonError(f"{self.name}: exit status {ended.returncode} of\n  {words}\n{said}")
        if self.read is None:
            return elapsed
        try:
            return self.read(ended.stdout)
        except (ValueError, LookupError, TypeError) as error:
            raise ComparisonError(f"{self.name}: no time ({error!r}) in the output\n{ended.stdout[-2000:]}") from error


def beside(program: str, python: str | Path = sys.executable) -> str:
    """Path of ``program`` beside ``python``, as its environment installs it, else on PATH.

    Beside comes first as an mpi4py in an environment loads that environment's MPI, which wants its own mpirun.
    """
    neighbour = Path(python).parent / program
    found = str(neighbour) if os.access(neighbour, os.X_OK) else shutil.which(program)
    if found is None:
        raise ComparisonError(f"{program} is neither beside {python} nor on PATH: pip install 'hpcmpi[mpich]'")
    return found


def require(python: str, modules: Sequence[str], install: str) -> None:
    """Raise ``ComparisonError``, saying what to install, unless ``python`` finds all ``modules``."""
    probe = "import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, sys.argv[1:])))"
    if subprocess.run([python, "-c", probe, *modules], check=False).returncode:
        raise ComparisonError(f"{python} lacks one of {', '.join(modules)}: {install}")


def alternate(contenders: Sequence[Contender], rounds: int = ROUNDS) -> list[list[float]]:
    """Seconds of each contender in each round, in the order of ``contenders``."""
    times: list[list[float]] = [[] for _ in contenders]
    for number in range(1, rounds + 1):
        for contender, collected in zip(contenders, times, strict=True):
            collected.append(contender.run())
            if sys.stderr.isatty():
                print(f"\r\033[Kround {number} of {rounds}: {contender.name}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    return times


def print_times(
    contenders: Sequence[Contender], times: Sequence[Sequence[float]], work: float = 0.0, unit: str = ""
) -> None:
    """Print a line for each contender; with ``work``, in ``unit`` times seconds, also its rate."""
    width = max(len(contender.name) for contender in contenders)
    print(f"{'':{width}}   median s      min s      max s" + (f"  {unit:>9}" if work else ""))
    for contender, seconds_ in zip(contenders, times, strict=True):
        line = f"{contender.name:{width}} {median(seconds_):10.4f} {min(seconds_):10.4f} {max(seconds_):10.4f}"
        print(line + (f"  {work / median(seconds_):9.1f}" if work else ""))


def print_ratio(
    meaning: str,
    above: Sequence[float],
    below: Sequence[float],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> None:
    """Print the time ``above`` over the time ``below``, and whether it meets the goal.

    The goal is unclear where the ratio of medians and the median of ratios fall on its two sides.
    """
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    middles = median(ratios), median(above) / median(below)
    text = f"{meaning}: median of ratios {middles[0]:.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    text += f", ratio of medians {middles[1]:.3f}"
    verdicts = {0: "MISSED", 1: "UNCLEAR", 2: "met"}
    if at_least is not None:
        text += f"; goal at least {at_least:.2f}: {verdicts[sum(middle >= at_least for middle in middles)]}"
    if at_most is not None:
        text += f"; goal at most {at_most:.2f}: {verdicts[sum(middle <= at_most for middle in middles)]}"
    print(text, flush=True)
