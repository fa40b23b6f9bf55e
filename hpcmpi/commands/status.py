"""Tell what became of each point of a job file, and why.

A point is pending, queued, running, requeued, checkpointed, stopped, failed, WRONG or done.

By the results and status files of the points, and by Slurm's queue; its accounting database is not needed.

\b
Examples:
  hpcmpi status jobs/sort-strong.toml
  hpcmpi status jobs/sort-strong.toml --json
"""

from __future__ import annotations

import collections
import json
from pathlib import Path

import click

from hpcmpi.errors import HpcmpiError, Status


@click.command(help=__doc__)
@click.argument("jobfile", type=click.Path(dir_okay=False, path_type=Path), metavar="JOB.toml")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, a member a point.")
def command(jobfile: Path, as_json: bool) -> int:
    """Print a line a point."""
    from hpcmpi.batch import jobfile as jobs
    from hpcmpi.batch.submissions import elements, states

    try:
        study = jobs.read(jobfile)
        submitted = elements(study.folder)
        found = states(study, without_slurm=_warn)
    except HpcmpiError as error:
        click.echo(f"hpcmpi: error: {error}", err=True)
        return error.status
    if as_json:
        rows = {
            name: {"state": state.word, "detail": state.detail, "element": submitted.get(name)}
            for name, state in found.items()
        }
        click.echo(json.dumps(rows, indent=1))
        return Status.DONE
    widths = [
        max(map(len, column)) for column in zip(*((name, state.word) for name, state in found.items()), strict=True)
    ]
    for name, state in found.items():
        click.echo(f"{name:{widths[0]}}  {state.word:{widths[1]}}  {state.detail}".rstrip())
    counts = collections.Counter(state.word for state in found.values())
    click.echo(f"{len(found)} points: {', '.join(f'{count} {word}' for word, count in counts.items())}")
    return Status.DONE


def _warn(reason: str) -> None:
    click.echo(f"hpcmpi: warning: {reason}; by the files alone:", err=True)
