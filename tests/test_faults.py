"""What goes wrong on real machines, made to go wrong here, and what every job promises then.

The jobs are of the algorithm in ``tests/faulty``, which no part of the package knows of. A promise of seconds is tested
with a bound that a busy machine meets as well; what hangs, fails.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import HERE, Run, mpirun, swept
from runs import HOST, RUN, SECONDS, alive, messages, names, status, strict_json, wait_for

PLENTY = "free=1000000000000"  # what the disk is made to seem to have free


@pytest.fixture
def faulty(hpcmpi: Run) -> Run:
    """Run ``hpcmpi faulty`` with one thread a rank; it must end."""

    def run(ranks: int, *argv: object, faults: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        arguments = ("faulty", "--threads", 1, *argv)
        return hpcmpi(ranks, *arguments, program=(RUN,), timeout=SECONDS, FAULTS=faults, **variables)

    return run


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start ``mpirun`` with what follows it, in an empty folder and a process group that is gone after the test."""
    with swept(), contextlib.ExitStack() as ends:

        def begin(
            *arguments: object, launcher: tuple[str, ...] = (mpirun(),), **variables: str
        ) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [*launcher, *map(str, arguments)],
                cwd=tmp_path,
                env=os.environ | {"PYTHONPATH": str(HERE.parent)} | variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            ends.callback(end, process)
            return process

        yield begin


def end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def job(ranks: int, *argv: object) -> tuple[object, ...]:
    """Arguments of mpirun for a faulty job."""
    return ("-n", ranks, sys.executable, RUN, "faulty", "--threads", 1, *argv)


def assert_status(code: int, expected: int) -> None:
    """Of a job that one rank has ended: MPICH's mpirun, if it is slow, tells that it has killed the other ranks (9)."""
    assert code in (expected, 9)


def assert_all_ended(folder: Path) -> None:
    wait_for(lambda: not any(alive(rank["pid"]) for rank in status(folder)["ranks"]))


def assert_told_once(run: subprocess.CompletedProcess[str], rank: int, traceback: str) -> None:
    """One traceback, of that rank, each line with the rank's number and host."""
    assert run.stderr.count("Traceback (most recent call last)") == 1
    where = f"rank {rank} ({HOST}): "
    first, *lines = messages(run.stderr)
    assert first.startswith(f"hpcmpi: {where}")
    assert all(line.startswith(where) for line in lines), lines
    assert lines[-1] == where + traceback


# One rank fails alone


@pytest.mark.parametrize(
    ("how", "rank", "when", "summary", "traceback"),
    [
        ("exception", 1, "run", "ZeroDivisionError: of nothing", "ZeroDivisionError: of nothing"),
        ("exception", 0, "prepare", "ZeroDivisionError: of nothing", "ZeroDivisionError: of nothing"),
        ("exception", 0, "compile", "ZeroDivisionError: of nothing", "ZeroDivisionError: of nothing"),
        ("exit", 2, "verify", "called sys.exit('on my own')", "SystemExit: on my own"),
        ("exit-0", 1, "run", "called sys.exit(0)", "SystemExit: 0"),
    ],
)
def test_exception_or_exit_on_one_rank_ends_all_with_its_one_traceback(
    faulty, tmp_path, how, rank, when, summary, traceback
):
    run = faulty(3, "--how", how, "--rank", rank, "--when", when, "-o", "C.h5")
    assert_status(run.returncode, 70)
    assert_told_once(run, rank, traceback)
    said = status(tmp_path)
    assert (said["state"], said["status"], said["phase"]) == ("failed", 70, when)
    assert said["reason"] == f"rank {rank} ({HOST}): {summary}"
    assert names(tmp_path) == {"C.h5.status.json"}
    assert_all_ended(tmp_path)


def test_exception_before_there_is_an_output_ends_all(faulty, tmp_path):
    run = faulty(3, "--how", "exception", "--rank", 2, "--when", "resolve", "-o", "C.h5")
    assert_status(run.returncode, 70)
    assert_told_once(run, 2, "ZeroDivisionError: of nothing")
    assert names(tmp_path) == set()


def test_the_same_exception_on_all_ranks_is_told_once(faulty, tmp_path):
    run = faulty(3, "--how", "exception", "-o", "C.h5")
    assert_status(run.returncode, 70)
    assert run.stderr.count("Traceback (most recent call last)") == 1
    assert sum(line.startswith("hpcmpi: ") for line in messages(run.stderr)) == 1
    assert status(tmp_path)["status"] == 70


@pytest.mark.parametrize(
    ("how", "code", "reason"),
    [
        ("error", 65, f"rank 1 ({HOST}): this rank alone has read a bad number"),
        ("memory", 75, f"rank 1 ({HOST}): Unable to allocate"),
        ("agreed", 65, "no such number"),
        ("agreed-memory", 75, f"rank 1 ({HOST}) is out of memory: of numbers"),
    ],
)
def test_named_errors_and_lack_of_memory_are_told_once_without_a_traceback(faulty, tmp_path, how, code, reason):
    run = faulty(3, "--how", how, "--rank", 1, "-o", "C.h5")
    if how.startswith("agreed"):
        assert run.returncode == code
    else:
        assert_status(run.returncode, code)
    assert "Traceback" not in run.stderr
    told = messages(run.stderr)
    assert len(told) == 1
    assert reason in told[0]
    said = status(tmp_path)
    assert (said["state"], said["status"], said["phase"]) == ("failed", code, "run")
    assert said["reason"].startswith(reason)
    assert names(tmp_path) == {"C.h5.status.json"}


@pytest.mark.parametrize(
    ("how", "code"),
    [("exception", 70), ("exit", 70), ("exit-0", 70), ("error", 65), ("agreed", 65), ("memory", 75), ("sleep", 124)],
)
def test_exit_status_of_each_error_without_a_launcher(faulty, how, code):
    timeout = ("--timeout", 1) if how == "sleep" else ()
    assert faulty(0, "--how", how, "--no-output", *timeout).returncode == code


@pytest.mark.parametrize("how", ["kill", "segfault", "quit"])
def test_rank_that_dies_is_noticed_and_the_status_file_tells_the_hosts_and_processes(faulty, tmp_path, how):
    (tmp_path / "C.h5").write_bytes(b"old")
    run = faulty(3, "--how", how, "--rank", 1, "-o", "C.h5", "--force")
    assert run.returncode != 0
    said = status(tmp_path)
    assert (said["state"], said["phase"]) == ("running", "run")
    assert [(rank["rank"], rank["host"]) for rank in said["ranks"]] == [(0, HOST), (1, HOST), (2, HOST)]
    if how != "quit":  # MPICH's mpirun may be silent about an exit, and may name a rank that it has killed itself
        (pid,) = re.findall("PID ([0-9]+) ", run.stdout + run.stderr)
        assert int(pid) in {rank["pid"] for rank in said["ranks"]}
    if how == "segfault":
        assert "Fatal Python error: Segmentation fault" in run.stderr
        assert re.search('driver.py", line [0-9]+ in fall', run.stderr)
    assert (tmp_path / "C.h5").read_bytes() == b"old"
    assert_all_ended(tmp_path)


# Hangs


@pytest.mark.parametrize(("how", "place"), [("sleep", "in fall"), ("collectives", "in fall"), ("spin", "in fall")])
def test_watchdog_shows_the_stacks_of_all_ranks_and_ends_the_job(faulty, tmp_path, how, place):
    run = faulty(3, "--how", how, "--rank", 1, "--timeout", 4, "-o", "C.h5")
    assert_status(run.returncode, 124)
    for rank in (0, 2) if how == "spin" else (0, 1, 2):
        own = [line for line in run.stderr.splitlines() if line.startswith(f"rank {rank} ({HOST}): ")]
        assert "no end after --timeout 4 s" in own[0]
        expected = place if rank == 1 else "in fail"
        assert any("driver.py" in line and line.endswith(expected) for line in own), own
    if how == "spin":  # nobody can speak for a rank that holds the interpreter's lock, but its stack is there
        assert re.search('^ +File .*driver.py", line [0-9]+ in fall', run.stderr, re.MULTILINE)
    assert sum(line.startswith("hpcmpi: ") for line in messages(run.stderr)) == 1
    said = status(tmp_path)
    assert (said["state"], said["status"], said["phase"]) == ("failed", 124, "run")
    assert names(tmp_path) == {"C.h5.status.json"}
    assert_all_ended(tmp_path)


def test_job_that_ends_in_time_hears_nothing_of_the_watchdog(faulty):
    run = faulty(2, "--timeout", SECONDS, "--no-output")
    assert run.returncode == 0
    assert messages(run.stderr) == []


# Signals


@pytest.mark.parametrize(
    ("number", "target", "code", "reason"),
    [
        (signal.SIGINT, "mpirun", 130, "interrupted"),
        (signal.SIGINT, "rank 1", 130, "interrupted"),
        (signal.SIGTERM, "rank 2", 143, "ended by SIGTERM"),
        (signal.SIGINT, "alone", 130, "interrupted"),
        (signal.SIGTERM, "alone", 143, "ended by SIGTERM"),
        (signal.SIGHUP, "rank 1", 143, "ended by SIGHUP"),
        (signal.SIGHUP, "alone", 143, "ended by SIGHUP"),
    ],
)
def test_interrupt_and_termination_end_all_ranks_and_leave_a_word(start, tmp_path, number, target, code, reason):
    command = job(3, "--until", "never", "-o", "C.h5")
    process = start(*command[2:], launcher=()) if target == "alone" else start(*command)
    wait_for(lambda: (tmp_path / "C.h5.status.json").exists() and status(tmp_path)["phase"] == "run")
    pids = {"mpirun": process.pid, "alone": process.pid} | {
        f"rank {rank['rank']}": rank["pid"] for rank in status(tmp_path)["ranks"]
    }
    os.kill(pids[target], number)
    _, errors = process.communicate(timeout=SECONDS)
    if target == "alone":
        assert process.returncode == code
    else:
        assert_status(process.returncode, code)
    assert "Traceback" not in errors
    told = messages(errors)
    assert len(told) == 1
    assert told[0].endswith(f"({HOST}): {reason}")
    said = status(tmp_path)
    assert (said["state"], said["status"], said["phase"]) == ("failed", code, "run")
    assert said["reason"].endswith(reason)
    assert names(tmp_path) == {"C.h5.status.json"}
    assert_all_ended(tmp_path)


def test_interrupt_ends_a_lone_process_whose_blas_has_threads(start, tmp_path):
    command = ["matmul", "--n", 3000, "--repeat", 100, "--threads", 2, "-o", "C.h5"]
    process = start(sys.executable, "-m", "hpcmpi", *command, launcher=())
    wait_for(lambda: (tmp_path / "C.h5.status.json").exists() and status(tmp_path)["phase"] == "run")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert messages(errors) == [f"hpcmpi: rank 0 ({HOST}): interrupted"]


def test_interrupt_before_the_job_has_begun_ends_it_without_a_traceback_of_each_rank(faulty):
    run = faulty(3, faults="signal=SIGINT")
    assert run.returncode != 0
    assert "Traceback" not in run.stderr
    assert "KeyboardInterrupt" not in run.stderr


@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP"])
def test_termination_before_mpi_has_begun_ends_the_job_and_leaves_nothing(faulty, tmp_path, number):
    run = faulty(2, "-o", "C.h5", faults=f"signal={number}")
    assert run.returncode != 0
    assert "Traceback" not in run.stderr
    assert names(tmp_path) == set()


@pytest.mark.parametrize("when", ["compile", "prepare", "verify"])
@pytest.mark.parametrize("rank", [0, 1])
def test_termination_in_any_phase_is_in_the_status_file(faulty, tmp_path, when, rank):
    run = faulty(2, "--how", "terminate", "--rank", rank, "--when", when, "-o", "C.h5")
    assert_status(run.returncode, 143)
    assert messages(run.stderr) == [f"hpcmpi: rank {rank} ({HOST}): ended by SIGTERM"]
    said = status(tmp_path)
    assert (said["state"], said["status"], said["phase"]) == ("failed", 143, when)
    assert names(tmp_path) == {"C.h5.status.json"}


def test_termination_while_kernels_are_compiled_does_not_crash_the_compiler(faulty, tmp_path):
    run = faulty(2, "--how", "terminate-compiler", "--when", "compile", "-o", "C.h5")
    assert_status(run.returncode, 143)
    assert "Fatal Python error" not in run.stderr
    assert "LLVM" not in run.stderr
    assert (status(tmp_path)["state"], status(tmp_path)["status"]) == ("failed", 143)


@pytest.mark.sample(5)
@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
@pytest.mark.parametrize(
    ("rank", "at", "options"),
    [
        (0, "pwrite", ()),
        (1, "pwrite", ()),
        (0, "pwrite", ("--compress", "gzip")),
        (1, "fsync", ()),
        (0, "replace", ()),
    ],
)
def test_signal_while_the_result_is_written_wins_over_the_errors_that_follow(
    faulty, tmp_path, number, code, rank, at, options
):
    (tmp_path / "C.h5").write_bytes(b"old")
    faults = f"signal={number} at={at} rank={rank} abort=slow {PLENTY}"
    run = faulty(2, "--n", "1e5", "-o", "C.h5", "--force", *options, faults=faults)
    assert_status(run.returncode, code)
    told = messages(run.stderr)
    assert len(told) == 1
    assert told[0].startswith(f"hpcmpi: rank {rank} ({HOST}): ")
    said = status(tmp_path)
    assert (said["state"], said["status"]) == ("failed", code)
    assert said["phase"] in ("write", "checksum", "sync")
    assert (tmp_path / "C.h5").read_bytes() == b"old"
    assert names(tmp_path) == {"C.h5", "C.h5.status.json"}


def test_signal_after_the_result_is_published_does_not_call_it_failed(faulty, tmp_path):
    run = faulty(2, "-o", "C.h5", faults="signal=SIGTERM at=renamed rank=0 abort=slow")
    assert run.returncode in (143, 9)
    assert (status(tmp_path)["state"], status(tmp_path)["status"]) == ("done", 0)
    with h5py.File(tmp_path / "C.h5") as file:
        np.testing.assert_array_equal(file["faulty/numbers"], np.arange(10))
    assert names(tmp_path) - {".C.h5.lock"} == {"C.h5", "C.h5.status.json"}


def test_request_to_stop_is_no_reason_to_end_a_job_that_cannot_checkpoint(start, tmp_path):
    process = start(*job(2, "--until", "go", "-o", "C.h5"))
    wait_for(lambda: (tmp_path / "C.h5.status.json").exists() and status(tmp_path)["phase"] == "run")
    for rank in status(tmp_path)["ranks"]:
        os.kill(rank["pid"], signal.SIGUSR1)
    (tmp_path / "go").touch()
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors
    assert status(tmp_path)["state"] == "done"


def test_hangup_that_was_ignored_at_the_start_is_ignored(start, tmp_path):
    process = start(*job(1, "--until", "go", "-o", "C.h5")[2:], launcher=("nohup",))
    wait_for(lambda: (tmp_path / "C.h5.status.json").exists() and status(tmp_path)["phase"] == "run")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    (tmp_path / "go").touch()
    process.communicate(timeout=SECONDS)
    assert (process.returncode, status(tmp_path)["state"]) == (0, "done")


def test_more_signals_while_the_job_ends_change_nothing(start, tmp_path):
    process = start(*job(1, "--until", "never", "-o", "C.h5")[2:], launcher=())
    wait_for(lambda: (tmp_path / "C.h5.status.json").exists() and status(tmp_path)["phase"] == "run")
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        process.send_signal(number)
        time.sleep(0.001)
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 143
    assert messages(errors) == [f"hpcmpi: rank 0 ({HOST}): ended by SIGTERM"]
    assert status(tmp_path)["status"] == 143


def test_termination_that_finds_no_step_left_to_checkpoint_after_ends_the_job(start):
    program = """
import os, signal, time
from mpi4py import MPI
from hpcmpi.launch import detect
from hpcmpi.runner.guard import Guard

guard = Guard(MPI.COMM_WORLD, detect(), None, os.getppid())
guard.can_checkpoint = True
os.kill(os.getpid(), signal.SIGUSR1)
time.sleep(0.2)
guard.end_if_stopped()  # a request is not an order
assert guard.stop_requested
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(0.2)
guard.can_checkpoint = False
guard.end_if_stopped()
"""
    process = start("-c", program, launcher=(sys.executable,))
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 143
    assert messages(errors) == [f"hpcmpi: rank 0 ({HOST}): ended by SIGTERM"]


# Launchers that die


AS_OF_OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}  # whose mpirun is the ranks' parent


def test_ranks_end_when_their_launcher_is_killed(start, tmp_path):
    launcher = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    command = job(1, "--until", "never", "-o", "C.h5")[2:]
    process = start("-c", launcher, *command, launcher=(sys.executable,), **AS_OF_OPEN_MPI)
    wait_for(lambda: (tmp_path / "C.h5.status.json").exists() and status(tmp_path)["phase"] == "run")
    process.kill()
    assert_all_ended(tmp_path)
    said = status(tmp_path)
    assert (said["state"], said["status"]) == ("failed", 143)
    assert said["reason"] == f"rank 0 ({HOST}): ended by the end of its launcher"
    assert names(tmp_path) == {"C.h5.status.json"}


def test_ranks_go_on_when_a_mere_thread_of_their_launcher_ends(start, tmp_path):
    launcher = (
        "import subprocess, sys, threading\n"
        "found = []\n"
        "thread = threading.Thread(target=lambda: found.append(subprocess.Popen(sys.argv[1:])))\n"
        "thread.start(); thread.join(); open('thread.ended', 'w'); sys.exit(found[0].wait())\n"
    )
    command = job(1, "--until", "go", "-o", "C.h5")[2:]
    process = start("-c", launcher, *command, launcher=(sys.executable,), **AS_OF_OPEN_MPI)
    wait_for(lambda: (tmp_path / "C.h5.status.json").exists() and status(tmp_path)["phase"] == "run")
    time.sleep(0.3)
    (tmp_path / "go").touch()
    process.communicate(timeout=SECONDS)
    assert (process.returncode, status(tmp_path)["state"]) == (0, "done")


# Shared memory


def test_no_shared_memory_of_a_job_that_is_killed_is_left(start, tmp_path):
    process = start(*job(2, "--until", "never", "-o", "C.h5"))
    wait_for(lambda: (tmp_path / "C.h5.status.json").exists() and status(tmp_path)["phase"] == "run")
    pids = [rank["pid"] for rank in status(tmp_path)["ranks"]]
    maps = [line for pid in pids for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    segments = {line.split(maxsplit=5)[5] for line in maps if "/mpich_shm_" in line}
    assert segments
    assert all(name.endswith(" (deleted)") for name in segments)
    os.kill(pids[0], signal.SIGKILL)
    process.communicate(timeout=SECONDS)
    assert not any(Path(name.removesuffix(" (deleted)")).exists() for name in segments)


def test_next_run_removes_what_dead_processes_left_in_shared_memory(faulty):
    old, young = (Path(f"/dev/shm/mpich_shm_{kind}{os.getpid():x}_0") for kind in ("dead", "beef"))  # noqa: S108
    try:
        for path in (old, young):
            path.write_bytes(bytes(4096))
        os.utime(old, (1, 1))
        assert faulty(2, "--no-output").returncode == 0
        assert (old.exists(), young.exists()) == (False, True)
    finally:
        old.unlink(missing_ok=True)
        young.unlink(missing_ok=True)


@pytest.mark.parametrize("rank", [-1, 0, 1, 2])
def test_all_ranks_exit_with_the_status_of_the_rank_whose_answer_is_wrong(faulty, tmp_path, rank):
    run = faulty(3, "--how", "wrong", "--rank", rank, "-o", "C.h5", faults="note=all")
    assert run.returncode == 3
    assert [(tmp_path / f"status.{number}").read_text() for number in range(3)] == ["3"] * 3
    assert "WRONG: the numbers do not count" in run.stdout
    assert (status(tmp_path)["state"], status(tmp_path)["status"]) == ("wrong", 3)
    with h5py.File(tmp_path / "C.h5") as file:
        assert not file["faulty"].attrs["verified"]
        assert file["faulty"].attrs["numbers_wrong"] == 10


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("--how", "agreed"), 65),
        (("--how", "agreed", "--rank", 1), 65),
        (("--how", "agreed-memory", "--rank", 2), 75),
        (("--ranks", 5), 64),
        (("--repeat", 0), 2),
        (("--compress", "gzip"), 2),
        ((), 0),
    ],
    ids=["input", "input of rank 1", "memory of rank 2", "launch", "option", "options", "done"],
)
def test_all_ranks_exit_with_one_status_where_they_end_in_good_order(faulty, tmp_path, argv, code):
    run = faulty(3, "--no-output", *argv, faults="note=all")
    assert run.returncode == code
    assert [(tmp_path / f"status.{number}").read_text() for number in range(3)] == [f"{code}"] * 3


# Launches


def test_processes_that_srun_left_alone_are_refused_once_with_the_flag_to_use(hpcmpi, tmp_path):
    tasks = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "3"}
    runs = [hpcmpi(0, "matmul", "--n", 8, "-o", "C.h5", SLURM_PROCID=str(rank), **tasks) for rank in range(3)]
    assert [run.returncode for run in runs] == [64, 64, 64]
    assert "srun started 3 ranks, but MPI sees a world of 1" in runs[0].stderr
    assert "srun --mpi=pmi2" in runs[0].stderr
    assert "--mpi=pmix" in runs[0].stderr
    assert len(messages(runs[0].stderr)) == 1
    assert [run.stderr + run.stdout for run in runs[1:]] == ["", ""]
    assert names(tmp_path) == set()


def test_mpirun_inside_an_allocation_of_another_size_is_no_mismatch(faulty):
    run = faulty(2, "--no-output", SLURM_JOB_ID="7", SLURM_NTASKS="4", SLURM_NNODES="1")
    assert run.returncode == 0, run.stderr


def test_other_number_of_ranks_than_asked_for_is_refused(faulty, tmp_path):
    run = faulty(2, "--ranks", 5, "-o", "C.h5")
    assert run.returncode == 64
    assert messages(run.stderr) == ["hpcmpi: error: --ranks 5 was asked for, but there are 2"]
    assert names(tmp_path) == set()
    assert faulty(2, "--ranks", 2, "--no-output").returncode == 0


def test_ranks_of_different_versions_are_refused_and_both_are_named(start, tmp_path):
    parts: list[object] = []
    for faults in ("", "version=9.9.9"):
        parts += [":"] * bool(parts) + ["-n", 1, "env", f"FAULTS={faults}", *job(1, "-o", "C.h5")[2:]]
    process = start(*parts)
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 64
    told = messages(errors)
    assert len(told) == 1
    assert re.search(rf"hpcmpi \S+ on rank 0 \({HOST}\), 9.9.9 on rank 1 \({HOST}\)", told[0])
    assert names(tmp_path) == set()


def test_more_threads_than_cores_are_warned_of_once(hpcmpi):
    cores = len(os.sched_getaffinity(0))
    run = hpcmpi(2, "matmul", "--n", 8, "--threads", cores, "--no-output")
    assert run.returncode == 0
    warnings = [line for line in run.stderr.splitlines() if line.startswith("hpcmpi: warning")]
    assert len(warnings) == 1
    assert f"2 ranks x {cores} threads (--threads) share" in warnings[0]
    assert HOST in warnings[0]


# Sizes


def test_job_too_large_for_the_memory_is_refused_with_the_shortfall_before_anything_is_allocated(hpcmpi, tmp_path):
    run = hpcmpi(2, "matmul", "--n", "1e7", "-o", "C.h5", timeout=SECONDS)
    assert run.returncode == 75
    told = messages(run.stderr)
    assert len(told) == 1
    assert re.search(
        rf"not enough memory on node {HOST}: its 2 ranks need [\d,]+ TiB \(.*\), .* is available: [\d,]+ TiB short",
        told[0],
    )
    assert names(tmp_path) == set()


def test_nothing_is_prepared_when_one_node_lacks_the_memory(faulty, tmp_path):
    run = faulty(3, "--n", "1e6", "--prepared", "prepared", faults="rank=2 memory=3000000")
    assert run.returncode == 75
    assert "7.63 MiB (2.54 MiB each), 2.86 MiB is available: 4.77 MiB short" in run.stderr
    assert names(tmp_path) == set()


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_elements_than_ranks(faulty, tmp_path, n):
    run = faulty(3, "--n", n, "-o", "C.h5")
    assert run.returncode == 0, run.stderr
    with h5py.File(tmp_path / "C.h5") as file:
        np.testing.assert_array_equal(file["faulty/numbers"], np.arange(n))


# Disks


@dataclass(frozen=True)
class SmallDisk:
    """A folder with 1 MiB, and what makes a job meet that where no disk of that size could be mounted."""

    folder: Path
    seen: str = ""
    full: str = ""


@pytest.fixture
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    folder = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        yield SmallDisk(folder)
        subprocess.run(["umount", str(folder)], check=True)
    else:
        yield SmallDisk(folder, seen=f"free={1 << 20}", full="rank=1 write=full")


def test_disk_too_small_is_refused_before_computing(faulty, small_disk, tmp_path):
    target = small_disk.folder / "C.h5"
    run = faulty(2, "--n", "1e6", "-o", target, "--prepared", "prepared", faults=small_disk.seen)
    assert run.returncode == 73
    told = messages(run.stderr)
    assert len(told) == 1
    assert "the output needs 8.63 MiB" in told[0]
    assert "short" in told[0]
    assert names(small_disk.folder) == names(tmp_path) == set()


def test_disk_that_fills_while_writing_leaves_the_old_result_and_nothing_else(faulty, small_disk):
    target = small_disk.folder / "C.h5"
    assert faulty(2, "-o", target, faults=PLENTY).returncode == 0
    old = target.read_bytes()
    run = faulty(2, "--n", "1e6", "-o", target, "--force", faults=f"{small_disk.full} {PLENTY}")
    assert run.returncode == 73
    assert messages(run.stderr) == [f"hpcmpi: error: {target}: cannot be written: the disk is full"]
    assert target.read_bytes() == old
    assert names(small_disk.folder) == {"C.h5", "C.h5.status.json"}
    said = status(small_disk.folder)
    assert (said["state"], said["status"], said["phase"]) == ("failed", 73, "write")


@pytest.mark.parametrize("faults", ["rank=1 write=killed", "rank=0 rename=killed"])
def test_rank_killed_while_writing_or_publishing_leaves_the_old_result_and_the_name_free(faulty, tmp_path, faults):
    assert faulty(2, "-o", "C.h5").returncode == 0
    old = (tmp_path / "C.h5").read_bytes()
    killed = faulty(2, "--n", "1e5", "-o", "C.h5", "--force", faults=faults)
    assert killed.returncode not in (0, 70)
    assert (tmp_path / "C.h5").read_bytes() == old
    assert status(tmp_path)["state"] == "running"
    again = faulty(2, "--n", 20, "-o", "C.h5", "--force")
    assert again.returncode == 0, again.stderr
    with h5py.File(tmp_path / "C.h5") as file:
        np.testing.assert_array_equal(file["faulty/numbers"], np.arange(20))
    assert ".C.h5.lock" not in names(tmp_path)


def test_write_that_the_system_cuts_short_is_continued(faulty, tmp_path):
    run = faulty(2, "--n", 1000, "-o", "C.h5", faults="write=short")
    assert run.returncode == 0, run.stderr
    with h5py.File(tmp_path / "C.h5") as file:
        np.testing.assert_array_equal(file["faulty/numbers"], np.arange(1000))


def test_existing_output_is_refused_before_computing_and_stays_until_forced(faulty, tmp_path):
    assert faulty(2, "-o", "C.h5").returncode == 0
    old = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    run = faulty(2, "-o", "C.h5", "--n", 20, "--prepared", "prepared")
    assert run.returncode == 73
    assert messages(run.stderr) == ["hpcmpi: error: C.h5: exists; --force replaces it"]
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == old
    assert faulty(2, "-o", "C.h5", "--n", 20, "--force").returncode == 0
    with h5py.File(tmp_path / "C.h5") as file:
        assert file["faulty/numbers"].shape == (20,)


def test_output_locked_by_another_process_is_refused_before_computing(faulty, tmp_path):
    with h5py.File(tmp_path / "C.h5", "w", locking=True) as file:
        file["of another"] = np.arange(3)
        file.flush()
        run = faulty(2, "-o", "C.h5", "--force", "--prepared", "prepared")
    assert run.returncode == 73
    assert messages(run.stderr) == ["hpcmpi: error: C.h5: is locked by another process that writes it"]
    assert names(tmp_path) == {"C.h5"}
    with h5py.File(tmp_path / "C.h5") as file:
        np.testing.assert_array_equal(file["of another"], np.arange(3))


def test_result_is_kept_when_another_process_never_lets_go_of_the_name(faulty, tmp_path):
    with (tmp_path / ".C.h5.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = faulty(2, "-o", "C.h5", faults="patience=1")
    assert run.returncode == 73
    told = messages(run.stderr)
    assert len(told) == 1
    assert "locked by another process" in told[0]
    kept = tmp_path / re.search(r"this run's result is in (\S+)$", told[0])[1]
    with h5py.File(kept) as file:
        np.testing.assert_array_equal(file["faulty/numbers"], np.arange(10))
    assert not (tmp_path / "C.h5").exists()


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ("missing/C.h5", "no such folder: missing"),
        ("file/C.h5", "no such folder: file"),
        ("/proc/C.h5", "/proc"),
        ("pipe", "pipe: is a device, a pipe or a socket, not a file"),
    ],
)
def test_place_that_cannot_be_written_is_refused_before_computing(faulty, tmp_path, output, found):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    run = faulty(2, "-o", output, "--force", "--prepared", "prepared")
    assert run.returncode == 73
    told = messages(run.stderr)
    assert len(told) == 1
    assert found in told[0]
    assert names(tmp_path) == {"file", "pipe"}


def test_folder_without_permission_to_write_is_refused_before_computing(faulty, tmp_path):
    """Root may write everywhere, so that the system's refusal is made up; that of other users is real."""
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o555)
    run = faulty(2, "-o", folder / "C.h5", "--prepared", "prepared", faults="folder=refused")
    assert run.returncode == 73
    assert messages(run.stderr) == [f"hpcmpi: error: {folder / 'C.h5'}: cannot be written: Permission denied"]
    assert names(tmp_path) == {"folder"}
    assert names(folder) == set()


def test_two_jobs_with_one_output_name_are_kept_apart(start, tmp_path):
    jobs = {n: start(*job(2, "--n", n, "--until", "go", "-o", "C.h5")) for n in (10, 20)}
    wait_for(lambda: len(list(tmp_path.glob("C.h5.*.partial"))) == 2)
    (tmp_path / "go").touch()
    errors = {n: process.communicate(timeout=SECONDS)[1] for n, process in jobs.items()}
    codes = {process.returncode: n for n, process in jobs.items()}
    assert set(codes) == {0, 73}, errors
    told = messages(errors[codes[73]])
    assert len(told) == 1
    kept = re.search(r"C.h5: exists; .* this run's result is in (\S+)$", told[0])[1]
    for name, n in (("C.h5", codes[0]), (kept, codes[73])):
        with h5py.File(tmp_path / name) as file:
            assert file["faulty"].attrs["complete"]
            np.testing.assert_array_equal(file["faulty/numbers"], np.arange(n))
    assert names(tmp_path) == {"C.h5", "C.h5.status.json", "go", kept}


# Readers that have had enough


def pipe(folder: Path, arguments: list[object], redirection: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the shell; its exit status is that of the program, not that of the pipe's end."""
    command = " ".join(map(str, arguments))
    return subprocess.run(
        ["bash", "-c", f"{command} {redirection}; exit ${{PIPESTATUS[0]}}"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.fixture(scope="module")
def small_result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("result")
    command = [sys.executable, "-m", "hpcmpi", "matmul", "--n", 8, "-o", "C.h5"]
    assert pipe(folder, command, "").returncode == 0
    return folder


COMMANDS = ["--help", "matmul --help", "show C.h5", "verify C.h5", "doctor", "matmul --n 8 --explain", "matmul --n 8"]


@pytest.mark.parametrize("command", COMMANDS)
def test_reader_that_is_gone_and_closed_streams_are_no_reason_to_fail(small_result, command):
    program = [sys.executable, "-m", "hpcmpi", *command.split(), *["--no-output"] * command.startswith("matmul --n")]
    for redirection in ("| head -c 10", "| true", ">&-", "<&- >&- 2>&-"):
        run = pipe(small_result, program, redirection)
        assert (run.returncode, run.stderr) == (0, ""), redirection
        assert run.stdout == "" or len(run.stdout) == 10


@pytest.mark.parametrize("command", ["show C.h5", "matmul --n 8"])
def test_standard_output_on_a_full_disk_is_told_and_costs_no_result(small_result, command, tmp_path):
    results = ["-o", tmp_path / "D.h5"] * command.startswith("matmul")
    run = pipe(small_result, [sys.executable, "-m", "hpcmpi", *command.split(), *results], "> /dev/full")
    assert run.returncode == (0 if results else 73)
    assert "Traceback" not in run.stderr
    assert re.fullmatch("hpcmpi: (warning|error): standard output: .*No space left on device\n", run.stderr)
    if results:
        assert status(tmp_path, "D.h5")["state"] == "done"


@pytest.mark.parametrize("command", ["--help", "show C.h5", "matmul --n 8 --no-output"])
def test_reader_that_is_gone_does_not_hang_or_trace_a_job_of_many_ranks(small_result, command):
    program = [mpirun(), "-n", 3, sys.executable, "-m", "hpcmpi", *command.split()]
    for redirection in ("| head -c 10", "| true"):
        with swept():
            run = pipe(small_result, program, redirection)
        assert "Traceback" not in run.stderr, redirection
        assert "BrokenPipe" not in run.stderr, redirection


# Kernels


def test_kernels_are_compiled_by_one_rank_before_the_run_and_loaded_by_the_others(faulty, tmp_path):
    """With MPICH, the ranks are made to believe that they are on two nodes that share a host's cache."""
    arguments = ("--kernel", "--json", "--no-output")
    cache = {"HPCMPI_CACHE": str(tmp_path / "cache"), "MPIR_CVAR_NUM_CLIQUES": "2"}
    first, second = (faulty(3, *arguments, **cache) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    fresh, warm = strict_json(first.stdout), strict_json(second.stdout)
    assert sorted(fresh["compiled"].split()) == ["0", "0", "1"]
    assert [a != b for a, b in zip(fresh["compiled"], fresh["loaded"], strict=True)] == [True, False] * 2 + [True]
    assert (warm["compiled"], warm["loaded"]) == ("0 0 0", "1 1 1")
    assert fresh["new_in_the_run"] == warm["new_in_the_run"] == "0 0 0"
    assert fresh["verified"]
