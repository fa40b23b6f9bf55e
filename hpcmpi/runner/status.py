"""The status file ``<output>.status.json``: the one thing to trust when a launcher hides an exit status.

Written at the start, as each phase begins, and at the end; always whole, since it is replaced, never changed in place.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hpcmpi.errors import OutputError, Status
from hpcmpi.store.publication import destination

_BETWEEN_WRITES = 2.0  # seconds
_PATIENCE = 0.5  # seconds to wait for another rank or thread that writes, before going ahead without the lock


class StatusFile:
    """State of a job: ``running``, ``done``, ``wrong``, ``failed`` or ``checkpointed``.

    Rank 0 writes it as the job goes; at an early end the rank that ends the job does, and what is written then stays,
    whatever other ranks and threads still meet. ``about`` holds ``run``, which
    is the same on all ranks and differs between runs, and whatever else there is to tell.
    """

    def __init__(self, output: Path | None, about: dict[str, Any]) -> None:
        self._path = None if output is None else _file(output)
        self._mutex = threading.Lock()
        self._next = time.monotonic() + _BETWEEN_WRITES
        self._content: dict[str, Any] = {"state": "running", "phase": "start", "started": now(), **about}

    @property
    def path(self) -> Path | None:
        """The file, or None without an output."""
        return None if self._path is None else self._path.absolute()

    @property
    def run(self) -> str:
        """What tells this run from others that write the same file."""
        return str(self._content["run"])

    def stopping(self, reason: str) -> None:
        """The job has been asked to stop, and goes on to its next checkpoint."""
        self._change({"reason": reason}, write=True)

    def phase(self, name: str, *, write: bool) -> None:
        """A phase begins; every rank notes it, since any may have to tell where the job ended."""
        self._change({"phase": name, "fraction": None}, write=write)

    def advance(self, fraction: float) -> None:
        """``fraction`` of the phase is done; written now and then."""
        due = time.monotonic() >= self._next
        self._change({"fraction": fraction}, write=due)
        if due:
            self._next = time.monotonic() + _BETWEEN_WRITES

    def end(self, status: Status, reason: str = "") -> None:
        """The job ends."""
        states = {Status.DONE: "done", Status.WRONG: "wrong", Status.CHECKPOINTED: "checkpointed"}
        state = states.get(status, "failed")
        self._change({"state": state, "status": int(status), "reason": reason, "ended": now()}, write=True)

    def _change(self, news: dict[str, Any], *, write: bool) -> None:
        """Note ``news`` unless the end is noted already: the thread that works may meet the one that ends the job."""
        locked = self._mutex.acquire(timeout=_PATIENCE)  # a disk that hangs must not keep the job from ending
        try:
            if "status" not in self._content:
                together = self._content | news | {"updated": now()}
                self._content = {key: value for key, value in together.items() if value is not None}
                if write:
                    self._write()
        finally:
            if locked:
                self._mutex.release()

    def _write(self) -> None:
        if self._path is None:
            return
        with _held(self._path.parent):
            if self._is_settled():
                return
            fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}")
            try:
                fresh.write_text(json.dumps(self._content, indent=1) + "\n")
                fresh.replace(self._path)
            except OSError:  # a full disk must not end a job that may yet succeed elsewhere
                with contextlib.suppress(OSError):
                    fresh.unlink()
                self._overwrite()

    def _is_settled(self) -> bool:
        """Whether the last word is there already: another rank's of this run, or that of a run that took the name.

        MPI has then yet to end this rank, or this run's result is not what the file beside it holds.
        """
        try:
            there = json.loads((self._path or Path()).read_text())
        except (OSError, ValueError):
            return False
        if there.get("run") == self._content["run"]:
            return "status" in there
        published = ("done", "wrong")
        return (
            there.get("state") in published
            and there.get("ended", "") >= self._content["started"]
            and self._content["state"] not in published
        )

    def _overwrite(self) -> None:
        """Write into the blocks that the file has already; padded, so that every moment shows valid JSON or the old."""
        try:
            with (self._path or Path()).open("r+") as file:
                old = len(file.read())
                text = json.dumps(self._content)
                if len(text) < old:
                    file.seek(0)
                    file.write(text.ljust(old - 1) + "\n")
        except OSError:
            pass


def _file(output: Path) -> Path:
    path = output.with_name(f"{output.name}.status.json")
    try:
        return destination(path)
    except OutputError:  # symbolic links that lead in a circle: they are replaced
        return path


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Let no other rank write its status file in ``folder`` meanwhile, where the file system can lock folders."""
    descriptor, deadline = -1, time.monotonic() + _PATIENCE
    with contextlib.suppress(OSError):  # no such folder, or a file system without locks
        descriptor = os.open(folder, os.O_RDONLY)
        while time.monotonic() < deadline:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.002)
    try:
        yield
    finally:
        if descriptor != -1:
            os.close(descriptor)


def now() -> str:
    """The time in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
