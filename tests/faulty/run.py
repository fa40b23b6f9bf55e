"""The command line with one more algorithm, ``faulty``, and with the faults that an environment variable asks for.

That the algorithm is found shows that adding one takes a folder and no edit. ``FAULTS`` holds words separated by
spaces, each ``name=value``; it replaces what the package finds in its surroundings and could not be made to fail on
every machine otherwise.
"""

from __future__ import annotations

import dataclasses
import errno
import faulthandler
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

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


def refuse_locks() -> None:
    """Have HDF5 find a file system that cannot lock, as many network file systems."""
    import h5py

    class File(h5py.File):
        def __init__(self, *arguments, **options):
            if options.get("locking"):
                reason = "unable to lock file, errno = 37, error message = 'No locks available'"
                raise OSError(f"Unable to synchronously open file ({reason})")
            super().__init__(*arguments, **options)

    h5py.File = File


def misread() -> None:
    """Have arrays read from one element beside where they are."""
    from hpcmpi.store.reader import Source

    get, read_rows = Source._get, Source._read_rows

    def shifted(self, array, index, target=None):
        found = get(self, array, index, target)
        if target is None:
            return np.roll(found, 1)
        target[...] = np.roll(target, 1)
        return None

    def shifted_rows(self, *arguments):
        read_rows(dataclasses.replace(self, offset=self.offset + self.dtype.itemsize), *arguments)

    Source._get, Source._read_rows = shifted, shifted_rows


def strike(number: int) -> None:
    """Send a signal to this process, and wait until it has removed the partial file, or for a moment."""
    os.kill(os.getpid(), number)
    deadline = time.monotonic() + 2
    while list(Path().glob("*.partial")) and time.monotonic() < deadline:
        time.sleep(0.01)


def strike_at(place: str, number: int) -> None:
    """Replace a function of ``os``, so that the signal comes as it is first called (for a partial file)."""
    name = {"renamed": "replace"}.get(place, place)
    real, struck = getattr(os, name), []

    def function(*arguments: object) -> object:
        about_partial = name != "replace" or str(arguments[0]).endswith(".partial")
        if place == "renamed":
            result = real(*arguments)
        if about_partial and not struck:
            struck.append(place)
            strike(number)
        return result if place == "renamed" else real(*arguments)

    setattr(os, name, function)


def abort_slowly() -> None:
    """Leave a second between the last word of the guard and MPI_Abort, for the main threads to go on."""
    real = faulthandler.dump_traceback_later

    def later(*arguments: object, **options: object) -> None:
        real(*arguments, **options)
        if "file" in options:  # the guard's last call
            time.sleep(1)

    faulthandler.dump_traceback_later = later


def note_status() -> None:
    """Replace ``sys.exit``: the status of each rank also goes to a file, as launchers make one of them all."""
    real = sys.exit

    def note(status: int) -> None:
        Path(f"status.{RANK}").write_text(f"{status}")
        real(status)

    sys.exit = note


if "note" in FAULTS:
    note_status()
if "misread" in FAULTS:
    import hpcmpi.store.reader  # on all ranks: it starts MPI, which must find the same settings everywhere
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

    if "locks" in FAULTS:
        refuse_locks()
    if "misread" in FAULTS:
        misread()

    if "abort" in FAULTS:
        abort_slowly()
    if "at" in FAULTS:
        strike_at(FAULTS["at"], signal.Signals[FAULTS["signal"]])
    elif "signal" in FAULTS:
        cli.parse = lambda: os.kill(os.getpid(), signal.Signals[FAULTS["signal"]])

algorithms.__path__.append(str(HERE / "algorithms"))
cli.main()
