"""The command line without MPI: options become a job, help costs nothing and is complete."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import click
import pytest

from hpcmpi import cli
from hpcmpi.algorithms.matmul import Params
from hpcmpi.record import Job

HEAVY = {"numpy", "numba", "h5py", "mpi4py", "rich", "threadpoolctl"}
ALGORITHMS = sorted(path.parent.name for path in Path(cli.__file__).parent.glob("algorithms/*/__init__.py"))
COMMANDS = sorted(path.stem for path in Path(cli.__file__).parent.glob("commands/[a-z]*.py"))


@pytest.fixture
def command(request: pytest.FixtureRequest) -> click.Command:
    found = cli.cli.get_command(click.Context(cli.cli), request.param)
    assert found is not None
    return found


# Options become a job


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--n", "3", "-o", "C.h5", "--no-output"], "-o and --no-output contradict each other"),
        (["--n", "3", "-o", "C.npy"], "-o C.npy: results are HDF5 files: name it C.h5"),
        (["--n", "3", "-o", ""], "-o names no file"),
        (["--n", "3", "--compress", "gzip"], "--compress is for arrays, which are only kept with -o"),
        (["--n", "3", "--compress", "gzip", "--no-arrays", "-o", "C.h5"], "--compress is for arrays"),
        (["--n", "3", "--timeout", "nan"], "'nan' is not a number of seconds above 0"),
        (["--n", "3", "--timeout", "inf"], "'inf' is not a number of seconds above 0"),
        (["--n", "3", "--timeout", "0"], "'0' is not a number of seconds above 0"),
    ],
)
def test_options_without_a_meaning_are_refused(capsys, argv, said):
    assert cli.parse(["matmul", *argv]) == 2
    assert said in capsys.readouterr().err


def test_a_job_is_all_that_a_run_needs(monkeypatch):
    argv = ["matmul", "--n", "1e3", "--m", "2^10", "--k", "30", "--dtype", "float32", "-o", "C.h5", "--repeat", "3"]
    argv += ["--threads", "2", "--ranks", "4", "--no-verify", "--timeout", "1.5", "--force", "--json", "--quiet"]
    monkeypatch.setattr(sys, "argv", ["hpcmpi", *argv])
    assert cli.parse(argv) == Job(
        algorithm="matmul",
        params=Params(n=1000, m=1024, k=30, dtype="float32"),
        argv=("hpcmpi", *argv),
        output=Path("C.h5"),
        force=True,
        repeat=3,
        threads=2,
        ranks=4,
        verify=False,
        timeout=1.5,
        json=True,
        quiet=True,
    )


def test_defaults_are_those_of_the_job_and_of_the_algorithm():
    job = cli.parse(["matmul", "--n", "8"])
    assert dataclasses.replace(job, argv=()) == Job("matmul", Params(n=8))


def test_job_and_parameters_are_frozen():
    job = cli.parse(["matmul", "--n", "8"])
    for record, name in ((job, "output"), (job.params, "n")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, name, None)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["mamtul"], "Did you mean 'matmul'?"),
        (["matmul", "--n", "8", "--repaet", "2"], "--repeat"),
        (["matmul"], "what to multiply?"),
        (["matmul", "--n", "eight"], "'eight' is not a whole number such as 1000, 1e9 or 2^30"),
        (["matmul", "--n", "-8"], "'-8' is not a whole number"),
        (["matmul", "--n", "1e-3"], "'1e-3' is not a whole number"),
        (["matmul", "--n", "8", "--dtype", "int8"], "float32"),
        (["matmul", "--n", "8", "--method", "strassen"], "summa"),
        (["matmul", "--n", "8", "--repeat", "0"], "--repeat"),
        (["matmul", "--n", "8", "--threads", "0"], "--threads"),
        (["matmul", "--n", "8", "--ranks", "0"], "--ranks"),
        (["matmul", "--n", "8", "--timeout", "0"], "--timeout"),
        (["matmul", "--n", "8", "--transpose-a"], "--transpose-a needs --a"),
        (["matmul", "--n", "8", "-o", "/"], "is a directory"),
        (["matmul", "--n", "8", "C.h5"], "unexpected extra argument"),
        (["show"], "FILE"),
        (["show", "C.h5", "--yaml"], "--yaml"),
        (["--verbose"], "--verbose"),
    ],
)
def test_wrong_usage_is_told_and_exits_with_2(argv, told, capsys):
    assert cli.parse(argv) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert told in errors
    assert "Usage: hpcmpi" in errors


# Help


def run_in_python(*argv: str) -> tuple[str, set[str]]:
    """Output of the command line in a fresh process, and the modules that it has loaded."""
    code = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr))"
    code += "; from hpcmpi.cli import main; main()"
    run = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True)
    return run.stdout, set(run.stderr.split())


def test_help_imports_no_algorithm_and_no_command():
    text, modules = run_in_python("--help")
    assert not modules & HEAVY
    assert not [
        name for name in modules if name.startswith(("hpcmpi.algorithms.", "hpcmpi.commands.", "hpcmpi.runner"))
    ]
    for name in (*ALGORITHMS, *COMMANDS):
        assert f"\n  {name} " in text


@pytest.mark.parametrize("name", [*ALGORITHMS, *COMMANDS])
def test_help_of_a_command_imports_that_command_and_nothing_heavy(name):
    text, modules = run_in_python(name, "--help")
    assert text.startswith(f"Usage: hpcmpi {name} ")
    assert not modules & HEAVY
    others = {*ALGORITHMS, *COMMANDS} - {name} - ({"bfs"} if name == "graph" else set())  # which has its options
    assert not [module for module in modules if module.startswith("hpcmpi.") and module.rpartition(".")[2] in others]


def test_usage_errors_cost_nothing_either():
    code = "import sys; from hpcmpi import cli; cli.parse(['matmul', '--n', 'eight']); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(run.stdout.split()) & HEAVY


def test_short_option_for_help_and_the_version(capsys):
    assert cli.parse(["-h"]) == 0
    assert capsys.readouterr().out.startswith("Usage: hpcmpi ")
    assert cli.parse(["matmul", "-h"]) == 0
    assert capsys.readouterr().out.startswith("Usage: hpcmpi matmul ")
    assert cli.parse(["--version"]) == 0
    assert capsys.readouterr().out == f"hpcmpi, version {cli.__version__}\n"


@pytest.mark.parametrize("command", [*ALGORITHMS, *COMMANDS], indirect=True)
def test_help_has_an_example(command, request):
    name = request.node.callspec.params["command"]
    text = command.get_help(click.Context(command, info_name=name, max_content_width=100))
    examples = text.partition("Example")[2].partition("Options:")[0]
    assert any(f"hpcmpi {name}" in line for line in examples.splitlines()), text


@pytest.mark.parametrize("command", [*ALGORITHMS, *COMMANDS], indirect=True)
def test_every_option_has_a_help_text(command):
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    assert [option.name for option in options if not option.help] == []
    assert [
        option.name for option in options if option.help and option.help[0].islower() and ":" not in option.help
    ] == []


@pytest.mark.parametrize("command", ALGORITHMS, indirect=True)
def test_no_two_options_of_an_algorithm_share_a_name(command):
    names = [name for option in command.params for name in (*option.opts, *option.secondary_opts)]
    assert sorted(names) == sorted(set(names))
