"""Points run here, one after another, each by an ``mpirun`` of its own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from hpcmpi import processes
from hpcmpi.batch import state
from hpcmpi.batch.jobfile import Point
from hpcmpi.errors import OutputError, Status, UsageError, quoted

_POLL_SECONDS = 0.05
_WATCH_SECONDS = 0.5
_SIGNAL_SECONDS = 1.0
_USUAL = ["mpirun"]
Purpose = Literal["runs", "submits"]


def launcher_words(given: str | None) -> list[str]:
    """The words before ``-n``: what was given, else the mpirun of this environment, else that on the path.

    Raises UsageError for quotation marks that do not match.
    """
    if given and given.strip():
        try:
            return shlex.split(given)
        except ValueError as error:
            raise UsageError(f"--launcher {quoted(given)}: {error}") from None
    own = Path(sys.executable).with_name("mpirun")
    return [str(own)] if own.exists() else _USUAL


def command_of(point: Point, launcher: list[str], *, force: bool, restart: bool) -> list[str]:
    """The command that runs ``point``. Raises UsageError where there is no such launcher, unless it is not needed."""
    argv = [sys.executable, "-m", "hpcmpi", *point.argv(force=force, restart=restart)]
    if shutil.which(launcher[0]) is not None:
        return [*launcher, "-n", str(point.ranks), *argv]
    if point.ranks == 1 and launcher == _USUAL:
        return argv
    raise UsageError(f"{launcher[0]}: no such launcher; --launcher names another, such as 'srun -K1 --mpi=pmi2'")


@contextlib.contextmanager
def held(folder: Path, purpose: Purpose = "runs") -> Iterator[None]:
    """Be the only one who runs, or submits, ``folder``. Raises OutputError if another does, or it cannot be made."""
    path = _lock(folder, purpose)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            advice = "hpcmpi cancel stops that" if purpose == "runs" else "try again when it has ended"
            raise OutputError(f"{folder}: {_process(folder, purpose)} {purpose} it now; {advice}") from None
        except OSError:
            pass  # a file system without locks
        os.truncate(descriptor, 0)
        os.write(descriptor, json.dumps(_here()).encode())
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _lock(folder: Path, purpose: Purpose) -> Path:
    return folder / f".{purpose}"


def _process(folder: Path, purpose: Purpose) -> str:
    pid = holder(folder, purpose)
    return "another process" if pid is None else f"process {pid}"


def holder(folder: Path, purpose: Purpose = "runs") -> int | None:
    """The process of this host that runs, or submits, ``folder`` now, if any."""
    try:
        with _lock(folder, purpose).open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                said = json.load(file)
                return int(said["pid"]) if said["host"] == os.uname().nodename else None
    except (OSError, ValueError, KeyError):
        pass
    return None


class Stop(Exception):  # noqa: N818 - a request
    """Someone wants the runs to stop."""


def run(point: Point, command: list[str], watch: Callable[[str], None]) -> int:
    """Exit status of ``command``, which prints into the log of ``point``; ``watch`` is told how far it is.

    Where this process is asked to stop, so is the run, which may checkpoint; then Stop is raised.
    """
    # Intel MPI's mpirun finds its parts by PATH alone.
    path = os.pathsep.join([str(Path(command[0]).parent), os.environ.get("PATH", os.defpath)])
    with point.log.open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | ({"PATH": path} if os.sep in command[0] else {}),
        )
        next_look = 0.0
        try:
            _note(point, process.pid)
            while process.poll() is None:
                if time.monotonic() >= next_look:
                    watch(state.progress(state.status_of(point)))
                    next_look = time.monotonic() + _WATCH_SECONDS
                time.sleep(_POLL_SECONDS)
        except (Stop, KeyboardInterrupt):
            _stop(point, process)
            raise Stop from None
        return process.returncode


def _stop(point: Point, process: subprocess.Popen[bytes]) -> None:
    """End the run of ``point`` and wait until it has ended; whoever asks again kills it."""
    try:
        end_run(point, process.pid, signal.SIGTERM)
    except (Stop, KeyboardInterrupt):
        end_run(point, process.pid, signal.SIGKILL)
    process.wait()


def _note(point: Point, launcher: int) -> None:
    """Write down the launcher of the current run, for the case that this process is killed."""
    started = {"launcher": launcher, "started": processes.birth(launcher), "point": point.name}
    with contextlib.suppress(OSError):
        _lock(point.output.parent, "runs").write_text(json.dumps(_here() | started))


def _here() -> dict[str, object]:
    """This process, for those who find its lock."""
    return {"host": os.uname().nodename, "pid": os.getpid()}


def noted_launcher(folder: Path) -> tuple[int | None, str]:
    """The launcher that runs a point of ``folder`` on this host, also if its `hpcmpi run` was killed, and the point."""
    try:
        noted = json.loads(_lock(folder, "runs").read_text())
        launcher, started, point = int(noted["launcher"]), str(noted["started"]), str(noted["point"])
        if noted["host"] == os.uname().nodename and started and processes.is_alive(launcher, started):
            return launcher, point
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None, ""


def end_run(point: Point, launcher: int | None, number: int, seconds: float = math.inf) -> bool:
    """Send a signal to the run of ``point`` on this host, wait until it has ended, and return whether it has in time.

    A launcher may lose a signal that comes before it has started its ranks, so it gets more as long as there are none.
    """
    asked, deadline, next_signal = set[tuple[int, str]](), time.monotonic() + seconds, 0.0
    while True:
        if time.monotonic() >= next_signal:
            asked |= _signal(point, launcher, number, asked)
            next_signal = time.monotonic() + _SIGNAL_SECONDS
        if not is_left(point, launcher):
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)


def _signal(point: Point, launcher: int | None, number: int, asked: set[tuple[int, str]]) -> set[tuple[int, str]]:
    """Send a signal to the ranks of ``point`` that have not been ``asked``; return those that it has reached.

    They get it and not their launcher, so that those that can checkpoint do. The launcher's process group gets it where
    there are no ranks, or if it is SIGKILL. (Intel MPI's ``mpirun`` is a shell script that passes on nothing.)
    """
    reached = {rank for rank in _ranks(point) if rank not in asked and processes.send(*rank, number)}
    if launcher is not None and (number == signal.SIGKILL or not asked | reached):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(launcher, number)
    return reached


def is_left(point: Point, launcher: int | None) -> bool:
    """Whether a rank of ``point`` still runs on this host, or a process of its launcher's session."""
    if any(processes.is_alive(pid, started) for pid, started in _ranks(point) if started):
        return True
    return launcher is not None and bool(processes.members(launcher))


def _ranks(point: Point) -> list[tuple[int, str]]:
    """Process ids and start times of the ranks on this host, by the status file."""
    ranks = state.status_of(point).get("ranks", [])
    return [(rank["pid"], rank.get("started", "")) for rank in ranks if rank["host"] == os.uname().nodename]


def worst(statuses: list[int]) -> int:
    """Exit status of a study: that of the first point that is not right, WRONG before all others."""
    bad = [status for status in statuses if status != Status.DONE]
    return Status.WRONG if Status.WRONG in bad else (bad[0] if bad else Status.DONE)
