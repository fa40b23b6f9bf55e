"""Named errors and the exit status of each.

Every error that a user can cause derives from :class:`HpcmpiError`. Its message says what was found, what was expected
and where; the command line prints it once, without a traceback, and exits with its ``status``.
"""

from __future__ import annotations

import os
import re
import sys
from enum import IntEnum

LONGEST_ECHO = 200
"""Characters of text from outside, such as an option's value or a line of a file, that a message shows."""

_LONGEST_LINE = 5 * LONGEST_ECHO
_LONG_QUOTATION = re.compile(
    rf"""(?<!\w)'(?:[^'\\\n]|\\.){{{LONGEST_ECHO - 1},}}'|(?<!\w)"(?:[^"\\\n]|\\.){{{LONGEST_ECHO - 1},}}"|"""
    rf"""\S{{{LONGEST_ECHO + 1},}}"""
)


def cut(text: str, longest: int = LONGEST_ECHO) -> str:
    """``text``; of one with more than ``longest`` characters, its beginning and its end with ``...`` between them."""
    if len(text) <= longest:
        return text
    end = longest // 3
    return f"{text[: longest - end - 3]}...{text[-end:]}"


def quoted(value: object) -> str:
    """``value`` as Python writes it, cut."""
    return cut(repr(value))


def message(text: str) -> str:
    """``text`` with every long word, quotation and value from the command line cut, and no line that fills a screen."""
    if len(text) <= LONGEST_ECHO:
        return text
    for value in _given():
        text = text.replace(value, cut(value))
    short = _LONG_QUOTATION.sub(lambda found: cut(found[0]), text)
    return "\n".join(cut(line, _LONGEST_LINE) for line in short.split("\n"))


def _given() -> list[str]:
    """Long values from the command line and from the variables that hpcmpi reads: not every message quotes them."""
    words = [part for word in sys.argv for part in (word, word[2:], word.partition("=")[2], word.removesuffix(".toml"))]
    variables = [value for name, value in os.environ.items() if name.startswith(("HPCMPI_", "MPI4PY_"))]
    return [text.strip() for text in (*words, *variables) if len(text.strip()) > LONGEST_ECHO]


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
    order and say it once. Whatever the text quotes is cut, see :func:`message`.
    """

    status = Status.INTERNAL
    agreed = 0

    def __init__(self, text: str = "") -> None:
        super().__init__(message(text))


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
