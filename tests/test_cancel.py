"""Runs on this machine end when they are asked to, whoever has started them and whatever their mpirun passes on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import HERE, mpirun, swept
from runs import SECONDS, alive, wait_for

from hpcmpi import processes
from hpcmpi.batch import local

STUDY = 'command = "matmul"\n[params]\nn = 300\n[run]\nranks = 2\nrepeats = 100000\noutput = "out"\n'
HPCMPI = [sys.executable, "-m", "hpcmpi"]
STATUS = Path("out/matmul.h5.status.json")


@pytest.fixture
def runner(tmp_path, monkeypatch) -> Iterator[Any]:
    """Start ``hpcmpi run`` of an endless study; its launcher is gone after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(HERE.parent))
    Path("study.toml").write_text(STUDY)
    with swept(), contextlib.ExitStack() as ends:

        def start(*options: str) -> subprocess.Popen[str]:
            process = subprocess.Popen([*HPCMPI, "run", "study.toml", *options], stderr=subprocess.PIPE, text=True)
            ends.callback(end, process)
            return process

        yield start


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()
    launcher, _ = local.noted_launcher(Path("out"))
    if launcher is not None:
        os.killpg(launcher, signal.SIGKILL)


def ranks_in(phase: str) -> list[int]:
    """Process ids of the ranks, once they are in this phase."""
    wait_for(lambda: STATUS.exists() and json.loads(STATUS.read_text())["phase"] == phase)
    return [rank["pid"] for rank in json.loads(STATUS.read_text())["ranks"]]


def cancel(*options: str) -> tuple[int, str]:
    run = subprocess.run([*HPCMPI, "cancel", "study.toml", *options], capture_output=True, text=True, check=False)
    return run.returncode, run.stdout


@pytest.mark.parametrize(("options", "state", "word"), [((), "failed", "ended"), (("--kill",), "running", "killed")])
def test_cancel_ends_runs_whose_runner_was_killed(runner, options, state, word):
    process = runner()
    pids = ranks_in("run")
    process.kill()
    process.wait()
    launcher, name = local.noted_launcher(Path("out"))
    assert name == "matmul"
    assert all(alive(pid) for pid in (*pids, launcher))
    assert cancel(*options) == (0, f"matmul: {word} on this machine\n")
    wait_for(lambda: not any(alive(pid) for pid in (*pids, launcher)))
    assert json.loads(STATUS.read_text())["state"] == state
    assert not list(Path("out").glob("*.partial")) or options
    assert cancel() == (0, "nothing is under way\n")


def test_cancel_ends_a_launcher_whose_ranks_have_not_begun(runner, tmp_path):
    waits = tmp_path / "waits"
    waits.write_text("#!/bin/sh\necho $$ > launcher\nsleep 1000\n")
    waits.chmod(0o755)
    process = runner("--launcher", str(waits))
    wait_for(lambda: Path("launcher").exists() and local.noted_launcher(Path("out"))[0] is not None)
    process.kill()
    process.wait()
    assert cancel() == (0, "matmul: ended on this machine\n")
    wait_for(lambda: not processes.members(int(Path("launcher").read_text())))


def test_processes_that_got_the_numbers_of_ended_ranks_are_left_alone(runner):  # noqa: ARG001 - the job file
    with subprocess.Popen(["sleep", "1000"]) as bystander:
        try:
            Path("out").mkdir()
            host = os.uname().nodename
            rank = {"rank": 0, "host": host, "pid": bystander.pid, "started": "an earlier process"}
            STATUS.write_text(json.dumps({"state": "running", "phase": "run", "ranks": [rank]}))
            noted = {"host": host, "pid": 1, "launcher": bystander.pid, "started": "an earlier one", "point": "matmul"}
            Path("out/.runs").write_text(json.dumps(noted))
            assert cancel("--kill") == (0, "nothing is under way\n")
            assert bystander.poll() is None
        finally:
            bystander.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("when", ["start", "run"])
def test_run_that_is_stopped_ends_what_a_launcher_that_passes_on_nothing_has_started(runner, tmp_path, number, when):
    """As Intel MPI's ``mpirun`` is: a script that waits for the real one."""
    script = tmp_path / "script"
    script.write_text(f'#!/bin/sh\necho $$ > launcher\n"{mpirun()}" "$@"\nexit $?\n')
    script.chmod(0o755)
    process = runner("--launcher", str(script))
    if when == "run":
        ranks_in("run")
    wait_for(
        lambda: Path("launcher").exists() and Path("launcher").read_text() and local.noted_launcher(Path("out"))[0]
    )
    session = int(Path("launcher").read_text())
    process.send_signal(number)
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert errors.endswith("stopped; run it again to go on\n")
    assert processes.members(session) == []
    if STATUS.exists():
        status = json.loads(STATUS.read_text())
        assert status["state"] == "failed"
        assert not any(alive(rank["pid"]) for rank in status["ranks"])
    assert not list(Path("out").glob("*.partial"))
