"""The machine under this process: cores, memory, disk, and the speeds that costs are priced with.

Standard library only. Sizes are bytes, rates are per second. Every limit that applies counts: a node's memory is the
least of what is free, what the control group allows, what Slurm granted and what ``ulimit -v`` leaves its ranks.

Speeds come from the profile that ``hpcmpi doctor --measure --save`` has left for this user and this kind of processor,
``~/.config/hpcmpi/machine.json`` or what ``HPCMPI_MACHINE`` names; without one, from the defaults of :class:`Machine`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import reprlib
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcmpi.errors import InputError, OutputError
from hpcmpi.launch import number_of, ranks_of_the_node
from hpcmpi.record import human_bytes

MEASURED = ("flops", "memory_bandwidth", "bandwidth", "latency", "allreduce_latency")
"""What a profile may hold of :class:`Machine`."""

READ_BYTES = 32 << 20
"""What a rank reads at once from a file: it bounds the copy that a change of dtype or order costs."""

_LEAST_ADDRESS_SPACE = 1 << 30  # bytes: what libraries, their threads' stacks and compiled kernels map
_LEAST_FILES = 64
_RATES = 1e-12, 1e24
"""What no rate or latency is beyond; prices by what is within are finite."""


@dataclass(frozen=True)
class Machine:
    """What :mod:`cost <hpcmpi.algorithms>` functions price with.

    Rates are of one core: ``flops`` counts float64 multiply-adds as two (float32 does twice as many),
    ``memory_bandwidth`` is bytes a second that it reads, ``bandwidth`` bytes a second that a rank receives, ``latency``
    seconds a message, ``allreduce_latency`` those of the sum of one number over all ranks.
    """

    ranks_per_node: int = 1
    threads: int = 1
    cores_per_node: int = 1
    flops: float = 5e10
    memory_bandwidth: float = 2e10
    bandwidth: float = 2.5e9
    latency: float = 5e-6
    allreduce_latency: float = 2e-5

    @property
    def oversubscription(self) -> float:
        """Threads per core of a busy node, at least 1: how much longer arithmetic takes than on cores of its own."""
        return max(1.0, self.ranks_per_node * self.threads / self.cores_per_node)


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text()
    except OSError:
        return None


def affinity(process: int = 0) -> frozenset[int]:
    """Processors on which this process, or another of the user's, may run."""
    return frozenset(os.sched_getaffinity(process))


def stores_compressed_slowly() -> bool:
    """Whether the processor is of AMD's family 25 with AVX-512 (Zen 4), whose compressing store is microcode."""
    text = _read("/proc/cpuinfo") or ""
    family = re.search(r"^cpu family\s*:\s*(\d+)$", text, re.MULTILINE)
    return "AuthenticAMD" in text and " avx512f " in text and family is not None and family[1] == "25"


def processor() -> str:
    """Name of the kind of processor, by which profiles are told apart."""
    found = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo") or "", re.MULTILINE)
    return found[1].strip() if found else os.uname().machine


def profile_path() -> Path:
    """Where the profile of the user's machine is, or will be."""
    if named := os.environ.get("HPCMPI_MACHINE"):
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111 - there may be no home
    return Path(base, "hpcmpi", "machine.json")


def profile() -> dict[str, Any] | None:
    """The saved profile: the rates in :data:`MEASURED` that it has, and when and how they were measured; None if none.

    Raises InputError if it is damaged, or of another kind of processor than this one.
    """
    path = profile_path()
    again = "`hpcmpi doctor --measure --save` writes it anew"
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no readable profile of a machine: {error}; {again}") from None
    if not isinstance(content, dict) or not isinstance(content.get("processor"), str):
        raise InputError(f"{path}: is no profile of a machine: it names no processor; {again}")
    for name in MEASURED:
        rate = content.get(name, 1.0)
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not _RATES[0] <= rate <= _RATES[1]:
            raise InputError(
                f"{path}: {name} is {reprlib.repr(rate)}, not a number from {_RATES[0]:g} to {_RATES[1]:g}; {again}"
            )
    if content["processor"] != processor():
        raise InputError(
            f"{path}: was measured on another machine ({content['processor']}, this is {processor()}); {again}"
        )
    return {name: float(value) if name in MEASURED else value for name, value in content.items()}


def measured() -> Machine:
    """One core of this machine, with the rates of its saved profile, or the default ones.

    Raises InputError as :func:`profile` does.
    """
    return Machine(**{name: rate for name, rate in (profile() or {}).items() if name in MEASURED})


def save_profile(measured: Mapping[str, Any]) -> Path:
    """Keep ``measured`` as the profile of this kind of processor, beside what an earlier one of it says of the rest.

    Raises OutputError if it cannot be written.
    """
    path = profile_path()
    try:
        before = profile() or {}
    except InputError:
        before = {}
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({**before, **measured, "processor": processor()}, indent=2) + "\n")
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from None
    return path


def _control_groups() -> list[str]:
    """Folders of this process's control groups (version 2), innermost first, up to the root."""
    for line in (_read("/proc/self/cgroup") or "").splitlines():
        if line.startswith("0::"):
            path = Path("/sys/fs/cgroup") / line[3:].lstrip("/")
            return [str(p) for p in (path, *path.parents) if p.is_relative_to("/sys/fs/cgroup")]
    return []


def cpu_quota() -> float | None:
    """Processors' worth of time that the control groups allow, or None where they set no limit."""
    quotas: list[float] = []
    for folder in _control_groups():
        limit, _, period = (_read(f"{folder}/cpu.max") or "max").strip().partition(" ")
        if limit != "max":
            quotas.append(int(limit) / int(period))
    first = "/sys/fs/cgroup/cpu/cpu.cfs"  # version 1 of the control groups
    microseconds = [int(_read(f"{first}_{name}_us") or 0) for name in ("quota", "period")]
    if microseconds[0] > 0 and microseconds[1] > 0:
        quotas.append(microseconds[0] / microseconds[1])
    return min(quotas, default=None)


def available_memory() -> int:
    """Bytes that processes of this job can still allocate on this node."""
    limits: list[int] = []
    for line in (_read("/proc/meminfo") or "").splitlines():
        if line.startswith("MemAvailable:"):
            limits.append(int(line.split()[1]) * 1024)
    for folder in _control_groups():
        limit, used = _read(f"{folder}/memory.max"), _read(f"{folder}/memory.current")
        if limit and used and limit.strip() != "max":
            limits.append(int(limit) - int(used) + _reclaimable(f"{folder}/memory.stat"))
    first = "/sys/fs/cgroup/memory/memory"  # version 1 of the control groups
    if (limit := _read(f"{first}.limit_in_bytes")) and (used := _read(f"{first}.usage_in_bytes")):
        limits.append(int(limit) - int(used) + _reclaimable(f"{first}.stat"))
    names = ("MEM_PER_NODE", "MEM_PER_CPU", "CPUS_ON_NODE")
    slurm = {name: number_of(f"SLURM_{name}") or 0 for name in names}
    if granted := slurm["MEM_PER_NODE"] or slurm["MEM_PER_CPU"] * slurm["CPUS_ON_NODE"]:  # 0 stands for all of the node
        limits.append(granted * 2**20)
    if (room := address_space()) is not None:  # of this process alone; the other ranks have theirs
        limits.append(room * ranks_of_the_node())
    return max(0, min(limits, default=2**63 - 1))


def address_space() -> int | None:
    """Bytes that this process can still map under ``ulimit -v``; None where it has no such limit."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    used = (_read("/proc/self/statm") or "0").split()[0]
    return max(0, limit - int(used) * resource.getpagesize())


def lacking() -> str | None:
    """What this process has too little of to start MPI and its libraries, which end or hang where it runs out; or None.

    Raises the limit on open files as far as that is allowed.
    """
    room = address_space()
    if room is not None and room < _LEAST_ADDRESS_SPACE:
        return (
            f"`ulimit -v` leaves {human_bytes(room)} of address space to each process: at least "
            f"{human_bytes(_LEAST_ADDRESS_SPACE)} is needed to start, and the problem's memory beside it"
        )
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < _LEAST_FILES and files != most:
        with contextlib.suppress(OSError, ValueError):
            files = _LEAST_FILES if most == resource.RLIM_INFINITY else min(_LEAST_FILES, most)
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
    if files != resource.RLIM_INFINITY and files < _LEAST_FILES:
        return f"`ulimit -n` allows each process {files} open files: at least {_LEAST_FILES} are needed to start"
    return None


def _reclaimable(stat: str) -> int:
    """Page cache that a control group counts as used but gives back on demand."""
    for line in (_read(stat) or "").splitlines():
        if line.startswith("inactive_file "):
            return int(line.split()[1])
    return 0


def free_disk(folder: Path) -> int:
    """Bytes that this user can still write below ``folder``."""
    there = os.statvfs(folder)
    return there.f_bavail * there.f_frsize


def free_shared_memory() -> int:
    """Bytes that the processes of this node can still share: containers often have little."""
    try:
        return min(free_disk(Path("/dev/shm")), available_memory())  # noqa: S108 - where every MPI puts it
    except OSError:
        return 0


def peak_memory() -> int:
    """Most bytes that this process has had resident so far.

    ``VmHWM`` starts anew at exec; ``ru_maxrss``, the fallback, may carry the launcher's peak along.
    """
    for line in (_read("/proc/self/status") or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
