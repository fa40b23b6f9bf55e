"""What a point will take, by its command's own cost model, with room for what the model leaves out.

One process prices all points as ``--explain`` would; it reads the headers of input files as the run will.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hpcmpi.batch.jobfile import Point
from hpcmpi.errors import InputError, cut

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
    """The estimate of each point. Raises InputError, with the command's own message, for one that cannot be run."""
    command = [sys.executable, "-m", "hpcmpi.runner.pricing"]
    jobs = pickle.dumps([dataclasses.replace(point.job, ranks=point.ranks) for point in points])
    done = subprocess.run(command, input=jobs, env=_alone(), capture_output=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise InputError(
            f"the points cannot be priced: {cut(lines[-1]) if lines else f'exit status {done.returncode}'}"
        )
    plans = json.loads(done.stdout)
    if "error" in plans[-1]:
        raise InputError(f"{points[len(plans) - 1].name}: {plans[-1]['error']}")
    return [_estimate(point, plan) for point, plan in zip(points, plans, strict=True)]


def _alone() -> dict[str, str]:
    """The environment without the variables by which MPI would take the process for a rank of a launch."""
    return {name: value for name, value in os.environ.items() if not re.match("PMI|OMPI_COMM|OMPI_MCA_ess|PRTE", name)}


def _estimate(point: Point, plan: Mapping[str, Any]) -> Estimate:
    seconds = _START_SECONDS + plan["seconds"] * point.job.repeat
    if not point.job.no_arrays:
        seconds += plan["output"] / _DISK_BANDWIDTH
    return Estimate(seconds, plan["memory"] + _IMPORTS_BYTES)
