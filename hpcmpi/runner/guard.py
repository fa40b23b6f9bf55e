"""How a job ends early: exceptions, signals and the watchdog end every rank within seconds, with one message.

A thread of this process waits for signals and for the deadline; it can act while the main thread is inside MPI or BLAS,
where Python's own handlers would wait. Whoever ends the job prints why, writes the status file, and aborts MPI. Should
even that hang, the process exits by itself, which launchers notice.

A signal wins over the errors that follow from it: the main thread goes on until the process is gone, and may find the
partial file removed. It cannot report that, since it waits for the thread that ends the job, and for the other ranks.

Ranks that mpirun has started end with the process that started them on their node, its proxy there. Under srun they do
not: Slurm knows them, and decides itself which jobs end and which are requeued.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from mpi4py import MPI

from hpcmpi import leftovers, processes
from hpcmpi.errors import HpcmpiError, Status, status_of
from hpcmpi.launch import Launch

_ABORT_SECONDS = 2.0  # for MPI to end all ranks, before this one exits by itself
_CLEAN_UP_SECONDS = 10.0  # for the status file to be written and the partial file to be removed, on disks that hang
_PARENT_ENDED = signal.SIGRTMAX - 1  # a signal that nobody else is likely to use
_DUMP_SECONDS = 1.0  # for all ranks to print their stacks before the first one aborts
_BACKSTOP_SECONDS = 15.0  # beyond the deadline, for a rank whose main thread never lets go of the interpreter


class Guard:
    """Watches over this rank of ``world`` from construction on; ``timeout`` in seconds from then.

    ``stop_requested`` becomes true on SIGUSR1, and on SIGTERM if the job ``can_checkpoint``; without that, SIGTERM ends
    the job. SIGHUP is treated as SIGTERM unless it was ignored at the start (nohup), and so is the end of ``parent``,
    the process that started this one. ``on_end`` holds what to do before the process is gone: each is given the status
    and the reason. ``on_stop`` holds what to do at once when SIGTERM asks for a checkpoint: SIGKILL may come before
    that is written.
    """

    def __init__(self, world: MPI.Comm, launch: Launch, timeout: float | None, parent: int) -> None:
        self.world, self.host, self._launcher = world, launch.node, launch.launcher
        # In a mismatched launch every process is rank 0 of a world of its own, but only one is the launcher's.
        self._speaker = world.rank == 0 and launch.rank == 0
        self.can_checkpoint = False
        self.stop_requested = False
        self._released = False
        self._parent = parent
        self._why = ""  # the signal that ends the job, once it can take no more checkpoints
        self.on_end: list[Callable[[Status, str], None]] = []
        self.on_stop: list[Callable[[str], None]] = []
        self._claim = _file_of_the_node(world)
        self._turn = 0.0
        self._ending = threading.Lock()
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        faulthandler.enable()
        if timeout is not None:
            faulthandler.dump_traceback_later(timeout + _BACKSTOP_SECONDS, exit=True)
            # Unlike our thread, this can show the stack of a rank that never lets go of the interpreter.
            faulthandler.register(signal.SIGALRM)
            signal.setitimer(signal.ITIMER_REAL, timeout + _DUMP_SECONDS / 2)
        wake, self._woken = os.pipe()
        os.set_blocking(self._woken, False)
        numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, _PARENT_ENDED]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        for number in numbers:
            signal.signal(number, lambda _number, _frame: None)
            signal.siginterrupt(number, False)  # HDF5 and MPI may take an interrupted call for a failed one
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(wake,), name="hpcmpi guard", daemon=True).start()
        if _is_started_by_mpirun(launch):
            processes.signal_when_parent_ends(_PARENT_ENDED)
            if os.getppid() != parent:  # it ended before that
                os.kill(os.getpid(), _PARENT_ENDED)

    def speak_after(self, node: int) -> None:
        """Let nodes of lower number speak first, should the same error strike many at once."""
        self._turn = min(1.0, 0.25 * node)

    def _watch(self, wake: int) -> None:
        while True:
            wait = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            ready, _, _ = select.select([wake], [], [], wait)
            if not ready and self._deadline is not None:  # not released meanwhile
                self._time_out()
            for number in os.read(wake, 64):
                self._receive(number)

    def _receive(self, number: int) -> None:
        if number == _PARENT_ENDED and os.getppid() == self._parent:
            return  # a thread of the launcher has ended, not the launcher
        if number == signal.SIGUSR1:
            self.stop_requested = True
        elif self._released:  # the result is there: the rest is printing and MPI_Finalize
            _exit_after(_ABORT_SECONDS, Status.INTERRUPTED if number == signal.SIGINT else Status.TERMINATED)
        elif number == signal.SIGINT:
            self.end(Status.INTERRUPTED, "interrupted")
        else:
            name = "the end of its launcher" if number == _PARENT_ENDED else signal.Signals(number).name
            self._why, self.stop_requested = f"ended by {name}", True
            if not self.can_checkpoint:
                self.end(Status.TERMINATED, self._why)
            self._expect_kill(name)

    def _expect_kill(self, name: str) -> None:
        """The signal ``name`` has asked for a checkpoint: SIGKILL may follow before it is written."""
        acts, self.on_stop = self.on_stop, []
        for act in acts:
            with contextlib.suppress(OSError):
                act(name)

    def end_if_stopped(self) -> None:
        """End the job if SIGTERM has asked for a checkpoint that will not be taken any more."""
        if self._why:
            self.end(Status.TERMINATED, self._why)

    def _time_out(self) -> None:
        """Print the stacks of this rank's threads in one piece, wait for the other ranks to do so, and end the job."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        with open(os.memfd_create("stacks"), "w+") as file:  # noqa: PTH123 - needs no disk
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            stacks = "".join(f"rank {self.world.rank} ({self.host}): {line}" for line in file)
        _say(
            f"rank {self.world.rank} ({self.host}): no end after --timeout {self._timeout:g} s; where it is:\n{stacks}"
        )
        time.sleep(_DUMP_SECONDS)
        self.end(Status.WATCHDOG, f"no end after --timeout {self._timeout:g} s")

    def fail(self, error: BaseException) -> int:
        """End the job for ``error``; return the exit status if all ranks have raised it, else do not return."""
        if not isinstance(error, HpcmpiError) or error.agreed != self.world.size:
            self._end_for(error)
        with self._ending:  # taken for ever by the thread that ends the job, if it does
            pass
        self.world.Barrier()  # nor does another rank end the job, of which this error may be the consequence
        with self._ending:
            self._released = True
        if self._speaker:
            _say(f"hpcmpi: {'' if error.status == Status.CHECKPOINTED else 'error: '}{error}\n")
            self._clean_up(error.status, str(error))
        self.release()
        return error.status

    def _end_for(self, error: BaseException) -> NoReturn:
        if isinstance(error, HpcmpiError | MemoryError):
            self.end(status_of(error), str(error) or "out of memory")
        if isinstance(error, SystemExit):
            self.end(Status.INTERNAL, f"called sys.exit({error.code!r})\n" + "".join(traceback.format_exception(error)))
        text = "".join(traceback.format_exception(error)).rstrip()
        self.end(status_of(error), f"{type(error).__name__}: {error}\n{text}")

    def end(self, status: Status, reason: str) -> NoReturn:
        """End the whole job from this rank alone; the first line of ``reason`` goes to the status file."""
        with self._ending:
            _exit_after(self._turn + _CLEAN_UP_SECONDS, status)
            time.sleep(self._turn)
            summary, _, details = reason.partition("\n")
            if self._is_first():
                where = f"rank {self.world.rank} ({self.host})"
                _say(f"hpcmpi: {where}: {summary}\n" + "".join(f"{where}: {line}\n" for line in details.splitlines()))
                self._clean_up(status, f"{where}: {summary}")
            else:
                time.sleep(_ABORT_SECONDS / 2)  # the one that speaks ends us
                self._clean_up(status, f"rank {self.world.rank} ({self.host}): {summary}")  # unless it cannot
            if self._launcher is None:  # nobody else to end
                os._exit(int(status))
            _exit_after(_ABORT_SECONDS, status)
            _skip_exit_handlers()
            with open(os.devnull, "w") as null:  # noqa: PTH123 - a device; this one needs no interpreter
                faulthandler.dump_traceback_later(2 * _ABORT_SECONDS, exit=True, file=null)
                self.world.Abort(int(status))
            os._exit(int(status))

    def _clean_up(self, status: Status, reason: str) -> None:
        for act in self.on_end:
            try:
                act(status, reason)
            except OSError as error:
                _say(f"hpcmpi: rank {self.world.rank} ({self.host}): {error}\n")

    def _is_first(self) -> bool:
        """Whether this process is the first of its node to end the job; its claim outlives it."""
        mine = f"{self.world.rank:<12}".encode()
        try:
            os.write(self._claim, mine)
            return os.pread(self._claim, len(mine), 0) == mine
        except OSError:  # told twice is better than not at all
            return True

    def release(self) -> None:
        """Stand down at the good end of a job; never returns if a signal or the watchdog is ending it meanwhile."""
        with self._ending:
            self._deadline, self._released = None, True
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()


def _file_of_the_node(world: MPI.Comm) -> int:
    """Descriptor of an empty file that the ranks of a node share; it has no name, and goes with the last of them."""
    name: str = world.bcast(f"hpcmpi-{os.getpid()}-{time.time_ns()}")
    path = f"{'/dev/shm' if os.access('/dev/shm', os.W_OK) else '/tmp'}/{name}"  # noqa: S108 - of the node alone
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600)
    except OSError:
        descriptor = -1
    world.Barrier()
    leftovers.unname_segments()
    if descriptor != -1:
        with contextlib.suppress(OSError):  # another rank was faster
            os.unlink(path)  # noqa: PTH108 - pathlib would slow the start
    return descriptor


def _is_started_by_mpirun(launch: Launch) -> bool:
    """Whether the parent is a proxy of mpirun, which may itself have been started by srun; not srun's own."""
    of_srun = "SLURM_STEP_ID" in os.environ and "MPI_LOCALNRANKS" not in os.environ
    return launch.launcher is not None and (launch.launcher.startswith("Open MPI") or not of_srun)


def _exit_after(seconds: float, status: Status) -> None:
    """Have the process exit after so many seconds, should it still be there."""
    timer = threading.Timer(seconds, os._exit, (int(status),))
    timer.daemon = True
    timer.start()


def _skip_exit_handlers() -> None:
    """Let the C function ``exit``, which MPI_Abort calls, end the process at once.

    Handlers of exit take apart what the main thread still works with: LLVM aborts the process while it compiles, and
    BLAS waits for its threads.
    """
    library = ctypes.CDLL(None)
    on_exit = getattr(library, "on_exit", None)  # of glibc; what is registered last is called first, with the status
    if on_exit is not None:
        on_exit(ctypes.cast(library._exit, ctypes.c_void_p), None)


def _say(text: str) -> None:
    """Write ``text`` to the standard error in one piece; a reader that is gone is no reason to fail."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        pass
