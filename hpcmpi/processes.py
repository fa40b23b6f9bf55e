"""Which processes are there: identities that outlive the reuse of process ids, and the end of a parent.

A process id alone may belong to another process by now. Together with the time at which the process started, counted by
the kernel since the boot, and with the id of that boot, it is unique on its host.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_STARTED = 19  # field of /proc/PID/stat behind the command's closing parenthesis, counted from the state
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


def birth(pid: int) -> str:
    """When process ``pid`` of this host started, unique among all processes that had the id; empty if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else f"{_boot()}-{fields[_STARTED]}"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().partition("-")[0]
    except OSError:
        return ""


def is_alive(pid: int, started: str) -> bool:
    """Whether the process that started at ``started`` runs; any process with the id if that is empty."""
    now = birth(pid)
    return bool(now) and (not started or now == started)


def send(pid: int, started: str, number: int) -> bool:
    """Send a signal to the process that started at ``started``; return whether there is such a process.

    Without ``started`` (written by an earlier version) the process must have hpcmpi in its command line.
    """
    if not started:
        try:
            ours = b"hpcmpi" in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False
        started = birth(pid) if ours else "another's"
    if not is_alive(pid, started):
        return False
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
        return True
    return False


def members(session: int) -> list[int]:
    """Processes of the session that process ``session`` began."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] not in "ZX":
                found.append(int(folder.name))
    return found


def signal_when_parent_ends(number: int) -> None:
    """Have the kernel send ``number`` when the thread that started this process ends; on Linux only.

    That thread may end before its process does, so the receiver must check whether its parent has changed.
    """
    import ctypes

    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, number, 0, 0, 0)
