"""What type checkers and editors see of the package."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import hpcmpi

STUB = Path(hpcmpi.__file__).with_suffix(".pyi")
PROGRAM = """
import numpy as np
from mpi4py import MPI
from hpcmpi import Graph, matmul, sort

reveal_type(sort)
c: int = matmul(MPI.COMM_WORLD, np.ones((2, 2)), np.ones((2, 2)))
Graph.of_nothing
"""


def test_the_stub_lists_what_can_be_imported_and_from_where():
    imports = [node for node in ast.parse(STUB.read_text()).body if isinstance(node, ast.ImportFrom)]
    listed = {alias.asname: f"{node.module}.{alias.name}" for node in imports for alias in node.names}
    assert listed == {name: f"{module}.{name}" for name, module in hpcmpi._public().items()}


def test_a_users_program_is_checked_against_real_types(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", str(tmp_path / "program.py")]  # with the cache of the last run, if any
    run = subprocess.run(command, cwd=STUB.parents[1], capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "comm: Intracomm" in run.stdout or "comm: mpi4py" in run.stdout
    assert '"int"' in run.stdout
    assert 'has no attribute "of_nothing"' in run.stdout
