"""What a result file says about how it came about: software, hosts, launcher, times."""

from __future__ import annotations

import json
import os
import platform
import shlex
from pathlib import Path
from typing import NamedTuple

import h5py
import mpi4py
import numpy as np
from mpi4py import MPI

import hpcmpi
from hpcmpi import machine
from hpcmpi.launch import Launch
from hpcmpi.record import Job, Phases, Scalar, asked
from hpcmpi.store.writer import Table


def versions() -> dict[str, str]:
    """Software that must not differ between ranks, by name."""
    library = MPI.Get_library_version().replace("\0", "").strip().splitlines()[0]
    return {
        "hpcmpi": hpcmpi.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "mpi4py": mpi4py.__version__,
        "h5py": h5py.__version__,
        "hdf5": h5py.version.hdf5_version,
        "mpi": " ".join(library.split()),
        **_installed("numba", "threadpoolctl"),
    }


def _installed(*packages: str) -> dict[str, str]:
    """Versions of packages that need not be loaded, from the names of their metadata folders beside NumPy."""
    folders = [
        path.name.removesuffix(".dist-info").partition("-") for path in Path(np.__file__).parents[1].glob("*.dist-info")
    ]
    return {name: version for name, _, version in folders if name in packages}


def blas() -> dict[str, str]:
    """Library, version, kernel and threading of the BLAS that NumPy uses; empty if unknown."""
    from threadpoolctl import threadpool_info

    found = sorted(
        (lib for lib in threadpool_info() if lib["user_api"] == "blas"), key=lambda lib: "numpy" not in lib["filepath"]
    )
    keys = {"internal_api": "library", "version": "version", "architecture": "kernel", "threading_layer": "threading"}
    return {name: str(found[0].get(key)) for key, name in keys.items()} if found else {}


def git_revision() -> str:
    """Commit of the checkout that the package runs from, or empty for an installed one; read without starting git."""
    folder = Path(hpcmpi.__file__).parents[1] / ".git"
    try:
        head = (folder / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        loose = folder / head[5:]
        if loose.exists():
            return loose.read_text().strip()
        packed = (folder / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(" " + head[5:])), "")
    except OSError:
        return ""


def _working_directory() -> str:
    """Where relative names of files start, or empty if that folder is gone."""
    try:
        return str(Path.cwd())
    except OSError:
        return ""


def provenance(job: Job, launch: Launch, started: str, ended: str) -> dict[str, Scalar]:
    """Attributes of the file's group ``provenance``."""
    batch = {
        name.lower(): value for name, value in os.environ.items() if name.startswith("SLURM_") and "JWT" not in name
    }
    return {
        **{f"version_{name}": version for name, version in versions().items()},
        **{f"blas_{name}": value for name, value in blas().items()},
        "git_revision": git_revision(),
        "launcher": launch.launcher or "none",
        "argv": shlex.join(job.argv),
        "working_directory": _working_directory(),
        "asked": json.dumps(asked(job), sort_keys=True),
        "started": started,
        "ended": ended,
        "openblas_coretype": os.environ.get("OPENBLAS_CORETYPE", ""),
        **batch,
    }


class RankInfo(NamedTuple):
    """Where a rank runs."""

    host: str
    pid: int
    node: int
    threads: int
    memory_baseline_bytes: int


def pid() -> int:
    """Process id, as the host's tools show it."""
    return os.getpid()


def tables(comm: MPI.Comm, infos: list[RankInfo], phases: Phases) -> dict[str, Table]:
    """The file's tables ``ranks`` and ``phases``, on rank 0; empty elsewhere. Collective."""
    peaks = comm.gather(machine.peak_memory())
    spent = comm.gather([(p.seconds, p.bytes_received, p.messages) for p in phases.by_name.values()])
    if peaks is None or spent is None:
        return {}
    seconds, received, messages = np.array(spent, np.float64).reshape(len(spent), -1, 3).transpose(2, 0, 1)
    return {
        "ranks": Table(
            ("rank",),
            {
                "host": [info.host for info in infos],
                "pid": np.array([info.pid for info in infos], np.int64),
                "node": np.array([info.node for info in infos], np.int32),
                "threads": np.array([info.threads for info in infos], np.int32),
                "memory_baseline_bytes": np.array([info.memory_baseline_bytes for info in infos], np.int64),
                "memory_peak_bytes": np.array(peaks, np.int64),
            },
            "memory: bytes resident at most, after the imports and in the whole run",
            {"memory_baseline_bytes": "B", "memory_peak_bytes": "B"},
        ),
        "phases": Table(
            ("rank", "phase"),
            {
                "seconds": np.ascontiguousarray(seconds),
                "bytes_received": received.astype(np.int64),
                "messages": messages.astype(np.int64),
            },
            "what each rank spent in each phase",
            {"seconds": "s", "bytes_received": "B", "messages": "1"},
            {"phase": list(phases.by_name)},
        ),
    }
