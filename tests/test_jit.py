"""The cache of compiled kernels: which edits recompile which module."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = """
from hpcmpi import jit
from hpcmpi.algorithms.sort import order_kernels, rows_kernels
from hpcmpi.algorithms.matvec import kernels
for module in (rows_kernels, order_kernels, kernels):
    print(jit._module_folder(module.__name__, module.__file__))
"""


@pytest.fixture
def copy(tmp_path):
    """A copy of the package and the folders that its kernels are cached in, by the module's name."""
    shutil.copytree(ROOT / "hpcmpi", tmp_path / "hpcmpi", ignore=shutil.ignore_patterns("__pycache__"))

    def folders() -> list[str]:
        environment = os.environ | {"PYTHONPATH": str(tmp_path), "HPCMPI_CACHE": str(tmp_path / "cache")}
        command = [sys.executable, "-P", "-c", FOLDERS]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return run.stdout.split()

    return tmp_path / "hpcmpi", folders


@pytest.mark.parametrize(
    ("edited", "changed"),
    [
        ("algorithms/sort/order_kernels.py", [False, True, False]),
        ("algorithms/sort/rows_kernels.py", [True, True, False]),  # order_kernels calls its functions
        ("algorithms/sort/driver.py", [False, False, False]),
        ("__init__.py", [False, False, False]),
        ("jit.py", [True, True, True]),
    ],
)
def test_an_edit_recompiles_the_modules_that_it_can_affect(copy, edited, changed):
    package, folders = copy
    before = folders()
    with (package / edited).open("a") as file:
        file.write("\n# edited\n")
    assert [a != b for a, b in zip(before, folders(), strict=True)] == changed


def test_a_touched_file_keeps_its_kernels(copy):
    package, folders = copy
    before = folders()
    (package / "algorithms" / "sort" / "order_kernels.py").touch()
    assert folders() == before
