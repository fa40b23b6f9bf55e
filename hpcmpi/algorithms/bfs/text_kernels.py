"""Kernels that read edges from text."""

from __future__ import annotations

import numpy as np

from hpcmpi.jit import kernel

NEWLINE, RETURN, TAB, SPACE, COMMA = 10, 13, 9, 32, 44
HASH, PERCENT, SLASH = 35, 37, 47
ZERO, NINE = 48, 57
PLUS, POINT, UPPER_E, LOWER_E = 43, 46, 69, 101  # comma and minus are between the first two
LARGEST = 2**62


@kernel()
def count_lines(text):
    """Lines that ``text`` ends or begins."""
    lines = 1
    for byte in text:
        lines += byte == NEWLINE
    return lines


@kernel(inline="always")
def is_slashes(text, at):
    """Whether a comment begins as in C++."""
    return text[at] == SLASH and at + 1 < text.size and text[at + 1] == SLASH


@kernel()
def parse_edges(text, u, v):  # noqa: PLR0912 - a state machine
    """Read the first two numbers of each line; returns the edges, and where the first bad line begins, or -1.

    Lines that are blank or begin with ``#``, ``%`` or ``//`` are left out. Numbers are separated by blanks, tabs or a
    comma; what follows the second must look like numbers too.
    """
    at, count, size = 0, 0, text.size
    while at < size:
        begin = at
        while at < size and (text[at] == SPACE or text[at] == TAB or text[at] == RETURN):
            at += 1
        if at == size or text[at] == NEWLINE or text[at] == HASH or text[at] == PERCENT or is_slashes(text, at):
            while at < size and text[at] != NEWLINE:
                at += 1
            at += 1
            continue
        for end in range(2):
            number, digits = np.int64(0), 0
            while at < size and ZERO <= text[at] <= NINE:
                if number > LARGEST // 10:
                    return count, begin
                number = number * 10 + np.int64(text[at] - ZERO)
                if number > LARGEST:
                    return count, begin
                digits += 1
                at += 1
            after = text[at] if at < size else NEWLINE
            if digits == 0:
                return count, begin
            if after not in (SPACE, TAB, RETURN, NEWLINE, COMMA):
                return count, begin
            if end == 0:
                u[count] = number
                while at < size and (text[at] == SPACE or text[at] == TAB or text[at] == COMMA):
                    at += 1
            else:
                v[count] = number
        count += 1
        while at < size and text[at] != NEWLINE:
            byte = text[at]
            if not (ZERO <= byte <= NINE or byte <= SPACE or PLUS <= byte <= POINT or byte in (UPPER_E, LOWER_E)):
                return count, begin
            at += 1
        at += 1
    return count, -1
