"""Whole jobs that are told to stop, or are killed, and go on from their checkpoints."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
from conftest import HERE, mpirun, swept
from runs import alive, names, status, wait_for

SORT = ("sort", "--n", "1e6", "--memory", "256KiB", "--threads", 1)  # more than a hundred steps


@pytest.fixture
def start(tmp_path):
    """Start a program in an empty folder; it must have ended with the test."""
    started = []

    def begin(*words):
        process = subprocess.Popen(
            list(map(str, words)),
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(HERE.parent)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    with swept():
        yield begin
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def job(ranks, *argv):
    return (mpirun(), "-n", ranks, sys.executable, "-m", "hpcmpi", *argv)


def in_phase(folder, phase, name="C.h5"):
    return (folder / f"{name}.status.json").exists() and status(folder, name)["phase"] == phase


def assert_sorted(path: Path, resumed: int) -> None:
    """The keys of ``SORT``, in order, of a run that has gone on so often."""
    with h5py.File(path) as file:
        group = file["sort"]
        assert (group.attrs["resumed"], group.attrs["verified"], group["keys"].shape) == (resumed, True, (1_000_000,))
        keys = group["keys"][:]
    assert (keys[:-1] <= keys[1:]).all()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_job_that_is_told_to_stop_checkpoints_and_goes_on_on_other_ranks(start, hpcmpi, tmp_path, number):
    process = start(*job(2, *SORT, "-o", "C.h5"))
    wait_for(lambda: in_phase(tmp_path, "run"))
    os.kill(status(tmp_path)["ranks"][1]["pid"], number)  # one rank hears of it, all checkpoint
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 85, errors
    assert "hpcmpi: checkpointed in C.h5.checkpoint1; the same command goes on from there\n" in errors
    said = status(tmp_path)
    assert (said["state"], said["status"]) == ("checkpointed", 85)
    wait_for(lambda: not waiting_in(tmp_path))
    assert status(tmp_path) == said
    assert names(tmp_path) == {"C.h5.checkpoint1", "C.h5.status.json"}
    ranks = 3 if number == signal.SIGUSR1 else 1
    run = hpcmpi(ranks, *SORT, "-o", "C.h5")
    assert run.returncode == 0, run.stderr
    assert "hpcmpi: goes on from C.h5.checkpoint1, of " in run.stderr
    assert_sorted(tmp_path / "C.h5", 1)
    assert names(tmp_path) == {"C.h5", "C.h5.status.json"}


def test_a_job_that_is_killed_goes_on_from_the_last_whole_checkpoint_or_anew_on_request(start, hpcmpi, tmp_path):
    argv = (*SORT, "--checkpoint-every", "0.05", "-o", "C.h5")
    process = start(*job(2, *argv))
    wait_for(lambda: {"C.h5.checkpoint0", "C.h5.checkpoint1"} <= names(tmp_path))
    ranks = [rank["pid"] for rank in status(tmp_path)["ranks"]]
    os.killpg(process.pid, signal.SIGKILL)
    for pid in ranks:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(alive(pid) for pid in ranks))
    assert status(tmp_path)["state"] == "running"
    numbers = {}
    for slot in (0, 1):
        with h5py.File(tmp_path / f"C.h5.checkpoint{slot}") as file:
            numbers[slot] = file["checkpoint"].attrs["number"]
    newest = max(numbers, key=numbers.get)
    damaged = tmp_path / f"C.h5.checkpoint{newest}"
    with h5py.File(damaged, "r+") as file:
        file["checkpoint/run0"][5] = 7
    run = hpcmpi(2, *SORT, "-o", "C.h5")
    assert run.returncode == 0, run.stderr
    assert f"hpcmpi: warning: checkpoint not taken: C.h5.checkpoint{newest}: damaged: run0" in run.stderr
    assert f"hpcmpi: goes on from C.h5.checkpoint{1 - newest}, of " in run.stderr
    assert_sorted(tmp_path / "C.h5", 1)
    assert not [name for name in names(tmp_path) if "checkpoint" in name and not name.endswith((".partial", ".lock"))]

    process = start(*job(2, *SORT, "-o", "C.h5", "--force"))
    wait_for(lambda: in_phase(tmp_path, "run") and status(tmp_path)["state"] == "running")
    os.kill(status(tmp_path)["ranks"][0]["pid"], signal.SIGUSR1)
    assert process.wait(timeout=60) == 85
    anew = hpcmpi(2, *SORT, "-o", "C.h5", "--force", "--restart")
    assert anew.returncode == 0, anew.stderr
    assert "goes on from" not in anew.stderr
    assert_sorted(tmp_path / "C.h5", 0)


def waiting_in(folder: Path) -> list[str]:
    """Processes that wait there for the end of a job after SIGTERM."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"runner.aftermath" in (process / "cmdline").read_bytes() and (process / "cwd").readlink() == folder:
                found.append(process.name)
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_job_that_is_killed_on_its_way_to_a_checkpoint_is_failed_and_leaves_no_partial_files(start, tmp_path, number):
    if number == signal.SIGHUP:  # partial files of the result lie beside the file that a link leads to
        (tmp_path / "data").mkdir()
        (tmp_path / "C.h5").symlink_to(Path("data", "result.h5"))
    before = names(tmp_path)
    process = start(*job(2, *SORT, "-o", "C.h5"))
    wait_for(lambda: in_phase(tmp_path, "run"))
    first, second = (rank["pid"] for rank in status(tmp_path)["ranks"])
    os.kill(second, signal.SIGSTOP)  # all ranks must come to a checkpoint
    os.kill(first, number)
    wait_for(lambda: "reason" in status(tmp_path))
    said = status(tmp_path)
    assert (said["state"], said["reason"]) == ("running", f"{number.name}: the job ends at its next checkpoint")
    wait_for(lambda: len(waiting_in(tmp_path)) == 1)
    assert list(tmp_path.rglob("*.partial"))
    of_this = f"C.h5.checkpoint0.{said['job']}.0.00000000.partial"
    of_another = ["C.h5x.1.0.00000000.partial", "C.h5.checkpoint0.1.0.00000000.partial"]
    for name in (of_this, *of_another):
        (tmp_path / name).touch()
    for pid in (first, second):
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=60)
    wait_for(lambda: status(tmp_path)["state"] != "running" and not waiting_in(tmp_path))
    said = status(tmp_path)
    reason = f"ended by {number.name}: killed before it could checkpoint"
    assert (said["state"], said["status"], said["reason"]) == ("failed", 143, reason)
    assert names(tmp_path) == before | {"C.h5.status.json", *of_another}
    assert not list((tmp_path / "data").glob("*"))


def test_repeats_that_are_done_are_not_done_again(start, hpcmpi, tmp_path):
    argv = ("sort", "--n", "2e5", "--memory", "128KiB", "--threads", 1, "--repeat", 9, "-o", "C.h5")
    process = start(*job(2, *argv))
    wait_for(lambda: in_phase(tmp_path, "run"))
    os.kill(status(tmp_path)["ranks"][0]["pid"], signal.SIGUSR1)
    assert process.wait(timeout=60) == 85
    with h5py.File(tmp_path / "C.h5.checkpoint1") as file:
        about = dict(file["checkpoint"].attrs)
    assert about["seconds_begun"] >= 0
    assert len(json.loads(about["seconds_done"])) < 9
    run = hpcmpi(2, *argv)
    assert run.returncode == 0, run.stderr
    with h5py.File(tmp_path / "C.h5") as file:
        assert (file["sort"].attrs["repeat"], file["sort"].attrs["resumed"]) == (9, 1)


def test_a_study_that_is_stopped_checkpoints_and_goes_on(start, hpcmpi, tmp_path):
    (tmp_path / "study.toml").write_text(
        'command = "sort"\n[params]\nn = "1e6"\nmemory = "256KiB"\n[run]\nranks = 2\nthreads = 1\noutput = "."\n'
    )
    process = start(sys.executable, "-m", "hpcmpi", "run", "study.toml")
    wait_for(lambda: in_phase(tmp_path, "run", "sort.h5"))
    process.terminate()
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130, out
    assert errors.endswith("stopped; run it again to go on\n")  # after "planning" on a slow machine
    assert "checkpointed" in hpcmpi(0, "status", "study.toml").stdout
    again = hpcmpi(0, "run", "study.toml")
    assert again.returncode == 0, again.stdout
    assert_sorted(tmp_path / "sort.h5", 1)
    assert "goes on from" in (tmp_path / "sort.log").read_text()


def test_whoever_asks_for_checkpoints_of_what_has_none_is_told(hpcmpi):
    done = hpcmpi(2, "reduce", "--n", 10, "--checkpoint-every", 1, "-o", "r.h5")
    assert done.returncode == 0
    assert done.stderr == "hpcmpi: warning: --checkpoint-every: this job takes no checkpoints\n"
