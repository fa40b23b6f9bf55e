"""Which element of which array is which point: a line of JSON a submission, in the run folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hpcmpi.batch import slurm
from hpcmpi.batch.jobfile import JobFile, Point
from hpcmpi.batch.slurm import ACTIVE, WAITING, Element
from hpcmpi.batch.state import State, Word, last_error, on_disk, progress, status_of
from hpcmpi.errors import InputError, UsageError, quoted

_FILE = "submissions.jsonl"
_UNSETTLED = (Word.PENDING, Word.FAILED, Word.STOPPED, Word.CHECKPOINTED)


def record(folder: Path, job: str, script: Path, points: Sequence[Point]) -> None:
    """Note that ``job`` runs ``points``, its elements from 0 on."""
    line = {"job": job, "script": script.name, "points": [point.name for point in points]}
    with (folder / _FILE).open("a") as file:
        file.write(json.dumps(line | {"submitted": datetime.now(UTC).isoformat(timespec="seconds")}) + "\n")


def elements(folder: Path) -> dict[str, str]:
    """The latest element of each point that has been submitted, such as ``12_0``, by its name."""
    path = folder / _FILE
    found: dict[str, str] = {}
    if path.exists():
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            try:
                said = json.loads(line)
                found |= {name: f"{said['job']}_{index}" for index, name in enumerate(said["points"])}
            except (ValueError, KeyError, TypeError):
                raise InputError(f"{path}:{number}: is no record of a submission: {quoted(line)}") from None
    return found


def states(study: JobFile, *, without_slurm: Callable[[str], None] | None = None) -> dict[str, State]:
    """The state of every point, by what is on the disk and in Slurm's queue.

    Raises UsageError where Slurm does not answer; ``without_slurm`` is told that instead, if given, and then the disk
    alone decides.
    """
    submitted = elements(study.folder)
    here = {point.name: on_disk(point) for point in study.points}
    queue = None
    if slurm.available() and (submitted or any(state.unconfirmed for state in here.values())):
        try:
            queue = slurm.queue()
        except UsageError as error:
            if without_slurm is None:
                raise
            without_slurm(str(error))
    if queue is None:
        return here
    return {point.name: _state(point, here[point.name], submitted.get(point.name), queue) for point in study.points}


def log(folder: Path, element: str) -> Path:
    """What an element prints."""
    return folder / f"slurm-{element}.log"


def _state(point: Point, here: State, element: str | None, queue: Mapping[str, Element]) -> State:
    """``here`` is the state by the files; ``element`` is what was submitted last for this point, if anything was."""
    status = status_of(point)
    begun = element is not None and status.get("job") == element
    found = queue.get(element) if element is not None else None
    if found is not None and found.state in WAITING:
        if begun:
            return State(Word.REQUEUED, f"{_why(status)}; waits ({found.reason})")
        return State(Word.QUEUED, found.reason)
    if found is not None and found.state in ACTIVE:
        if begun and status.get("state") == "running":
            return State(Word.RUNNING, progress(status))
        return here if here.word == Word.DONE else State(Word.RUNNING, "starts" if not begun else "ends")
    if begun:
        return State(Word.FAILED, _ended(point, found, status)) if here.word == Word.RUNNING else here
    if here.unconfirmed and status.get("job"):  # of another script, such as a whole study in one job
        other = queue.get(status["job"])
        if other is not None and other.state in ACTIVE:
            return State(Word.RUNNING, here.detail)
        return State(Word.FAILED, _ended(point, other, status))
    if element is None or here.word not in _UNSETTLED or (here.word == Word.PENDING and here.detail):
        return here
    path = log(point.output.parent, element)
    if here.word != Word.PENDING and not _newer(path, point):
        return here  # of a run that came after it
    if refused := last_error(path):
        return State(Word.FAILED, f"{refused}; see {path}")
    stopped = not path.exists() and (found is None or found.state == "CANCELLED")
    return State(Word.STOPPED if stopped else Word.FAILED, f"{_said(found)} before it began{_see(path)}")


def _newer(path: Path, point: Point) -> bool:
    """Whether the log ``path`` was written after the status file of ``point``."""
    try:
        return path.stat().st_mtime > point.output.with_name(f"{point.output.name}.status.json").stat().st_mtime
    except OSError:
        return False


def _ended(point: Point, found: Element | None, status: Mapping[str, Any]) -> str:
    """What is known of a job that has ended without a word, though its status file says it runs."""
    return f"{_said(found)} in phase {progress(dict(status))}{_see(log(point.output.parent, status['job']))}"


def _said(found: Element | None) -> str:
    if found is None:
        return "left the queue"
    return f"Slurm: {found.state}{f' ({found.reason})' * bool(found.reason)}"


def _see(path: Path) -> str:
    return f"; see {path}" if path.exists() else ""


def _why(status: Mapping[str, Any]) -> str:
    """How the attempt ended after which it is requeued."""
    return f"attempt {status['attempt']} {status['state']} at {progress(dict(status))}"
