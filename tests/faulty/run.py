"""The command line with one more algorithm, ``faulty``, and with the faults that an environment variable asks for.

That the algorithm is found shows that adding one takes a folder and no edit. ``FAULTS`` holds words separated by
spaces, each ``name=value``; it replaces what the package finds in its surroundings and could not be made to fail on
every machine otherwise.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path

import hpcmpi
from hpcmpi import algorithms, cli, launch, machine
from hpcmpi.store import publication

RANK = launch.detect().rank
FAULTS = dict(fault.split("=") for fault in os.environ.get("FAULTS", "").split())
HERE = Path(__file__).parent


def write(kind: str) -> None:
    """Replace ``os.pwrite``: the half of the first write on one rank is written, then that happens."""
    real = os.pwrite

    def pwrite(descriptor: int, data: memoryview, at: int) -> int:
        written = real(descriptor, data[: max(1, len(data) // 2)], at)
        os.fsync(descriptor)
        if kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written  # short: the rest is to be written by another call

    os.pwrite = pwrite


def refuse_partial_files() -> None:
    """Replace ``os.open``: the folder of the output cannot be written."""
    real = os.open

    def refuse(path: Path, flags: int, *arguments: int) -> int:
        if flags & os.O_CREAT and str(path).endswith(".partial"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, flags, *arguments)

    os.open = refuse


def rename_never() -> None:
    """Replace ``os.replace``: the process that would publish a result is killed at that point."""
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if str(source).endswith(".partial"):
            os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)

    os.replace = replace


def note_status() -> None:
    """Replace ``sys.exit``: the status of each rank also goes to a file, as launchers make one of them all."""
    real = sys.exit

    def note(status: int) -> None:
        Path(f"status.{RANK}").write_text(f"{status}")
        real(status)

    sys.exit = note


if "note" in FAULTS:
    note_status()
if FAULTS.get("rank", str(RANK)) == str(RANK):
    if "version" in FAULTS:
        hpcmpi.__version__ = FAULTS["version"]
    if "free" in FAULTS:
        machine.free_disk = lambda _folder: int(FAULTS["free"])
    if "memory" in FAULTS:
        machine.available_memory = lambda: int(FAULTS["memory"])
    if "write" in FAULTS:
        write(FAULTS["write"])
    if "rename" in FAULTS:
        rename_never()
    if "folder" in FAULTS:
        refuse_partial_files()
    if "patience" in FAULTS:
        publication._LOCK_SECONDS = float(FAULTS["patience"])

    if "interrupt" in FAULTS:
        cli.parse = lambda: os.kill(os.getpid(), signal.SIGINT)

algorithms.__path__.append(str(HERE / "algorithms"))
cli.main()
