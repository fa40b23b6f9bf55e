"""What the tests of whole jobs share: what a run has said, and what it has left behind."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RUN = str(Path(__file__).parent / "faulty" / "run.py")  # the command line with the algorithm ``faulty``
SECONDS = 30  # until every job must have ended; the promise is 5 after the fault
HOST = socket.gethostname()


def messages(text: str) -> list[str]:
    """Lines of a standard error that hpcmpi wrote, without the warning of too few cores."""
    return [line for line in text.splitlines() if re.match("hpcmpi: |rank ", line) and " share " not in line]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def status(folder: Path, name: str = "C.h5") -> dict[str, Any]:
    """What the status file says."""
    return json.loads((folder / f"{name}.status.json").read_text())


def strict_json(text: str) -> Any:
    """The one JSON value that ``text`` holds; NaN and infinities are none."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be asked for its status does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
