"""Studies, ready scripts and the life of jobs under a real Slurm; every test opens what was left on the disk.

``pytest -m slurm`` runs them. Without Slurm's daemons they are skipped, or fail where HPCMPI_REQUIRE_SLURM is set.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
from cluster import EDGE, Cluster, why_not
from conftest import swept
from runs import HOST, alive, names, status

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).parents[2]
LONG = 'command = "sort"\n[params]\nn = "1e6"\nmemory = "256KiB"\n[run]\nranks = 2\nthreads = 1\noutput = "."\n'


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One cluster for all tests."""
    reason = why_not()
    if reason is not None:
        if os.environ.get("HPCMPI_REQUIRE_SLURM"):
            pytest.fail(f"HPCMPI_REQUIRE_SLURM is set, but {reason}")
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, swept():  # sockets want a short path
        up = Cluster(Path(folder))
        try:
            up.start()
            yield up
        finally:
            up.stop()


@pytest.fixture
def batch(cluster, tmp_path):
    """Run ``hpcmpi`` in the empty folder of the test; it must succeed."""
    return partial(succeed, cluster, tmp_path)


def succeed(cluster, folder, *argv):
    done = cluster.run("hpcmpi", *argv, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@dataclass(frozen=True)
class Early:
    """A job of ``LONG`` that stands still in its run while other tests go on: Slurm takes its time with what comes."""

    folder: Path
    element: str
    ranks: list[int]

    @classmethod
    def start(cls, cluster, folder, text, *options):
        (folder / "study.toml").write_text(text)
        (job,) = submitted(succeed(cluster, folder, "submit", "study.toml", *options))
        return cls(folder, f"{job}_0", stop(cluster, folder))


@pytest.fixture(scope="module", autouse=True)
def warned(cluster, tmp_path_factory):
    """A job whose time is nearly up."""
    folder = tmp_path_factory.mktemp("warned")
    job = Early.start(cluster, folder, LONG, "--time", 1, "--sbatch-option=--signal=USR1@52", "--nodes", 2)
    yield job
    go_on(job.ranks)


@pytest.fixture(scope="module", autouse=True)
def orphaned(cluster, tmp_path_factory):
    """A job on a node whose daemon has been killed."""
    folder = tmp_path_factory.mktemp("orphaned")
    job = Early.start(cluster, folder, LONG.replace("ranks = 2", "ranks = 1"), "--partition", "edge")
    cluster.kill_node(EDGE)
    yield job
    go_on(job.ranks)


def submitted(text):
    """Ids of the jobs that ``hpcmpi submit`` names."""
    return re.findall(r"^job (\d+):", text, re.MULTILINE)


def states(batch, study="study.toml"):
    return {name: (row["state"], row["detail"]) for name, row in json.loads(batch("status", study, "--json")).items()}


def check(path, command, ranks, *, nodes=None, **attributes):
    """The result of a job, which must be right and of so many ranks, on ``nodes`` nodes of this host."""
    with h5py.File(path) as file:
        group = file[command]
        about = dict(group.attrs)
        assert (about["complete"], about["verified"], about["ranks"]) == (True, True, ranks)
        assert [host.decode() for host in group["ranks"]["host"]] == [HOST] * ranks
        if nodes is not None:
            assert len(set(group["ranks"]["node"])) == nodes
        assert "slurm_job_id" in group["provenance"].attrs
        assert {name: about[name] for name in attributes} == attributes
        return {name: group[name][...] for name in ("keys",) if name in group}


def in_phase(folder, phase, name="sort.h5", attempt=0):
    if not (folder / f"{name}.status.json").exists():
        return False
    said = status(folder, name)
    return (said["phase"], said["attempt"], said["state"]) == (phase, attempt, "running")


def stop(cluster, folder, attempt=0, name="sort.h5"):
    """The processes of the job, which from now on stand still in its run."""
    cluster.wait_for(lambda: in_phase(folder, "run", name, attempt))
    ranks = [rank["pid"] for rank in status(folder, name)["ranks"]]
    for pid in ranks:
        os.kill(pid, signal.SIGSTOP)
    return ranks


def go_on(ranks):
    for pid in ranks:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def assert_sorted(path, ranks=2, nodes=2, **attributes):
    keys = check(path, "sort", ranks, nodes=nodes, **attributes)["keys"]
    assert keys.shape == (1_000_000,)
    assert (np.diff(keys) >= 0).all()


# As they stand

SCRIPTS = {
    "matmul": ("C", "--n", 64),
    "matvec": ("eigen", "--power-law", 500),
    "reduce": ("moments", "--n", 1000),
    "sort": ("sorted", "--n", 20000, "--memory", "64KiB"),
    "bfs": ("trees", "--scale", 7, "--roots", 3),
}


def test_the_ready_scripts_run_as_they_stand(cluster, tmp_path):
    shipped = {path.stem for path in (ROOT / "slurm").glob("*.sbatch")}
    assert shipped == {*SCRIPTS, "study"}
    jobs = {}
    for name, (_, *argv) in SCRIPTS.items():
        sent = cluster.run("sbatch", "--parsable", ROOT / f"slurm/{name}.sbatch", *argv, cwd=tmp_path)
        assert sent.returncode == 0, sent.stderr
        jobs[name] = sent.stdout.strip()
    (tmp_path / "study.toml").write_text('command = "sort"\n[params]\nn = 100\n[sweep]\nranks = [1, 3]\n')
    jobs["study"] = cluster.run(
        "sbatch", "--parsable", ROOT / "slurm/study.sbatch", "study.toml", cwd=tmp_path
    ).stdout.strip()
    ended = dict(zip(jobs, cluster.wait(*jobs.values()), strict=True))
    logs = {name: (tmp_path / f"{name}-{job}.out").read_text() for name, job in jobs.items()}
    assert ended == dict.fromkeys(jobs, "COMPLETED"), logs
    for name, (file, *_) in SCRIPTS.items():
        check(tmp_path / f"{file}-{jobs[name]}.h5", name, 4, nodes=2, job=jobs[name], attempt=0)
        assert f"{file}-{jobs[name]}.h5: {name}: verified" in logs[name]
        assert "mpi/pmi2" not in logs[name]  # what MPI asked was cut off: hpcmpi/pmi.py
    for ranks in (1, 3):
        check(tmp_path / f"hpcmpi-results/study/ranks{ranks}.h5", "sort", ranks)
    assert "2 points: 2 done" in logs["study"]


# Studies


def test_of_an_array_only_the_failed_element_is_run_again_and_what_depends_on_it_is_cancelled(cluster, batch, tmp_path):
    for name in ("one", "two", "three"):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(1).standard_normal(1000))
    (tmp_path / "study.toml").write_text(
        'command = "sort"\n[sweep]\ninput = ["one.npy", "two.npy", "three.npy"]\n'
        '[run]\nranks = 2\nthreads = 1\noutput = "out"\n[slurm]\nnodes = 2\n'
    )
    (tmp_path / "next.toml").write_text('command = "sort"\n[params]\nn = 10\n[run]\noutput = "next"\n')
    held = batch("submit", "study.toml", "--sbatch-option=--hold")
    (job,) = submitted(held)
    assert "3 points on 2 ranks" in held
    assert "inputone.npy: queued already" in batch("submit", "study.toml", "inputone.npy")
    (tmp_path / "two.npy").rename(tmp_path / "lost.npy")
    (after,) = submitted(batch("submit", "next.toml", "--after", "study.toml"))
    cluster.ask("scontrol", "release", job)
    assert cluster.wait(f"{job}_0", f"{job}_1", f"{job}_2") == ["COMPLETED", "FAILED", "COMPLETED"]
    cluster.wait_for(lambda: cluster.state(after) == "CANCELLED")
    found = states(batch)
    assert [word for word, _ in found.values()] == ["done", "failed", "done"]
    assert found["inputtwo.npy"][1] == f"two.npy: no such file; see out/slurm-{job}_1.log"
    assert "two.npy: no such file" in batch("logs", "study.toml", "inputtwo.npy")
    assert "Slurm: CANCELLED" in states(batch, "next.toml")["sort"][1]
    assert not (tmp_path / "next/sort.h5").exists()
    refused = cluster.run("hpcmpi", "submit", "next.toml", "--after", "study.toml", cwd=tmp_path)
    assert refused.returncode == 65
    assert "--after study.toml: inputtwo.npy is neither done nor under way in Slurm (failed: two.npy" in refused.stderr
    assert cluster.run("hpcmpi", "submit", "next.toml", "--after", 99999, cwd=tmp_path).returncode == 65

    (tmp_path / "lost.npy").rename(tmp_path / "two.npy")
    before = {name: (tmp_path / f"out/{name}.h5").stat().st_mtime_ns for name in ("inputone.npy", "inputthree.npy")}
    again = batch("submit", "study.toml")
    assert "1 point on 2 ranks" in again
    assert cluster.wait(*submitted(again)) == ["COMPLETED"]
    assert states(batch)["inputtwo.npy"][0] == "done"
    for name in ("one", "two", "three"):
        check(tmp_path / f"out/input{name}.npy.h5", "sort", 2, nodes=2)
    assert {name: (tmp_path / f"out/{name}.h5").stat().st_mtime_ns for name in before} == before
    assert "nothing to submit" in batch("submit", "study.toml")
    assert names(tmp_path / "next") == {"submit-1.sbatch", "submissions.jsonl"}


def test_a_wrong_mpi_is_refused_and_leaves_no_result(cluster, batch, tmp_path):
    (tmp_path / "study.toml").write_text(LONG)
    (job,) = submitted(batch("submit", "study.toml", "--mpi", "none"))
    assert cluster.wait(f"{job}_0") == ["FAILED"]
    log = (tmp_path / f"slurm-{job}_0.log").read_text()
    assert log.count("srun started 2 ranks, but MPI sees a world of 1") == 1
    assert "srun --mpi=pmi2" in log
    assert names(tmp_path) == {"study.toml", "submissions.jsonl", "submit-1.sbatch", f"slurm-{job}_0.log"}
    assert states(batch)["sort"][0] == "failed"


@pytest.mark.parametrize("late", [0, 1], ids=["rank 0 starts late", "rank 0 starts first"])
@pytest.mark.parametrize(
    ("options", "argv", "code", "message"),
    [
        (["--mpi=pmi2", "-n2"], ["sort", "--n", "many"], 2, "'many' is not a whole number"),
        (["--mpi=pmi2", "-N2", "-n4"], ["sort", "--n", "many"], 2, "'many' is not a whole number"),
        (["--mpi=none", "-n2"], ["sort", "--n", "9", "--no-output"], 64, "srun started 2 ranks, but MPI sees a world"),
        (["--mpi=pmi2", "-N2", "-n2"], ["sort", "--input", "no.npy", "--no-output"], 65, "no.npy: no such file"),
    ],
    ids=["usage", "usage on two nodes", "mismatch", "input"],
)
def test_srun_k1_shows_the_error_and_returns_its_status(cluster, tmp_path, options, argv, code, message, late):
    """``srun -K1`` ends all ranks by SIGTERM once one has exited with an error."""
    start = f'[ "$SLURM_PROCID" -eq {late} ] && sleep 0.5; exec "$@"'
    run = cluster.run("srun", "-K1", *options, "bash", "-c", start, "--", "hpcmpi", *argv, cwd=tmp_path)
    assert (run.returncode, run.stderr.count(message)) == (code, 1), run.stdout + run.stderr


@pytest.mark.parametrize(
    ("memory", "inherited"),
    [
        ("", {"SLURM_MEM_PER_NODE": "1000", "SLURM_NTASKS_PER_NODE": "1", "SBATCH_TIMELIMIT": "0:01"}),
        ('mem = "800M"\n', {"SLURM_MEM_PER_CPU": "500", "SLURM_TRES_PER_TASK": "cpu=3", "SRUN_CPUS_PER_TASK": "3"}),
    ],
    ids=["memory per CPU", "memory per node"],
)
def test_a_study_is_submitted_from_a_shell_inside_an_allocation(cluster, batch, tmp_path, memory, inherited):
    (tmp_path / "study.toml").write_text(
        'command = "reduce"\n[sweep]\nn = ["1e4", "2e4"]\n'
        f'[run]\nranks = 2\nthreads = 1\narrays = false\noutput = "out"\n[slurm]\ntime = "0:20:00"\n{memory}'
    )
    sent = cluster.run("hpcmpi", "submit", "study.toml", cwd=tmp_path, **inherited)
    (job,) = submitted(sent.stdout)
    assert cluster.wait(f"{job}_0", f"{job}_1") == ["COMPLETED"] * 2, batch("logs", "study.toml")
    assert {word for word, _ in states(batch).values()} == {"done"}
    again = tmp_path / "out/submit-1.sbatch"
    by_hand = cluster.run("sbatch", "--parsable", again, cwd=tmp_path, **inherited).stdout.strip()
    log = tmp_path / f"out/slurm-{by_hand}_0.log"
    cluster.wait(f"{by_hand}_0", f"{by_hand}_1")
    assert "mutually exclusive" not in log.read_text()


# The life of a job


def test_a_requeued_job_goes_on_and_cancel_leaves_nothing_half_done(cluster, batch, tmp_path):
    (tmp_path / "study.toml").write_text(LONG)
    (job,) = submitted(batch("submit", "study.toml", "--nodes", 2))
    element = f"{job}_0"
    ranks = stop(cluster, tmp_path)
    cluster.ask("scontrol", "requeue", element)
    go_on(ranks)
    cluster.release(element)
    assert cluster.wait(element) == ["COMPLETED"]
    assert_sorted(tmp_path / "sort.h5", job=element, attempt=1, resumed=1)

    before = (tmp_path / "sort.h5").read_bytes()
    (job,) = submitted(batch("submit", "study.toml", "--rerun", "--nodes", 2))
    element = f"{job}_0"
    cluster.wait_for(lambda: status(tmp_path, "sort.h5").get("job") == element)
    ranks = stop(cluster, tmp_path)
    assert f"sort: cancelled, {element}" in batch("cancel", "study.toml")
    go_on(ranks)
    assert cluster.wait(element) == ["CANCELLED"]
    assert status(tmp_path, "sort.h5")["state"] == "checkpointed"
    assert (tmp_path / "sort.h5").read_bytes() == before
    assert not any(name.endswith(".partial") for name in names(tmp_path))
    (job,) = submitted(batch("submit", "study.toml", "--rerun", "--nodes", 2))
    assert cluster.wait(f"{job}_0") == ["COMPLETED"]
    assert_sorted(tmp_path / "sort.h5", job=f"{job}_0", attempt=0, resumed=0)


def test_a_whole_study_in_one_job_is_cancelled_and_submitted_again(cluster, tmp_path):
    """By the ready script: what is done is not run again, and what was under way goes on from its checkpoint."""
    text = LONG.replace("[run]", "[sweep]\nseed = [1, 2]\n[run]")
    (tmp_path / "study.toml").write_text(text)
    send = ["sbatch", "--parsable", ROOT / "slurm/study.sbatch", "study.toml"]
    job = cluster.run(*send, cwd=tmp_path).stdout.strip()
    ranks = stop(cluster, tmp_path, name="seed2.h5")
    first = (tmp_path / "seed1.h5").read_bytes()
    cluster.ask("scancel", job)
    go_on(ranks)
    assert cluster.wait(job) == ["CANCELLED"]
    assert status(tmp_path, "seed2.h5")["state"] == "checkpointed"
    again = cluster.run(*send, cwd=tmp_path).stdout.strip()
    assert cluster.wait(again) == ["COMPLETED"]
    log = (tmp_path / f"study-{again}.out").read_text()
    assert "seed1: done before" in log
    assert "2 points: 2 done" in log
    assert (tmp_path / "seed1.h5").read_bytes() == first
    assert_sorted(tmp_path / "seed2.h5", nodes=None, job=again, resumed=1)


def test_a_study_under_slurm_gives_what_it_gives_here(cluster, batch, tmp_path):
    """Submitted and cancelled after its first point, and then run here to its end."""
    (tmp_path / "study.toml").write_text(
        'command = "sort"\n[params]\nn = 5000\n[sweep]\nseed = [1, 2]\n[run]\nranks = 2\nthreads = 1\n'
        'output = "out of #1, 50%"\n'
    )
    (job,) = submitted(batch("submit", "study.toml", "seed1"))
    assert cluster.wait(f"{job}_0") == ["COMPLETED"]
    assert "sort: 5000 float64 keys" in batch("logs", "study.toml", "seed1")
    batch("submit", "study.toml", "--sbatch-option=--hold")
    assert [word for word, _ in states(batch).values()] == ["done", "queued"]
    batch("cancel", "study.toml")
    under_slurm = (tmp_path / "out of #1, 50%/seed1.h5").read_bytes()
    assert "[1/1] seed2: done" in batch("run", "study.toml")
    assert (tmp_path / "out of #1, 50%/seed1.h5").read_bytes() == under_slurm
    shutil.move(tmp_path / "out of #1, 50%", tmp_path / "mixed")
    batch("run", "study.toml")
    for seed in (1, 2):
        with (
            h5py.File(tmp_path / f"out of #1, 50%/seed{seed}.h5") as here,
            h5py.File(tmp_path / f"mixed/seed{seed}.h5") as there,
        ):
            np.testing.assert_array_equal(here["sort/keys"], there["sort/keys"])


def test_ranks_that_outlive_their_killed_slurmd_cannot_replace_what_the_next_attempt_has_written(cluster, orphaned):
    folder, element = orphaned.folder, orphaned.element
    cluster.wait_for(lambda: cluster.state(element) == "PENDING")
    cluster.ask("scontrol", "update", f"jobid={element}", "Partition=main")
    cluster.release(element, orphaned=True)
    assert cluster.wait(element) == ["COMPLETED"]
    published = (folder / "sort.h5").read_bytes()
    (rank,) = orphaned.ranks
    assert alive(rank)
    go_on(orphaned.ranks)
    cluster.wait_for(lambda: not alive(rank))
    assert cluster.state(element) == "COMPLETED"
    assert (folder / "sort.h5").read_bytes() == published
    assert_sorted(folder / "sort.h5", ranks=1, nodes=1, attempt=1, job=element)
    assert status(folder, "sort.h5")["attempt"] == 1
    assert not any("checkpoint" in name or name.endswith(".partial") for name in names(folder))
    refused = f"sort.{element}.0.h5"  # the orphan has come to its end, too late
    assert (folder / refused).exists()
    check(folder / refused, "sort", 1, attempt=0)


def test_a_warning_before_the_limit_and_a_preemption_checkpoint_and_the_job_goes_on(cluster, warned):
    batch, folder, element = partial(succeed, cluster, warned.folder), warned.folder, warned.element
    cluster.wait_for(lambda: cluster.state(element) == "PENDING")
    word, detail = states(batch)["sort"]
    assert word == "requeued"
    assert re.match(r"attempt 0 checkpointed at run \d+%; waits \(", detail), detail
    assert names(folder) >= {"sort.h5.checkpoint1", "sort.h5.status.json"}
    assert "sort.h5" not in names(folder)
    cluster.ask("scontrol", "update", f"jobid={element}", "TimeLimit=5")
    cluster.release(element)

    stop(cluster, folder, attempt=1)
    assert states(batch)["sort"][0] == "running"
    urgent = ["-p", "high", "-N", "4", "-n", "4", "--exclusive", "--parsable", "--output=/dev/null", "--wrap=true"]
    high = cluster.ask("sbatch", *urgent)  # with SIGTERM, Slurm lets those that it preempts go on
    cluster.wait_for(lambda: cluster.state(high) == "COMPLETED")
    assert status(folder, "sort.h5")["state"] == "checkpointed"
    cluster.release(element)
    assert cluster.wait(element) == ["COMPLETED"]
    assert_sorted(folder / "sort.h5", attempt=2, resumed=2)
    assert not any("checkpoint" in name for name in names(folder))
    log = (folder / f"slurm-{element}.log").read_text()
    assert log.count("hpcmpi: goes on from sort.h5.checkpoint") == 2
