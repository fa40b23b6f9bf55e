"""Kernels that read graphs from text."""

from __future__ import annotations

import numpy as np

from hpcmpi.jit import kernel

NEWLINE, RETURN, TAB, SPACE, COMMA = 10, 13, 9, 32, 44
HASH, PERCENT, SLASH, BRACE, END_BRACE = 35, 37, 47, 123, 125
ZERO, NINE = 48, 57
PLUS, POINT, UPPER_E, LOWER_E = 43, 46, 69, 101  # comma and minus are between the first two
LETTERS = np.zeros(256, np.bool_)  # of nan, infinity and imaginary units, which weights may be
LETTERS[[ord(letter) for letter in "nNaAiIfFtTyYjJ"]] = True
LARGEST = 2**62
ANY_LENGTH = -1  # of lines, instead of a number of columns


@kernel()
def count_lines(text):
    """Lines that ``text`` ends or begins."""
    lines = 1
    for byte in text:
        lines += byte == NEWLINE
    return lines


@kernel()
def count_numbers(text):
    """Stretches of digits in ``text``."""
    numbers, inside = 0, False
    for byte in text:
        digit = ZERO <= byte <= NINE
        numbers += digit and not inside
        inside = digit
    return numbers


@kernel(inline="always")
def is_slashes(text, at):
    """Whether a comment begins as in C++."""
    return text[at] == SLASH and at + 1 < text.size and text[at + 1] == SLASH


@kernel(inline="always")
def is_comment(text, at):
    """Whether a line whose first symbol is at ``at`` is a comment."""
    return text[at] == HASH or text[at] == PERCENT or is_slashes(text, at)


@kernel(inline="always")
def is_lone_return(text, at):
    """Whether a line would end in CR alone here."""
    return text[at] == RETURN and at + 1 < text.size and text[at + 1] != NEWLINE and text[at + 1] != RETURN


@kernel()
def skip_line(text, at):
    """Where the line after ``at`` begins."""
    while at < text.size and text[at] != NEWLINE:
        at += 1
    return at + 1


@kernel()
def read_id(text, at):
    """(Id at ``at``, or -1 if there is none up to 2^62; where it ends)."""
    number, begin = np.int64(0), at
    while at < text.size and ZERO <= text[at] <= NINE:
        if number > LARGEST // 10:
            return np.int64(-1), at
        number = number * 10 + np.int64(text[at] - ZERO)
        if number > LARGEST:
            return np.int64(-1), at
        at += 1
    return (number if at > begin else np.int64(-1)), at


@kernel()
def read_rest(text, at):
    """(Columns from ``at`` to the end of the line, or -1 if they cannot belong to an edge; where the line ends).

    They look like numbers, or are one dictionary as networkx writes it.
    """
    columns, inside = 0, False
    while at < text.size and text[at] != NEWLINE:
        byte = text[at]
        if byte == BRACE and not inside:
            last = byte
            while at < text.size and text[at] != NEWLINE:
                last = text[at] if text[at] > SPACE else last
                at += 1
            return (columns + 1 if last == END_BRACE else -1), at
        number = ZERO <= byte <= NINE or PLUS <= byte <= POINT or byte in (UPPER_E, LOWER_E) or LETTERS[byte]
        if is_lone_return(text, at) or not (number or byte <= SPACE):
            return -1, at
        number = number and byte != COMMA
        columns += number and not inside
        inside = number
        at += 1
    return columns, at


@kernel()
def parse_edges(text, columns, u, v):
    """Read the first two numbers of each line.

    Returns the edges, where the first bad line begins, or -1, and the columns of lines. These must be the same in all
    lines: ``columns`` if it is not 0, any number if it is ANY_LENGTH. Lines that are blank or begin with ``#``, ``%``
    or ``//`` are skipped. Numbers are separated by blanks, tabs or a comma.
    """
    at, count = 0, 0
    while at < text.size:
        begin = at
        while at < text.size and (text[at] == SPACE or text[at] == TAB or text[at] == RETURN):
            if is_lone_return(text, at):
                return count, begin, columns
            at += 1
        if at == text.size or text[at] == NEWLINE or is_comment(text, at):
            at = skip_line(text, at)
            continue
        u[count], at = read_id(text, at)
        separated = at < text.size and (text[at] == SPACE or text[at] == TAB or text[at] == COMMA)
        while at < text.size and (text[at] == SPACE or text[at] == TAB or text[at] == COMMA):
            at += 1
        v[count], at = read_id(text, at)
        ended = at == text.size or text[at] <= SPACE or text[at] == COMMA
        if u[count] < 0 or v[count] < 0 or not separated or not ended:
            return count, begin, columns
        more, at = read_rest(text, at)
        if columns == 0 and more >= 0:
            columns = 2 + more
        if more < 0 or (columns != ANY_LENGTH and columns != 2 + more):
            return count, begin, columns
        count += 1
        at += 1
    return count, -1, columns


@kernel()
def parse_neighbours(text, named, skipped, step, u, v):
    """Read lines of neighbours: (edges, lines, where the first bad line begins, or -1).

    The vertex of a line is its first number if ``named`` is 1, and blank lines are then skipped; if it is 0, the number
    of lines before it. ``skipped`` numbers follow; then every ``step``-th number is a neighbour. Lines that begin
    with ``#``, ``%`` or ``//`` are skipped.
    """
    at, count, lines = 0, 0, 0
    while at < text.size:
        begin, vertex, place, comment = at, np.int64(lines), -named, False
        while at < text.size and text[at] != NEWLINE:
            if text[at] == SPACE or text[at] == TAB or text[at] == RETURN:
                if is_lone_return(text, at):
                    return count, lines, begin
                at += 1
                continue
            if place == -named and is_comment(text, at):
                at = skip_line(text, at) - 1
                comment = True
                break
            number, at = read_id(text, at)
            if number < 0 or (at < text.size and text[at] > SPACE):
                return count, lines, begin
            if place < 0:
                vertex = number
            elif place >= skipped and (place - skipped) % step == 0:
                u[count], v[count] = vertex, number
                count += 1
            place += 1
        if -named < place < skipped:
            return count, lines, begin
        if place > skipped and (place - skipped) % step:
            return count, lines, begin
        lines += not comment and (place > -named or named == 0)
        at += 1
    return count, lines, -1
