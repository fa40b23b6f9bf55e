"""End the points of a job file that wait in Slurm's queue or run, there or by `hpcmpi run` on this machine.

What is done stays; what has a checkpoint goes on from there when it is run or submitted again.

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

import click

from hpcmpi.errors import HpcmpiError, Status


@click.command(help=__doc__)
@click.argument("jobfile", type=click.Path(dir_okay=False, path_type=Path), metavar="JOB.toml")
@click.argument("points", nargs=-1, metavar="[POINT]...")
def command(jobfile: Path, points: tuple[str, ...]) -> int:
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
        elif holder is None:
            click.echo("nothing is under way")
    except HpcmpiError as error:
        click.echo(f"hpcmpi: error: {error}", err=True)
        return error.status
    return Status.DONE
