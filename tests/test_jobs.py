"""A job from the command line to its files: what it prints, what it writes, how it exits."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import HERE, mpirun, swept
from runs import HOST, RUN, messages, names, status, strict_json

from hpcmpi import __version__

# Said once, whatever the number of ranks


@pytest.mark.parametrize("ranks", [1, 3])
def test_usage_errors_and_help_are_said_once(hpcmpi, ranks, tmp_path):
    wrong = hpcmpi(ranks, "mamtul", "--n", 8)
    assert wrong.returncode == 2
    assert wrong.stdout == ""
    assert wrong.stderr.count("No such command 'mamtul'. Did you mean 'matmul'?") == 1
    assert wrong.stderr.count("Usage:") == 1
    wrong = hpcmpi(ranks, "matmul", "--n", 8, "--repaet", 3)
    assert wrong.returncode == 2
    assert wrong.stderr.count("--repeat") == 1
    told = hpcmpi(ranks, "matmul", "--help")
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.count("Usage: hpcmpi matmul [OPTIONS]") == 1
    version = hpcmpi(ranks, "--version")
    assert (version.returncode, version.stdout) == (0, f"hpcmpi, version {__version__}\n")
    assert names(tmp_path) == set()


def test_missing_library_is_told_once_with_what_to_do(hpcmpi):
    for argv in (["matmul", "--n", 8], ["doctor"]):
        run = hpcmpi(3, *argv, MPI4PY_LIBMPI="/missing/libmpi.so")
        assert run.returncode == 64
        assert run.stderr.count("mpi4py cannot load an MPI library") == 1
        assert "pip install 'hpcmpi[mpich]'" in run.stderr
        assert "Traceback" not in run.stderr


def test_one_rank_without_the_library_ends_all_and_says_why(start_mixed, tmp_path):
    run = start_mixed("matmul", "--n", 8, "--no-output")
    assert run.returncode != 0
    assert run.stderr.count("mpi4py cannot load an MPI library") == 1
    assert "hpcmpi: error: rank 1" in run.stderr
    assert names(tmp_path) == set()


@pytest.fixture
def start_mixed(tmp_path):
    """Run the command line on two ranks, the second of which finds no MPI library."""

    def run(*argv):
        one = [sys.executable, "-m", "hpcmpi", *map(str, argv)]
        lacking = ["env", "MPI4PY_LIBMPI=/missing/libmpi.so"]
        command = [mpirun(), "-n", "1", *one, ":", "-n", "1", *lacking, *one]
        environment = os.environ | {"PYTHONPATH": str(HERE.parent), "TMPDIR": str(tmp_path)}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    with swept():
        yield run


# What a job prints


def test_summary_tells_size_method_speed_verdict_and_file(hpcmpi):
    run = hpcmpi(2, "matmul", "--n", 60, "--threads", 1, "-o", "C.h5")
    assert run.returncode == 0, run.stderr
    first, second, third, fourth = run.stdout.splitlines()
    size = "60 x 60 times 60 x 60, float64"
    assert re.fullmatch(rf"matmul: {size}, (ring|summa) on \d x \d ranks, threads a rank: 1", first)
    assert re.match(r"  \d+\.\d{3} s, [\d.e+]+ [kMG]?flop/s, verified: worst residual .* allowed", second)
    assert third == "  C in C.h5"
    assert re.fullmatch(
        r"  expected [\d.e-]+ s; the busiest rank received .*B(, .*x the lower bound)?(; 1 rank idle)?", fourth
    )
    assert messages(run.stderr) == []


def test_a_driver_says_more_below_the_summary_and_an_option_may_be_given_several_times(hpcmpi, tmp_path):
    run = hpcmpi(2, "faulty", "--say", "one", "--say", "two words", "-o", "D.h5", program=(RUN,))
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-2:] == ["  one", "  two words"]
    with h5py.File(tmp_path / "D.h5") as file:
        assert file["faulty"].attrs["say"] == "one two words"
    assert "say" not in str(hpcmpi(1, "faulty", "--quiet", "--say", "x", "--no-output", program=(RUN,)).stdout)


def test_json_is_one_object_and_nothing_else(hpcmpi):
    run = hpcmpi(3, "matmul", "--n", 30, "--threads", 1, "--json", "-o", "C.h5", "--repeat", 2)
    assert run.returncode == 0, run.stderr
    facts = strict_json(run.stdout)
    assert facts["command"] == "matmul"
    assert (facts["ranks"], facts["threads"], facts["repeat"]) == (3, 1, 2)
    assert facts["verified"] is True
    assert facts["output"] == "C.h5"
    assert facts["seconds_min"] <= facts["seconds_median"] <= facts["seconds_max"]
    assert facts["rate"] == pytest.approx(2 * 30**3 / facts["seconds_median"])


def test_quiet_says_nothing_but_that_an_answer_is_wrong(hpcmpi):
    right = hpcmpi(1, "matmul", "--n", 30, "--quiet", "--no-output")
    assert (right.returncode, right.stdout, right.stderr) == (0, "", "")
    wrong = hpcmpi(1, "faulty", "--how", "wrong", "--quiet", "--no-output", program=(RUN,))
    assert wrong.returncode == 3
    assert "WRONG: the numbers do not count" in wrong.stdout


def test_wrong_answer_exits_with_3_and_the_file_says_so(hpcmpi, tmp_path):
    run = hpcmpi(2, "faulty", "--how", "wrong", "-o", "C.h5", program=(RUN,))
    assert run.returncode == 3
    assert "WRONG: the numbers do not count" in run.stdout
    assert "Traceback" not in run.stderr
    with h5py.File(tmp_path / "C.h5") as file:
        about = file["faulty"].attrs
        assert (about["verified"], about["complete"]) == (False, True)
        assert about["verdict"] == "the numbers do not count"
        np.testing.assert_array_equal(file["faulty/numbers"], np.arange(10))
    said = status(tmp_path)
    assert (said["state"], said["status"], said["reason"]) == ("wrong", 3, "the numbers do not count")
    assert "WRONG" in hpcmpi(0, "show", "C.h5").stdout
    unchecked = hpcmpi(2, "faulty", "--how", "wrong", "-o", "D.h5", "--no-verify", program=(RUN,))
    assert unchecked.returncode == 0
    assert "not verified" in unchecked.stdout
    with h5py.File(tmp_path / "D.h5") as file:
        assert not file["faulty"].attrs["verified"]
        assert file["faulty"].attrs["verdict"] == "not checked: --no-verify"
        assert b"verify" not in file["faulty/phases/phase"][...]


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_a_line_now_and_then_in_a_log_and_a_bar_on_a_terminal(tmp_path, terminal):
    ours, theirs = pty.openpty() if terminal else os.pipe()
    process = subprocess.Popen(
        [sys.executable, RUN, "faulty", "--until", "go", "--no-output"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(HERE.parent), "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    told = b""
    with process:
        while b"50%" not in told:  # more than a second passes before it is worth a word
            told += os.read(ours, 1000) or pytest.fail(f"it ended with {told!r}")
        (tmp_path / "go").touch()
        with contextlib.suppress(OSError):  # how a terminal ends
            while part := os.read(ours, 1000):
                told += part
        summary = process.communicate(timeout=60)[0]
    os.close(ours)
    assert process.returncode == 0
    assert summary.startswith("faulty: 10, count")
    assert (told == b"faulty: run 50%\n") is not terminal
    assert (b"\x1b[" in told) is terminal


# What a job writes


def test_record_alone_goes_to_the_default_folder_and_nowhere_on_request(hpcmpi, tmp_path):
    silent = hpcmpi(2, "matmul", "--n", 30, "--no-output")
    assert silent.returncode == 0
    assert names(tmp_path) == set()
    run = hpcmpi(2, "matmul", "--n", 30)
    assert run.returncode == 0, run.stderr
    assert names(tmp_path) == {"hpcmpi-results"}
    (path,) = (tmp_path / "hpcmpi-results").glob("*.h5")
    assert re.fullmatch(r"matmul-\d{8}T\d{6}Z-[0-9a-f]{8}\.h5", path.name)
    assert f"the record in hpcmpi-results/{path.name}" in run.stdout
    assert status(path.parent, path.name)["state"] == "done"
    with h5py.File(path) as file:
        assert file["matmul"].attrs["verified"]
        assert set(file["matmul"]) == {"phases", "ranks", "provenance"}


def test_explain_tells_what_does_not_fit_and_has_a_form_for_programs(hpcmpi, tmp_path):
    memory = {"FAULTS": "memory=3000000000"}
    some = hpcmpi(2, "matmul", "--n", 13000, "--explain", program=(RUN,), **memory)
    assert some.returncode == 0, some.stderr
    assert "do not fit" not in some.stdout
    none = hpcmpi(2, "matmul", "--n", 10**6, "--explain", program=(RUN,), **memory)
    assert "None of these fits: 1.4 GiB a rank is available here." in none.stdout
    plans = strict_json(hpcmpi(2, "matmul", "--n", 10**6, "--explain", "--json", program=(RUN,), **memory).stdout)
    assert {plan["method"] for plan in plans} == {"ring", "summa", "3d"}
    assert not any(plan["fits"] for plan in plans)
    elsewhere = strict_json(hpcmpi(0, "matmul", "--n", 10**6, "--explain", "--json", "--ranks", 4096).stdout)
    assert all(plan["fits"] for plan in elsewhere)
    assert names(tmp_path) == set()


def test_costs_of_another_machine_do_not_depend_on_the_cores_of_this_one(hpcmpi):
    few, many = (
        strict_json(hpcmpi(0, "matmul", "--n", 65536, "--ranks", 12, "--threads", t, "--explain", "--json").stdout)
        for t in (1, 64)
    )
    assert few[0]["seconds"] > 30 * many[0]["seconds"]


def test_explain_shows_the_costs_and_does_nothing(hpcmpi, tmp_path):
    run = hpcmpi(2, "matmul", "--n", "65536", "--ranks", 12, "--explain", "-o", "missing/C.h5")
    assert run.returncode == 0, run.stderr
    for grid in ("12 x 1", "4 x 3", "3 x 2 x 2"):
        assert grid in run.stdout
    assert names(tmp_path) == set()


def test_file_tells_how_it_came_about(hpcmpi, tmp_path):
    argv = ["matmul", "--n", 40, "--m", "30", "--k", "2^5", "--seed", 7, "--threads", 1, "--repeat", 3, "-o", "C.h5"]
    run = hpcmpi(3, *argv, SLURM_JOB_ID="77", SLURM_RESTART_COUNT="2")
    assert run.returncode == 0, run.stderr
    with h5py.File(tmp_path / "C.h5") as file:
        assert set(file) == {"matmul"}
        group = file["matmul"]
        about = dict(group.attrs)
        expected = {"n": 40, "m": 30, "k": 32, "seed": 7, "dtype": "float64", "method": "auto", "repeat": 3, "ranks": 3}
        expected |= {"threads": 1, "verified": True, "complete": True, "job": "77", "attempt": 2, "rate_unit": "flop/s"}
        assert {name: about[name] for name in expected} == expected
        assert about["seconds_min"] <= about["seconds_median"] <= about["seconds_max"]
        assert about["memory_peak_bytes"] > about["memory_baseline_bytes"] > 0
        phases = group["phases"]
        parts = ["run: compute", "run: wait", "run: copy"]
        expected = ["compile", "prepare", "run", *parts, "verify", "write", "checksum", "sync"]
        assert [name.decode() for name in phases["phase"]] == expected
        assert phases["seconds"].shape == (3, len(expected))
        assert (phases["seconds"][...] >= 0).all()
        assert phases["bytes_received"][:, 2].sum() > 0
        assert [host.decode() for host in group["ranks"]["host"]] == [HOST] * 3
        assert len(set(group["ranks"]["pid"])) == 3
        origin = group["provenance"].attrs
        assert origin["version_hpcmpi"] == __version__
        assert origin["slurm_job_id"] == "77"
        assert "matmul --n 40 --m 30" in origin["argv"]
        assert origin["started"] < origin["ended"]
    said = status(tmp_path)
    assert (said["state"], said["status"], said["job"], said["attempt"]) == ("done", 0, "77", 2)
    assert [rank["host"] for rank in said["ranks"]] == [HOST] * 3


# Adding an algorithm


def test_folder_on_the_search_path_is_a_command_and_a_function(hpcmpi):
    assert "\n  faulty  Count to n" in hpcmpi(0, "--help", program=(RUN,)).stdout
    own = hpcmpi(0, "faulty", "--help", program=(RUN,)).stdout
    for option in ("--how [", "--until FILE", "--n COUNT", "--kernel", "--timeout"):
        assert option in own
    assert "faulty" not in hpcmpi(0, "--help").stdout
    code = (
        "from hpcmpi import algorithms; algorithms.__path__.append('algorithms'); from mpi4py import MPI; "
        "from hpcmpi import numbers; print(*numbers(MPI.COMM_WORLD, 3))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=Path(RUN).parent, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["0.0", "1.0", "2.0"]


def test_nothing_in_the_package_knows_of_the_algorithm_that_is_added():
    sources = list((HERE.parent / "hpcmpi").rglob("*.py"))
    assert sources
    assert [path for path in sources if "faulty" in path.read_text()] == []
