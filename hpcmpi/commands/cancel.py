"""End the points of a job file that wait in Slurm's queue or run, there or by `hpcmpi run` on this machine.

What is done stays; what has a checkpoint goes on from there when it is run or submitted again. Runs on this machine
end too if their `hpcmpi run` has been killed. Exit status 75 means that some have not ended yet.

\b
Examples:
  hpcmpi cancel jobs/sort-strong.toml
  hpcmpi cancel jobs/sort-strong.toml ranks4-threads1
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpcmpi.errors import HpcmpiError, Status

if TYPE_CHECKING:
    from collections.abc import Collection

    from hpcmpi.batch.jobfile import JobFile, Point

_PATIENCE = 10.0  # seconds until those that have been asked to end are reported as still running


@click.command(help=__doc__)
@click.argument("jobfile", type=click.Path(dir_okay=False, path_type=Path), metavar="JOB.toml")
@click.argument("points", nargs=-1, metavar="[POINT]...")
@click.option("--kill", is_flag=True, help="Kill runs on this machine at once, without a checkpoint.")
def command(jobfile: Path, points: tuple[str, ...], kill: bool) -> int:
    """Cancel what is under way."""
    from hpcmpi.batch import jobfile as jobs
    from hpcmpi.batch import local, slurm
    from hpcmpi.batch.state import UNDER_WAY
    from hpcmpi.batch.submissions import elements, states

    try:
        study = jobs.read(jobfile)
        chosen = study.select(points)
        submitted, now = elements(study.folder), states(study)
        under_way = [point.name for point in chosen if now[point.name].word in UNDER_WAY]
        holder = local.holder(study.folder)
        if holder is not None and (under_way or not points):
            with contextlib.suppress(ProcessLookupError):
                os.kill(holder, signal.SIGTERM)
            click.echo(f"process {holder}, which runs it here, is asked to stop")
        queued = [name for name in under_way if name in submitted]
        if queued and slurm.available():
            slurm.cancel([submitted[name] for name in queued])
            for name in queued:
                click.echo(f"{name}: cancelled, {submitted[name]}")
        ended = _end_here(study, chosen, queued, kill=kill) if holder is None or kill else None
        if ended is not None:
            return ended
        if holder is None and not queued:
            click.echo("nothing is under way")
    except HpcmpiError as error:
        click.echo(f"hpcmpi: error: {error}", err=True)
        return error.status
    return Status.DONE


def _end_here(study: JobFile, chosen: tuple[Point, ...], submitted: Collection[str], *, kill: bool) -> int | None:
    """End the runs of ``chosen`` points on this machine; the exit status, or None if there are no such runs."""
    from hpcmpi.batch import local

    launcher, name = local.noted_launcher(study.folder)
    runs = [(point, launcher if point.name == name else None) for point in chosen if point.name not in submitted]
    runs = [(point, group) for point, group in runs if local.is_left(point, group)]
    left = False
    for point, group in runs:
        ended = local.end_run(point, group, signal.SIGKILL if kill else signal.SIGTERM, _PATIENCE)
        left |= not ended
        if ended:
            click.echo(f"{point.name}: {'killed' if kill else 'ended'} on this machine")
        else:
            click.echo(
                f"{point.name}: asked to end, but still running; it may be writing a checkpoint. --kill kills it"
            )
    return (Status.RESOURCES if left else Status.DONE) if runs else None
