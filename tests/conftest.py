"""Settings of all tests, the fixture that runs the command line, and the launcher's hooks."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from launcher import (  # noqa: F401 - hooks, which pytest finds here
    HERE,
    mpirun,
    pytest_addoption,
    pytest_collect_file,
    pytest_collection_finish,
    pytest_collection_modifyitems,
    pytest_pycollect_makemodule,
    pytest_sessionfinish,
)

# The same examples on every run and on every rank; no machine is too slow to be right.
settings.register_profile("steady", derandomize=True, database=None, deadline=None)
settings.load_profile("steady")

if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # by nohup: jobs would inherit it, and some tests send SIGHUP
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes would each compile the package's modules anew
os.environ["HPCMPI_MACHINE"] = str(Path(__file__).with_name("no-profile"))  # costs by default speeds, wherever it is

Run = Callable[..., subprocess.CompletedProcess[str]]


class Samples:
    """Of a test marked ``sample(n)``, n sets of parameters, evenly spread, are run; the others are ``exhaustive``."""

    @pytest.hookimpl(tryfirst=True)  # before marks select
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        tests: dict[str, list[pytest.Item]] = {}
        for item in items:
            if item.get_closest_marker("sample"):
                tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
        for sets in tests.values():
            (count,) = sets[0].get_closest_marker("sample").args
            chosen = {index * len(sets) // count for index in range(count)}
            for index, item in enumerate(sets):
                if index not in chosen:
                    item.add_marker("exhaustive")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Samples())


_SHARED = Path("/dev/shm")  # noqa: S108 - where MPICH puts its segments
_SEGMENTS = "mpich_shm_*"
_OTHERS = set(_SHARED.glob(_SEGMENTS))
_YOUNG_SECONDS = 10  # a launch has made its segment but may not have mapped it yet


@contextlib.contextmanager
def swept() -> Iterator[None]:
    """Remove what MPICH leaves in /dev/shm when a job is aborted or killed: dozens of these would fill it."""
    yield
    left = set[Path]()
    for segment in set(_SHARED.glob(_SEGMENTS)) - _OTHERS:
        with contextlib.suppress(FileNotFoundError):
            if time.time() - segment.stat().st_ctime > _YOUNG_SECONDS:
                left.add(segment)
    if left:
        in_use = ""
        for maps in Path("/proc").glob("[0-9]*/maps"):
            with contextlib.suppress(OSError):
                in_use += maps.read_text()
        for segment in left:
            if str(segment) not in in_use:
                segment.unlink(missing_ok=True)


@pytest.fixture
def hpcmpi(tmp_path: Path) -> Iterator[Run]:
    """Run the command line on a number of ranks (0: without mpirun) in an empty folder, and return what came out."""

    def run(
        ranks: int, *argv: object, program: tuple[str, ...] = ("-m", "hpcmpi"), timeout: float = 120, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        launcher = [mpirun(), "-n", str(ranks)] if ranks else []
        command = [*launcher, sys.executable, *program, *map(str, argv)]
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(HERE.parent)} | variables,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    with swept():
        yield run
