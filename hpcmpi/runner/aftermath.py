"""The end of a job whose ranks are killed on the way to a checkpoint, after SIGTERM has asked for one.

Open MPI's mpirun kills its ranks one second after it has passed on SIGTERM, and batch systems after a while. Killed
ranks can neither write the status file nor remove partial files. So rank 0, when SIGTERM arrives, starts a process in
a session of its own that waits for the end of rank 0, whatever its cause, and does both if the job has not done so.
Slurm kills that process too, with all others of the job step; the status file then says that SIGTERM has come.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hpcmpi.errors import Status

if TYPE_CHECKING:  # the process that waits needs neither MPI nor NumPy
    from hpcmpi.runner.status import StatusFile
    from hpcmpi.store.writer import Output

_SECONDS = 1.0  # for the other ranks to end the job in good order after the end of rank 0
_waiting: list[subprocess.Popen[bytes]] = []  # their standard input stays open as long as this process is there


def prepare(status_file: StatusFile, output: Output, signal_name: str) -> None:
    """Start the process that finishes the job if this one is killed after the signal ``signal_name``.

    It ends soon after this one, in any case.
    """
    writer = output.writer
    checkpoint = f"{glob.escape(str(output.target.absolute()))}.checkpoint[01]"
    task = {
        "status": str(status_file.path),
        "run": status_file.run,
        "reason": f"ended by {signal_name}: killed before it could checkpoint",
        "partial": [
            glob.escape(str(output.partial.absolute())),
            f"{checkpoint}.{glob.escape(f'{writer.job}.{writer.attempt}')}.*.partial",
        ],
    }
    process = subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import main; main()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # launchers kill the process groups of their ranks
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    _waiting.append(process)
    if process.stdin is not None:
        process.stdin.write(json.dumps(task).encode() + b"\n")
        process.stdin.flush()


def finish(status: Path, run: str, reason: str, partial: list[str]) -> None:
    """Remove the partial files of ``run`` and write its end into the status file, unless the job has done that."""
    try:
        content = json.loads(status.read_text())
    except (OSError, ValueError):
        return
    if content.get("run") != run or "status" in content:
        return
    for path in (path for pattern in partial for path in glob.glob(pattern)):  # noqa: PTH207 - patterns hold folders
        with contextlib.suppress(OSError):
            Path(path).unlink()
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    content |= {"state": "failed", "status": int(Status.TERMINATED), "reason": reason, "ended": now, "updated": now}
    fresh = status.with_name(f"{status.name}.{os.getpid()}")
    try:
        fresh.write_text(json.dumps(content, indent=1) + "\n")
        fresh.replace(status)
    except OSError:
        fresh.unlink(missing_ok=True)


def main() -> None:
    """Wait for the end of the process at the other end of standard input."""
    task = json.loads(sys.stdin.buffer.readline())
    sys.stdin.buffer.read()
    time.sleep(_SECONDS)
    finish(Path(task["status"]), task["run"], task["reason"], task["partial"])
