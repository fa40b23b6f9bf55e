"""What became of a point, by what it left on the disk: its result, else its status file."""

from __future__ import annotations

import contextlib
import json
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import hpcmpi
from hpcmpi import processes
from hpcmpi.batch.jobfile import Point
from hpcmpi.errors import InputError, Status, message
from hpcmpi.record import asked, identity

if TYPE_CHECKING:
    import h5py


_FACTS = ("complete", "verified", "verdict", "seconds_median", "rate", "rate_unit")
_ORIGIN = ("asked", "version_hpcmpi")


class Word(StrEnum):
    """States of a point."""

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    REQUEUED = "requeued"
    CHECKPOINTED = "checkpointed"
    STOPPED = "stopped"
    DONE = "done"
    WRONG = "WRONG"
    FAILED = "failed"


UNDER_WAY = (Word.QUEUED, Word.RUNNING, Word.REQUEUED)


class State(NamedTuple):
    """``word`` and, for people, what more there is to say of it; ``facts`` are attributes of the result, if any.

    ``unconfirmed``: its file says so, but whether it is still there nobody can tell from here.
    """

    word: Word
    detail: str = ""
    facts: dict[str, Any] = {}  # noqa: RUF012 - never changed
    unconfirmed: bool = False


def on_disk(point: Point) -> State:
    """The state of ``point`` as far as its files tell; a run that is gone without a word is failed."""
    found = _result(point)
    status = status_of(point)
    if isinstance(found, State) and not (status.get("state") == "running" and alive(status)):
        return found
    state = _with_checkpoint(point, _by_status(status))
    if state.word == Word.PENDING:
        refused = last_error(point.log) if found is None else ""
        return State(Word.FAILED, refused) if refused else State(Word.PENDING, found if isinstance(found, str) else "")
    return state


def last_error(log: Path) -> str:
    """The error that a run has told in ``log``, where it was refused before it had a status file; else empty."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next(
        (message(line.removeprefix("hpcmpi: error: ")) for line in lines[::-1] if line.startswith("hpcmpi: error: ")),
        "",
    )


def status_of(point: Point) -> dict[str, Any]:
    """What the status file of ``point`` says; nothing if there is none."""
    try:
        said: dict[str, Any] = json.loads(point.output.with_name(f"{point.output.name}.status.json").read_text())
    except (OSError, ValueError):
        return {}
    return said


def _result(point: Point) -> State | str | None:
    """Done or WRONG by the result of ``point``, why the result there is another's, or None without one."""
    from hpcmpi.store.result import results

    if not point.output.exists():
        return None
    try:
        with results(point.output) as groups:
            (group,) = groups
            facts = _attributes(group, _FACTS)
            origin = _attributes(group["provenance"], _ORIGIN) if "provenance" in group else {}
    except (InputError, ValueError) as error:
        return f"the file there is no result: {error}"
    if reason := _stale(point, facts, origin):
        return reason
    if point.job.verify and not facts["verified"]:
        return State(Word.WRONG, str(facts["verdict"]), facts)
    return State(Word.DONE, str(facts["verdict"]), facts)


def _attributes(group: h5py.Group, names: tuple[str, ...]) -> dict[str, Any]:
    """Those attributes of ``names`` that are there: reading all of them would take most of the time of `status`."""
    found = {name: group.attrs[name] for name in names if name in group.attrs}
    return {name: value.item() if hasattr(value, "item") else value for name, value in found.items()}


def _stale(point: Point, facts: dict[str, Any], origin: dict[str, Any]) -> str:
    """Why a result is not that of ``point`` as it would be run now; empty if it is."""
    if not facts["complete"]:
        return "the result there is incomplete"
    if origin.get("asked") != point.asked:
        return "the result there is of other parameters"
    if origin.get("version_hpcmpi") != hpcmpi.__version__:
        return f"the result there is of version {origin.get('version_hpcmpi')}"
    return ""


def _by_status(status: dict[str, Any]) -> State:
    match status.get("state"):
        case "running" if alive(status) is False:
            return State(Word.FAILED, f"ended without a word in phase {progress(status)}")
        case "running" if alive(status) is None:
            hosts = sorted({rank["host"] for rank in status["ranks"]})
            heard = f"{progress(status)} on {', '.join(hosts)}, heard of at {status.get('updated')}"
            return State(Word.RUNNING, heard, unconfirmed=True)
        case "running":
            return State(Word.RUNNING, progress(status))
        case "checkpointed":
            return State(Word.CHECKPOINTED, f"at {progress(status)}: {status.get('reason')}")
        case "failed" if status.get("status") in (Status.INTERRUPTED, Status.TERMINATED):
            return State(Word.STOPPED, f"in phase {progress(status)}: {status.get('reason')}")
        case "failed":
            return State(Word.FAILED, f"{status.get('reason')} (status {status.get('status')})")
    return State(Word.PENDING)


def _with_checkpoint(point: Point, state: State) -> State:
    """``state``, and what becomes of a checkpoint that is there."""
    from hpcmpi.store.result import results

    if state.word not in (Word.CHECKPOINTED, Word.STOPPED, Word.FAILED):
        return state
    wanted, found = identity(asked(point.job), hpcmpi.__version__), set[str]()
    for slot in (0, 1):
        path = point.output.with_name(f"{point.output.name}.checkpoint{slot}")
        with contextlib.suppress(InputError, ValueError, KeyError), results(path) as groups:
            found |= {str(group.attrs["identity"]) for group in groups}
    if not found:
        return state
    if wanted not in found:
        return State(state.word, f"{state.detail} (the checkpoint there is of other parameters: it begins anew)")
    return state if state.word == Word.CHECKPOINTED else State(state.word, f"{state.detail}; it has a checkpoint")


def progress(status: dict[str, Any]) -> str:
    """Phase and percentage of a running job."""
    fraction = status.get("fraction")
    return f"{status.get('phase', '')}{f' {fraction:.0%}' if fraction is not None else ''}"


def alive(status: dict[str, Any]) -> bool | None:
    """Whether any of a job's processes is there; None where they are, or some are, on hosts that cannot be asked."""
    ranks = status.get("ranks", [])
    if any(rank["host"] != os.uname().nodename for rank in ranks):
        return None
    return any(processes.is_alive(rank["pid"], rank.get("started", "")) for rank in ranks)
