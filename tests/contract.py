"""The command line with a run that is disturbed, as the environment variable ``CONTRACT`` says.

``corrupt=NAME`` alters one element of the result NAME, on the last rank that holds any, before it is checked.
``stop`` sends SIGUSR1 to this process when the run first reports how far it has come.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys

from hpcmpi import cli

WHAT, _, NAME = os.environ["CONTRACT"].partition("=")
DRIVER = f"hpcmpi.algorithms.{sys.argv[1]}.driver"
import_module = importlib.import_module


def disturbed(name, package=None):
    """As ``import_module``; the driver's ``run`` is disturbed. It must not be imported before threads are limited."""
    global run
    module = import_module(name, package)
    if name == DRIVER and module.run not in DISTURBANCES.values():
        run, module.run = module.run, DISTURBANCES[WHAT]
    return module


def corrupted(comm, problem, report, *checkpoint):
    import numpy as np

    result = run(comm, problem, report, *checkpoint)
    local = np.asarray(result.arrays[NAME].local)
    holders = [rank for rank, size in enumerate(comm.allgather(local.size)) if size]
    if comm.rank == holders[-1]:
        place = np.unravel_index(local.size // 2, local.shape)
        local[place] = local[place] + 1 if local.dtype.kind in "iu" else -2 * local[place] - 1
    return result


def stopped(comm, problem, report, *checkpoint):
    sent = False

    def reported(fraction):
        nonlocal sent
        if not sent:
            sent = True
            os.kill(os.getpid(), signal.SIGUSR1)
        report(fraction)

    return run(comm, problem, reported, *checkpoint)


DISTURBANCES = {"corrupt": corrupted, "stop": stopped}
importlib.import_module = disturbed
cli.main()
