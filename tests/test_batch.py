"""Studies: points run here, sbatch scripts, and what became of each point; Slurm's queue is played where it is needed.

``tests/slurm`` has the real one.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import HERE, swept
from runs import alive, wait_for

from hpcmpi import __version__ as hpcmpi_version
from hpcmpi import cli
from hpcmpi.batch import jobfile, local, slurm, submissions
from hpcmpi.batch.estimates import Estimate, estimates
from hpcmpi.batch.script import Part, parts, script
from hpcmpi.batch.slurm import Element
from hpcmpi.batch.state import Word, on_disk
from hpcmpi.errors import InputError, UsageError
from hpcmpi.record import asked, identity

STUDY = """\
command = "sort"
[params]
n = 1000
[sweep]
ranks = [1, 2]
[run]
threads = 1
arrays = false
output = "out"
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HPCMPI_CLUSTERS", str(tmp_path / "clusters.toml"))
    monkeypatch.setenv("PYTHONPATH", str(HERE.parent))
    return tmp_path


@pytest.fixture
def study(here):
    (here / "study.toml").write_text(STUDY)
    return jobfile.read(Path("study.toml"))


def said(capsys, *argv):
    """Exit status, standard output and standard error of a command in this process."""
    status = cli.parse([str(word) for word in argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


# Here


def test_a_study_is_run_once_and_what_changes_is_run_again(hpcmpi, tmp_path):
    (tmp_path / "study.toml").write_text(STUDY)
    first = hpcmpi(0, "run", "study.toml")
    assert first.returncode == 0, first.stderr + first.stdout
    assert re.search(r"^2 of 2 points to run, about \d+ s by their costs$", first.stdout, re.MULTILINE)
    assert re.search(
        r"^\[2/2\] ranks2: done, [\d.]+ s, [\d.]+ .?key/s, verified \(\d+ s\)$", first.stdout, re.MULTILINE
    )
    for ranks in (1, 2):
        with h5py.File(tmp_path / f"out/ranks{ranks}.h5") as file:
            assert (file["sort"].attrs["ranks"], file["sort"].attrs["verified"]) == (ranks, True)
            assert "keys" not in file["sort"]
        assert "verified" in (tmp_path / f"out/ranks{ranks}.log").read_text()
    written = [(tmp_path / f"out/ranks{ranks}.h5").stat().st_mtime_ns for ranks in (1, 2)]
    again = hpcmpi(0, "run", "study.toml")
    assert (again.returncode, again.stdout.splitlines()[-1]) == (0, "nothing to run: all points are done")
    assert [(tmp_path / f"out/ranks{ranks}.h5").stat().st_mtime_ns for ranks in (1, 2)] == written

    # One result of another seed, and one that is to be checked though it was not: only these are run.
    (tmp_path / "study.toml").write_text(STUDY.replace("n = 1000", "n = 1000\nseed = 2"))
    other = hpcmpi(0, "run", "study.toml", "ranks2")
    assert other.returncode == 0, other.stderr
    assert "[1/1] ranks2: the result there is of other parameters: it is replaced" in other.stdout
    assert (tmp_path / "out/ranks1.h5").stat().st_mtime_ns == written[0]
    with h5py.File(tmp_path / "out/ranks2.h5") as file:
        assert file["sort"].attrs["seed"] == 2
    lines = hpcmpi(0, "status", "study.toml").stdout.splitlines()
    assert lines[0] == "ranks1  pending  the result there is of other parameters"
    assert re.fullmatch("ranks2  done     in order, checksum [0-9a-f]+ as that of the input", lines[1])
    assert lines[2] == "2 points: 1 pending, 1 done"


def test_a_failed_point_does_not_keep_others_from_running(hpcmpi, tmp_path):
    text = 'command = "sort"\n[sweep]\nzip = { n = [10, 20], memory = ["1MiB", "1MiB"], scratch = ["here", "gone"] }\n'
    (tmp_path / "here").mkdir()
    (tmp_path / "gone").mkdir()
    (tmp_path / "study.toml").write_text(text + '[run]\noutput = "out"\n')
    # It is there when costs are asked for, and is gone when the point runs.
    launcher = "bash -c 'rmdir gone 2>/dev/null; shift 2; exec \"$@\"' --"
    run = hpcmpi(0, "run", "study.toml", "--launcher", launcher)
    assert run.returncode == 2, run.stdout
    assert "[1/2] n10-memory1MiB-scratchhere: done" in run.stdout
    assert "--scratch gone: no such folder; see out/n20-memory1MiB-scratchgone.log" in run.stdout
    assert "1 of 2 points are not done" in run.stderr
    (tmp_path / "gone").mkdir()
    silent = hpcmpi(0, "run", "study.toml", "n20-memory1MiB-scratchgone", "--launcher", "false")
    assert "n20-memory1MiB-scratchgone: failed with status 1: without a word" in silent.stdout  # not what was before
    (tmp_path / "gone").rmdir()
    told = hpcmpi(0, "status", "study.toml").stdout.splitlines()
    assert told[1].split(maxsplit=1)[1] == "failed  --scratch gone: no such folder"


def test_what_cannot_be_run_is_refused_before_anything_is(hpcmpi, tmp_path):
    (tmp_path / "study.toml").write_text('command = "sort"\n[params]\ninput = "missing.h5"\n')
    run = hpcmpi(0, "run", "study.toml")
    assert run.returncode == 65
    assert run.stderr == "planning 1 point ...\nhpcmpi: error: sort: missing.h5: no such file\n"
    (tmp_path / "study.toml").write_text(STUDY)
    run = hpcmpi(0, "run", "study.toml", "--launcher", "no-such-mpirun")
    assert run.returncode == 2
    assert "no-such-mpirun: no such launcher" in run.stderr


def test_a_study_that_is_asked_to_stop_ends_its_ranks_and_goes_on_later(tmp_path):
    (tmp_path / "study.toml").write_text('command = "matmul"\n[params]\nn = 1500\n[run]\nranks = 2\nrepeats = 10000\n')
    command = [sys.executable, "-m", "hpcmpi", "run", "study.toml"]
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
    with (
        swept(),
        subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        path = tmp_path / "hpcmpi-results/study/matmul.h5.status.json"
        wait_for(lambda: path.exists() and json.loads(path.read_text())["phase"] == "run")
        state = json.loads(
            subprocess.check_output([*command[:3], "status", "study.toml", "--json"], cwd=tmp_path, env=environment)
        )
        assert state["matmul"]["state"] == "running"
        assert state["matmul"]["detail"].startswith("run")
        second = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert second.returncode == 73
        assert f"process {process.pid} runs it now" in second.stderr
        cancelled = subprocess.check_output(
            [*command[:3], "cancel", "study.toml"], cwd=tmp_path, env=environment, text=True
        )
        assert f"process {process.pid}, which runs it here, is asked to stop" in cancelled
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.endswith("stopped; run it again to go on\n")
    status = json.loads(path.read_text())
    assert (status["state"], status["status"]) == ("failed", 143)
    for rank in status["ranks"]:
        wait_for(lambda pid=rank["pid"]: not alive(pid))


def test_a_terminal_sees_how_far_a_run_is_and_a_log_does_not(tmp_path):
    (tmp_path / "study.toml").write_text(STUDY.replace("[1, 2]", "[2]"))
    command = [sys.executable, "-m", "hpcmpi", "run", "study.toml"]
    screen, terminal = os.openpty()
    with swept():
        ended = subprocess.run(
            command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(HERE.parent)}, stdout=subprocess.PIPE,
            stderr=terminal, text=True, check=False, timeout=120,
        )  # fmt: skip
    os.close(terminal)
    shown = os.read(screen, 1 << 16).decode()
    os.close(screen)
    assert ended.returncode == 0, ended.stdout + shown
    seen = re.findall(r"\r\033\[K\[1/1\] ranks2 \(about \d+ s\): (\w+)", shown)
    assert seen[0] == "start"
    assert set(seen) > {"start"}, "a phase of its status file"
    assert shown.endswith("\r\033[K")
    assert "\033" not in ended.stdout
    assert "[1/1] ranks2: done" in ended.stdout


# sbatch scripts


def test_dry_run_prints_what_would_be_submitted_and_does_nothing(study, capsys, here):  # noqa: ARG001 - the job file
    (here / "clusters.toml").write_text(
        'default = "hills"\n[hills]\npartition = "long"\naccount = "physics"\nsetup = ["module load mpi"]\n'
        'options = ["--exclusive"]\n'
    )
    status, out, _ = said(
        capsys, "submit", "study.toml", "--dry-run", "--partition", "short", "--after", "17", "--after", "18_1",
        "--sbatch-option=--mail-type=END",
    )  # fmt: skip
    assert status == 0
    first, second = out.split("\n\n#!/bin/bash\n")
    for text, ranks in ((first, 1), (second, 2)):
        for line in (
            "#SBATCH --job-name=study", "#SBATCH --array=0-0", f"#SBATCH --ntasks={ranks}", "#SBATCH --cpus-per-task=1",
            "#SBATCH --time=00:06:00", "#SBATCH --mem-per-cpu=512M", "#SBATCH --partition=short",
            "#SBATCH --account=physics", f"#SBATCH --output={here}/out/slurm-%A_%a.log", "#SBATCH --open-mode=append",
            "#SBATCH --requeue", "#SBATCH --signal=USR1@60", "#SBATCH --kill-on-invalid-dep=yes",
            "#SBATCH --dependency=afterok:17:18_1", "#SBATCH --exclusive", "#SBATCH --mail-type=END",
            f"cd {here} || exit 73",
            "module load mpi",
            f"0) point=(sort --n 1000 --ranks {ranks} --threads 1 --no-arrays -o out/ranks{ranks}.h5) ;;",
            "exit $rc",
        ):  # fmt: skip
            assert line in text.splitlines(), line
        assert f"srun -K1 --mpi=pmi2 --ntasks={ranks} " in text
    assert sorted(path.name for path in here.iterdir()) == ["clusters.toml", "study.toml"]
    assert subprocess.run(["bash", "-n"], input=out, text=True, check=False).returncode == 0


def test_points_of_one_size_make_one_array(here):
    text = 'command = "sort"\n[sweep]\nn = [1000, 2000, "4e9"]\nranks = [1, 2]\n'
    (here / "study.toml").write_text(text)
    study = jobfile.read(Path("study.toml"))
    expected = [
        Estimate(600.0 if "4e9" in point.name else 1.0, point.job.params.n * 8 + 2**28) for point in study.points
    ]
    made = parts(study.points, expected, {})
    assert [[point.name for point in part.points] for part in made] == [
        ["n1000-ranks1", "n2000-ranks1"],
        ["n4e9-ranks1"],
        ["n1000-ranks2", "n2000-ranks2"],
        ["n4e9-ranks2"],
    ]
    assert (made[0].time, made[0].memory) == ("00:06:00", "--mem-per-cpu=384M")
    assert (made[1].time, made[1].memory) == ("01:12:00", "--mem-per-cpu=49152M")
    given = parts(study.points, expected, {"time": "2", "mem": "4G"})
    assert [(len(part.points), part.time, part.memory) for part in given] == [(3, "2", "--mem=4G")] * 2
    assert "--signal=USR1@24" in script(study, given[0], {}, "pmi2")
    assert "--array=0-2" in script(study, given[0], {}, "pmi2")


MANY = """\
command = "sort"
[params]
n = 1000
[sweep]
seed = %s
[run]
threads = 1
output = "out"
"""


@pytest.mark.parametrize("count", [50, 1500])
def test_one_process_prices_all_points(here, count):
    """Processor time, which other processes do not lengthen: 50 processes would take a minute."""
    (here / "study.toml").write_text(MANY % list(range(count)))
    command = [sys.executable, "-m", "hpcmpi", "submit", "study.toml", "--dry-run", "--mpi", "pmi2"]
    before = os.times()
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    after = os.times()
    seconds = after.children_user - before.children_user + after.children_system - before.children_system
    assert done.stderr == f"planning {count} points ...\n"
    assert done.stdout.count(" --seed ") == count
    assert seconds < (6 if count == 50 else 20)


def test_prices_are_those_that_explain_shows(here):
    (here / "study.toml").write_text(
        'command = "matmul"\n[sweep]\nn = [1000, 4000]\nranks = [1, 6]\nthreads = [1, 3]\n[run]\nrepeats = 2\n'
    )
    points = jobfile.read(Path("study.toml")).points
    for point, found in zip(points, estimates(points), strict=True):
        command = [sys.executable, "-m", "hpcmpi", *point.argv(), "--explain", "--json"]
        plan = json.loads(subprocess.check_output(command))[0]
        assert found.memory == plan["memory"] + 2**28
        assert found.seconds == pytest.approx(1 + 2 * plan["seconds"] + plan["output"] / 3e8)


def test_the_first_point_that_cannot_be_run_is_named(here):
    np.save(here / "good.npy", np.arange(9.0))
    (here / "study.toml").write_text('command = "sort"\n[sweep]\ninput = ["good.npy", "bad.npy"]\n')
    with pytest.raises(InputError, match=r"^inputbad\.npy: bad\.npy: no such file$"):
        estimates(jobfile.read(Path("study.toml")).points)


def test_nothing_is_priced_where_time_and_memory_are_given(study, capsys, monkeypatch):  # noqa: ARG001 - the job file
    monkeypatch.setattr("hpcmpi.batch.estimates.estimates", lambda _points: pytest.fail("it is priced"))
    status, out, err = said(capsys, "submit", "study.toml", "--dry-run", "--mpi", "pmi2", "--time", 5, "--mem", "1G")
    assert (status, err, out.count("#SBATCH --mem=1G\n")) == (0, "", 2)


def test_status_of_many_results_reads_only_what_it_shows(here):
    (here / "study.toml").write_text(MANY % list(range(300)))
    for point in jobfile.read(Path("study.toml")).points:
        write_result(point)
    command = [sys.executable, "-m", "hpcmpi", "status", "study.toml"]
    before = os.times()
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    after = os.times()
    assert shown.endswith("300 points: 300 done\n")
    assert after.children_user - before.children_user < 4


def test_the_line_of_an_error_behind_a_list_of_many_lines_is_found_at_once(here):
    lines = "\n".join(f"  {seed}," for seed in range(1500))
    (here / "study.toml").write_text((MANY % f"[\n{lines}\n]").replace('output = "out"', "output = 3"))
    before = os.times()
    with pytest.raises(InputError, match=r"study\.toml:1509: run\.output: is the name of a folder"):
        jobfile.read(Path("study.toml"))
    assert os.times().user - before.user < 2


# Inside an allocation

ALLOCATION = {
    "SLURM_JOB_ID": "7", "SLURM_MEM_PER_NODE": "1000", "SLURM_MEM_PER_CPU": "500", "SLURM_MEM_PER_GPU": "900",
    "SLURM_CPUS_PER_TASK": "3", "SLURM_NTASKS": "5", "SLURM_NTASKS_PER_NODE": "5", "SLURM_TRES_PER_TASK": "cpu:3",
    "SLURM_EXPORT_ENV": "NONE", "SRUN_CPUS_PER_TASK": "3", "SBATCH_TIMELIMIT": "1", "SBATCH_MEM_PER_NODE": "9",
    "SBATCH_OUTPUT": "elsewhere", "SBATCH_ARRAY_INX": "0-9", "SBATCH_WAIT": "1",
}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ((), {"SBATCH_ACCOUNT", "SBATCH_PARTITION", "SBATCH_QOS"}),
        (("--partition", "short"), {"SBATCH_ACCOUNT", "SBATCH_QOS"}),
        (("--sbatch-option=-A physics", "--sbatch-option=--qos=low"), {"SBATCH_PARTITION"}),
    ],
    ids=["defaults", "partition", "free options"],
)
def test_the_variables_of_an_allocation_and_of_the_shell_do_not_change_what_is_submitted(
    study, here, capsys, monkeypatch, options, kept
):  # fmt: skip
    """The user's defaults remain where nothing else is given."""
    defaults = dict.fromkeys(("SBATCH_ACCOUNT", "SBATCH_PARTITION", "SBATCH_QOS"), "mine")
    for name, value in (ALLOCATION | defaults | {"SLURM_CONF": "/etc/slurm.conf", "SQUEUE_PARTITION": "x"}).items():
        monkeypatch.setenv(name, value)
    (here / "bin").mkdir()
    (here / "bin/sbatch").write_text('#!/bin/bash\nenv | grep -E "^(SLURM|SBATCH|SRUN)_" > "$0.environment"; echo 12\n')
    (here / "bin/squeue").write_text('#!/bin/bash\nenv | grep "^SQUEUE_" > "$0.environment"\n')
    for program in ("sbatch", "squeue"):
        (here / "bin" / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{here}/bin:{os.environ['PATH']}")
    status, out, err = said(capsys, "submit", "study.toml", "ranks1", "--mpi", "pmi2", "--time", 5, *options)
    assert (status, out.count("job 12: ")) == (0, 1), err
    inherited = (here / "bin/sbatch.environment").read_text().splitlines()
    assert {line.partition("=")[0] for line in inherited} == kept | {"SLURM_CONF"}
    said(capsys, "status", "study.toml")
    assert (here / "bin/squeue.environment").read_text() == ""
    assert study.points[0].name == "ranks1"


@pytest.mark.parametrize(
    ("memory", "foreign"),
    [("--mem=4G", "SLURM_MEM_PER_CPU SLURM_MEM_PER_GPU"), ("--mem-per-cpu=9M", "SLURM_MEM_PER_NODE SLURM_MEM_PER_GPU")],
)
def test_a_script_that_is_submitted_by_hand_unsets_memory_limits_of_an_allocation(study, memory, foreign):
    text = script(study, Part(study.points[:1], "5", memory), {}, "pmi2")
    assert f"\nunset {foreign}\n" in text
    assert text.index("unset") < text.index("srun -K1")


@pytest.mark.parametrize(
    ("attempt", "state", "restarts", "requeued"),
    [
        (1, "checkpointed", 1, True),
        (0, "checkpointed", 1, False),
        (1, "failed", 1, False),
        (1, "checkpointed", 2, False),
    ],
)
def test_the_script_requeues_what_has_checkpointed_though_srun_tells_otherwise(
    study, here, attempt, state, restarts, requeued
):
    """``srun`` fails with 137; the status file tells the truth, and scontrol whether Slurm has begun it anew."""
    text = script(study, parts(study.points[:1], [Estimate(1, 1)], {})[0], {}, "pmi2")
    content = {"state": state, "attempt": attempt, "job": "7_0", "argv": []}
    written = json.dumps(content, indent=1)
    programs = {
        "srun": f"mkdir -p out; echo '{written}' > out/ranks1.h5.status.json; exit 137",
        "scontrol": f'echo "$@" >> asked; echo "   Requeue=1 Restarts={restarts} BatchFlag=1"',
    }
    for name, body in programs.items():
        (here / name).write_text(f"#!/bin/bash\n{body}\n")
        (here / name).chmod(0o755)
    slurm_says = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0", "SLURM_RESTART_COUNT": "1"}
    environment = os.environ | slurm_says | {"PATH": f"{here}:{os.environ['PATH']}"}
    ended = subprocess.run(["bash", "-c", text], cwd=here, env=environment, check=False)
    assert ended.returncode == (137 if state == "failed" or attempt == 0 else 85)
    asked = (here / "asked").read_text() if (here / "asked").exists() else ""
    assert ("requeue 7_0" in asked) is requeued


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--time", "soon"], "--time: 'soon' is not a time"),
        (["--mem", "much"], "--mem: 'much' is not a size"),
        (["--sbatch-option", "exclusive"], "--sbatch-option: 'exclusive' is no option of sbatch"),
        (["--profile", "x"], "profile 'x': there is no file"),
        (["--after", "study.toml"], "--after study.toml: ranks1 is neither done nor under way in Slurm (pending)"),
        (["--after", "12 --hold"], "--after 12 --hold: is neither a job's id, such as 12 or 12_0, nor a job file"),
        (
            ["--sbatch-option=--output=x"],
            "--sbatch-option: '--output=x': --output is what hpcmpi submit sets by itself",
        ),
        (["--sbatch-option=-a 3-4"], "--sbatch-option: '-a 3-4': --array is what hpcmpi submit sets by itself"),
    ],
)
def test_options_of_submit_are_checked(study, capsys, options, what):  # noqa: ARG001 - the job file is needed
    status, _, err = said(capsys, "submit", "study.toml", "--dry-run", *options)
    assert status in (2, 65)
    assert what in err


def test_what_slurm_has_forgotten_or_has_failed_is_nothing_to_wait_for(study, capsys, monkeypatch):
    """sbatch takes `afterok` of a job that it does not know as fulfilled."""
    monkeypatch.setattr(slurm, "available", lambda: True)
    monkeypatch.setattr(slurm, "queue", dict)
    monkeypatch.setattr(slurm, "knows", lambda job: job == "12")
    monkeypatch.setattr(slurm, "submit", lambda _path: pytest.fail("it is submitted"))
    status, _, err = said(capsys, "submit", "study.toml", "--after", "12", "--after", "13")
    assert (status, err) == (65, "hpcmpi: error: --after 13: Slurm does not know this job, or no longer\n")
    Path("before.toml").write_text(STUDY.replace('"out"', '"before"'))
    Path("before").mkdir()
    submissions.record(Path("before"), "7", Path("submit-1.sbatch"), study.points)
    status, _, err = said(capsys, "submit", "study.toml", "--after", "before.toml")
    assert status == 65
    assert (
        "--after before.toml: ranks1 is neither done nor under way in Slurm (stopped: left the queue before it began)"
        in err
    )
    assert not list(Path("out").glob("submit-*"))


def test_what_is_refused_leaves_no_script_and_two_do_not_submit_at_once(study, capsys, monkeypatch):
    monkeypatch.setattr(slurm, "available", lambda: True)
    monkeypatch.setattr(slurm, "queue", dict)

    def refuse(_path):
        raise UsageError("sbatch: error: Invalid account")

    monkeypatch.setattr(slurm, "submit", refuse)
    words = "planning 2 points ...\nhpcmpi: error: sbatch: error: Invalid account\n"
    assert said(capsys, "submit", "study.toml") == (2, "", words)
    assert not list(Path("out").glob("submit*"))
    with local.held(study.folder, "submits"):
        status, _, err = said(capsys, "submit", "study.toml")
    assert status == 73
    assert f"out: process {os.getpid()} submits it now; try again when it has ended" in err


def test_where_slurm_does_not_answer_the_disk_tells(study, capsys, monkeypatch):
    def silent():
        raise UsageError("squeue: Unable to contact slurm controller")

    monkeypatch.setattr(slurm, "available", lambda: True)
    monkeypatch.setattr(slurm, "queue", silent)
    write_result(study.points[0])
    submissions.record(study.folder, "7", Path("submit-1.sbatch"), study.points)
    status, out, err = said(capsys, "status", "study.toml")
    assert (status, out.splitlines()[-1]) == (0, "2 points: 1 done, 1 pending")
    assert err == "hpcmpi: warning: squeue: Unable to contact slurm controller; by the files alone:\n"
    assert said(capsys, "submit", "study.toml")[0] == 2


def test_what_is_out_of_sight_is_begun_anew_only_on_demand(study, capsys, monkeypatch):
    monkeypatch.setattr(slurm, "available", lambda: False)
    for point in study.points:
        write_status(point)
    status, out, _ = said(capsys, "run", "study.toml")
    assert status == 75
    assert "ranks1: running elsewhere: run on far, heard of at noon; if that is gone, --rerun begins it anew\n" in out
    assert out.endswith("nothing to run: 2 of 2 points are under way elsewhere\n")
    status, out, _ = said(capsys, "run", "study.toml", "ranks1", "--rerun")
    assert status == 0
    assert "[1/1] ranks1: done" in out


@pytest.mark.parametrize(
    ("folder", "line"),
    [
        ("a b", '#SBATCH --output="{}/a b/slurm-%A_%a.log"'),
        ("a#b", '#SBATCH --output="{}/a#b/slurm-%A_%a.log"'),
        ("100%", "#SBATCH --output={}/100%%/slurm-%A_%a.log"),
    ],
)
def test_folders_of_any_name_are_told_to_sbatch(here, folder, line):
    (here / "study.toml").write_text(STUDY.replace('"out"', f'"{folder}"'))
    study = jobfile.read(Path("study.toml"))
    text = script(study, parts(study.points[:1], [Estimate(1, 1)], {})[0], {}, "pmi2")
    assert line.format(here) in text.splitlines()


def test_without_slurm_submit_says_what_to_do(study, capsys, monkeypatch):  # noqa: ARG001 - as above
    monkeypatch.setattr(slurm.shutil, "which", lambda name: None if name == "sbatch" else f"/bin/{name}")
    status, _, err = said(capsys, "submit", "study.toml", "ranks1")
    assert status == 2
    assert "sbatch: not found: there is no Slurm here. `hpcmpi run` runs the points on this machine" in err


# States


ELSEWHERE = {"ranks": [{"host": "far", "pid": 1}], "updated": "noon"}
HERE_ITSELF = {"ranks": [{"host": os.uname().nodename, "pid": os.getpid()}]}


def write_status(point, **what):
    content = {"state": "running", "phase": "run", "job": "7_0", "attempt": 0, **ELSEWHERE}
    point.output.parent.mkdir(exist_ok=True)
    Path(f"{point.output}.status.json").write_text(json.dumps(content | what))


def write_result(point, *, verified=True, version=None, of=None):
    import hpcmpi

    point.output.parent.mkdir(exist_ok=True)
    with h5py.File(point.output, "w") as file:
        group = file.create_group("sort")
        group.attrs.update({"complete": True, "verified": verified, "verdict": "as it is", "attempt": 0, "job": "7_0"})
        origin = {"asked": of or point.asked, "version_hpcmpi": version or hpcmpi.__version__}
        group.create_group("provenance").attrs.update(origin)


def test_states_by_files_alone(study):
    point = study.points[0]
    assert on_disk(point) == (Word.PENDING, "", {}, False)
    write_status(point, fraction=0.25)
    assert on_disk(point) == (Word.RUNNING, "run 25% on far, heard of at noon", {}, True)
    write_status(point, ranks=[{"host": os.uname().nodename, "pid": 2**22 + 1}])
    assert on_disk(point)[:2] == (Word.FAILED, "ended without a word in phase run")
    write_status(point, state="failed", reason="of nothing", status=70)
    assert on_disk(point)[:2] == (Word.FAILED, "of nothing (status 70)")
    write_status(point, state="checkpointed", fraction=0.5, reason="in C.h5.checkpoint0", status=85)
    assert on_disk(point)[:2] == (Word.CHECKPOINTED, "at run 50%: in C.h5.checkpoint0")
    write_result(point, verified=False)
    assert on_disk(point)[:2] == (Word.WRONG, "as it is")
    write_result(point)
    assert on_disk(point)[:2] == (Word.DONE, "as it is")
    Path(f"{point.output}.status.json").unlink()
    write_result(point, version="0.0.1")
    assert on_disk(point)[:2] == (Word.PENDING, "the result there is of version 0.0.1")
    write_result(point, of="{}")
    assert on_disk(point)[:2] == (Word.PENDING, "the result there is of other parameters")
    point.output.write_bytes(b"no file of HDF5")
    assert on_disk(point).word == Word.PENDING
    assert "the file there is no result" in on_disk(point).detail


@pytest.mark.parametrize(
    ("queue", "status", "word", "detail"),
    [
        ({"7_0": Element("PENDING", "Priority")}, None, Word.QUEUED, "Priority"),
        ({"7_0": Element("RUNNING", "")}, None, Word.RUNNING, "starts"),
        ({"7_0": Element("RUNNING", "")}, {"fraction": 0.5}, Word.RUNNING, "run 50%"),
        ({"7_0": Element("PENDING", "BeginTime")}, {"state": "checkpointed", "fraction": 0.5}, Word.REQUEUED,
         "attempt 0 checkpointed at run 50%; waits (BeginTime)"),
        ({"7_0": Element("PENDING", "BeginTime")}, {}, Word.REQUEUED, "attempt 0 running at run; waits (BeginTime)"),
        ({"7_0": Element("TIMEOUT", "TimeLimit")}, {}, Word.FAILED,
         "Slurm: TIMEOUT (TimeLimit) in phase run"),
        ({"7_0": Element("CANCELLED", "DependencyNeverSatisfied")}, None, Word.STOPPED,
         "Slurm: CANCELLED (DependencyNeverSatisfied) before it began"),
        ({}, {"state": "failed", "reason": "of nothing", "status": 70}, Word.FAILED, "of nothing (status 70)"),
        ({}, {}, Word.FAILED, "left the queue in phase run"),
        (None, {}, Word.RUNNING, "run on far, heard of at noon"),
        ({}, None, Word.STOPPED, "left the queue before it began"),
        ({"7_0": Element("NODE_FAIL", "")}, None, Word.FAILED, "Slurm: NODE_FAIL before it began"),
        ({}, {"state": "failed", "reason": "Ctrl-C", "status": 130}, Word.STOPPED, "in phase run: Ctrl-C"),
        # It runs here, after what had been submitted was cancelled.
        ({"7_0": Element("CANCELLED", "")}, {"job": "", "fraction": 0.5, **HERE_ITSELF}, Word.RUNNING, "run 50%"),
        # A whole study in one job, on another node.
        ({"8": Element("RUNNING", "")}, {"job": "8"}, Word.RUNNING, "run on far, heard of at noon"),
        ({"8": Element("NODE_FAIL", "")}, {"job": "8"}, Word.FAILED, "Slurm: NODE_FAIL in phase run"),
        ({}, {"job": "8"}, Word.FAILED, "left the queue in phase run"),
        ({}, {"job": ""}, Word.RUNNING, "run on far, heard of at noon"),
    ],
)  # fmt: skip
def test_states_by_the_queue_and_files(study, monkeypatch, queue, status, word, detail):
    point = study.points[0]
    Path("out").mkdir()
    submissions.record(study.folder, "6", Path("submit-1.sbatch"), study.points)
    submissions.record(study.folder, "7", Path("submit-2.sbatch"), [point])
    monkeypatch.setattr(slurm, "available", lambda: queue is not None)
    monkeypatch.setattr(slurm, "queue", lambda: {"6_1": Element("PENDING", "Resources"), **queue})
    if status is not None:
        write_status(point, **status)
    found = submissions.states(study)
    assert found["ranks1"][:2] == (word, detail)
    assert found["ranks2"].word == (Word.PENDING if queue is None else Word.QUEUED)
    write_result(point)
    assert submissions.states(study)["ranks1"].word in (Word.DONE, Word.QUEUED, Word.REQUEUED, Word.RUNNING)
    if queue == {}:
        assert submissions.states(study)["ranks1"].word == Word.DONE


def test_an_element_that_died_before_its_first_word_is_not_told_by_an_older_run(study, monkeypatch):
    point = study.points[0]
    write_status(point, state="failed", reason="of nothing", status=70, job="")
    submissions.record(study.folder, "7", Path("submit-1.sbatch"), [point])
    monkeypatch.setattr(slurm, "available", lambda: True)
    monkeypatch.setattr(slurm, "queue", dict)
    log = Path("out/slurm-7_0.log")
    log.write_text("Abort(1) on node 0: Fatal error in MPI_Init\n")
    os.utime(f"{point.output}.status.json", (1, 1))
    assert submissions.states(study)["ranks1"][:2] == (Word.FAILED, f"left the queue before it began; see {log}")
    os.utime(log, (0, 0))
    assert submissions.states(study)["ranks1"][:2] == (Word.FAILED, "of nothing (status 70)")


def test_a_checkpoint_of_other_parameters_is_told_of(study):
    point = study.points[0]
    write_status(point, state="checkpointed", fraction=0.5, reason="here", status=85)
    with h5py.File(f"{point.output}.checkpoint0", "w") as file:
        about = {"complete": True, "verified": True, "verdict": "", "attempt": 0, "job": ""}
        file.create_group("checkpoint").attrs.update(about | {"identity": identity(asked(point.job), hpcmpi_version)})
    assert on_disk(point)[:2] == (Word.CHECKPOINTED, "at run 50%: here")
    write_status(point, state="failed", reason="Ctrl-C", status=130)
    assert on_disk(point)[:2] == (Word.STOPPED, "in phase run: Ctrl-C; it has a checkpoint")
    Path("study.toml").write_text(STUDY.replace("n = 1000", "n = 1001"))
    other = jobfile.read(Path("study.toml")).points[0]
    assert on_disk(other).detail.endswith("(the checkpoint there is of other parameters: it begins anew)")


def test_exit_status_of_a_study():
    assert [local.worst(statuses) for statuses in ([], [0, 0], [0, 65, 75], [65, 3])] == [0, 0, 65, 3]


def test_logs_show_the_latest(study, capsys):
    point = study.points[0]
    Path("out").mkdir()
    point.log.write_text("".join(f"line {number}\n" for number in range(30)))
    submissions.record(study.folder, "7", Path("submit-1.sbatch"), study.points)
    assert said(capsys, "logs", "study.toml", "-n", 2)[1].splitlines() == [
        "==> ranks1: out/ranks1.log <==", "line 28", "line 29", "==> ranks2: no log yet <==",
    ]  # fmt: skip
    submissions.log(study.folder, "7_0").write_text("of Slurm\n")
    os.utime(point.log, (1, 1))
    assert said(capsys, "logs", "study.toml", "--path")[1].splitlines() == ["out/slurm-7_0.log", "out/slurm-7_1.log"]


def test_cancel_ends_what_is_under_way_only(study, capsys, monkeypatch):
    ended = []
    Path("out").mkdir()
    submissions.record(study.folder, "7", Path("submit-1.sbatch"), study.points)
    monkeypatch.setattr(slurm, "available", lambda: True)
    monkeypatch.setattr(slurm, "queue", lambda: {"7_0": Element("PENDING", "Priority")})
    monkeypatch.setattr(slurm, "cancel", ended.extend)
    assert said(capsys, "cancel", "study.toml")[:2] == (0, "ranks1: cancelled, 7_0\n")
    assert ended == ["7_0"]
    monkeypatch.setattr(slurm, "queue", dict)
    assert said(capsys, "cancel", "study.toml")[:2] == (0, "nothing is under way\n")


# Shells and help


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(hpcmpi, shell):
    source = hpcmpi(0, "completion", shell)
    assert source.returncode == 0, source.stderr
    assert f"_HPCMPI_COMPLETE={shell}_complete" in source.stdout
    words = {"COMP_WORDS": "hpcmpi sort --gen", "COMP_CWORD": "--gen" if shell == "fish" else "2"}
    offered = hpcmpi(
        0, _HPCMPI_COMPLETE=f"{shell}_complete", program=("-c", "from hpcmpi.cli import main; main()"), **words
    )
    assert "--generate" in offered.stdout
    assert "--ranks" not in offered.stdout


def test_every_help_has_an_example():
    import click

    def pages(command, name):
        yield name, command.get_help(click.Context(command, info_name=name))
        if isinstance(command, click.Group):
            context = click.Context(command)
            for sub in command.list_commands(context):
                yield from pages(command.get_command(context, sub), f"{name} {sub}")

    found = dict(pages(cli.cli, "hpcmpi"))
    assert len(found) > 12
    for name, text in found.items():
        assert re.search(rf"^ .*\b{name}( |$)", text.partition("Usage:")[2].partition("\n")[2], re.MULTILINE), name
