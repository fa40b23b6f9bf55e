"""Named errors and the exit status of each.

Every error that a user can cause derives from :class:`HpcmpiError`. Its message says what was found, what was expected
and where; the command line prints it once, without a traceback, and exits with its ``status``.
"""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """Exit statuses of the command line. 1 is never used: it is what any crash returns."""

    DONE = 0
    """Done and, unless switched off, verified."""
    USAGE = 2
    """The command line is wrong."""
    WRONG = 3
    """Done, but the check of the answer failed."""
    LAUNCH = 64
    """The launcher and MPI disagree about the job."""
    INPUT = 65
    """The input cannot be used."""
    INTERNAL = 70
    """An unexpected exception: a defect of the program."""
    OUTPUT = 73
    """The output cannot be written."""
    RESOURCES = 75
    """Not enough memory, scratch space or time: try again with more."""
    CHECKPOINTED = 85
    """Stopped after a checkpoint: resume me."""
    WATCHDOG = 124
    """``--timeout`` passed."""
    INTERRUPTED = 130
    """Ended by Ctrl-C."""
    TERMINATED = 143
    """Ended by SIGTERM without a checkpoint."""


class HpcmpiWarning(UserWarning):
    """What a user should know of a run that goes on; the command line prints it without its place in the code."""


class HpcmpiError(Exception):
    """Base of the errors that a user can cause.

    ``agreed`` counts the ranks that have raised it together: where it is all of the job's, the job can end in good
    order and say it once.
    """

    status = Status.INTERNAL
    agreed = 0


class UsageError(HpcmpiError):
    """The options contradict each other or the files that they name."""

    status = Status.USAGE


class LaunchError(HpcmpiError):
    """The launcher and MPI disagree, or the ranks run different software."""

    status = Status.LAUNCH


class InputError(HpcmpiError, ValueError):
    """An input is missing, damaged, or not what the algorithm takes."""

    status = Status.INPUT


class WrongError(HpcmpiError):
    """What was computed is wrong, and nothing is written."""

    status = Status.WRONG


class OutputError(HpcmpiError):
    """The output cannot be written where it should go."""

    status = Status.OUTPUT


class ResourceError(HpcmpiError):
    """The job does not fit into the memory or scratch space that there is."""

    status = Status.RESOURCES


def status_of(error: BaseException) -> Status:
    """Exit status that ``error`` stands for."""
    if isinstance(error, HpcmpiError):
        return error.status
    if isinstance(error, MemoryError):
        return Status.RESOURCES
    if isinstance(error, KeyboardInterrupt):
        return Status.INTERRUPTED
    return Status.INTERNAL
