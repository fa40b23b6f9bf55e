"""Job files: what they say, and that every error names file, line and key."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil
from pathlib import Path

import pytest

from hpcmpi import algorithms
from hpcmpi.batch import clusters, jobfile, kinds
from hpcmpi.batch.document import Document
from hpcmpi.errors import InputError
from hpcmpi.record import Job, asked

JOBS = Path(__file__).parents[1] / "jobs"
ALGORITHMS = sorted(module.name for module in pkgutil.iter_modules(algorithms.__path__))

WHOLE = """\
# a study
command = "sort"

[params]
n = 1e6
descending = true
generate = "zipf"

[sweep]
ranks = [1, 2]
zip = { threads = [1, 2], seed = [7, 8] }

[run]
repeats = 3
output = "out"
timeout = 60
verify = false
arrays = false
checkpoint-every = 30

[slurm]
partition = "long"
time = "1:30:00"
mem = "4G"
nodes = 1
options = ["--exclusive", "--mail-type=END"]
"""


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "job.toml"
        path.write_text(text)
        return jobfile.read(path)

    return read


def test_a_point_for_each_choice_of_the_sweep(read):
    study = read(WHOLE)
    assert (study.name, study.command, study.folder) == ("job", "sort", Path("out"))
    assert [point.name for point in study.points] == [
        "ranks1-threads1-seed7",
        "ranks1-threads2-seed8",
        "ranks2-threads1-seed7",
        "ranks2-threads2-seed8",
    ]
    last = study.points[-1]
    assert (last.ranks, last.job.threads, last.job.repeat, last.job.verify, last.job.timeout) == (2, 2, 3, False, 60)
    assert (last.job.params.n, last.job.params.descending, last.job.params.seed) == (10**6, True, 8)
    assert last.output == Path("out/ranks2-threads2-seed8.h5")
    assert study.slurm == {
        "partition": "long", "time": "1:30:00", "mem": "4G", "nodes": 1, "options": ("--exclusive", "--mail-type=END"),
    }  # fmt: skip
    assert study.select(("ranks1-threads1-seed7",)) == study.points[:1]
    with pytest.raises(InputError, match="no point 'ranks1-threads1-seed9'; did you mean 'ranks1-threads1-seed7'"):
        study.select(("ranks1-threads1-seed9",))


def test_the_command_line_of_a_point_asks_for_what_the_point_is(read):
    """Read back by the command line's own parser, it is the same job."""
    from hpcmpi import cli

    for point in read(WHOLE).points:
        again = cli.parse(point.argv(force=True))
        assert isinstance(again, Job)
        assert asked(again) == asked(point.job)
        expected = dataclasses.replace(point.job, argv=again.argv, force=True)
        assert again == expected
        assert json.loads(point.asked)["ranks"] == point.ranks


def test_without_a_sweep_there_is_one_point_named_after_the_command(read):
    study = read('command = "bfs"\nparams.scale = 4\nparams.root = [1, 2]\nrun.ranks = 3\n')
    (point,) = study.points
    assert (point.name, point.ranks, point.words) == ("bfs", 3, ("--scale", "4", "--root", "1", "--root", "2"))
    assert study.folder == Path("hpcmpi-results/job")


def test_values_of_all_kinds_become_options(read):
    text = 'command = "reduce"\n[params]\nn = [100, "2^10"]\nop = ["sum", "max"]\nrange = [-1.5, 1]\nfast = false\n'
    (point,) = read(text).points
    assert point.job.params.n == (100, 1024)
    assert point.job.params.op == ("sum", "max")
    assert point.job.params.range == (-1.5, 1.0)
    assert "--fast" not in point.words


def test_names_of_points_are_names_of_files(read):
    study = read('command = "sort"\n[sweep]\ninput = ["/a/x.h5:/k", "/b/x.h5:/k", "/b/x y.h5:/k"]\n')
    names = [point.name for point in study.points]
    assert len(set(names)) == 3
    assert all("/" not in name and " " not in name and len(name) < 40 for name in names)


ERRORS = [
    ("command = sort", ":1: Invalid value: command = sort"),
    ('command = "sort"\ncommand = "bfs"', ":2: Cannot overwrite a value: command"),
    ('command = "sort"\n[params\nn = 1', ":2: "),
    ('[params]\nn = 1\n', ":1: command: is missing; one of bfs, "),
    ('# x\ncommand = "srot"', ":2: command: 'srot' is no algorithm; did you mean 'sort'?"),
    ('command = "sort"\nrn = 3', ":2: rn: unknown; did you mean 'run'?"),
    ('command = "sort"\nparams = 3', ":2: params: is a table, [params], and not 3"),
    ('command = "sort"\n\n[params]\nn = 1\nmehtod = "x"', ":5: params.mehtod: unknown; did you mean 'method'?"),
    ('command = "sort"\n[params]\nranks = 3', ":3: params.ranks: is no option of the command's own; it"),
    ('command = "sort"\n[params]\nn = "many"', ":3: params.n: 'many' is not a whole number such as 1000, 1e9 or 2^30"),
    ('command = "sort"\n[params]\nn = [1, 2]', ":3: params.n: '1,2' is not a whole number such as 1000, 1e9 or 2^30; "),
    ('command = "sort"\n[params]\nn = true', ":3: params.n: is a number or a text, not True"),
    ('command = "sort"\n[params]\nn = 1\nstable = "yes"', ":4: params.stable: is true or false, not 'yes'"),
    ('command = "sort"\n[params]\nn = 9\nmethod = "fast"', ":4: params.method: 'fast' is none of sample, odd-even"),
    ('command = "sort"\n\n[params]\ndtype = "int8"', ":3: params: what to sort? Give one of --n, --input and --by"),
    ('command = "sort"\n[params]\nn = 1\n[sweep]\nsede = [1]', ":5: sweep.sede: unknown; did you mean 'seed'?"),
    ('command = "sort"\n[params]\nn = 1\n[sweep]\nseed = 1', ":5: sweep.seed: is a list of values to go through, "),
    ('command = "sort"\n[params]\nn = 1\n[sweep]\nn = [1]', ":5: sweep.n: is given elsewhere too"),
    ('command = "sort"\n[params]\nn = 1\n[sweep]\nranks = [\n1,\n0\n]', ":5: sweep.ranks: is a whole number from 1"),
    ('command = "sort"\n[params]\nn = 1\n[sweep]\nranks = [1]\n[run]\nranks = 4', ":5: sweep.ranks: is given"),
    ('command = "sort"\n[params]\nn = 1\n[run]\nranks = 4000000000', ":5: run.ranks: is at most 2147483647, not 4"),
    ('command = "sort"\n[params]\nn = 1\n[run]\noutput = "a\\u0000b"', ":5: run.output: is the name of a folder, not"),
    ('command = "sort"\n[params]\nn = 1\n[sweep]\nranks = [1, 1]', ":5: sweep.ranks: has 1 twice"),
    ('command = "sort"\n[sweep]\nn = ["10", 10]', ":2: sweep: has n10 twice"),
    ('command = "sort"\n[sweep]\nzip = [1]', ":3: sweep.zip: is a table of lists"),
    ('command = "sort"\n[sweep]\nzip = { n = [1, 2], ranks = [1] }', ":3: sweep.zip: pairs lists of one length"),
    ('command = "sort"\n[sweep]\nzip = { n = [1], raks = [1] }', ":3: sweep.zip.raks: unknown; did you mean 'rank"),
    ('command = "sort"\n[params]\nn = 1\n[run]\nrepeat = 2', ":5: run.repeat: unknown; did you mean 'repeats'?"),
    ('command = "sort"\n[params]\nn = 1\n[run]\ntimeout = -2', ":5: run.timeout: '-2' is not a number of sec"),
    ('command = "sort"\n[params]\nn = 1\n[slurm]\ntime = "soon"', ":5: slurm.time: 'soon' is not a time such as 30"),
    ('command = "sort"\n[params]\nn = 1\n[slurm]\nmem = "much"', ":5: slurm.mem: 'much' is not a size"),
    ('command = "sort"\n[params]\nn = 1\n[slurm]\noptions = ["--x\\nrm -rf"]', ":5: slurm.options: '--x\\nrm -"),
    ('command = "sort"\n[params]\nn = 1\n[slurm]\npartition = "a\\nb"', ":5: slurm.partition: is one word"),
    ('command = "sort"\n[params]\nn = 1\n[slurm]\nsetup = ["rm"]', ":5: slurm.setup: unknown"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), ERRORS, ids=[said[:40] for _, said in ERRORS])
def test_every_error_names_file_line_and_key(read, tmp_path, text, said):
    with pytest.raises(InputError) as error:
        read(text)
    assert str(error.value).startswith(f"{tmp_path / 'job.toml'}{said}"), str(error.value)


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        Document(tmp_path / "missing.toml")
    (tmp_path / "latin.toml").write_bytes(b'command = "\xe9"')
    with pytest.raises(InputError, match=r"latin.toml: is not UTF-8"):
        Document(tmp_path / "latin.toml")


@pytest.mark.parametrize("kind", ["", "-strong", "-weak"])
@pytest.mark.parametrize("command", ALGORITHMS)
def test_a_job_file_of_each_kind_is_shipped_for_each_command(command, kind):
    study = jobfile.read(JOBS / f"{command}{kind}.toml")
    assert study.command == command
    assert [point.ranks for point in study.points] == ([1, 2, 4] if kind else [2])
    spec = importlib.import_module(f"hpcmpi.algorithms.{command}").Params
    assert all(isinstance(point.job.params, spec) for point in study.points)
    asked_for = {point.job.params for point in study.points}
    assert len(asked_for) == (3 if kind == "-weak" else 1)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30", 1800), ("1:30", 90), ("1:30:00", 5400), ("2-12", 216000), ("1-0:30", 88200)]
)
def test_times_as_sbatch_takes_them(text, seconds):
    assert kinds.limit_seconds(text) == seconds


def test_profiles_of_clusters(tmp_path, monkeypatch):
    path = tmp_path / "clusters.toml"
    monkeypatch.setenv("HPCMPI_CLUSTERS", str(path))
    assert clusters.profile(None) == {}
    with pytest.raises(InputError, match="there is no file"):
        clusters.profile("hills")
    path.write_text('default = "hills"\n[hills]\naccount = "a"\nsetup = ["module load x"]\n[plain]\nmpi = "pmix"\n')
    assert clusters.profile(None) == {"account": "a", "setup": ("module load x",)}
    assert clusters.profile("plain") == {"mpi": "pmix"}
    with pytest.raises(InputError, match="no profile 'hill'; there are hills, plain"):
        clusters.profile("hill")
    path.write_text("[hills]\nacount = 1\n")
    with pytest.raises(InputError, match=r"clusters.toml:2: hills.acount: unknown; did you mean 'account'"):
        clusters.profile("hills")
