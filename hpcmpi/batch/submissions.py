"""Which element of which array is which point: a line of JSON a submission, in the run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hpcmpi.batch import slurm
from hpcmpi.batch.jobfile import JobFile, Point
from hpcmpi.batch.slurm import ACTIVE, WAITING, Element
from hpcmpi.batch.state import State, Word, last_error, on_disk, progress, status_of
from hpcmpi.errors import InputError

_FILE = "submissions.jsonl"


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
                raise InputError(f"{path}:{number}: is no record of a submission: {line[:60]!r}") from None
    return found


def states(study: JobFile) -> dict[str, State]:
    """The state of every point, by what is on the disk and in Slurm's queue."""
    submitted = elements(study.folder)
    queue = slurm.queue() if submitted and slurm.available() else None
    return {point.name: _state(point, submitted.get(point.name), queue) for point in study.points}


def log(folder: Path, element: str) -> Path:
    """What an element prints."""
    return folder / f"slurm-{element}.log"


def _state(point: Point, element: str | None, queue: Mapping[str, Element] | None) -> State:
    here, status = on_disk(point), status_of(point)
    if element is None or queue is None:
        return here
    begun = status.get("job") == element
    found = queue.get(element)
    if found is not None and found.state in WAITING:
        if begun:
            return State(Word.REQUEUED, f"{_why(status)}; waits ({found.reason})")
        return State(Word.QUEUED, found.reason)
    if found is not None and found.state in ACTIVE:
        if begun and status.get("state") == "running":
            return State(Word.RUNNING, progress(status))
        return here if here.word == Word.DONE else State(Word.RUNNING, "starts" if not begun else "ends")
    if here.word in (Word.DONE, Word.WRONG, Word.CHECKPOINTED) or (here.word == Word.FAILED and begun):
        return here
    said = f"Slurm: {found.state}{f' ({found.reason})' * bool(found.reason)}" if found else "left the queue"
    phase = f" in phase {progress(status)}" if begun else " before it began"
    path = log(point.output.parent, element)
    refused = "" if begun else last_error(path)
    return State(Word.FAILED, f"{refused or said + phase}; see {path}")


def _why(status: Mapping[str, Any]) -> str:
    """How the attempt ended after which it is requeued."""
    return f"attempt {status['attempt']} {status['state']} at {progress(dict(status))}"
