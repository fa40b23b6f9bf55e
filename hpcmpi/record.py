"""What a run takes in and gives back: :class:`Job`, :class:`Result`, :class:`Verdict`, and options and sizes.

Standard library only: read before NumPy and MPI are up, and by programs that never start them.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hpcmpi.errors import quoted

if TYPE_CHECKING:
    import numpy as np
    from mpi4py import MPI
    from numpy.typing import DTypeLike, NDArray

    from hpcmpi.partition import Range

COMPRESSIONS = ("gzip", "zstd")
Scalar = bool | int | float | str

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_UNITS |= {f"{prefix}i": 2 ** (10 * power) for power, prefix in enumerate("kmgt", start=1)}


def count(text: str) -> int:
    """Whole number from ``1000``, ``1e9``, ``2^30`` or ``2**30``; ValueError for anything else."""
    if match := re.fullmatch(r"(\d+)(?:\^|\*\*)(\d{1,2})", text.strip()):
        power: int = int(match[1]) ** int(match[2])
        return power
    if match := re.fullmatch(r"(\d+)(?:\.(\d+))?[eE]\+?(\d{1,2})", text.strip()):
        digits, exponent = match[1] + (match[2] or ""), int(match[3]) - len(match[2] or "")
        if exponent >= 0:
            return int(digits) * int(10**exponent)
        if int(digits) % 10**-exponent == 0:
            return int(digits) // int(10**-exponent)
    elif re.fullmatch(r"\d+(_\d+)*", text.strip()):
        return int(text)
    raise ValueError(f"{quoted(text)} is not a whole number such as 1000, 1e9 or 2^30")


def size_in_bytes(text: str) -> int:
    """Bytes from ``64MiB``, ``1.5G`` or ``1e9``; ValueError for anything else."""
    from fractions import Fraction  # exact where a float is not

    match = re.fullmatch(r"([\d.]+)\s*([kmgt]i?)?b?", text.strip().lower())
    try:
        return int(Fraction(match[1]) * _UNITS[match[2] or ""]) if match else count(text)
    except ValueError:
        raise ValueError(f"{quoted(text)} is not a size such as 64MiB, 1.5G or 1e9") from None


def seed(text: str) -> int:
    """Whole number from 0 to 2^64 - 1, what the generators take; ValueError for anything else."""
    number = count(text)
    if number >= 2**64:
        raise ValueError(f"{quoted(text)} is not below 2^64")
    return number


def duration(text: str) -> float:
    """Seconds, more than 0 and finite; ValueError for anything else."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise ValueError(f"{quoted(text)} is not a number of seconds above 0")
    return seconds


def human_bytes(n: float) -> str:
    """``n`` bytes as people read them: ``512 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(n) < 1024:
            return f"{n:.3g} {unit}" if abs(n) < 999.5 else f"{n:.0f} {unit}"
        n /= 1024
    return f"{n:,.3g} TiB" if abs(n) < 999.5 else f"{n:,.0f} TiB"


def counted(ranks: int) -> str:
    """A number of ranks as people say it: ``1 rank``, ``2 ranks``."""
    return f"{ranks} rank{'' if ranks == 1 else 's'}"


def option(
    default: Any,
    help: str,  # noqa: A002 - the command line's own word
    *,
    parse: Callable[[str], Any] = str,
    choices: tuple[str, ...] = (),
    metavar: str | None = None,
    short: str | None = None,
) -> Any:
    """Field of a parameter class that the command line shows as ``--name``.

    A ``bool`` default makes a flag, a tuple an option that may be given several times. ``parse`` turns the text into
    the value, or into each of the tuple, and raises ValueError for a bad one.
    """
    metadata = {"help": help, "parse": parse, "choices": choices, "metavar": metavar, "short": short}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Job:
    """A parsed command line: all that a run needs, and nothing that needs MPI.

    ``params`` is the algorithm's own frozen dataclass; the other fields are the common options.
    """

    algorithm: str
    params: Any
    argv: tuple[str, ...] = ()
    output: Path | None = None
    force: bool = False
    no_output: bool = False
    no_arrays: bool = False
    compress: str | None = None
    repeat: int = 1
    threads: int | None = None
    ranks: int | None = None
    verify: bool = True
    timeout: float | None = None
    checkpoint_every: float | None = None
    restart: bool = False
    explain: bool = False
    json: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        """Refuse what contradicts itself, with ValueError."""
        if self.output is not None and self.no_output:
            raise ValueError("-o and --no-output contradict each other")
        if self.output is not None and self.output.suffix in (".npy", ".npz"):
            raise ValueError(f"-o {self.output}: results are HDF5 files: name it {self.output.with_suffix('.h5')}")
        if self.output is not None and not self.output.name:
            raise ValueError("-o names no file")
        if self.compress and (self.output is None or self.no_arrays):
            raise ValueError("--compress is for arrays, which are only kept with -o and without --no-arrays")


@dataclass(frozen=True)
class Example:
    """A small run of an algorithm and what it promises of the result; an algorithm lists some as ``EXAMPLES``.

    ``arguments`` are those of the command line. The arrays in ``same`` have the same bits on any number of ranks and
    threads; those in ``close`` differ by at most so much, relative to the largest element. A check must notice when one
    element of any of them is altered, unless it reads them elsewhere (``aside``): from a scratch file, or before they
    are copied into the result. ``stops`` tells that a run can checkpoint, stop and be resumed.
    """

    arguments: str
    same: tuple[str, ...] = ()
    close: Mapping[str, float] = field(default_factory=dict)
    aside: bool = False
    stops: bool = False


@dataclass(frozen=True)
class Cost:
    """What a way to do a job would take, worked out before anything is allocated.

    ``words`` (array elements) and ``messages`` are what the busiest rank receives; ``flops`` is its arithmetic;
    ``memory`` its peak bytes above what the imports take, ``scratch`` its bytes on disk while the job runs; ``output``
    the bytes of the result of all ranks; ``seconds``
    the estimate that ``auto`` goes by. ``lower_bound`` is the fewest words that theory allows, where it says; ``note``
    what else people should know of it.
    """

    method: str
    grid: tuple[int, ...]
    words: float
    messages: float
    flops: float
    memory: int
    output: int
    seconds: float
    lower_bound: float | None = None
    note: str = ""
    scratch: int = 0


@dataclass(frozen=True)
class Block:
    """One rank's part of a distributed array.

    ``local`` is a NumPy array; it lies at ``start`` in the global array of ``shape``. The blocks of all ranks tile the
    global array; a block may have no elements. ``dims`` names the dimensions in the file.
    """

    local: NDArray[Any]
    start: tuple[int, ...]
    shape: tuple[int, ...]
    dims: tuple[str, ...] = ()

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type, the same on all ranks."""
        return self.local.dtype


@dataclass(frozen=True)
class Result:
    """What came out of a run, this rank's part.

    ``arrays`` maps dataset names to blocks; ``work`` is what all ranks did, in units of ``unit`` times a second
    (``flop/s``, ``key/s``); ``facts`` are scalars, the same on all ranks, that the file keeps as attributes;
    ``lines`` are those that rank 0 prints below the summary. ``seconds`` tells what this rank has spent on parts of the
    run, the same parts on all ranks; they may overlap, and are recorded as phases of their own. ``verdict`` is that of
    a run that checks as it goes, which is then not verified again.
    """

    arrays: dict[str, Block]
    work: float
    unit: str
    facts: dict[str, Scalar] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Snapshot:
    """The state of an unfinished run, this rank's part: as in :class:`Result`, arrays and scalars that are alike."""

    arrays: dict[str, Block]
    facts: dict[str, Scalar]


class Saved(Protocol):
    """A snapshot that was stored and is read back, each rank its part, on any number of ranks. Collective."""

    @property
    def facts(self) -> dict[str, Scalar]:
        """The scalars."""

    def shape(self, comm: MPI.Comm, name: str) -> tuple[int, ...]:
        """Shape of the whole array ``name``."""

    def read(self, comm: MPI.Comm, name: str, part: tuple[Range, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Each rank's own ``part`` of the array ``name``."""


@dataclass(frozen=True)
class Verdict:
    """Outcome of a check: whether the answer is right, one line on why, scalars for the file, and lines for people.

    ``lines`` are printed below those of the result.
    """

    right: bool
    reason: str
    facts: dict[str, Scalar] = field(default_factory=dict)
    lines: tuple[str, ...] = ()


@dataclass
class Phase:
    """What one rank spent in one phase."""

    seconds: float = 0.0
    bytes_received: int = 0
    messages: int = 0


class Phases:
    """Stop-watch of this rank's phases.

    ``traffic`` returns the (bytes received, messages received) so far; ``announce`` is told each phase as it begins.
    """

    def __init__(
        self,
        traffic: Callable[[], tuple[int, int]] = lambda: (0, 0),
        announce: Callable[[str], None] = lambda _name: None,
    ) -> None:
        self.by_name: dict[str, Phase] = {}
        self._traffic = traffic
        self._announce = announce

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the body into phase ``name``; a phase entered again adds up."""
        self._announce(name)
        received, messages = self._traffic()
        tic = time.perf_counter()
        yield
        phase = self.by_name.setdefault(name, Phase())
        phase.seconds += time.perf_counter() - tic
        now_received, now_messages = self._traffic()
        phase.bytes_received += now_received - received
        phase.messages += now_messages - messages

    def add(self, name: str, seconds: float) -> None:
        """Count ``seconds`` that have been measured elsewhere into phase ``name``."""
        self.by_name.setdefault(name, Phase()).seconds += seconds


def parameters(params: Any) -> dict[str, Scalar]:
    """Fields of a parameter class by their command-line names, without those that are not set or only derived."""
    fields = [f for f in dataclasses.fields(params) if "derived" not in f.metadata]
    values = {f.name.replace("_", "-"): getattr(params, f.name) for f in fields}
    said = {name: " ".join(map(str, value)) if isinstance(value, tuple) else value for name, value in values.items()}
    return {name: value for name, value in said.items() if value is not None and values[name] != ()}


def asked(job: Job) -> dict[str, Scalar]:
    """What decides the result of ``job``, by the options' names: who asks for the same gets the same file."""
    common = {name: getattr(job, name) for name in ("ranks", "threads", "repeat", "verify", "no_arrays")}
    said = {name: value for name, value in common.items() if value is not None}
    return {"command": job.algorithm, **parameters(job.params), **said}


def identity(what: dict[str, Scalar], version: str) -> str:
    """What must be the same for a checkpoint to be taken: all that decides the result but the number of ranks."""
    return json.dumps({**what, "version": version, "ranks": None, "threads": None}, sort_keys=True)
