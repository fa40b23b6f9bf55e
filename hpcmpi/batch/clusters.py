"""What the user's clusters want, from a file of the user: ``~/.config/hpcmpi/clusters.toml``, or ``HPCMPI_CLUSTERS``.

::

    default = "hills"            # the profile that is taken where none is named
    [hills]
    partition = "compute"        # and whatever else [slurm] of a job file may say
    account = "physics"
    setup = ["module load openmpi"]   # lines of the shell before srun: here, not in job files, which run nothing
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpcmpi.batch.document import Document
from hpcmpi.batch.jobfile import checked
from hpcmpi.batch.kinds import SLURM
from hpcmpi.errors import InputError, quoted


def file_of_the_user() -> Path:
    """Where the profiles are."""
    if named := os.environ.get("HPCMPI_CLUSTERS"):
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "hpcmpi", "clusters.toml")


def _lines(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(line, str) for line in value):
        raise ValueError(f"is a list of lines for the shell, not {quoted(value)}")
    return tuple(value)


def profile(name: str | None) -> Mapping[str, Any]:
    """The profile ``name``, or the user's default one; empty where there is none.

    Raises InputError if ``name`` is not there, or for what is wrong with the file.
    """
    path = file_of_the_user()
    if not os.path.exists(path):  # noqa: PTH110 - pathlib raises OSError for a name that is too long
        if name is not None:
            raise InputError(f"profile {quoted(name)}: there is no file {path}")
        return {}
    document = Document(path)
    default = document.data.get("default")
    profiles = [key for key in document.data if key != "default"]
    if name is None:
        if default is None:
            return {}
        if default not in profiles:
            raise document.error(("default",), f"names the profile {quoted(default)}, which is not there: {profiles}")
        name = str(default)
    if name not in profiles:
        raise InputError(f"{path}: no profile {quoted(name)}; there are {', '.join(profiles) or 'none'}")
    kinds = {key: kind for key, kind in SLURM.items() if key != "profile"} | {"setup": _lines}
    return checked(document, name, kinds)
