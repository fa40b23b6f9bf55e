"""How a finished file takes its place: unique partial files, a lock, attempts.

A result is written beside its target as ``NAME.<job>.<attempt>.<random>.partial`` and renamed when it is whole. So a
crash leaves the old file untouched, two jobs that share a name cannot mix their bytes, and a requeued job whose first
attempt lives on (its node lost touch with the scheduler) is not overwritten by that older attempt.

Where the target is a symbolic link, the file that it leads to is written, and the partial file lies beside that one. A
replaced file passes on its permissions, and its owner and group where the system allows that. Its other hard links keep
the old content.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from hpcmpi.errors import InputError, OutputError
from hpcmpi.store.hdf5 import open_hdf5, written_by_hpcmpi
from hpcmpi.store.kind import kind

_LOCK_SECONDS = 30.0
_ACCESS_LIST = "system.posix_acl_access"
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class Writer(NamedTuple):
    """Who writes: ``job`` names the batch job, or is unique to the run; ``attempt`` counts its requeues from 0."""

    job: str
    attempt: int


class Place(NamedTuple):
    """Where a result goes: the name that the user gave, the file that it leads to, and the partial file beside that."""

    target: Path
    destination: Path
    partial: Path


def place(target: Path, writer: Writer) -> Place:
    """Choose the files for a result named ``target``; makes none of them.

    Raises OutputError if the target is a symbolic link that leads nowhere, for example to itself.
    """
    found = destination(target)
    unique = f"{found.name}.{writer.job}.{writer.attempt}.{uuid.uuid4().hex[:8]}.partial"
    return Place(target, found, found.with_name(unique))


def destination(path: Path) -> Path:
    """The file that ``path`` leads to if it is a symbolic link, which need not exist yet; else ``path``.

    Raises OutputError if symbolic links lead in a circle.
    """
    if not os.path.islink(path):  # noqa: PTH114 - pathlib raises OSError for names that are too long
        return path
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OutputError(f"{path}: is a symbolic link that leads back to itself, not to a file") from None
    return Path(os.path.realpath(path))


def reserve(place: Place, writer: Writer, *, force: bool) -> int:
    """Make the partial file, before anything is computed, and return its inode number.

    Raises OutputError if the folder is missing or not writable, or if the target exists and ``force`` is not set, or is
    locked by another process.
    """
    target, found, partial = place
    leads = "" if found == target else f" (a symbolic link to {found})"
    present = kind(found)
    if present in ("folder", "other"):
        what = "a folder" if present == "folder" else "a device, a pipe or a socket"
        raise OutputError(f"{target}: is {what}, not a file{leads}")
    if kind(found.parent) != "folder":
        raise OutputError(f"{target}: no such folder: {found.parent}{leads}")
    _check_replaceable(place, writer, force=force)
    try:
        descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror}{leads}") from None
    try:
        if present == "file":  # nobody may read what grows who may not read the old file
            _inherit(found, descriptor, at_least=0o600)
        return os.fstat(descriptor).st_ino
    finally:
        os.close(descriptor)


def _inherit(old: Path, descriptor: int, *, at_least: int = 0) -> None:
    """Give the open file the permissions of ``old``, and its owner, group and access list where the system allows."""
    try:
        before, now = old.stat(), os.fstat(descriptor)
    except FileNotFoundError:  # it was removed meanwhile
        return
    mode = before.st_mode & 0o777
    for owner in (before.st_uid, now.st_uid):
        with contextlib.suppress(OSError):  # others than root may only choose among their own groups
            if (owner, before.st_gid) != (now.st_uid, now.st_gid):
                os.fchown(descriptor, owner, before.st_gid)
            break
    group_kept = os.fstat(descriptor).st_gid == before.st_gid
    if group_kept:
        with contextlib.suppress(OSError):  # no access list, or a file system without such lists
            os.setxattr(descriptor, _ACCESS_LIST, os.getxattr(old, _ACCESS_LIST))
    else:
        mode &= 0o707 | (mode & 0o007) << 3  # another group gets no more than everybody has
    with contextlib.suppress(OSError):  # a file system without permissions
        os.fchmod(descriptor, mode | at_least)


def _check_replaceable(place: Place, writer: Writer, *, force: bool) -> None:
    target, found, _ = place
    if kind(found) == "missing":
        return
    before = written_by(found)
    if before is not None and before.job == writer.job and before.attempt != writer.attempt:
        if before.attempt > writer.attempt:
            raise OutputError(
                f"{target}: attempt {before.attempt} of job {writer.job} has published it; "
                f"attempt {writer.attempt} may not replace it"
            )
    elif not force:
        raise OutputError(f"{target}: exists; --force replaces it")
    try:
        with found.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(f"{target}: is locked by another process that writes it") from None
    except OSError:
        pass  # unreadable, or a file system without locks: the rename will tell


def written_by(target: Path) -> Writer | None:
    """Job and attempt that wrote the result ``target``, or None for another file."""
    try:
        with open_hdf5(target, lock=False) as file:  # whoever writes it now is found by its lock, below
            for group in file.values():
                if group is not None and written_by_hpcmpi(group) and "attempt" in group.attrs:
                    return Writer(str(group.attrs["job"]), int(group.attrs["attempt"]))
    except InputError:
        pass  # not a result of ours, or not any more
    return None


def publish(place: Place, writer: Writer, *, force: bool) -> None:
    """Rename the whole and synced partial file to its destination and sync the folder.

    Raises OutputError if another job took the name meanwhile or holds its lock, or if a later attempt of this job
    published; the result is then kept beside the target, under a name that the message gives.
    """
    _, found, partial = place
    try:
        with _lock(place):
            _check_replaceable(place, writer, force=force)
            descriptor = os.open(partial, os.O_RDONLY)
            try:
                _inherit(found, descriptor)
            finally:
                os.close(descriptor)
            partial.replace(found)
            sync_folder(found.parent)
    except OutputError as refusal:
        kept = found.with_name(f"{found.stem}.{writer.job}.{writer.attempt}{found.suffix}")
        if kept.exists():  # another run of the same job and attempt was refused before
            kept = kept.with_name(f"{kept.stem}.{uuid.uuid4().hex[:8]}{kept.suffix}")
        partial.replace(kept)
        raise OutputError(f"{refusal}. It was free when this run began; this run's result is in {kept}") from None


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` durable, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems cannot sync folders
    finally:
        os.close(descriptor)


@contextmanager
def _lock(place: Place) -> Iterator[None]:
    """Hold ``.NAME.lock``; the holder removes it, so that none is left behind."""
    target, found, _ = place
    path = found.with_name(f".{found.name}.lock")
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                break
        except (BlockingIOError, FileNotFoundError):
            pass  # held by another process, or removed by the one that held it
        except OSError as error:
            if error.errno in _NO_LOCKS:
                break  # the file system has no locks; the rename is atomic all the same
            raise
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise OutputError(f"{target}: {path.name} has been locked by another process for {_LOCK_SECONDS:.0f} s")
        time.sleep(0.05)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)
