"""The harness itself, end to end: a launch that crashes, or that leaves something out, fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import HERE, swept
from launcher import IN_CHILD

Harness = Callable[..., tuple[int, str]]

BEGIN = """
import atexit, os, signal
import pytest
from mpi4py import MPI

RANK = MPI.COMM_WORLD.rank
"""
GOOD = """
@pytest.mark.parametrize("x", [1, 2, 3])
def test_good(x):
    assert x
"""
KILLED_BETWEEN_PARAMETERS = """
@pytest.mark.parametrize("x", [1, 2, 3])
def test_killed(x):
    if RANK == 0 and x == 2:
        os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED_IN_TEAR_DOWN = """
@pytest.fixture(scope="module")
def fragile():
    yield
    os.kill(os.getpid(), signal.SIGKILL)

def test_torn(fragile):
    pass
"""
DIED_AT_EXIT = """
def test_exit():
    atexit.register(os._exit, 7)
"""
OTHER_PARAMETERS = """
@pytest.mark.parametrize("x", range(1 + RANK))
def test_other(x):
    pass
"""
FAILED_ON_ONE_RANK = """
@pytest.mark.parametrize("x", [1, 2])
def test_failed(x):
    assert (RANK, x) != (1, 2), "as it should"
"""


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    """Run a copy of the harness on one module and one number of ranks; returns exit status and output."""
    folder = tmp_path / "tests"
    (folder / "mpi").mkdir(parents=True)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for module in ("conftest", "launcher", "ranks"):
        shutil.copy(HERE / f"{module}.py", folder)

    def run(ranks: int | str, *tests: str) -> tuple[int, str]:
        (folder / "mpi" / "test_zz.py").write_text(BEGIN + "\n".join(tests))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--ranks", str(ranks), "tests"]
        environment = {name: value for name, value in os.environ.items() if name != IN_CHILD}
        ended = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        return ended.returncode, ended.stdout + ended.stderr

    with swept():
        yield run


def test_what_passes_on_all_ranks_passes_and_what_fails_on_one_fails(harness):
    status, output = harness(2, GOOD, FAILED_ON_ONE_RANK)
    assert (status, "1 failed, 1 passed" in output) == (1, True), output
    assert "rank 1: tests/mpi/test_zz.py::test_failed[2]" in output
    assert "AssertionError: as it should" in output
    assert "has not finished" not in output


@pytest.mark.parametrize(
    ("ranks", "test", "told"),
    [
        (1, KILLED_BETWEEN_PARAMETERS, ["rank 0: no report of tests/mpi/test_zz.py::test_killed[2]", "not finished"]),
        (2, KILLED_BETWEEN_PARAMETERS, ["rank 0: no report of tests/mpi/test_zz.py::test_killed[3]", "not finished"]),
        (1, KILLED_IN_TEAR_DOWN, ["rank 0 has not finished", "mpirun's exit status is "]),
        (1, DIED_AT_EXIT, ["mpirun's exit status is 7, not 0"]),
        (2, OTHER_PARAMETERS, ["rank 1 collected ['tests/mpi/test_zz.py::test_other[0]', 'tests"]),
        (1, "import nowhere", ["has not collected it", "ModuleNotFoundError"]),
    ],
    ids=["killed", "killed of two", "killed in tear-down", "died at exit", "other parameters", "not imported"],
)
def test_a_launch_that_crashed_or_left_something_out_does_not_pass(harness, ranks, test, told):
    status, output = harness(ranks, GOOD, test)
    assert status == 1, output
    for part in told:
        assert part in output


@pytest.mark.parametrize("ranks", ["two", "0", "1,,2", ""])
def test_numbers_of_ranks_that_are_none_are_a_usage_error(harness, ranks):
    status, output = harness(ranks, GOOD)
    assert status == pytest.ExitCode.USAGE_ERROR, output
