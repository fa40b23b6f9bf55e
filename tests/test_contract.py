"""What every algorithm promises, tested on every algorithm that there is: found in the folder, not listed.

An algorithm says with ``EXAMPLES`` which small runs show it; all else follows from its options.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import HERE
from runs import strict_json

from hpcmpi import algorithms
from hpcmpi.record import Example

CONTRACT = (str(HERE / "contract.py"),)
NAMES = [module.name for module in pkgutil.iter_modules(algorithms.__path__)]
SPECS = {name: importlib.import_module(f"hpcmpi.algorithms.{name}") for name in NAMES}
EXAMPLES = [(name, example) for name in NAMES for example in SPECS[name].EXAMPLES]
CHECKED = [
    (name, example, array)
    for name, example in EXAMPLES
    if not example.aside
    for array in (*example.same, *example.close)
]
ONE_EACH = [(name, SPECS[name].EXAMPLES[0]) for name in NAMES]
RANKS = (1, 2, 3)


def identify(value: object) -> str:
    return value.arguments if isinstance(value, Example) else str(value)


def options(name: str, kind: str) -> list[str]:
    """Options of an algorithm that take a ``kind``: a file, or a number."""
    found = []
    for field in dataclasses.fields(SPECS[name].Params):
        about = field.metadata
        is_file = (about["metavar"] or "").startswith("FILE")
        is_number = about["parse"] is not str and not about["choices"] and not isinstance(field.default, bool)
        if {"file": is_file, "number": is_number and not is_file}[kind]:
            found.append(f"--{field.name.replace('_', '-')}")
    return found


def arrays(path: Path, name: str) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        assert file[name].attrs["verified"]
        return {key: item[()] for key, item in file[name].items() if isinstance(item, h5py.Dataset)}


@pytest.mark.parametrize("name", NAMES)
def test_an_algorithm_shows_its_promises(name):
    assert SPECS[name].EXAMPLES
    assert all(example.same or example.close for example in SPECS[name].EXAMPLES)


@pytest.mark.sample(8)
@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=identify)
def test_the_same_answer_on_any_number_of_ranks(hpcmpi, tmp_path, name, example):
    found = []
    for ranks in RANKS:
        run = hpcmpi(ranks, name, *example.arguments.split(), "--threads", 3 - min(ranks, 2), "-o", f"{ranks}.h5")
        assert run.returncode == 0, run.stderr
        found.append(arrays(tmp_path / f"{ranks}.h5", name))
    for ranks, other in zip(RANKS[1:], found[1:], strict=True):
        for array in example.same:
            assert other[array].dtype == found[0][array].dtype
            assert other[array].tobytes() == found[0][array].tobytes(), f"{array} on {ranks} ranks"
        for array, bound in example.close.items():
            difference = np.abs(other[array] - found[0][array]).max()
            assert difference <= bound * np.abs(found[0][array]).max(), f"{array} on {ranks} ranks"


@pytest.mark.parametrize(("name", "example", "array"), CHECKED, ids=identify)
def test_a_corrupted_answer_is_caught_by_its_check(hpcmpi, tmp_path, name, example, array):
    variables = {"CONTRACT": f"corrupt={array}"}
    run = hpcmpi(2, name, *example.arguments.split(), "-o", "x.h5", program=CONTRACT, **variables)
    assert run.returncode == 3, run.stdout + run.stderr
    assert "WRONG" in run.stdout
    with h5py.File(tmp_path / "x.h5") as file:
        assert not file[name].attrs["verified"]


@pytest.mark.parametrize(("name", "example"), [case for case in EXAMPLES if case[1].stops], ids=identify)
def test_what_is_stopped_goes_on_to_the_same_bits(hpcmpi, tmp_path, name, example):
    command = (name, *example.arguments.split())
    assert hpcmpi(2, *command, "-o", "whole.h5").returncode == 0
    stopped = hpcmpi(2, *command, "-o", "x.h5", program=CONTRACT, CONTRACT="stop")
    assert stopped.returncode == 85, stopped.stdout + stopped.stderr
    assert not (tmp_path / "x.h5").exists()
    resumed = hpcmpi(3, *command, "-o", "x.h5")
    assert resumed.returncode == 0, resumed.stderr
    whole, found = arrays(tmp_path / "whole.h5", name), arrays(tmp_path / "x.h5", name)
    for array in example.same:
        assert found[array].tobytes() == whole[array].tobytes(), array


@pytest.mark.parametrize(("name", "example"), ONE_EACH, ids=identify)
def test_explain_prints_the_plan_and_leaves_nothing(hpcmpi, tmp_path, name, example):
    text = hpcmpi(2, name, *example.arguments.split(), "--explain")
    assert text.returncode == 0, text.stderr
    assert text.stdout.strip()
    run = hpcmpi(2, name, *example.arguments.split(), "--explain", "--json")
    assert strict_json(run.stdout), run.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "example"), ONE_EACH, ids=identify)
def test_json_is_one_object_and_no_output_leaves_nothing(hpcmpi, tmp_path, name, example):
    run = hpcmpi(2, name, *example.arguments.split(), "--json", "--no-output")
    assert run.returncode == 0, run.stderr
    assert strict_json(run.stdout)["verified"] is True
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_refused_once_on_all_ranks(hpcmpi, tmp_path, name):
    for option in options(name, "file"):
        others = ["--values", "missing.npy"] if option == "--by" else ["--by", "missing.npy"] * (option == "--values")
        complete = ["--root", 1] if name == "bfs" else ["--n", 4] * (option in ("--a", "--b", "--x") and name != "sort")
        run = hpcmpi(3, name, option, "missing.npy", *others, *complete, "--no-output")
        assert run.returncode == 65, (option, run.stderr)
        assert run.stderr.count("missing.npy") == 1, run.stderr
        assert "no such file" in run.stderr
        assert "Traceback" not in run.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "example"), ONE_EACH, ids=identify)
def test_a_value_that_is_no_number_is_a_usage_error(hpcmpi, tmp_path, name, example):
    for option in options(name, "number"):
        run = hpcmpi(0, name, *example.arguments.split(), option, "nonsense")
        assert run.returncode == 2, (option, run.stderr)
        assert option in run.stderr
        assert "nonsense" in run.stderr
    run = hpcmpi(3, name, *example.arguments.split(), "--no-such-option")
    assert run.returncode == 2
    assert run.stderr.count("--no-such-option") == 1
    assert not list(tmp_path.iterdir())


HELP_AND_PLAN = """
import importlib, sys

sys.modules["mpi4py"] = None  # importing it fails
name, arguments = sys.argv[1], sys.argv[2:]
from hpcmpi import cli
from hpcmpi.machine import Machine

job = cli.parse([name, *arguments])
cost = importlib.import_module(f"hpcmpi.algorithms.{name}.cost")
assert cli.parse([name, "--help"]) == 0
del sys.modules["mpi4py"]  # resolving inputs is collective
from mpi4py import MPI

params = importlib.import_module(f"hpcmpi.algorithms.{name}.driver").resolve(MPI.COMM_SELF, job.params)
plans = cost.plans(params, 4, Machine())
assert plans and all(plan.seconds >= 0 and plan.memory >= 0 for plan in plans)
"""


@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=identify)
def test_help_needs_no_mpi_and_one_process_plans_for_four_ranks(name, example):
    command = [sys.executable, "-c", HELP_AND_PLAN, name, *example.arguments.split()]
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(f"Usage: hpcmpi {name} ")
