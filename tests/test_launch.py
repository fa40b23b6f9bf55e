"""What the environment of each launcher says, and when MPI contradicts it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import HERE, Run, mpirun

from hpcmpi.errors import LaunchError
from hpcmpi.launch import Launch, detect, ends_all_for_one, mismatch, ranks_of_the_node

ALLOCATION = {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "8", "SLURM_NPROCS": "8", "SLURM_CPUS_ON_NODE": "4"}
BATCH_SCRIPT = ALLOCATION | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
SRUN = ALLOCATION | {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_ID": "0"}
HYDRA = {"PMI_RANK": "1", "PMI_SIZE": "2"}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "3"}


@pytest.mark.parametrize(
    ("environ", "launcher", "rank", "size"),
    [
        ({}, None, 0, None),
        (SRUN, "srun", 5, 8),
        (SRUN | {"PMI_RANK": "5", "PMI_SIZE": "8"}, "PMI", 5, 8),
        (HYDRA, "PMI", 1, 2),
        (OPEN_MPI, "Open MPI", 2, 3),
        (ALLOCATION, None, 0, None),
        (BATCH_SCRIPT, None, 0, None),
        (ALLOCATION | HYDRA, "PMI", 1, 2),
        (BATCH_SCRIPT | HYDRA, "PMI", 1, 2),
        (BATCH_SCRIPT | OPEN_MPI, "Open MPI", 2, 3),
        (SRUN | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4"} | HYDRA, "PMI", 1, 2),
        ({"PMI_RANK": "1"}, None, 0, None),
        ({"PMI_SIZE": "2"}, None, 0, None),
        ({"SLURM_STEP_NUM_TASKS": "4"}, None, 0, None),
    ],
    ids=[
        "nothing",
        "srun",
        "srun --mpi=pmi2",
        "Hydra",
        "Open MPI",
        "salloc without a launcher",
        "batch script without srun",
        "Hydra inside salloc",
        "Hydra inside sbatch",
        "Open MPI inside sbatch",
        "Hydra whose proxies srun started, one a node",
        "rank without size",
        "size without rank",
        "step without rank",
    ],
)
def test_the_launcher_that_started_this_process_is_believed(environ, launcher, rank, size):
    launch = detect(environ)
    assert (launch.rank, launch.size) == (rank, size)
    assert launcher is None if launch.launcher is None else launcher in launch.launcher
    assert (launch.launcher is None) == (launcher is None)
    assert launch.node == socket.gethostname()


@pytest.mark.parametrize(
    ("environ", "job", "attempt"),
    [
        ({}, "", 0),
        ({"SLURM_JOB_ID": "77"}, "77", 0),
        ({"SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": "2"}, "77", 2),
        ({"SLURM_JOB_ID": "80", "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "3"}, "77_3", 0),
        ({"SLURM_JOB_ID": "80", "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "0"}, "77_0", 0),
        ({"SLURM_ARRAY_TASK_ID": "3"}, "", 0),
    ],
)
def test_job_and_attempt_are_slurms(environ, job, attempt):
    launch = detect(environ)
    assert (launch.job, launch.attempt) == (job, attempt)


def test_elements_of_an_array_are_different_jobs_and_requeues_are_the_same_one():
    def element(task, restarts):
        array = {"SLURM_JOB_ID": f"8{task}", "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": task}
        return detect(array | {"SLURM_RESTART_COUNT": restarts})

    assert element("1", "0").job != element("2", "0").job
    assert element("1", "0").job == element("1", "1").job


def launched(size, launcher="srun"):
    return Launch(launcher if size else None, 0, size, "node", "", 0)


@pytest.mark.parametrize(("size", "world"), [(None, 1), (1, 1), (8, 8), (None, 4)])
def test_no_complaint_where_launcher_and_mpi_agree_or_there_is_no_launcher(size, world):
    assert mismatch(launched(size), world) is None


@pytest.mark.parametrize(("size", "world"), [(8, 1), (2, 3), (1, 4)])
def test_a_mismatch_names_both_sizes_the_launcher_and_the_flag_to_use(size, world):
    reason = mismatch(launched(size), world)
    assert f"srun started {size} ranks, but MPI sees a world of {world}" in reason
    assert "--mpi=pmi2" in reason
    assert "--mpi=pmix" in reason


def test_srun_without_a_process_management_interface_is_a_mismatch_on_every_task():
    for task in range(4):
        launch = detect(ALLOCATION | {"SLURM_PROCID": str(task), "SLURM_STEP_NUM_TASKS": "4"})
        assert mismatch(launch, 1) is not None


def test_fewer_ranks_than_the_allocation_are_no_mismatch():
    assert mismatch(detect(BATCH_SCRIPT | HYDRA), 2) is None


@pytest.mark.parametrize(
    ("environ", "ranks"),
    [
        ({}, 1),
        ({"MPI_LOCALNRANKS": "4"}, 4),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "3"}, 3),
        ({"SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_NODEID": "2"}, 2),
        ({"SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_NODEID": "3"}, 1),
        ({"SLURM_STEP_TASKS_PER_NODE": "5"}, 5),
        ({"SLURM_STEP_TASKS_PER_NODE": "nonsense"}, 1),
    ],
)
def test_ranks_of_the_node_are_told_by_the_launcher(environ, ranks):
    assert ranks_of_the_node(environ) == ranks


# Launchers that end all ranks for one


@pytest.mark.parametrize(
    ("environ", "ends"),
    [
        ({}, False),
        (BATCH_SCRIPT, False),
        (SRUN, True),
        (SRUN | {"PMI_RANK": "5", "PMI_SIZE": "8"}, True),
        (SRUN | HYDRA | {"MPI_LOCALNRANKS": "2"}, False),
        (HYDRA | {"MPI_LOCALNRANKS": "2"}, False),
        (OPEN_MPI, True),
    ],
    ids=["nothing", "batch script", "srun", "srun --mpi=pmi2", "Hydra inside sbatch", "Hydra", "Open MPI"],
)
def test_launchers_that_end_all_ranks_when_one_exits_with_an_error(environ, ends):
    assert ends_all_for_one(environ) is ends


def srun_k1(folder, *argv, tasks, late=(), limit="", **variables):
    """Statuses and output of ``srun -K1 --mpi=none``, played: the first error ends the others by SIGTERM.

    ``late`` tasks start a second after the others; ``limit`` holds options of ulimit. Slurm reports the highest status,
    128 and the signal for a task that one has ended.
    """
    step = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": str(tasks)}
    step |= {"SLURM_STEP_TASKS_PER_NODE": str(tasks), "PYTHONPATH": str(HERE.parent), "TMPDIR": str(folder)}
    processes = []
    for task in range(tasks):
        delay = ("sleep 1;" if task in late else "") + (f"ulimit {limit};" if limit else "")
        command = ["bash", "-c", f'{delay} exec "$@"', "--", sys.executable, "-m", "hpcmpi", *argv]
        environment = os.environ | step | {"SLURM_PROCID": str(task)} | variables
        processes.append(
            subprocess.Popen(
                command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    deadline = time.monotonic() + 100
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        if any(process.poll() for process in processes):
            for process in processes:
                process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.005)
    output = "".join(text for process in processes for text in process.communicate(timeout=60))
    return [status if status >= 0 else 128 - status for status in (process.returncode for process in processes)], output


@pytest.mark.parametrize("late", [(), (0,), (1, 2)], ids=["together", "rank 0 late", "rank 0 first"])
@pytest.mark.parametrize(
    ("argv", "variables", "status", "message"),
    [
        (["sort", "--n", "many"], {}, 2, "'many' is not a whole number"),
        (["no-such-command"], {}, 2, "No such command 'no-such-command'"),
        (["sort", "--n", "9", "--no-output"], {}, 64, "srun started 3 ranks, but MPI sees a world of 1"),
        (["sort", "--n", "9", "--no-output"], {"MPI4PY_LIBMPI": "/missing/libmpi.so"}, 64, "mpi4py cannot load"),
        (["sort", "--n", "many"], {"SLURM_RESTART_COUNT": "x"}, 64, "SLURM_RESTART_COUNT is 'x'"),
        (["sort", "--n", "9", "--no-output"], {"SLURM_NODEID": "x"}, 64, "SLURM_NODEID is 'x'"),
    ],
    ids=["option", "command", "mismatch", "no library", "launch", "node"],
)
def test_rank_0_reports_before_the_launcher_ends_it_and_every_rank_exits_with_its_own_status(
    tmp_path, argv, variables, status, message, late
):
    statuses, output = srun_k1(tmp_path, *argv, tasks=3, late=late, **variables)
    assert (statuses, output.count(message)) == ([status] * 3, 1), output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("late", [(), (0,), (1, 2)], ids=["together", "rank 0 late", "rank 0 first"])
@pytest.mark.parametrize("argv", [["sort", "--n", "9", "--no-output"], ["doctor"]], ids=["job", "doctor"])
def test_a_limit_too_low_to_start_is_reported_before_the_launcher_ends_the_rank(tmp_path, argv, late):
    statuses, output = srun_k1(tmp_path, *argv, tasks=3, late=late, limit="-n 24")
    assert (statuses, output.count("allows each process 24 open files")) == ([75] * 3, 1), output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("late", [(0,), (1, 2)], ids=["rank 0 late", "rank 0 first"])
def test_a_command_that_rank_0_does_alone_ends_with_its_status(tmp_path, late):
    statuses, output = srun_k1(tmp_path, "show", "missing.h5", tasks=3, late=late)
    assert (max(statuses), output) == (65, "hpcmpi: error: missing.h5: no such file\n")


def test_an_exception_before_mpi_starts_is_reported_once_with_70(tmp_path):
    (tmp_path / "tomllib.py").write_text("raise ImportError('no tomllib here')\n")
    path = os.pathsep.join([str(tmp_path), str(HERE.parent)])
    statuses, output = srun_k1(tmp_path, "status", "study.toml", tasks=2, late=(0,), PYTHONPATH=path)
    assert (max(statuses), output.count("ImportError: no tomllib here")) == (70, 1)


def test_a_usage_error_is_reported_once_under_mpirun(tmp_path):
    run = subprocess.run(
        [mpirun(), "-n", "2", sys.executable, "-m", "hpcmpi", "sort", "--n", "many"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(HERE.parent), "TMPDIR": str(tmp_path)}, capture_output=True,
        text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (run.returncode, run.stderr.count("'many' is not a whole number")) == (2, 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"PMI_RANK": "", "PMI_SIZE": "2"}, "PMI_RANK= and PMI_SIZE=2"),
        ({"PMI_RANK": "0", "PMI_SIZE": " "}, "those of no rank"),
        ({"PMI_RANK": "x", "PMI_SIZE": "2"}, "PMI_RANK is 'x'"),
        ({"PMI_RANK": "-1", "PMI_SIZE": "2"}, "PMI_RANK is '-1'"),
        ({"PMI_RANK": "2", "PMI_SIZE": "2"}, "those of no rank"),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "two"}, "OMPI_COMM_WORLD_SIZE is 'two'"),
        (SRUN | {"SLURM_PROCID": "0.5"}, "SLURM_PROCID is '0.5'"),
        ({"SLURM_RESTART_COUNT": "-1"}, "SLURM_RESTART_COUNT is '-1'"),
        (SRUN | {"SLURM_NODEID": "x"}, "SLURM_NODEID is 'x'"),
        (OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "x"}, "OMPI_COMM_WORLD_LOCAL_SIZE is 'x'"),
        (HYDRA | {"MPI_LOCALNRANKS": "x"}, "MPI_LOCALNRANKS is 'x'"),
        ({"SLURM_RESTART_COUNT": "9" * 5000}, r"SLURM_RESTART_COUNT is '9{100,}\.\.\.9{60,}'"),
    ],
)
def test_what_is_no_number_is_refused(environ, told):
    with pytest.raises(LaunchError, match=told):
        detect(environ)


def test_a_blank_variable_is_as_good_as_none():
    blank = {"SLURM_RESTART_COUNT": " ", "PMI_RANK": "", "PMI_SIZE": "", "SLURM_ARRAY_TASK_ID": ""}
    assert detect(ALLOCATION | blank) == detect(ALLOCATION)
    assert ranks_of_the_node({"MPI_LOCALNRANKS": "", "SLURM_NODEID": "", "SLURM_STEP_TASKS_PER_NODE": ""}) == 1
    assert ranks_of_the_node({"MPI_LOCALNRANKS": "0"}) == ranks_of_the_node({"SLURM_STEP_TASKS_PER_NODE": "0"}) == 1


NUMBERS = [
    *("PMI_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    *("MPI_LOCALNRANKS", "SLURM_NODEID", "SLURM_RESTART_COUNT", "SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU"),
    *("SLURM_CPUS_ON_NODE", "SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
]


@pytest.mark.parametrize("value", ["", "junk", "-1"])
def test_no_variable_that_should_hold_a_number_ends_in_a_traceback(hpcmpi: Run, value):
    run = hpcmpi(0, "matmul", "--n", 4, "--no-output", **dict.fromkeys(NUMBERS, value))
    assert "Traceback" not in run.stderr
    assert run.returncode == (0 if not value else 64)
    assert (run.returncode == 0) == ("hpcmpi: error: the environment variable" not in run.stderr)
    run = hpcmpi(0, "matmul", "--n", 4, "--no-output", SLURM_MEM_PER_CPU=value, OMP_NUM_THREADS=value)
    assert "Traceback" not in run.stderr
    assert run.returncode == (0 if not value else 64), run.stderr


@pytest.mark.parametrize(("option", "limit", "told"), [("-v", 500_000, "address space"), ("-n", 24, "24 open files")])
def test_limits_too_low_to_start_are_refused(option, limit, told):
    """By a shell, so that the limit is that of a user's terminal or batch script."""
    line = f'ulimit {option} {limit}; exec "$0" -m hpcmpi matmul --n 4 --no-output'
    run = subprocess.run(["bash", "-c", line, sys.executable], capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 75, run.stderr
    assert told in run.stderr
    assert "Traceback" not in run.stderr


def test_where_one_rank_alone_has_no_room_to_start_the_others_do_not_wait_for_it():
    line = '[ $PMI_RANK = 1 ] && ulimit -n 24; exec "$0" -m hpcmpi matmul --n 4 --no-output'
    command = [mpirun(), "-n", "2", "bash", "-c", line, sys.executable]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (run.returncode != 0, run.stderr.count("rank 1")) == (True, 1), run.stderr
    assert "24 open files" in run.stderr


def test_a_soft_limit_on_files_is_raised():
    line = 'ulimit -Sn 20; exec "$0" -m hpcmpi matmul --n 4 --no-output'
    run = subprocess.run(["bash", "-c", line, sys.executable], capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 0, run.stderr
