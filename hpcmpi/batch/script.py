"""sbatch scripts: an array for each size of points, to be read, edited and submitted by hand as well."""

from __future__ import annotations

import math
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcmpi import __version__
from hpcmpi.batch.estimates import Estimate
from hpcmpi.batch.jobfile import JobFile, Point
from hpcmpi.batch.kinds import limit_seconds
from hpcmpi.errors import InputError

_LARGEST_ARRAY = 1000  # Slurm's own default is 1001
_WARNING_SECONDS = 60  # before the time limit, for a checkpoint
_WARNING_SHARE = 0.2  # of a short limit


@dataclass(frozen=True)
class Part:
    """Points of one size, which make one array; ``time`` as sbatch takes it, ``memory`` an option of sbatch."""

    points: tuple[Point, ...]
    time: str
    memory: str

    @property
    def about(self) -> str:
        """One line on it."""
        first = self.points[0]
        threads = "" if first.job.threads in (None, 1) else f" of {first.job.threads} threads"
        count = f"{len(self.points)} point{'s' * (len(self.points) != 1)}"
        return f"{count} on {first.ranks} rank{'s' * (first.ranks != 1)}{threads}, {self.time}, {self.memory}"


def needs_estimates(resources: Mapping[str, Any]) -> bool:
    """Whether ``resources`` leave time or memory open."""
    return not (resources.get("time") and resources.get("mem"))


def parts(points: Sequence[Point], estimates: Sequence[Estimate], resources: Mapping[str, Any]) -> list[Part]:
    """``points`` by their sizes; ``estimates`` say what ``resources`` leave open, and may be empty if they do not."""
    groups: dict[tuple[int, int, str, str], list[Point]] = {}
    for index, point in enumerate(points):
        threads = point.job.threads or 1
        time, given = resources.get("time"), resources.get("mem")
        if not time:
            time = f"{estimates[index].minutes // 60:02}:{estimates[index].minutes % 60:02}:00"
        memory = f"--mem={given}" if given else f"--mem-per-cpu={math.ceil(estimates[index].megabytes / threads)}M"
        groups.setdefault((point.ranks, threads, time, memory), []).append(point)
    return [
        Part(tuple(group[at : at + _LARGEST_ARRAY]), time, memory)
        for (_, _, time, memory), group in sorted(groups.items())
        for at in range(0, len(group), _LARGEST_ARRAY)
    ]


def script(
    study: JobFile, part: Part, resources: Mapping[str, Any], mpi: str, *, after: str = "", restart: bool = False
) -> str:
    """The sbatch script that runs ``part``; ``after`` holds the ids of jobs that must have succeeded before."""
    first = part.points[0]
    threads = first.job.threads or 1
    lines = [
        "#!/bin/bash",
        f"# {study.path}: {part.about}.",
        f"# Written by hpcmpi {__version__} submit; it may be edited and submitted by `sbatch`.",
        *(f"#SBATCH {option}" for option in _options(study, part, resources, after)),
        "",
        "# Of the ways to limit memory, srun accepts one: not those of an allocation in which this was submitted.",
        f"unset {' '.join(_foreign_memory(part.memory))}",
        f"cd {shlex.quote(str(Path.cwd()))} || exit 73",
        *resources.get("setup", ()),
        "",
        "case $SLURM_ARRAY_TASK_ID in",
    ]
    for index, point in enumerate(part.points):
        argv = point.argv(force=point.output.exists(), restart=restart)
        lines.append(f"{index}) point=({shlex.join(argv)}) ;;")
    lines += [
        "esac",
        "",
        "# -K1 ends the whole step when one rank fails; --mpi is the language of the MPI library.",
        f"srun -K1 --mpi={mpi} --ntasks={first.ranks} --cpus-per-task={threads} \\",
        f'  {shlex.join(_program())} "${{point[@]}}"',
        "rc=$?",
        "",
        "# Checkpointed? Where the launcher has lost the exit status 85, the status file of this attempt tells.",
        "element=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID attempt=${SLURM_RESTART_COUNT:-0}",
        'said=$(cat "${point[-1]}.status.json" 2>/dev/null)',
        '[[ $said == *\'"checkpointed"\'*\'"attempt": \'$attempt,*"\\"$element\\""* ]] && rc=85',
        "# This element goes on from there when its turn comes again, unless Slurm has begun it anew meanwhile, as it",
        "# does where it has lost sight of this node.",
        'if [ $rc -eq 85 ] && scontrol show job "$element" | grep -q "Restarts=$attempt "; then',
        '  scontrol requeue "$element"',
        "fi",
        "exit $rc",
    ]
    return "\n".join(lines) + "\n"


def _options(study: JobFile, part: Part, resources: Mapping[str, Any], after: str) -> Iterator[str]:
    first = part.points[0]
    warning = min(_WARNING_SECONDS, int(limit_seconds(part.time) * _WARNING_SHARE)) or _WARNING_SECONDS
    yield f"--job-name={re.sub(r'[^A-Za-z0-9_.-]', '_', study.name)}"
    yield f"--array=0-{len(part.points) - 1}"
    yield f"--ntasks={first.ranks}"
    yield f"--cpus-per-task={first.job.threads or 1}"
    yield f"--time={part.time}"
    yield part.memory
    for name in ("nodes", "partition", "account", "constraint"):
        if name in resources:
            yield f"--{name}={resources[name]}"
    yield f"--output={_log_pattern(study.folder.resolve())}"
    yield "--open-mode=append"  # a requeued element goes on in the same log
    yield "--requeue"
    yield f"--signal=USR1@{warning}"  # all ranks hear of the limit, and checkpoint if they can
    yield "--kill-on-invalid-dep=yes"
    if after:
        yield f"--dependency=afterok:{after}"
    yield from resources.get("options", ())


def _foreign_memory(option: str) -> list[str]:
    """Variables by which Slurm states memory limits, without the one that belongs to ``option`` of sbatch."""
    own = "SLURM_MEM_PER_NODE" if option.startswith("--mem=") else "SLURM_MEM_PER_CPU"
    return [name for name in ("SLURM_MEM_PER_CPU", "SLURM_MEM_PER_NODE", "SLURM_MEM_PER_GPU") if name != own]


def _log_pattern(folder: Path) -> str:
    """Where elements print, as sbatch takes it. Raises InputError for a folder of which no script can say it."""
    if re.search(r"[\\\"'\n]", str(folder)):
        raise InputError(f"{folder}: sbatch takes no folder with quotes, backslashes or line breaks in its name")
    text = f"{folder}".replace("%", "%%") + "/slurm-%A_%a.log"
    return f'"{text}"' if re.search(r"[\s#]", text) else text


def _program() -> list[str]:
    """This installation's hpcmpi."""
    own = Path(sys.executable).with_name("hpcmpi")
    return [str(own)] if own.exists() else [sys.executable, "-m", "hpcmpi"]
