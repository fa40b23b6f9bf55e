"""Distributed algorithms on plain NumPy arrays.

Every algorithm's public functions can be imported from here and take the caller's communicator first::

    from mpi4py import MPI
    from hpcmpi import matmul

    c = matmul(MPI.COMM_WORLD, a, b)  # a, b, c: this rank's blocks of rows

The names are found when they are first used, so that importing the package costs nothing; ``dir(hpcmpi)`` lists them.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Find ``name`` among the modules, and then among the ``PUBLIC`` functions of the algorithms."""
    try:
        return importlib.import_module(f"{__name__}.{name}")  # `from hpcmpi import comm` asks here before it imports
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
    public = _public()
    if name == "__all__":
        return sorted(public)
    if name in public:
        found = getattr(importlib.import_module(public[name]), name)
        globals()[name] = found  # looked for once: functions such as `hpcmpi.dot` are called in loops
        return found
    raise AttributeError(f"module 'hpcmpi' has no attribute {name!r}")


def _public() -> dict[str, str]:
    """Modules of the algorithms' ``PUBLIC`` functions and classes, by their names."""
    import pkgutil

    algorithms = importlib.import_module(f"{__name__}.algorithms")
    packages = [f"{algorithms.__name__}.{module.name}" for module in pkgutil.iter_modules(algorithms.__path__)]
    return {
        name: f"{package}.{module}"
        for package in packages
        for name, module in getattr(importlib.import_module(package), "PUBLIC", {}).items()
    }


def __dir__() -> list[str]:
    """What the package has, also what nobody has used yet."""
    return sorted({*globals(), *_public()})
