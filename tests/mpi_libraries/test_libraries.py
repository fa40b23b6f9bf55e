"""The same bits and the same ends under Open MPI and Intel MPI as under the library of this environment."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import environments
import h5py
import pytest
from runs import alive, names, status

pytestmark = pytest.mark.mpi_libraries
library = environments.library  # a fixture

NAMES = {
    "openmpi": ("Open MPI v", "libmpi.so.40", "Open MPI"),
    "impi": ("Intel(R) MPI Library", "libmpi.so", "Intel MPI"),
}
COMMANDS = {
    "sort": ("sort", "--n", "1e5", "--records", "100"),
    "reduce": ("reduce", "--n", "1e5", "--op", "sum,mean,var,norm,min,argmax"),
    "matvec": ("matvec", "--laplacian", "20,20,20"),
    "bfs": ("bfs", "--scale", "10", "--root", "1"),
    "matmul": ("matmul", "--n", "200"),
}
STOPPABLE = ("sort", "--n", "1e6", "--memory", "256KiB", "--threads", 1, "-o", "C.h5")  # more than a hundred steps


def wait_for(what: Callable[[], bool], seconds: float = 300) -> None:
    """Wait until ``what()`` is true; kernels may have to be compiled first."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def arrays(path: Path, group: str) -> dict[str, tuple[str, bytes]]:
    """Type and bits of each array of a result, without those that say how the run went."""
    with h5py.File(path) as file:
        found = {name: item for name, item in file[group].items() if isinstance(item, h5py.Dataset)}
        about = ("checksums", "phases", "ranks", "seconds")
        return {name: (str(item.dtype), item[()].tobytes()) for name, item in found.items() if name not in about}


def test_communication(library):
    done = library.run("python", "-m", "pytest", "-q", "tests/mpi/test_comm.py", "--ranks", "1,2,3", timeout=1500)
    assert done.returncode == 0, done.stdout[-5000:]
    assert re.search(r"^\d+ passed", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_gives_the_bits_that_it_gives_here(library, hpcmpi, tmp_path, command):
    ranks = 3 if command == "sort" else 2
    expected = hpcmpi(ranks, *COMMANDS[command], "--threads", 1, "-o", "here.h5", timeout=600)
    assert expected.returncode == 0, expected.stderr
    run = library.hpcmpi(ranks, *COMMANDS[command], "--threads", 1, "-o", "C.h5", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert ", verified: " in run.stdout
    assert "UCX" not in run.stderr
    found = arrays(tmp_path / "C.h5", command)
    assert found
    assert found == arrays(tmp_path / "here.h5", command)
    with h5py.File(tmp_path / "C.h5") as file:
        assert file[f"{command}/provenance"].attrs["version_mpi"].startswith(NAMES[library.extra][0])


def test_doctor_names_library_and_mpirun_and_says_what_the_launcher_needs(library, tmp_path):
    version, file, launcher = NAMES[library.extra]
    run = library.hpcmpi(2, "doctor", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    text = " ".join(run.stdout.split())
    assert f"MPI library {version}" in text
    assert f"MPI loaded from {library.folder}/lib/{file} " in text
    assert f"mpirun {library.mpirun}, {launcher} mpi4py" in text
    assert "World 2 ranks, as launched" in text
    assert "\033" not in run.stdout
    bare = subprocess.run(
        [library.folder / "bin" / "hpcmpi", "doctor"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    advice = " ".join(bare.stdout.split())
    if library.extra == "impi":
        assert "fails with status 127" in advice
        assert "is its folder on PATH?" in advice
    else:
        assert "export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe for more" in advice
        as_root = "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
        assert (as_root in advice) == (os.geteuid() == 0)


def test_doctor_finds_that_mpirun_belongs_to_another_library(library, hpcmpi):
    """The library of the other environment, the mpirun of this one."""
    file = library.folder / "lib" / ("libmpi.so.40" if library.extra == "openmpi" else "libmpi.so.12")
    run = hpcmpi(0, "doctor", MPI4PY_LIBMPI=str(file))
    assert run.returncode == 0, run.stderr
    warned = "does not belong to the MPI library" in " ".join(run.stdout.split())
    assert warned == (library.extra == "openmpi")  # Intel MPI and MPICH start each other's ranks


@pytest.fixture
def start(library, tmp_path):
    """Start a job of two ranks, its output in files, and wait until it runs."""
    started = []

    def begin(
        *argv: object, program: tuple[object, ...] = ("-m", "hpcmpi")
    ) -> tuple[subprocess.Popen[bytes], list[int]]:
        with (tmp_path / "out").open("wb") as out, (tmp_path / "errors").open("wb") as errors:
            command = [library.mpirun, "-n", 2, library.folder / "bin" / "python", *program, *argv]
            process = subprocess.Popen(
                list(map(str, command)),
                cwd=tmp_path,
                env=library.variables,
                stdout=out,
                stderr=errors,
                start_new_session=True,
            )
        started.append(process)
        wait_for(lambda: process.poll() is not None or (tmp_path / "C.h5.status.json").exists())
        wait_for(lambda: process.poll() is not None or status(tmp_path)["phase"] == "run")
        return process, [rank["pid"] for rank in status(tmp_path)["ranks"]]

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


LOGS = {"out", "errors"}


@pytest.mark.parametrize("target", ["group", "ranks"])
def test_sigusr1_checkpoints_and_the_same_command_goes_on(library, start, tmp_path, target):
    process, ranks = start(*STOPPABLE)
    if target == "group":
        os.killpg(process.pid, signal.SIGUSR1)
    else:
        os.kill(ranks[1], signal.SIGUSR1)
    if (library.extra, target) == ("impi", "group"):
        assert process.wait(300) != 0  # its mpirun, a shell script, is ended by the signal
    else:
        assert process.wait(300) == 85
    wait_for(lambda: status(tmp_path)["state"] == "checkpointed" and not any(map(alive, ranks)))
    assert names(tmp_path) - LOGS == {"C.h5.checkpoint1", "C.h5.status.json"}
    again = library.hpcmpi(2, *STOPPABLE, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert names(tmp_path) - LOGS == {"C.h5", "C.h5.status.json"}


def test_sigterm_to_the_process_group_leaves_no_rank_no_partial_file_and_a_status(start, tmp_path):
    """Whether there is time for a checkpoint or not."""
    process, ranks = start(*STOPPABLE)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(300) != 0
    wait_for(lambda: status(tmp_path)["state"] != "running" and not any(map(alive, ranks)))
    said = status(tmp_path)
    assert (said["state"], said["status"]) in (("checkpointed", 85), ("failed", 143))
    expected = {"C.h5.status.json"} | ({"C.h5.checkpoint1"} if said["status"] == 85 else set())
    assert names(tmp_path) - LOGS == expected


def test_sigterm_that_comes_too_early_for_a_checkpoint_is_a_failure_without_partial_files(library, start, tmp_path):
    """A stopped rank keeps all from their next checkpoint until Open MPI kills them; for Intel MPI the test kills them.

    Open MPI's mpirun lets its ranks go on before it sends SIGTERM, so the rank is stopped again and again.
    """
    process, ranks = start(*STOPPABLE)
    os.kill(ranks[1], signal.SIGSTOP)
    os.killpg(process.pid, signal.SIGTERM)
    wait_for(lambda: "reason" in status(tmp_path))
    if library.extra == "impi":
        for pid in ranks:
            os.kill(pid, signal.SIGKILL)
    while alive(ranks[1]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(ranks[1], signal.SIGSTOP)
        time.sleep(0.001)
    assert process.wait(300) != 0
    wait_for(lambda: status(tmp_path)["state"] != "running" and not any(map(alive, ranks)))
    assert (status(tmp_path)["state"], status(tmp_path)["status"]) == ("failed", 143)
    assert names(tmp_path) - LOGS == {"C.h5.status.json"}


def test_statuses_come_through_and_logs_hold_no_escape_sequences(library, tmp_path):
    usage = library.hpcmpi(2, "sort", "--n", "many", cwd=tmp_path)
    assert usage.returncode == 2
    assert usage.stderr.count("Usage: hpcmpi sort") == 1
    missing = library.hpcmpi(2, "sort", "--input", "missing.h5", cwd=tmp_path)
    assert missing.returncode == 65
    explained = library.hpcmpi(2, "matmul", "--n", "200", "--explain", cwd=tmp_path)
    assert explained.returncode == 0
    assert "seconds" in explained.stdout
    assert "\033" not in explained.stdout + explained.stderr
