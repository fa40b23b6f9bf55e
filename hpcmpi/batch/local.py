"""Points run here, one after another, each by an ``mpirun`` of its own."""

from __future__ import annotations

import contextlib
import fcntl
import json
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

from hpcmpi.batch import state
from hpcmpi.batch.jobfile import Point
from hpcmpi.errors import OutputError, Status, UsageError, quoted

_POLL_SECONDS = 0.05
_WATCH_SECONDS = 0.5
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
        os.write(descriptor, json.dumps({"host": os.uname().nodename, "pid": os.getpid()}).encode())
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
    with point.log.open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        next_look = 0.0
        try:
            while process.poll() is None:
                if time.monotonic() >= next_look:
                    watch(state.progress(state.status_of(point)))
                    next_look = time.monotonic() + _WATCH_SECONDS
                time.sleep(_POLL_SECONDS)
        except (Stop, KeyboardInterrupt):
            stop(point, process)
            raise Stop from None
        return process.returncode


def stop(point: Point, process: subprocess.Popen[bytes]) -> None:
    """Ask the ranks of ``point`` to end, so that those that can checkpoint do; whoever asks again ends the launcher."""
    ranks = [rank["pid"] for rank in state.status_of(point).get("ranks", []) if rank["host"] == os.uname().nodename]
    there = [pid for pid in ranks if _is_ours(pid)]
    for pid in there:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    if not there:
        process.terminate()
    try:
        process.wait()
    except (Stop, KeyboardInterrupt):
        process.kill()
        process.wait()


def _is_ours(pid: int) -> bool:
    """Whether process ``pid`` runs hpcmpi, and is not another that got the number of one that is gone."""
    try:
        return b"hpcmpi" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def worst(statuses: list[int]) -> int:
    """Exit status of a study: that of the first point that is not right, WRONG before all others."""
    bad = [status for status in statuses if status != Status.DONE]
    return Status.WRONG if Status.WRONG in bad else (bad[0] if bad else Status.DONE)
