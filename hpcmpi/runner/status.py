"""The status file ``<output>.status.json``: the one thing to trust when a launcher hides an exit status.

Written at the start, as each phase begins, and at the end; always whole, since it is replaced, never changed in place.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hpcmpi.errors import Status


class StatusFile:
    """State of a job: ``running``, ``done``, ``wrong`` or ``failed``.

    Rank 0 writes it as the job goes; at an early end the rank that ends the job does.
    """

    def __init__(self, output: Path | None, about: dict[str, Any]) -> None:
        self._path = None if output is None else output.with_name(f"{output.name}.status.json")
        self._content: dict[str, Any] = {"state": "running", "phase": "start", "started": now(), **about}

    def phase(self, name: str, *, write: bool) -> None:
        """A phase begins; every rank notes it, since any may have to tell where the job ended."""
        self._content["phase"] = name
        if write and not self._ended_by_another():
            self._write()

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

    def _ended_by_another(self) -> bool:
        """Whether another rank has written the last word since this one wrote, and MPI has yet to end this one."""
        if self._path is None or "updated" not in self._content:
            return False
        try:
            there = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return False
        return "status" in there and there.get("ranks") == self._content.get("ranks")

    def _write(self) -> None:
        if self._path is None:
            return
        if self._content["state"] == "failed" and self._is_another_runs():
            return
        self._content["updated"] = now()
        fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            fresh.write_text(json.dumps(self._content, indent=1) + "\n")
            fresh.replace(self._path)
        except OSError:  # a full disk must not end a job that may yet succeed elsewhere
            fresh.unlink(missing_ok=True)
            self._overwrite()

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

    def _is_another_runs(self) -> bool:
        """Whether another run has published under this name since this one began: its state is the file's."""
        try:
            there = json.loads((self._path or Path()).read_text())
        except (OSError, ValueError):
            return False
        return bool(there.get("state") == "done" and there.get("ended", "") >= self._content["started"])


def now() -> str:
    """The time in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
