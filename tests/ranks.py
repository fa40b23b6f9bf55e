"""The pytest plugin inside an mpirun: the communicators to test on, and each rank's reports.

A rank's file holds one JSON list a line: the ids of the tests that it collected, its reports, and ``["finished"]``.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from mpi4py import MPI

WORLD = MPI.COMM_WORLD


# A part of one or two ranks is their world, and a rank alone is the same among any number.
COMMUNICATORS = {1: ["world"], 2: ["world", "self"], 3: ["world", "part"], 4: ["world"], 7: ["world", "part"]}


@pytest.fixture(params=COMMUNICATORS.get(WORLD.size, ["world", "self", "part"]))
def comm(request: pytest.FixtureRequest):
    """All ranks; each alone; and a communicator of the user's own, in which the order of the ranks is reversed."""
    if request.param == "world":
        yield WORLD
    elif request.param == "self":
        yield MPI.COMM_SELF
    else:
        part = WORLD.Split(WORLD.rank % 2, -WORLD.rank)
        yield part
        part.Free()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """A folder for each rank's temporary folders: in a common one, pytest would clean up what another is listing."""
    config.option.basetemp = str(Path(os.environ["HPCMPI_TEST_REPORTS"], f"{WORLD.rank}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol():
    faulthandler.dump_traceback_later(float(os.environ["HPCMPI_TEST_SECONDS"]), exit=True, file=sys.__stderr__)
    outcome = yield
    faulthandler.cancel_dump_traceback_later()
    return outcome


def pytest_collection_finish(session: pytest.Session) -> None:
    tell("collected", [item.nodeid for item in session.items])


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        tell("report", report.nodeid, report.outcome == "passed", report.longreprtext)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """Said after the last fixture is torn down."""
    tell("finished")


def tell(*line: Any) -> None:
    with Path(os.environ["HPCMPI_TEST_REPORTS"], f"{WORLD.rank}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
