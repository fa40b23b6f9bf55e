"""Count to n, and fail in the way and at the place that is asked for.

\b
Example:
  mpirun -n 3 hpcmpi faulty --how exception --rank 1
"""

from __future__ import annotations

from dataclasses import dataclass

from hpcmpi.record import count, option

PUBLIC = {"numbers": "driver"}
PHASES = ("resolve", "compile", "prepare", "run", "verify")
WAYS = (
    "not",
    "exception",
    "error",
    "agreed",
    "memory",
    "agreed-memory",
    "exit",
    "exit-0",
    "quit",
    "kill",
    "segfault",
    "sleep",
    "spin",
    "collectives",
    "wrong",
    "terminate",
    "terminate-compiler",
)


@dataclass(frozen=True)
class Params:
    """Options of ``hpcmpi faulty``."""

    n: int = option(10, "Length of the array.", parse=count)
    how: str = option("not", "What goes wrong.", choices=WAYS)
    when: str = option("run", "In which phase.", choices=PHASES)
    rank: int = option(-1, "On which rank; -1: on all.", parse=int)
    until: str | None = option(None, "Let every rank wait in the run until this file is there.", metavar="FILE")
    prepared: str | None = option(None, "Make this file when memory is allocated.", metavar="FILE")
    say: tuple[str, ...] = option((), "Say this below the summary; may be given several times.", metavar="TEXT")
    kernel: bool = option(False, "Compile a kernel, and use it.")
