"""What a path leads to; unlike those of pathlib, the question never fails."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Literal


def kind(path: str | Path) -> Literal["file", "folder", "other", "missing"]:
    """What is at ``path``; ``missing`` also where it cannot be reached or is too long to be a name."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - the path may be a text from the command line
    except (OSError, ValueError):
        return "missing"
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"
