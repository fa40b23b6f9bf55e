"""Run the points of a job file here, one after another.

A point whose result is there, complete, and of the same parameters and version is not run again. Each run is an mpirun
of its own; what it prints goes to a log beside its result. Exit status 0 means that all points are done and right; else
it is that of the first that is not, or 75 where points are under way elsewhere, and so are not run here.

\b
Examples:
  hpcmpi run jobs/sort.toml
  hpcmpi run jobs/sort-strong.toml --launcher "srun -K1 --mpi=pmi2"
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpcmpi.errors import HpcmpiError, Status, message
from hpcmpi.launch import is_terminal

if TYPE_CHECKING:
    from hpcmpi.batch.jobfile import JobFile, Point


@click.command(help=__doc__)
@click.argument("jobfile", type=click.Path(dir_okay=False, path_type=Path), metavar="JOB.toml")
@click.argument("points", nargs=-1, metavar="[POINT]...")
@click.option("--rerun", is_flag=True, help="Also what is done; begin anew what has a checkpoint.")
@click.option(
    "--launcher", envvar="HPCMPI_LAUNCHER", metavar="WORDS", help="Command that takes -n RANKS; by default mpirun."
)
def command(jobfile: Path, points: tuple[str, ...], rerun: bool, launcher: str | None) -> int:
    """Run what is not done."""
    from hpcmpi.batch import jobfile as jobs
    from hpcmpi.batch import local

    def ask_to_stop(_number: int, _frame: object) -> None:
        raise local.Stop

    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup leaves it
        signal.signal(signal.SIGHUP, ask_to_stop)
    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)
    try:
        study = jobs.read(jobfile)
        with local.held(study.folder):
            return _run(study, study.select(points), local.launcher_words(launcher), rerun=rerun)
    except HpcmpiError as error:
        click.echo(f"hpcmpi: error: {error}", err=True)
        return error.status
    except local.Stop:
        click.echo("stopped; run it again to go on", err=True)
        return Status.INTERRUPTED


def _run(study: JobFile, points: tuple[Point, ...], launcher: list[str], *, rerun: bool) -> int:
    from hpcmpi.batch import local, submissions
    from hpcmpi.batch.estimates import estimates
    from hpcmpi.batch.state import UNDER_WAY, Word

    states = submissions.states(study)
    wanted: list[Point] = []
    elsewhere = 0
    for point in points:
        state = states[point.name]
        if state.word in UNDER_WAY and not (rerun and state.unconfirmed):
            advice = "; if that is gone, --rerun begins it anew" if state.unconfirmed else ""
            click.echo(f"{point.name}: {state.word} elsewhere: {state.detail}{advice}")
            elsewhere += 1
        elif state.word == Word.DONE and not rerun:
            click.echo(f"{point.name}: done before, {_told(state.facts)}")
        else:
            wanted.append(point)
    if not wanted:
        under_way = f"{elsewhere} of {len(points)} points are under way elsewhere"
        click.echo(f"nothing to run: {under_way if elsewhere else 'all points are done'}")
        return Status.RESOURCES if elsewhere else Status.DONE
    commands = [local.command_of(point, launcher, force=point.output.exists(), restart=rerun) for point in wanted]
    click.echo(f"planning {len(wanted)} point{'s' * (len(wanted) != 1)} ...", err=True)
    expected = dict(zip((point.name for point in wanted), estimates(wanted), strict=True))
    total = sum(estimate.seconds for estimate in expected.values())
    click.echo(f"{len(wanted)} of {len(points)} points to run, about {_span(total)} by their costs")
    statuses: list[int] = []
    for number, (point, argv) in enumerate(zip(wanted, commands, strict=True), start=1):
        state = states[point.name]
        head = f"[{number}/{len(wanted)}] {point.name}"
        if state.word == Word.PENDING and state.detail:
            click.echo(f"{head}: {state.detail}: it is replaced")
        began, before = time.monotonic(), _traces(point)
        with _Line(f"{head} (about {_span(expected[point.name].seconds)})") as watch:
            statuses.append(local.run(point, argv, watch))
        took = time.monotonic() - began
        click.echo(f"{head}: {_outcome(point, statuses[-1], before)} ({_span(took)})")
    bad = sum(status != Status.DONE for status in statuses)
    if bad:
        click.echo(f"{bad} of {len(wanted)} points are not done", err=True)
    return local.worst([*statuses, *[Status.RESOURCES] * elsewhere])


def _traces(point: Point) -> tuple[int, dict[str, object]]:
    """Bytes of the log and the status file, as runs before have left them."""
    from hpcmpi.batch.state import status_of

    return point.log.stat().st_size if point.log.exists() else 0, status_of(point)


def _outcome(point: Point, status: int, before: tuple[int, dict[str, object]]) -> str:
    """What became of a run that has just ended; ``before`` are the traces of earlier ones."""
    from hpcmpi.batch.state import Word, on_disk

    state, (_, now) = on_disk(point), _traces(point)
    if status == Status.DONE and state.word == Word.DONE:
        return f"done, {_told(state.facts)}"
    if status == Status.WRONG:
        return f"WRONG: {state.detail}; see {point.log}"
    if status == Status.CHECKPOINTED:
        return f"checkpointed: {state.detail}"
    own = state.word in (Word.FAILED, Word.STOPPED) and now != before[1]
    return f"failed with status {status}: {state.detail if own else _last_line(point.log, before[0])}; see {point.log}"


def _last_line(log: Path, before: int) -> str:
    lines = log.read_bytes()[before:].decode(errors="replace").strip().splitlines()
    return message(lines[-1].removeprefix("hpcmpi: error: ")) if lines else "without a word"


def _told(facts: dict[str, object]) -> str:
    from hpcmpi.runner.report import rate

    speed = rate(float(str(facts["rate"])), str(facts["rate_unit"]))
    checked = "verified" if facts["verified"] else "not verified"
    return f"{float(str(facts['seconds_median'])):.3f} s, {speed}, {checked}"


def _span(seconds: float) -> str:
    """A time as people read it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class _Line:
    """A line on a terminal that tells how far the run is; nothing in a log."""

    def __init__(self, title: str) -> None:
        self._title, self._terminal = title, is_terminal(sys.stderr)

    def __enter__(self) -> _Line:
        return self

    def __call__(self, text: str) -> None:
        if self._terminal:
            click.echo(f"\r\033[K{self._title}: {text or 'start'}", nl=False, err=True)

    def __exit__(self, *_error: object) -> None:
        if self._terminal:
            click.echo("\r\033[K", nl=False, err=True)
