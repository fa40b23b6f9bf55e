"""The machine under this process: cores, memory, disk, and the speeds that costs are priced with.

Standard library only. Sizes are bytes, rates are per second. Every limit that applies counts: a node's memory is the
least of what is free, what the control group allows and what Slurm granted.
"""

from __future__ import annotations

import os
import re
import resource
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """What :mod:`cost <hpcmpi.algorithms>` functions price with.

    Rates are of one core: ``flops`` counts float64 multiply-adds as two (float32 does twice as many), ``bandwidth`` is
    bytes a second that a rank receives, ``latency`` seconds a message.
    """

    ranks_per_node: int = 1
    threads: int = 1
    cores_per_node: int = 1
    flops: float = 5e10
    bandwidth: float = 2.5e9
    latency: float = 5e-6


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
    slurm = {name: int(os.environ.get(f"SLURM_{name}", "0")) for name in names}
    if granted := slurm["MEM_PER_NODE"] or slurm["MEM_PER_CPU"] * slurm["CPUS_ON_NODE"]:  # 0 stands for all of the node
        limits.append(granted * 2**20)
    return max(0, min(limits, default=2**63 - 1))


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
