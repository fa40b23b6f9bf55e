"""Submit the points of a job file to Slurm.

An sbatch script is written into the run folder for each size of points, an array over those that are neither done nor
under way, and submitted. An element that checkpoints (exit status 85) requeues itself. Partition, time and memory come
from these options, else from [slurm] in the job file, else from a profile (~/.config/hpcmpi/clusters.toml); time and
memory that nobody gives are estimated by the command's costs.

A job does not inherit the SLURM_*, SRUN_* and SBATCH_* variables of this shell, which may be inside an allocation. Only
defaults such as SBATCH_ACCOUNT and SBATCH_PARTITION count, unless an option or a file gives another value.

\b
Examples:
  hpcmpi submit jobs/sort-strong.toml --dry-run
  hpcmpi submit jobs/sort-strong.toml --partition compute --time 30
  hpcmpi submit jobs/matvec.toml --after jobs/sort.toml
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpcmpi.errors import HpcmpiError, InputError, OutputError, Status, UsageError

if TYPE_CHECKING:
    from hpcmpi.batch.estimates import Estimate
    from hpcmpi.batch.jobfile import JobFile


@click.command(help=__doc__)
@click.argument("jobfile", type=click.Path(dir_okay=False, path_type=Path), metavar="JOB.toml")
@click.argument("points", nargs=-1, metavar="[POINT]...")
@click.option("--dry-run", is_flag=True, help="Print the scripts; write and submit nothing.")
@click.option("--rerun", is_flag=True, help="Also what is done; begin anew what has a checkpoint.")
@click.option(
    "--after", multiple=True, metavar="JOB", help="Begin when this has succeeded: an id, or another JOB.toml."
)
@click.option("--profile", metavar="NAME", help="Profile of the cluster.")
@click.option("--partition", metavar="NAME", help="Partition of the cluster.")
@click.option("--account", metavar="NAME", help="Account to charge.")
@click.option("--time", metavar="TIME", help="Time limit, as sbatch takes it: 30 (minutes), 1:30:00, 2-12.")
@click.option("--mem", metavar="SIZE", help="Memory a node, as sbatch takes it: 64G.")
@click.option("--nodes", type=click.IntRange(1), help="Nodes for each point.")
@click.option("--constraint", metavar="LIST", help="Features that the nodes must have.")
@click.option("--mpi", metavar="NAME", help="What srun --mpi takes; by default what fits the MPI library.")
@click.option("--sbatch-option", "options", multiple=True, metavar="OPTION", help="Any option of sbatch, as it stands.")
def command(
    jobfile: Path, points: tuple[str, ...], dry_run: bool, rerun: bool, after: tuple[str, ...], **given: Any
) -> int:
    """Write scripts and submit them."""
    from hpcmpi.batch import jobfile as jobs
    from hpcmpi.batch.local import held

    try:
        study = jobs.read(jobfile)
        resources = _resources(study, given)
        with contextlib.nullcontext() if dry_run else held(study.folder, "submits"):
            return _submit(study, points, resources, _ids(after, ask=not dry_run), dry_run=dry_run, rerun=rerun)
    except HpcmpiError as error:
        click.echo(f"hpcmpi: error: {error}", err=True)
        return error.status


def _resources(study: JobFile, given: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked of the cluster: options before the job file before the profile; free options add up."""
    from hpcmpi.batch import clusters
    from hpcmpi.batch.kinds import SLURM

    said: dict[str, Any] = {}
    for key, value in given.items():
        if value not in (None, ()):
            try:
                said[key] = SLURM[key](list(value) if isinstance(value, tuple) else value)
            except ValueError as error:
                flag = "sbatch-option" if key == "options" else key
                raise UsageError(f"--{flag}: {error}") from None
    profile = clusters.profile(said.get("profile") or study.slurm.get("profile"))
    free = tuple(option for layer in (profile, study.slurm, said) for option in layer.get("options", ()))
    return {**profile, **study.slurm, **said, "options": free}


def _ids(after: tuple[str, ...], *, ask: bool) -> str:
    """Ids of jobs to wait for, as a dependency lists them; with ``ask``, Slurm is asked whether it knows them.

    A job that Slurm has forgotten would count as one that succeeded. Raises InputError for what can no longer succeed.
    """
    from hpcmpi.batch import jobfile as jobs
    from hpcmpi.batch import slurm
    from hpcmpi.batch.state import UNDER_WAY, Word
    from hpcmpi.batch.submissions import elements, states

    ids = list[str]()
    for what in after:
        if not what.endswith(".toml"):
            if not re.fullmatch(r"\d+(_\d+)?", what):
                raise UsageError(f"--after {what}: is neither a job's id, such as 12 or 12_0, nor a job file, JOB.toml")
            if ask and not slurm.knows(what):
                raise InputError(f"--after {what}: Slurm does not know this job, or no longer")
            ids.append(what)
            continue
        study = jobs.read(Path(what))
        submitted, now = elements(study.folder), states(study)
        for point in study.points:
            state = now[point.name]
            if state.word in UNDER_WAY and point.name in submitted:
                ids.append(submitted[point.name])
            elif state.word != Word.DONE:
                said = ": ".join(filter(None, (state.word, state.detail)))
                raise InputError(f"--after {what}: {point.name} is neither done nor under way in Slurm ({said})")
    return ":".join(dict.fromkeys(ids))


def _submit(
    study: JobFile, names: tuple[str, ...], resources: dict[str, Any], after: str, *, dry_run: bool, rerun: bool
) -> int:
    from hpcmpi.batch import script, slurm, state, submissions
    from hpcmpi.batch.estimates import estimates

    states = submissions.states(study)
    wanted = []
    for point in study.select(names):
        now = states[point.name]
        if now.word in state.UNDER_WAY and not (rerun and now.unconfirmed):
            advice = "; if that is gone, --rerun begins it anew" if now.unconfirmed else ""
            click.echo(f"{point.name}: {now.word} already: {now.detail}{advice}", err=dry_run)
        elif rerun or now.word != state.Word.DONE:
            wanted.append(point)
    if not wanted:
        click.echo("nothing to submit: all points are done or under way")
        return Status.DONE
    mpi = resources.get("mpi") or slurm.mpi_plugin()
    expected: list[Estimate] = []
    if script.needs_estimates(resources):
        click.echo(f"planning {len(wanted)} point{'s' * (len(wanted) != 1)} ...", err=True)
        expected = estimates(wanted)
    parts = script.parts(wanted, expected, resources)
    texts = [script.script(study, part, resources, mpi, after=after, restart=rerun) for part in parts]
    if dry_run:
        click.echo("\n".join(texts), nl=False)
        return Status.DONE
    for part, text in zip(parts, texts, strict=True):
        path = _write(study.folder, text)
        try:
            job = slurm.submit(path)
        except UsageError:
            path.unlink()
            raise
        submissions.record(study.folder, job, path, part.points)
        click.echo(f"job {job}: {part.about}; {path}")
    return Status.DONE


def _write(folder: Path, text: str) -> Path:
    """A new script in the run folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        number = 1 + sum(1 for _ in folder.glob("submit-*.sbatch"))
        while True:
            path = folder / f"submit-{number}.sbatch"
            try:
                with path.open("x") as file:
                    file.write(text)
                return path
            except FileExistsError:
                number += 1
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror}") from None
