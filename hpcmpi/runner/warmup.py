"""Kernels are compiled before the clock starts, by one rank of each node, into a cache that no other node touches.

Numba's cache is not safe against concurrent writers: two processes that compile at once can leave an index whose keys
point at the wrong machine code, and later processes then compute wrong numbers in silence. So the folder belongs to one
host, one processor type and one set of versions, one process at a time holds its lock, and the other ranks only load.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import platform
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mpi4py import MPI

from hpcmpi import __version__
from hpcmpi import comm as collective
from hpcmpi.errors import ResourceError


def cache_folder() -> Path:
    """Folder of this host's compiled kernels; ``HPCMPI_CACHE`` or the user's cache folder holds it."""
    base = os.environ.get("HPCMPI_CACHE") or os.environ.get("XDG_CACHE_HOME") or _home_cache()
    processor = [line for line in _lines("/proc/cpuinfo") if line.startswith(("model name", "flags"))][:2]
    numba = importlib.util.find_spec("numba")
    installed = f"{numba.origin} {Path(numba.origin).stat().st_mtime_ns}" if numba and numba.origin else ""
    identity = "\n".join([platform.python_version(), installed, __version__, *processor])
    return Path(base, "hpcmpi", "kernels", f"{os.uname().nodename}-{zlib.crc32(identity.encode()):08x}")


def _home_cache() -> str:
    """The user's cache folder, or one of the user's among the temporary files where there is no home to write to."""
    home = os.path.expanduser("~/.cache")  # noqa: PTH111 - pathlib raises where there is no home
    writable = os.access(home if Path(home).is_dir() else Path(home).parent, os.W_OK)
    return home if writable else os.path.join(os.environ.get("TMPDIR", "/tmp"), f"hpcmpi-{os.getuid()}")  # noqa: S108, PTH118 - checked


def warm_up(world: MPI.Comm, node: MPI.Comm, driver: Any, params: Any) -> None:
    """Have ``driver.warm_up(params)``, if there is one, compile the kernels: one rank of ``node`` first."""
    if not hasattr(driver, "warm_up"):
        return
    for turn in (node.rank == 0, node.rank != 0):
        with collective.agreement(world):
            if turn:
                with _locked(Path(os.environ["NUMBA_CACHE_DIR"])):
                    driver.warm_up(params)


def use_cache() -> None:
    """Point Numba at :func:`cache_folder`; before Numba is imported."""
    os.environ["NUMBA_CACHE_DIR"] = str(cache_folder())


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of ``folder``, made if need be; ResourceError if another user owns it: Numba runs what it finds."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for place in (folder, *folder.parents[:3]):
        if place.lstat().st_uid not in (0, os.getuid()):
            raise ResourceError(f"{place}: belongs to another user; HPCMPI_CACHE names a folder for compiled kernels")
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
