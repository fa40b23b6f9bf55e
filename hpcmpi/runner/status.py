"""The status file ``<output>.status.json``: the one thing to trust when a launcher hides an exit status.

Written at the start, as each phase begins, and at the end; always whole, since it is replaced, never changed in place.
"""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hpcmpi.errors import Status

_BETWEEN_WRITES = 2.0  # seconds


class StatusFile:
    """State of a job: ``running``, ``done``, ``wrong``, ``failed`` or ``checkpointed``.

    Rank 0 writes it as the job goes; at an early end the rank that ends the job does. ``about`` holds ``run``, which
    is the same on all ranks and differs between runs, and whatever else there is to tell.
    """

    def __init__(self, output: Path | None, about: dict[str, Any]) -> None:
        self._path = None if output is None else output.with_name(f"{output.name}.status.json")
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
        self._content["reason"] = reason
        self._write()

    def phase(self, name: str, *, write: bool) -> None:
        """A phase begins; every rank notes it, since any may have to tell where the job ended."""
        self._content["phase"] = name
        self._content.pop("fraction", None)
        if write:
            self._write()

    def advance(self, fraction: float) -> None:
        """``fraction`` of the phase is done; written now and then."""
        self._content["fraction"] = fraction
        if time.monotonic() >= self._next:
            self._write()
            self._next = time.monotonic() + _BETWEEN_WRITES

    def end(self, status: Status, reason: str = "") -> None:
        """The job ends."""
        states = {Status.DONE: "done", Status.WRONG: "wrong", Status.CHECKPOINTED: "checkpointed"}
        self._content |= {
            "state": states.get(status, "failed"),
            "status": int(status),
            "reason": reason,
            "ended": now(),
        }
        self._write()

    def _write(self) -> None:
        if self._path is None or self._is_settled():
            return
        self._content["updated"] = now()
        fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            fresh.write_text(json.dumps(self._content, indent=1) + "\n")
            fresh.replace(self._path)
        except OSError:  # a full disk must not end a job that may yet succeed elsewhere
            fresh.unlink(missing_ok=True)
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
            return "status" in there and "status" not in self._content
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


def now() -> str:
    """The time in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
