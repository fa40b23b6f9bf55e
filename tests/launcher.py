"""The launcher of the tests: ``pytest`` alone starts every ``mpirun`` that it needs, and never imports MPI itself.

The test functions in ``tests/mpi`` run on the numbers of ranks that ``--ranks`` names. Starting Python takes the most
time, so there is one launch for each number of ranks: it runs all selected functions, and each rank writes the names of
its tests, its reports and a last line to a file of its own. The launches run one after another in the background while
all other tests run, since many of these wait more than they compute. Each function on each number of ranks is one item.
It passes if all ranks collected the same parametrisations of it, each passed on all ranks, and the launch ended in good
order: every rank wrote its last line, and mpirun's exit status agrees with the reports.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hpcmpi.launch import SLEEPING_WAITS

RANK_COUNTS = (1, 2, 3)
LAUNCH_SECONDS = 1800
TEST_SECONDS = 120  # a rank that is stuck for this long prints its stack and ends
HERE = Path(__file__).parent
IN_CHILD = "HPCMPI_TEST_REPORTS"  # environment variable: folder for the ranks' reports


def mpirun() -> str:
    """The mpirun that belongs to this environment's MPI, else the one on the path."""
    own = Path(sys.executable).with_name("mpirun")
    return str(own) if own.exists() else "mpirun"


def numbers_of_ranks(text: str) -> list[int]:
    """The value of ``--ranks``."""
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: numbers of ranks such as 1,2,3 are expected")
    return numbers


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--ranks", type=numbers_of_ranks, default=RANK_COUNTS, help="ranks of tests/mpi (default: 1,2,3)")


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
            for ranks in self.config.getoption("ranks"):
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
        failures = self.session.stash[_LAUNCHES].result(self.ranks).failures(self.node)
        if failures:
            raise AssertionError("\n".join(failures))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *_args: object, **_kwargs: object) -> str:
        return str(excinfo.value)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, self.name


@dataclass(frozen=True)
class Rank:
    """What one rank told of its part of a launch."""

    collected: list[str]  # ids of tests
    reports: list[tuple[str, bool, str]]  # id of the test, whether it passed, text
    finished: bool

    @classmethod
    def read(cls, path: Path) -> Rank:
        """The rank whose file is ``path``; without a file it told nothing."""
        text = path.read_text() if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]  # whoever was killed may have left half a line
        told: dict[str, list[list[Any]]] = {"collected": [], "report": [], "finished": []}
        for kind, *values in map(json.loads, whole.splitlines()):
            told[kind].append(values)
        collected = [test for (tests,) in told["collected"] for test in tests]
        return cls(collected, [(test, passed, text) for test, passed, text in told["report"]], bool(told["finished"]))


@dataclass(frozen=True)
class Launch:
    """What all ranks of one mpirun told, its exit status and its output."""

    ranks: list[Rank]
    status: int
    output: str

    def failures(self, node: str) -> list[str]:
        """Why the test function ``node`` has not passed; nothing if it has."""
        texts, cut_short = [], self.cut_short()
        own = [[test for test in rank.collected if test.partition("[")[0] == node] for rank in self.ranks]
        for number, (rank, tests) in enumerate(zip(self.ranks, own, strict=True)):
            if not tests:
                cut_short.append(f"rank {number} has not collected it")
            elif tests != own[0]:
                texts.append(f"rank {number} collected {tests}, rank 0 {own[0]}")
            reported = {test for test, _, _ in rank.reports}
            cut_short += [f"rank {number}: no report of {test}" for test in tests if test not in reported]
            texts += [
                f"rank {number}: {test}\n{text}"
                for test, passed, text in rank.reports
                if test.partition("[")[0] == node and not passed
            ]
        if cut_short:
            texts += [*cut_short, f"the launch ended with:\n{self.output[-4000:]}"]
        return texts

    def cut_short(self) -> list[str]:
        """How the launch ended otherwise than in good order, be it after the last test."""
        texts = [f"rank {number} has not finished" for number, rank in enumerate(self.ranks) if not rank.finished]
        all_passed = all(passed for rank in self.ranks for _, passed, _ in rank.reports)
        expected = pytest.ExitCode.OK if all_passed else pytest.ExitCode.TESTS_FAILED
        if self.status != expected:
            texts.append(f"mpirun's exit status is {self.status}, not {expected:d}")
        return texts


class Launches:
    """The launches of a session, by number of ranks, one after another in a thread; ``stop`` ends the one under way."""

    def __init__(self, items: list[MPIItem]) -> None:
        self._nodes: dict[int, list[str]] = {}
        for item in items:
            self._nodes.setdefault(item.ranks, []).append(item.node)
        self._futures: dict[int, Future[Launch]] = {ranks: Future() for ranks in self._nodes}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for ranks, future in self._futures.items():
            if self._stopped.is_set():
                return
            try:
                future.set_result(launch(ranks, self._nodes[ranks], self._stopped))
            except BaseException as error:  # whoever waits for it raises it
                future.set_exception(error)

    def result(self, ranks: int) -> Launch:
        """What the launch on ``ranks`` ranks told, once it has ended."""
        return self._futures[ranks].result()

    def stop(self) -> None:
        """Wait for nothing more."""
        self._stopped.set()
        self._thread.join()


_LAUNCHES = pytest.StashKey[Launches]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that wait for a launch come last."""
    items.sort(key=lambda item: isinstance(item, MPIItem))


def pytest_collection_finish(session: pytest.Session) -> None:
    chosen = [item for item in session.items if isinstance(item, MPIItem)]
    if chosen and not session.config.option.collectonly:
        session.stash[_LAUNCHES] = Launches(chosen)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _LAUNCHES in session.stash:
        session.stash[_LAUNCHES].stop()


def launch(ranks: int, nodes: list[str], stopped: threading.Event) -> Launch:
    """Run the tests ``nodes`` on ``ranks`` ranks, until they have ended or ``stopped`` is set."""
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
        if ranks > len(os.sched_getaffinity(0)):
            environment |= SLEEPING_WAITS
        process = subprocess.Popen(
            command, cwd=HERE.parent, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        deadline = time.monotonic() + LAUNCH_SECONDS
        while process.poll() is None:
            if time.monotonic() > deadline or stopped.wait(0.1):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        told = [Rank.read(Path(folder, f"{rank}.jsonl")) for rank in range(ranks)]
        return Launch(told, process.returncode, output.read())
