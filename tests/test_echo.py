"""What a message quotes from outside is cut at 200 characters, whatever it is and wherever it comes from."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from conftest import HERE

from hpcmpi import cli
from hpcmpi.batch import jobfile, slurm
from hpcmpi.batch.document import Document
from hpcmpi.errors import LONGEST_ECHO, HpcmpiError, InputError, LaunchError, UsageError, cut, message, quoted
from hpcmpi.launch import detect

WORD = "x" * 10_000
WORDS = "a long text " * 1000
LONGEST = 1000  # characters of a whole message; most have less than 400


def assert_short(text: str, longest: int = LONGEST) -> None:
    """No long part of a value, and no line that a value has made long."""
    assert "x" * (LONGEST_ECHO + 1) not in text
    assert "a long text " * (LONGEST_ECHO // 12 + 1) not in text
    assert max(map(len, text.splitlines())) <= longest
    assert "Traceback" not in text


# The function


@pytest.mark.parametrize("length", [0, 1, 198, 199])
def test_a_short_text_is_left_as_it_is(length):
    assert cut("y" * length) == "y" * length
    assert message(f"it is {'y' * length}, not 3") == f"it is {'y' * length}, not 3"


@pytest.mark.parametrize("length", [201, 10_000])
def test_a_long_text_keeps_its_beginning_and_its_end(length):
    text = cut("".join(str(digit % 10) for digit in range(length)))
    assert len(text) == LONGEST_ECHO
    assert text.startswith("0123456789")
    assert text.endswith(f"...{''.join(str(digit % 10) for digit in range(length - 66, length))}")


@pytest.mark.parametrize(
    ("long", "longest"),
    [
        (f"-o /{WORD}.npy: results are HDF5 files", 230),
        (f"{WORDS!r} is not a whole number such as 1000", 250),
        (f"no profile {quoted(WORDS)}; it's none of 'these'", 250),
        (f"{[WORD, WORDS]} is a list", 450),
        (f"line 7: {WORDS}", 1000),
        ('"' + "it's one " * 300 + '" is not a time', 250),
        (f"'{chr(92)}'{WORDS}' is not a time", 250),
    ],
    ids=["path", "quotation", "cut before", "list", "no quotation", "double quotes", "escaped quote"],
)
def test_a_message_is_cut_where_it_quotes_and_keeps_its_own_words(long, longest):
    assert len(message(long)) <= longest
    assert message(long)[-12:] == long[-12:]
    assert message(message(long)) == message(long)
    assert str(InputError(long)) == message(long)


def test_words_of_a_message_are_not_taken_for_a_quotation():
    text = "the users' files: " + "some words " * 40 + "of the others' files"
    assert message(text) == text


# Every option and argument of every command


def commands() -> Iterator[tuple[list[str], click.Command]]:
    def walk(path: list[str], command: click.Command) -> Iterator[tuple[list[str], click.Command]]:
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                yield from walk([*path, name], command.get_command(context, name))
        else:
            yield path, command

    yield from walk([], cli.cli)


OPTIONS = [
    (path, option.opts[0])
    for path, command in commands()
    for option in command.params
    if isinstance(option, click.Option) and not option.is_flag
]
ARGUMENTS = [
    path for path, command in commands() if any(isinstance(parameter, click.Argument) for parameter in command.params)
]
NEEDED = {
    "matmul": ["--n", "4"],
    "matvec": ["--n", "4"],
    "sort": ["--n", "4"],
    "reduce": ["--n", "4"],
    "bfs": ["--root", "0", "--scale", "4"],
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HPCMPI_CLUSTERS", str(tmp_path / "clusters.toml"))
    monkeypatch.setenv("PYTHONPATH", str(HERE.parent))
    (tmp_path / "study.toml").write_text('command = "sort"\n[params]\nn = 10\n[run]\noutput = "out"\n')
    return tmp_path


def refused(hpcmpi, capsys, argv) -> None:
    """The command line refuses ``argv`` by a short message; it starts MPI only if the words alone look right."""
    outcome, out, err = None, "", ""
    if argv[0] != "graph":  # which would start MPI here
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["hpcmpi", *argv])
            outcome = cli.parse()
        out, err = capsys.readouterr()
    if not isinstance(outcome, int):
        if WORDS in argv[-1] and argv[0] not in ("sort", "graph"):
            return  # what all algorithms share is tried with one of them: each run starts MPI
        run = hpcmpi(0, *argv, timeout=300)
        outcome, out, err = run.returncode, run.stdout, run.stderr
    scripts = argv[0] == "submit" and "--dry-run" in argv  # which hold words of any length
    assert outcome in (2, 64, 65, 73) or (scripts and outcome == 0), (outcome, out, err)
    assert_short(err or "-")


@pytest.mark.sample(40)
@pytest.mark.parametrize("value", [WORD, WORDS], ids=["one word", "many words"])
@pytest.mark.parametrize(("path", "option"), OPTIONS, ids=[" ".join([*path, option]) for path, option in OPTIONS])
def test_the_value_of_an_option(hpcmpi, here, capsys, path, option, value):  # noqa: ARG001 - the folder
    given = {"submit": ["study.toml", "--dry-run", "--mpi", "pmi2"], "run": ["study.toml"]}.get(path[0], [])
    if path[0] in NEEDED and option not in NEEDED[path[0]]:
        given = NEEDED[path[0]]
    if path[0] in ("logs", "show"):
        given = ["study.toml"]
    refused(hpcmpi, capsys, [*path, *given, f"{option}={value}" if option.startswith("--") else f"{option}{value}"])


@pytest.mark.sample(9)
@pytest.mark.parametrize("value", [WORD, WORDS, WORD + ".toml"], ids=["one word", "many words", "job file"])
@pytest.mark.parametrize("path", ARGUMENTS, ids=[" ".join(path) for path in ARGUMENTS])
def test_an_argument(hpcmpi, here, capsys, path, value):  # noqa: ARG001 - the folder
    refused(hpcmpi, capsys, [*path, value, *(["C.h5"] if path == ["graph", "convert"] else [])])


@pytest.mark.parametrize("argv", [[WORD], [WORDS], ["sort", f"--{WORD}"], ["sort", WORDS], ["graph", WORD]])
def test_unknown_commands_options_and_extra_words(hpcmpi, capsys, argv):
    refused(hpcmpi, capsys, argv)


@pytest.mark.parametrize("command", ["run", "logs", "cancel", "status", "submit"])
def test_names_of_points(hpcmpi, here, capsys, command):  # noqa: ARG001 - the folder
    refused(hpcmpi, capsys, [command, "study.toml", WORD, WORDS])


# Job files, profiles, the environment, Slurm


@pytest.mark.parametrize(
    "value", [json.dumps(WORD), json.dumps(WORDS), json.dumps([WORD] * 3), "[1, 2" + ", 3" * 9999 + "]"]
)
@pytest.mark.parametrize(
    "text",
    [
        "command = {}",
        'command = "sort"\n[params]\nn = {}',
        'command = "sort"\n[params]\ndtype = {}',
        'command = "sort"\n[sweep]\nn = [{}]',
        'command = "sort"\n[sweep]\nzip = {}',
        *(f'command = "sort"\n[run]\n{key} = {{}}' for key in ("ranks", "verify", "timeout", "compress")),
        *(f'command = "sort"\n[slurm]\n{key} = {{}}' for key in ("nodes", "time", "mem", "options")),
        'command = "sort"\nparams = {}',
        "command = {} and more",
    ],
)
def test_values_of_a_job_file(here, text, value):
    (here / "bad.toml").write_text(text.format(value))
    with pytest.raises(HpcmpiError) as caught:
        jobfile.read(Path("bad.toml"))
    assert_short(str(caught.value))
    assert re.match(r"bad\.toml:\d: ", str(caught.value))


@pytest.mark.parametrize(
    "text", [f"{WORD} = 1", f"[{WORD}]\na = 1", f"{json.dumps(WORDS)} = 1", WORDS, f"# {WORD}\n{WORD}"]
)
def test_keys_and_lines_of_a_job_file(here, text):
    (here / "bad.toml").write_text(text)
    with pytest.raises(InputError) as caught:
        jobfile.read(Path("bad.toml"))
    assert_short(str(caught.value), 600)


def test_profiles(here):
    (here / "clusters.toml").write_text(f"[{WORD}]\npartition = 1\n")
    with pytest.raises(InputError) as caught:
        Document(here / "clusters.toml").check_keys((), [WORD], ["hills"])
    assert_short(str(caught.value))


@pytest.mark.sample(4)
@pytest.mark.parametrize("value", [WORD, WORDS, "'" + WORD], ids=["one word", "many words", "open quote"])
@pytest.mark.parametrize(
    ("name", "argv"),
    [
        ("HPCMPI_LAUNCHER", ["run", "study.toml"]),
        ("HPCMPI_CLUSTERS", ["submit", "study.toml", "--dry-run", "--profile", "hills"]),
        ("HPCMPI_MACHINE", ["sort", "--n", "9", "--explain"]),
        ("MPI4PY_LIBMPI", ["sort", "--n", "9", "--no-output"]),
    ],
)
def test_variables_of_the_environment(hpcmpi, here, name, argv, value):  # noqa: ARG001 - the folder
    run = hpcmpi(0, *argv, **{name: value})
    assert_short(run.stderr or "-")
    assert run.returncode != 1


@pytest.mark.parametrize("value", [WORD, "-1", "1.5", "9" * 5000])
@pytest.mark.parametrize("name", ["SLURM_RESTART_COUNT", "SLURM_PROCID", "PMI_RANK", "OMPI_COMM_WORLD_SIZE"])
def test_variables_of_a_launcher_that_are_no_numbers(name, value):
    sizes = {"SLURM_STEP_NUM_TASKS": "2", "PMI_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
    with pytest.raises(LaunchError, match=f"{name} is ") as caught:
        detect({other: size for other, size in sizes.items() if other[:3] == name[:3]} | {name: value})
    assert_short(str(caught.value))


def test_what_slurm_prints(here, monkeypatch):
    (here / "squeue").write_text(f"#!/bin/bash\necho '{WORDS}' >&2; exit 1\n")
    (here / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(here), prepend=":")
    with pytest.raises(UsageError) as caught:
        slurm.queue()
    assert len(str(caught.value)) <= 220


# Files


@pytest.mark.parametrize(
    ("name", "content", "argv"),
    [
        ("m.mtx", WORDS, ["matvec", "--a", "m.mtx"]),
        ("m.mtx", f"%%MatrixMarket matrix coordinate real general\n{WORDS}\n", ["matvec", "--a", "m.mtx"]),
        ("m.mtx", f"%%MatrixMarket matrix coordinate real general\n2 2 1\n1 1 {WORD}\n", ["matvec", "--a", "m.mtx"]),
        ("g.txt", f"1 {WORD}\n", ["bfs", "--root", "0", "--graph", "g.txt"]),
        ("g.txt", WORDS, ["bfs", "--root", "0", "--graph", "g.txt"]),
    ],
    ids=["banner", "size line", "entry", "edge", "edge of words"],
)
def test_lines_of_files(hpcmpi, here, name, content, argv):
    (here / name).write_text(content)
    run = hpcmpi(0, *argv, "--no-output", timeout=300)
    assert run.returncode == 65
    assert_short(run.stderr)


def test_names_of_datasets(hpcmpi, here):
    np.save(here / "a.npy", np.arange(3.0))
    run = hpcmpi(0, "sort", "--input", f"a.npy:/{WORD}", "--no-output")
    assert run.returncode in (2, 65)
    assert_short(run.stderr)
