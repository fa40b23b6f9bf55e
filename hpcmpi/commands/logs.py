"""Show what the runs of a job file's points have printed: the end of the latest log of each.

\b
Examples:
  hpcmpi logs jobs/sort-strong.toml
  hpcmpi logs jobs/sort-strong.toml ranks4-threads1 --lines 1000
  tail -f $(hpcmpi logs jobs/sort-strong.toml ranks4-threads1 --path)
"""

from __future__ import annotations

from pathlib import Path

import click

from hpcmpi.errors import HpcmpiError, Status


@click.command(help=__doc__)
@click.argument("jobfile", type=click.Path(dir_okay=False, path_type=Path), metavar="JOB.toml")
@click.argument("points", nargs=-1, metavar="[POINT]...")
@click.option("-n", "--lines", type=click.IntRange(1), default=20, show_default=True, help="Lines of each.")
@click.option("--path", "only_path", is_flag=True, help="Tell where the logs are, and not what they say.")
def command(jobfile: Path, points: tuple[str, ...], lines: int, only_path: bool) -> int:
    """Print the ends of logs."""
    from hpcmpi.batch import jobfile as jobs
    from hpcmpi.batch import submissions

    try:
        study = jobs.read(jobfile)
        chosen, submitted = study.select(points), submissions.elements(study.folder)
    except HpcmpiError as error:
        click.echo(f"hpcmpi: error: {error}", err=True)
        return error.status
    for point in chosen:
        candidates = [point.log]
        if point.name in submitted:
            candidates.append(submissions.log(study.folder, submitted[point.name]))
        there = sorted((path for path in candidates if path.exists()), key=lambda path: path.stat().st_mtime)
        if only_path:
            click.echo(there[-1] if there else candidates[-1])
            continue
        click.echo(f"==> {point.name}: {there[-1] if there else 'no log yet'} <==")
        if there:
            text = there[-1].read_text(errors="replace").splitlines()[-lines:]
            click.echo("".join(f"{line}\n" for line in text), nl=False)
    return Status.DONE
