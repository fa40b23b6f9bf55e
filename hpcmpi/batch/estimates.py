"""What a point will take, by its command's own cost model, with room for what the model leaves out.

``hpcmpi COMMAND ... --explain --json`` is asked, which reads the headers of input files as the run will.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from hpcmpi.batch.jobfile import Point
from hpcmpi.errors import InputError

_AT_ONCE = 4
_START_SECONDS = 1.0  # Python, MPI, kernels from their cache
_DISK_BANDWIDTH = 3e8  # bytes a second of a slow shared disk
_IMPORTS_BYTES = 256 << 20  # Python, NumPy, HDF5 and compiled kernels
_MEMORY_MARGIN = 1.25
_TIME_MARGIN = 5.0  # machines differ, and preparing and checking may take as long as the run
_LEAST_MINUTES = 6
_LEAST_MEGABYTES = 256


class Estimate(NamedTuple):
    """``seconds`` of the whole run, ``memory`` in bytes a rank, with what the imports take."""

    seconds: float
    memory: int

    @property
    def minutes(self) -> int:
        """A time limit."""
        return _rounded_up(self.seconds * _TIME_MARGIN / 60, _LEAST_MINUTES)

    @property
    def megabytes(self) -> int:
        """A memory limit of a rank, in MiB."""
        return _rounded_up(self.memory * _MEMORY_MARGIN / 2**20, _LEAST_MEGABYTES)


def _rounded_up(number: float, least: int) -> int:
    """``number`` to the next of ``least`` times 1, 1.5, 2, 3, 4, 6 ...: few sizes, and so few arrays."""
    sizes = (size for power in itertools.count() for size in (least << power, 3 * least << power >> 1))
    return next(size for size in sizes if size >= number)


def estimates(points: Sequence[Point]) -> list[Estimate]:
    """The estimate of each point. Raises InputError, with the command's own words, for one that cannot be run."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(_estimate, points))


def _estimate(point: Point) -> Estimate:
    command = [sys.executable, "-m", "hpcmpi", *point.argv(), "--explain", "--json"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        last = (asked.stderr.strip().splitlines() or [f"exit status {asked.returncode}"])[-1]
        raise InputError(f"{point.name}: {last.removeprefix('hpcmpi: error: ').removeprefix('Error: ')}")
    plan = json.loads(asked.stdout)[0]
    seconds = _START_SECONDS + plan["seconds"] * point.job.repeat
    if not point.job.no_arrays:
        seconds += plan["output"] / _DISK_BANDWIDTH
    return Estimate(seconds, plan["memory"] + _IMPORTS_BYTES)
