"""The harness: ``pytest`` alone starts every ``mpirun`` that it needs, and never imports MPI itself.

The test functions in ``tests/mpi`` run on 1, 2, 3, 4 and 7 ranks. Starting Python is what costs, so there is one launch
for each number of ranks: it runs all chosen functions, and each rank writes its reports to a file of its own. Here each
function and number of ranks is one item, which passes if it passed on all ranks, in all its parametrisations.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples on every run and on every rank; no machine is too slow to be right.
settings.register_profile("steady", derandomize=True, database=None, deadline=None)
settings.load_profile("steady")

RANK_COUNTS = (1, 2, 3, 4, 7)
LAUNCH_SECONDS = 600
TEST_SECONDS = 120  # a rank that is stuck for this long prints its stack and ends
HERE = Path(__file__).parent
IN_CHILD = "HPCMPI_TEST_REPORTS"  # environment variable: folder for the ranks' reports


def mpirun() -> str:
    """The mpirun that belongs to this environment's MPI, else the one on the path."""
    own = Path(sys.executable).with_name("mpirun")
    return str(own) if own.exists() else "mpirun"


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> MPIFile | None:
    if IN_CHILD not in os.environ and file_path.parent == HERE / "mpi" and file_path.match("test_*.py"):
        return MPIFile.from_parent(parent, path=file_path)
    return None


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> Nothing | None:
    """Keep pytest from importing the modules of tests/mpi in a process without MPI."""
    if IN_CHILD not in os.environ and module_path.parent == HERE / "mpi":
        return Nothing.from_parent(parent, path=module_path)
    return None


class Nothing(pytest.File):
    def collect(self) -> list[pytest.Item]:
        return []


class MPIFile(pytest.File):
    """A module of tests/mpi, read but not imported."""

    def collect(self) -> Iterator[pytest.Item]:
        tree = ast.parse(self.path.read_text())
        names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
        for name in names:
            for ranks in RANK_COUNTS:
                yield MPIItem.from_parent(self, name=f"{name}[{ranks} ranks]", function=name, ranks=ranks)


class MPIItem(pytest.Item):
    """One test function on one number of ranks."""

    def __init__(self, *, function: str, ranks: int, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.test, self.ranks = function, ranks  # pytest takes `function` for the function itself

    @property
    def node(self) -> str:
        return f"{self.path.relative_to(HERE.parent)}::{self.test}"

    def runtest(self) -> None:
        launches = self.session.stash.setdefault(_LAUNCHES, {})
        if self.ranks not in launches:
            chosen = [
                item.node for item in self.session.items if isinstance(item, MPIItem) and item.ranks == self.ranks
            ]
            launches[self.ranks] = launch(self.ranks, chosen)
        failures = launches[self.ranks].failures(self.node)
        if failures:
            raise AssertionError("\n".join(failures))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *_args: object, **_kwargs: object) -> str:
        return str(excinfo.value)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, self.name


@dataclass(frozen=True)
class Launch:
    """What all ranks of one mpirun reported: for each rank, test id to (passed?, text)."""

    reports: list[dict[str, tuple[bool, str]]]
    output: str

    def failures(self, node: str) -> list[str]:
        texts = []
        for rank, report in enumerate(self.reports):
            own = {test: outcome for test, outcome in report.items() if test.partition("[")[0] == node}
            if not own:
                texts.append(f"rank {rank} reported nothing; the launch ended with:\n{self.output[-4000:]}")
            texts += [f"rank {rank}: {test}\n{text}" for test, (passed, text) in own.items() if not passed]
        return texts


_LAUNCHES = pytest.StashKey[dict[int, Launch]]()


def launch(ranks: int, nodes: list[str]) -> Launch:
    """Run the tests ``nodes`` on ``ranks`` ranks."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as output:
        command = [
            mpirun(),
            "-n",
            str(ranks),
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "ranks",
            *nodes,
        ]
        paths = os.pathsep.join([str(HERE), str(HERE.parent)])
        environment = os.environ | {
            IN_CHILD: folder,
            "HPCMPI_TEST_SECONDS": str(TEST_SECONDS),
            "PYTHONPATH": paths,
            "OMP_NUM_THREADS": "1",
        }
        process = subprocess.Popen(
            command, cwd=HERE.parent, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            process.wait(LAUNCH_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        reports: list[dict[str, tuple[bool, str]]] = []
        for rank in range(ranks):
            path = Path(folder, f"{rank}.jsonl")
            lines = path.read_text().splitlines() if path.exists() else []
            reports.append({test: (passed, text) for test, passed, text in map(json.loads, lines)})
        output.seek(0)
        return Launch(reports, output.read())


Run = Callable[..., subprocess.CompletedProcess[str]]


@contextlib.contextmanager
def swept() -> Iterator[None]:
    """Remove what MPICH leaves in /dev/shm when a job is aborted or killed: dozens of these would fill it."""
    shared = Path("/dev/shm")  # noqa: S108 - where MPICH puts it
    before = set(shared.glob("mpich_shm_*"))
    yield
    left = set(shared.glob("mpich_shm_*")) - before
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
