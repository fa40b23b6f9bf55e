"""How a finished file takes its place: unique partial files, a lock, attempts.

A result is written beside its target as ``NAME.<job>.<attempt>.<random>.partial`` and renamed when it is whole. So a
crash leaves the old file untouched, two jobs that share a name cannot mix their bytes, and a requeued job whose first
attempt lives on (its node lost touch with the scheduler) is not overwritten by that older attempt.
"""

from __future__ import annotations

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

_LOCK_SECONDS = 30.0
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class Writer(NamedTuple):
    """Who writes: ``job`` names the batch job, or is unique to the run; ``attempt`` counts its requeues from 0."""

    job: str
    attempt: int


def reserve(target: Path, writer: Writer, *, force: bool) -> Path:
    """Make the partial file for ``target``, before anything is computed.

    Raises OutputError if the folder is missing or not writable, or if the target exists and ``force`` is not set, or is
    locked by another process.
    """
    if target.exists() and not target.is_file():
        kind = "a folder" if target.is_dir() else "a device, a pipe or a socket"
        raise OutputError(f"{target}: is {kind}, not a file")
    if not target.parent.is_dir():
        raise OutputError(f"{target}: no such folder: {target.parent}")
    _check_replaceable(target, writer, force=force)
    partial = target.with_name(f"{target.name}.{writer.job}.{writer.attempt}.{uuid.uuid4().hex[:8]}.partial")
    try:
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror}") from None
    return partial


def _check_replaceable(target: Path, writer: Writer, *, force: bool) -> None:
    if not target.exists():
        return
    before = written_by(target)
    if before is not None and before.job == writer.job and before.attempt != writer.attempt:
        if before.attempt > writer.attempt:
            raise OutputError(
                f"{target}: attempt {before.attempt} of job {writer.job} has published it; "
                f"attempt {writer.attempt} may not replace it"
            )
    elif not force:
        raise OutputError(f"{target}: exists; --force replaces it")
    try:
        with target.open("rb") as file:
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


def publish(partial: Path, target: Path, writer: Writer, *, force: bool) -> None:
    """Rename the whole and synced ``partial`` to ``target`` and sync the folder.

    Raises OutputError if another job took the name meanwhile or holds its lock, or if a later attempt of this job
    published; the result is then kept beside the target, under a name that the message gives.
    """
    try:
        with _lock(target):
            _check_replaceable(target, writer, force=force)
            partial.replace(target)
            sync_folder(target.parent)
    except OutputError as refusal:
        kept = target.with_name(f"{target.stem}.{writer.job}.{writer.attempt}{target.suffix}")
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
def _lock(target: Path) -> Iterator[None]:
    """Hold ``.NAME.lock``; the holder removes it, so that none is left behind."""
    path = target.with_name(f".{target.name}.lock")
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
