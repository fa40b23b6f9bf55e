"""``show``, ``verify`` and ``doctor``: alone, and where each rank of a launch starts them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import HERE, mpirun
from runs import HOST, RUN, messages, names, strict_json

from hpcmpi import machine
from hpcmpi.errors import InputError, OutputError


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a product on three ranks, which nobody changes."""
    folder = tmp_path_factory.mktemp("written")
    program = [mpirun(), "-n", "3", sys.executable, "-m", "hpcmpi"]
    command = [*program, "matmul", "--n", "30", "--threads", "1", "-o", "C.h5"]
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True, timeout=60)
    return folder / "C.h5"


@pytest.fixture
def result(written: Path, tmp_path: Path) -> Path:
    """A copy of it in the empty folder where commands run."""
    return Path(shutil.copy(written, tmp_path / "C.h5"))


def blocks(path: Path) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Start and shape of each rank's block."""
    with h5py.File(path) as file:
        return [(tuple(map(int, b["start"])), tuple(map(int, b["shape"]))) for b in file["matmul/checksums/C"][:]]


# show


def test_show_tells_parameters_verdict_arrays_phases_and_ranks(hpcmpi, result):
    run = hpcmpi(0, "show", result.name)
    assert (run.returncode, run.stderr) == (0, "")
    lines = run.stdout.splitlines()
    assert lines[0] == "C.h5: matmul: verified"
    assert "worst residual" in lines[1]
    assert "  /matmul/C: 30 x 30 float64" in lines
    for row in (r"n +30", r"ranks +3", r"rate_unit +flop/s", r"memory_peak_bytes +[\d.]+ MiB"):
        assert re.search(rf"^ +{row} *$", run.stdout, re.MULTILINE), row
    cells = r"( +[\d.]+ +\W){4} +[\d.]+ [KM]?i?B +\W +\d+ +\W"
    for phase in ("compile", "prepare", "run", "verify", "write", "checksum", "sync"):
        assert re.search(rf"^\W+{phase} +\W{cells}$", run.stdout, re.MULTILINE), phase
    for column in ("min s", "mean s", "max s", "imbalance", "received", "messages"):
        assert column in run.stdout
    assert f"3 ranks on {HOST}" in run.stdout
    assert "matmul --n 30 --threads 1 -o C.h5" in run.stdout


def test_show_json_holds_all_attributes_and_tables(hpcmpi, result):
    run = hpcmpi(0, "show", "--json", "C.h5")
    assert (run.returncode, run.stderr) == (0, "")
    content = strict_json(run.stdout)["matmul"]
    with h5py.File(result) as file:
        assert set(content["attributes"]) == set(file["matmul"].attrs)
        seconds = file["matmul/phases/seconds"][...]
    assert content["attributes"]["verified"] is True
    assert content["arrays"] == {"C": {"shape": [30, 30], "dtype": "float64"}}
    np.testing.assert_array_equal([[cell["seconds"] for cell in row] for row in content["phases"]], seconds)
    assert content["phase_names"][2] == "run"
    assert [rank["host"] for rank in content["ranks"]] == [HOST] * 3
    assert content["provenance"]["launcher"]


def test_commands_that_look_at_a_file_start_no_mpi_and_speak_once_in_a_launch(hpcmpi, result):
    """A rank that started MPI would wait for the others, which have ended."""
    for command, told in (("show", "C.h5: matmul: verified"), ("verify", "C.h5: 3 blocks")):
        run = hpcmpi(3, command, result.name, timeout=30)
        assert run.returncode == 0, run.stderr
        assert run.stdout.count(told) == 1
        missing = hpcmpi(3, command, "D.h5", timeout=30)
        assert missing.returncode == 65
        assert messages(missing.stderr) == ["hpcmpi: error: D.h5: no such file"]
    for command in ("show", "verify"):
        assert hpcmpi(0, command, "C.h5", MPI4PY_LIBMPI="/missing/libmpi.so").returncode == 0


# verify


def test_verify_finds_all_as_written(hpcmpi, result):
    run = hpcmpi(0, "verify", result.name)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == "C.h5: 3 blocks, 7.03 KiB: all as written\n"


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_verify_names_the_block_whose_bit_has_flipped(hpcmpi, result, rank):
    start, shape = blocks(result)[rank]
    row, column = start[0] + shape[0] - 1, start[1] + shape[1] - 1  # the last element of the block
    with h5py.File(result) as file:
        at = file["matmul/C"].id.get_offset() + 8 * (30 * row + column)
    with result.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    run = hpcmpi(0, "verify", "C.h5")
    assert run.returncode == 65
    assert run.stdout == ""
    (line,) = run.stderr.splitlines()
    assert line.startswith(f"C.h5:/matmul/C: block at {start} of shape {shape} is damaged: crc32 ")


def test_verify_names_every_damaged_block(hpcmpi, result):
    with h5py.File(result, "r+") as file:
        file["matmul/C"][...] = 0
    run = hpcmpi(0, "verify", "C.h5")
    assert run.returncode == 65
    assert len(run.stderr.splitlines()) == 3


def not_ours(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(3)


def incomplete(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["matmul"].attrs["complete"] = False


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1000)


@pytest.mark.sample(4)
@pytest.mark.parametrize("command", ["show", "verify"])
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (not_ours, "C.h5: holds no result of hpcmpi"),
        (truncated, "C.h5: truncated: "),
        (lambda path: path.write_bytes(b"not HDF5 at all"), "C.h5: not a readable HDF5 file"),
        (lambda path: path.write_bytes(b""), "C.h5: not a readable HDF5 file"),
        (Path.unlink, "C.h5: no such file"),
    ],
)
def test_file_that_cannot_be_read_is_told_with_65(hpcmpi, result, command, spoil, told):
    spoil(result)
    run = hpcmpi(0, command, "C.h5")
    assert (run.returncode, run.stdout) == (65, "")
    (line,) = run.stderr.splitlines()
    assert line.startswith(f"hpcmpi: error: {told}")


def test_incomplete_result_is_shown_as_such_and_not_verified(hpcmpi, result):
    incomplete(result)
    shown = hpcmpi(0, "show", "C.h5")
    assert shown.returncode == 0
    assert shown.stdout.startswith("C.h5: matmul: verified, INCOMPLETE\n")
    checked = hpcmpi(0, "verify", "C.h5")
    assert checked.returncode == 65
    assert checked.stderr == "hpcmpi: error: C.h5:/matmul: was left incomplete by the run that wrote it\n"


@pytest.mark.parametrize(
    ("flags", "head"), [(("--how", "wrong"), "WRONG"), (("--how", "wrong", "--no-verify"), "NOT VERIFIED")]
)
def test_a_wrong_result_and_an_unchecked_one_are_told_apart(hpcmpi, flags, head):
    hpcmpi(1, "faulty", *flags, "-o", "D.h5", program=(RUN,))
    assert hpcmpi(0, "show", "D.h5").stdout.splitlines()[0] == f"D.h5: faulty: {head}"


def test_record_without_arrays_is_shown_and_verified(hpcmpi, tmp_path):
    assert hpcmpi(1, "faulty", "--n", 5, program=(RUN,)).returncode == 0
    (path,) = (tmp_path / "hpcmpi-results").glob("*.h5")
    assert "faulty: verified" in hpcmpi(0, "show", path).stdout
    checked = hpcmpi(0, "verify", path)
    assert (checked.returncode, checked.stdout) == (0, f"{path}: 0 blocks, 0 B: all as written\n")


FLIP_BITS = """
import contextlib, io, os, random, resource, signal, sys
from pathlib import Path

import h5py, numpy, rich.console, rich.table
import hpcmpi.runner.report, hpcmpi.store.result
from hpcmpi.commands import show, verify

whole = Path("C.h5").read_bytes()
with h5py.File("C.h5") as file:
    array = range(begin := file["matmul/C"].id.get_offset(), begin + file["matmul/C"].nbytes)
places = [at for at, byte in enumerate(whole) if byte and at not in array]
choose = random.Random(7)
for _ in range(250):
    at, bit = choose.choice(places), choose.randrange(8)
    spoilt = bytearray(whole)
    spoilt[at] ^= 1 << bit
    Path("D.h5").write_bytes(spoilt)
    for name, call in (("show", lambda path: show.command.callback(path, False)),
                       ("json", lambda path: show.command.callback(path, True)), ("verify", verify.command.callback)):
        child = os.fork()  # HDF5 itself aborts at a few of them, or never ends
        if child == 0:
            signal.signal(signal.SIGALRM, lambda *_: os._exit(3))  # called in Python only, not while HDF5 loops
            signal.alarm(60)
            resource.setrlimit(resource.RLIMIT_CPU, (5, 10))
            said = io.StringIO()
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                try:
                    status = int(call(Path("D.h5")))
                except BaseException as error:
                    status = 1
                    print(repr(error), file=said)
            if status == 65 and "D.h5" not in said.getvalue():
                status = 2
            if status in (1, 2):
                print(at, bit, name, status, said.getvalue(), flush=True)
            os._exit(status)
        _, ended = os.waitpid(child, 0)
        print(name, os.waitstatus_to_exitcode(ended), flush=True)
"""


def test_any_flipped_bit_that_hdf5_survives_is_told_or_harmless(hpcmpi, result):
    assert result.name == "C.h5"
    run = hpcmpi(0, program=("-c", FLIP_BITS))
    assert run.returncode == 0, run.stderr
    for command in ("show", "json", "verify"):
        statuses = [int(line.split()[1]) for line in run.stdout.splitlines() if line.startswith(f"{command} ")]
        assert len(statuses) == 250
        assert {status for status in statuses if status >= 0} == {0, 65}, run.stdout
        assert statuses.count(65) > 25
        own = (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGXCPU)
        assert sum(status in own for status in statuses) < 25, "more than HDF5's own"


@pytest.mark.parametrize("command", ["show", "verify"])
def test_a_folder_is_told_as_such(hpcmpi, tmp_path, command):
    (tmp_path / "sub").mkdir()
    run = hpcmpi(0, command, "sub")
    assert (run.returncode, run.stderr) == (65, "hpcmpi: error: sub: is a folder, not a file\n")


# doctor

FINDINGS = ["hpcmpi", "Python", "MPI library", "MPI loaded from", "mpi4py", "NumPy", "BLAS", "CBLAS", "Numba", "HDF5"]
FINDINGS += ["Launcher", "World", "Ranks per node", "Threads a rank", "Cores", "Memory", "Disk", "Shared memory"]


def finding(text: str, name: str) -> str:
    """The text beside ``name`` and the lines that continue it."""
    match = re.search(rf"^  {name}  +(.*(?:\n   .*)*)", text, re.MULTILINE)
    assert match, f"{name} is missing from:\n{text}"
    return " ".join(match[1].split())


def test_doctor_alone_tells_of_everything(hpcmpi, tmp_path):
    run = hpcmpi(0, "doctor")
    assert run.returncode == 0, run.stderr
    for name in FINDINGS:
        assert finding(run.stdout, name)
    assert finding(run.stdout, "Launcher") == "none: one process"
    assert finding(run.stdout, "World") == "1 rank, as launched"
    assert "libmpi" in finding(run.stdout, "MPI loaded from")
    assert "kernel" in finding(run.stdout, "BLAS")
    assert "threading layer" in finding(run.stdout, "Numba")
    assert "available" in finding(run.stdout, "Memory")
    assert names(tmp_path) == set()


def test_doctor_in_a_launch_tells_once_of_all_ranks_and_warns_of_too_many_threads(hpcmpi):
    cores = len(os.sched_getaffinity(0))
    run = hpcmpi(3, "doctor", OMP_NUM_THREADS=str(cores))
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("MPI library") == 1
    assert finding(run.stdout, "World") == "3 ranks, as launched"
    assert ", 3 ranks" in finding(run.stdout, "Launcher")
    assert finding(run.stdout, "Ranks per node") == f"{HOST}: 3"
    assert f"warning: 3 ranks x {cores} threads (OMP_NUM_THREADS) share" in finding(run.stdout, "Threads a rank")


def test_doctor_counts_the_ranks_of_each_node(hpcmpi):
    """MPICH can make its ranks believe that they are on two nodes."""
    run = hpcmpi(3, "doctor", MPIR_CVAR_NUM_CLIQUES="2")
    assert run.returncode == 0, run.stderr
    library = finding(run.stdout, "MPI library")
    assert finding(run.stdout, "Ranks per node") == (f"{HOST}: 2, {HOST}: 1" if "MPICH" in library else f"{HOST}: 3")


def test_doctor_warns_of_a_blas_kernel_that_was_forced(hpcmpi):
    forced = finding(hpcmpi(0, "doctor", OPENBLAS_CORETYPE="Nehalem").stdout, "BLAS")
    assert "warning: OPENBLAS_CORETYPE=Nehalem overrides the kernel" in forced
    assert "warning" not in finding(hpcmpi(0, "doctor", OPENBLAS_CORETYPE="").stdout, "BLAS")


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """Where the profile of the machine is looked for."""
    path = tmp_path / "config" / "hpcmpi" / "machine.json"
    monkeypatch.delenv("HPCMPI_MACHINE")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return path


def test_doctor_measures_and_saves_what_costs_are_priced_with(hpcmpi, profile):
    run = hpcmpi(2, "doctor", "--measure", "--save")
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == f"saved in {profile}"
    for name, unit in (("dgemm", "Gflop/s"), ("Memory read", "GB/s"), ("Allreduce", "us"), ("Link", "GB/s a rank")):
        assert unit in finding(run.stdout, name)
    first = strict_json(profile.read_text())
    rates = ("flops", "memory_bandwidth", "bandwidth", "latency", "allreduce_latency")
    assert all(first[name] > 0 for name in rates)
    # Alone there are no messages to time: those figures stay.
    assert hpcmpi(0, "doctor", "--measure", "--save").returncode == 0
    alone = strict_json(profile.read_text())
    assert [alone[name] for name in ("bandwidth", "latency")] == [first[name] for name in ("bandwidth", "latency")]
    assert str(profile) in finding(hpcmpi(0, "doctor").stdout, "Profile").replace(" ", "")
    profile.write_text(json.dumps({**alone, "flops": 1e6}))
    slow = hpcmpi(0, "matmul", "--n", 100, "--explain", "--json")
    assert strict_json(slow.stdout)[0]["seconds"] >= 2 / len(os.sched_getaffinity(0))
    assert strict_json(slow.stdout)[0]["profile"] == str(profile)
    assert f"{profile}" in hpcmpi(0, "matmul", "--n", 100, "--explain").stdout.replace("\n", "")


def test_without_a_profile_costs_are_priced_by_default_speeds(hpcmpi, profile):
    assert "default speeds" in finding(hpcmpi(0, "doctor").stdout, "Profile")
    plain = hpcmpi(0, "matmul", "--n", 100, "--explain")
    assert "Seconds by default speeds" in plain.stdout
    assert not profile.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no readable profile"),
        ("[1]", "names no processor"),
        ('{"processor": "another", "flops": 1e9}', "was measured on another machine (another, this is "),
        ('{"processor": "another", "latency": -1}', "latency is -1, not a number from 1e-12 to 1e+24"),
        ('{"processor": "another", "flops": 1%s}' % ("0" * 400), "not a number from 1e-12 to 1e+24"),
        ('{"processor": "another", "bandwidth": 1e-320}', "bandwidth is 1e-320, not a number"),
        ("[" * 100_000, "is no readable profile"),
    ],
)
def test_a_profile_that_cannot_be_used_is_told_once(profile, text, said):
    profile.parent.mkdir(parents=True)
    profile.write_text(text)
    with pytest.raises(InputError) as error:
        machine.profile()
    assert f"{profile}: " in str(error.value)
    assert said in str(error.value)
    assert "doctor --measure --save" in str(error.value)


def test_a_run_tells_of_a_profile_that_cannot_be_used_and_leaves_it_alone(hpcmpi, profile):
    text, said = '{"processor": "another", "flops": 1e9}', "was measured on another machine (another, this is "
    profile.parent.mkdir(parents=True)
    profile.write_text(text)
    run = hpcmpi(2, "matmul", "--n", 20, "--threads", 1, "--no-output")
    assert run.returncode == 0
    [told] = messages(run.stderr)
    assert f"warning: {profile}" in told
    assert said in told
    assert "doctor --measure --save" in told
    assert said.split(maxsplit=1)[0] in finding(hpcmpi(0, "doctor").stdout, "Profile")
    assert profile.read_text() == text


def test_a_profile_that_cannot_be_saved_leaves_nothing(profile):
    profile.mkdir(parents=True)
    with pytest.raises(OutputError, match="cannot be written"):
        machine.save_profile({"flops": 1e9})
    assert list(profile.parent.iterdir()) == [profile]


def test_all_ranks_exit_with_one_status_where_the_profile_cannot_be_saved(profile, tmp_path):
    profile.mkdir(parents=True)
    line = '"$0" -m hpcmpi doctor --measure --save; echo $? > status.$PMI_RANK'
    command = [mpirun(), "-n", "2", "bash", "-c", line, sys.executable]
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
    run = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.stderr.count("cannot be written") == 1
    assert [(tmp_path / f"status.{rank}").read_text() for rank in range(2)] == ["73\n"] * 2


def test_speeds_of_ranks_that_share_cores_are_not_saved(hpcmpi, profile):
    run = hpcmpi(len(os.sched_getaffinity(0)) + 1, "doctor", "--measure", "--save")
    assert run.returncode == 2
    assert run.stderr.count("hpcmpi: error: --save: speeds of ranks that share cores") == 1
    assert not profile.exists()


def test_measuring_is_refused_where_memory_is_short(monkeypatch):
    from types import SimpleNamespace

    from hpcmpi.commands.doctor import _cannot_measure

    place = SimpleNamespace(threads=SimpleNamespace(oversubscribed=None))
    world = SimpleNamespace(allgather=lambda x: [None, x])
    monkeypatch.setattr(machine, "available_memory", lambda: 1000)
    assert "--measure takes 1001 B" in str(_cannot_measure(world, place, 1001, save=False))
    assert _cannot_measure(world, place, 1000, save=True) is None


def test_saving_needs_measuring(hpcmpi):
    run = hpcmpi(0, "doctor", "--save")
    assert (run.returncode, "give both" in run.stderr) == (2, True)


def test_doctor_finds_that_launcher_and_library_disagree(hpcmpi):
    tasks = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4"}
    first, second = (hpcmpi(0, "doctor", SLURM_PROCID=rank, **tasks) for rank in ("0", "1"))
    assert (first.returncode, second.returncode) == (64, 64)
    assert "srun started 4 ranks, but MPI sees a world of 1" in finding(first.stdout, "World")
    assert "--mpi=pmi2" in finding(first.stdout, "World")
    assert finding(first.stdout, "Launcher") == "srun, 4 ranks, job 7, attempt 0"
    assert (second.stdout, second.stderr) == ("", "")


def test_tables_are_arrays_with_named_dimensions_and_out_of_the_way(hpcmpi, result):
    with h5py.File(result) as file:
        for name, dims in (("ranks", ["rank"]), ("phases", ["rank", "phase"])):
            table = file["matmul"][name]
            for column in table.values():
                assert column.dtype.names is None, "a compound, in which netCDF4 cuts strings to one character"
                if not column.is_scale:
                    assert [dim[0].name.rpartition("/")[2] for dim in column.dims] == dims
        assert h5py.check_string_dtype(file["matmul/ranks/host"].dtype).length is None
        assert [host.decode() for host in file["matmul/ranks/host"]] == [HOST] * 3
    run = hpcmpi(0, "reduce", "--input", "C.h5", "--no-output", "--json")  # the one array of the file is found
    assert run.returncode == 0, run.stderr
    assert strict_json(run.stdout)["size"].startswith("30 x 30")


def test_tables_of_older_files_are_shown(hpcmpi, result):
    said = strict_json(hpcmpi(0, "show", "--json", "C.h5").stdout)["matmul"]
    with h5py.File(result, "r+") as file:
        group = file["matmul"]
        kind = [("host", "S16"), ("pid", "i8"), ("node", "i4"), ("threads", "i4"),
                ("memory_baseline_bytes", "i8"), ("memory_peak_bytes", "i8")]  # fmt: skip
        ranks = np.array([tuple(rank[name] for name, _ in kind) for rank in said["ranks"]], kind)
        kind = [("seconds", "f8"), ("bytes_received", "i8"), ("messages", "i8")]
        cells = [[tuple(cell[name] for name, _ in kind) for cell in row] for row in said["phases"]]
        del group["ranks"], group["phases"]
        group["ranks"], group["phases"] = ranks, np.array(cells, kind)
        group["phases"].attrs["names"] = said["phase_names"]
    again = strict_json(hpcmpi(0, "show", "--json", "C.h5").stdout)["matmul"]
    assert again == said
    assert hpcmpi(0, "verify", "C.h5").returncode == 0
    assert f"3 ranks on {HOST}" in hpcmpi(0, "show", "C.h5").stdout
