"""What the tests of whole jobs share: what a run has said, and what it has left behind."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

RUN = str(Path(__file__).parent / "faulty" / "run.py")  # the command line with the algorithm ``faulty``
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
