"""Distributed algorithms on plain NumPy arrays.

Every algorithm's public functions can be imported from here and take the caller's communicator first::

    from mpi4py import MPI
    from hpcmpi import matmul

    c = matmul(MPI.COMM_WORLD, a, b)  # a, b, c: this rank's blocks of rows

The names are found when they are first used, so that importing the package costs nothing.
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
    import pkgutil

    algorithms = importlib.import_module(f"{__name__}.algorithms")
    for module in pkgutil.iter_modules(algorithms.__path__):
        package = f"{algorithms.__name__}.{module.name}"
        public: dict[str, str] = getattr(importlib.import_module(package), "PUBLIC", {})
        if name in public:
            found = getattr(importlib.import_module(f"{package}.{public[name]}"), name)
            globals()[name] = found  # looked for once: functions such as `hpcmpi.dot` are called in loops
            return found
    raise AttributeError(f"module 'hpcmpi' has no attribute {name!r}")
