"""The README tells the truth: its commands run, and print what it shows, numbers aside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONSOLES = re.findall(r"^```console\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"-?\d[\d.,]*(?:e[-+]?\d+)?")


def sessions():
    """(Command, shown output) of every console block, without what installs or runs the tests."""
    for block in CONSOLES:
        for text in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = text.partition("\n")
            command = command.rpartition(" && ")[2].replace(".venv/bin/", "")
            if not command.startswith(("pytest", "pip", "python3 -m venv", "sbatch", "module", "MPI4PY")):
                yield command, shown


def shape(text: str) -> list[str]:
    """What must agree: the words, with numbers, their units and the drawing of tables left out."""
    text = re.sub(r"[━┏┓┡┩└┘┴┳╇┃│─]", " ", NUMBER.sub("#", text))
    text = re.sub(r"# (?:[kKMGTP]i?)?(flop/s|nonzero/s|key/s|record/s|edge/s|TEPS|B)\b", r"# \1", text)
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    return [line for line in lines if not line.startswith("job ")]  # unique to each run


def test_the_readme_shows_commands():
    assert len(list(sessions())) >= 3


def test_commands_print_what_is_shown(tmp_path):
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for command, shown in sessions():
        outcome = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert outcome.returncode == 0, f"{command}\n{outcome.stderr}"
        expected, found = shape(shown), shape(outcome.stdout)
        if "..." in expected:  # only the start is shown
            expected = expected[: expected.index("...")]
            found = found[: len(expected)]
        assert found == expected, command


def test_the_library_example_runs(tmp_path):
    (example,) = re.findall(r"^```python\n(from mpi4py.*?)^```", README, re.DOTALL | re.MULTILINE)
    path = tmp_path / "example.py"
    path.write_text(example)
    mpirun = Path(sys.executable).with_name("mpirun")
    command = [str(mpirun if mpirun.exists() else "mpirun"), "-n", "3", sys.executable, str(path)]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=os.environ)
    assert outcome.returncode == 0, outcome.stderr


def test_the_functions_of_the_library_are_listed():
    import hpcmpi

    (listed,) = re.findall(r"^Functions: (.*?)\.$", README, re.DOTALL | re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", listed)) == hpcmpi.__all__
    assert set(hpcmpi.__all__) <= set(dir(hpcmpi))


def test_the_table_of_commands_is_complete():
    from hpcmpi.cli import cli

    listed = re.findall(r"^\| `hpcmpi ([\w-]+)", README, re.MULTILINE)
    assert sorted(listed) == sorted(cli.list_commands(None))


@pytest.mark.parametrize("pattern", [r"^\$ (.*matmul --n .* -o C\.h5)$", r"^\$ (.*/pytest.*)$"])
def test_each_of_the_two_commands_sets_up_its_own_environment(pattern):
    command = re.search(pattern, README, re.MULTILINE)[1]
    assert command.startswith("python3 -m venv .venv && .venv/bin/pip install")


def test_the_job_file_and_the_profile_shown_are_ones(tmp_path, monkeypatch):
    from hpcmpi.batch import clusters, jobfile

    study, profiles = re.findall(r"^```toml\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    (tmp_path / "study.toml").write_text(study)
    (tmp_path / "clusters.toml").write_text(profiles)
    assert [point.ranks for point in jobfile.read(tmp_path / "study.toml").points] == [1, 2, 4]
    monkeypatch.setenv("HPCMPI_CLUSTERS", str(tmp_path / "clusters.toml"))
    assert clusters.profile(None)["setup"] == ("module load openmpi",)
