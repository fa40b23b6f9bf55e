"""What killed jobs leave on a node outside their folders: shared memory, and temporary files and folders of launchers.

MPICH's shared memory has a name until MPI_Finalize, which a job that is aborted or killed never calls. hpcmpi's runs
remove the name as soon as all ranks of the node have mapped the memory (:func:`unname_segments`), so that the kernel
frees it with the last of them. Other remains (of a job killed earlier than that, or of another program) are stale if
they belong to this user, no visible process uses them, and they are too old to belong to a job that is starting.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_SHARED = Path("/dev/shm")  # noqa: S108 - where MPI libraries put it
_SEGMENTS = "mpich_shm_*"
_OLD_SECONDS = 60.0  # a job takes seconds from making its memory to mapping it on all ranks
_NAMES = {  # of what is looked for, by folder: files in the first, also folders of launchers in the second
    "shared": re.compile(r"mpich_shm_[0-9a-f]+_\d+|sm_segment\.\S+\.\d+\.[0-9a-f]+\.\d+|hpcmpi-\d+-\d+"),
    "temporary": re.compile(r"ompi\.\S+|prte\.\S+|pmix-\S+\.\d+|hpcmpi-scratch-[a-z0-9_]{8}|hpcmpi-roll-call-\d+-\d+"),
}


class Leftover(NamedTuple):
    """A file, or a launcher's folder, that nobody uses any more, and the bytes that it takes."""

    path: Path
    nbytes: int


def stale() -> list[Leftover]:
    """What ended jobs of this user have left on this node, by name."""
    old = [entry for folder, names in _folders() for entry in _of_this_user(folder, names)]
    if not old:
        return []
    used = _used()
    return [Leftover(path, _size(path)) for path in sorted(old) if not any(_is_in(name, str(path)) for name in used)]


def remove_stale() -> list[Leftover]:
    """Remove what :func:`stale` finds; return what is gone."""
    found = stale()
    for path, _ in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
    return [leftover for leftover in found if not leftover.path.exists()]


def unname_segments() -> None:
    """Remove the names of MPICH's shared memory that this process maps; all ranks of the node must have it by now."""
    for path in _mapped("self"):
        if Path(path).parent == _SHARED and Path(path).match(_SEGMENTS):
            with contextlib.suppress(OSError):  # another rank was faster
                os.unlink(path)  # noqa: PTH108 - pathlib would slow the start


def _folders() -> Iterator[tuple[Path, re.Pattern[str]]]:
    yield _SHARED, _NAMES["shared"]
    yield Path(tempfile.gettempdir()), _NAMES["temporary"]


def _of_this_user(folder: Path, names: re.Pattern[str]) -> Iterator[Path]:
    """Entries of ``folder`` that this user owns, that have such a name and that have not changed for a while."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if names.fullmatch(entry.name):
            with contextlib.suppress(OSError):
                about = entry.stat(follow_symlinks=False)
                if about.st_uid == os.getuid() and time.time() - about.st_mtime > _OLD_SECONDS:
                    yield Path(entry.path)


def _used() -> set[str]:
    """Files that processes of this user have mapped or opened, as far as they can be seen."""
    names = set[str]()
    for process in os.listdir("/proc"):  # noqa: PTH208 - thousands of them
        if process.isdecimal():
            names |= _mapped(process)
            with contextlib.suppress(OSError):
                for number in os.listdir(f"/proc/{process}/fd"):  # noqa: PTH208
                    with contextlib.suppress(OSError):
                        names.add(os.readlink(f"/proc/{process}/fd/{number}"))  # noqa: PTH115
    return names


def _mapped(process: str) -> set[str]:
    """Files that a process has mapped and that still have their names."""
    try:
        with open(f"/proc/{process}/maps", errors="replace") as file:  # noqa: PTH123 - pathlib would slow the start
            paths = {line.split(maxsplit=5)[5].rstrip("\n") for line in file if "/" in line}
    except OSError:
        return set()
    return {path for path in paths if not path.endswith(" (deleted)")}


def _is_in(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}/")


def _size(path: Path) -> int:
    """Bytes that a file or a folder takes."""
    files = [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]
    total = 0
    for file in files:
        with contextlib.suppress(OSError):
            total += file.lstat().st_blocks * 512
    return total
