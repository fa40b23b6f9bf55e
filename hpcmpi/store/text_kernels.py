"""Reading lines of numbers: a parser of ``row column value`` that is strict, exact, and as fast as the disk."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hpcmpi.jit import kernel

_SPACE, _TAB, _RETURN, _NEWLINE, _PERCENT = 32, 9, 13, 10, 37
_PLUS, _MINUS, _POINT, _ZERO, _NINE = 43, 45, 46, 48, 57
_EXACT = 2**53  # up to here, and with powers of ten up to 22, one multiplication or division rounds correctly
_LARGEST_POWER = 22
_TENS = 10.0 ** np.arange(_LARGEST_POWER + 1)


@kernel()
def _skip_blanks(text: NDArray[np.uint8], at: int) -> int:
    while at < text.size and (text[at] == _SPACE or text[at] == _TAB or text[at] == _RETURN):
        at += 1
    return at


@kernel()
def _whole(text: NDArray[np.uint8], at: int) -> tuple[np.int64, int]:
    """(Number, place behind it) of the digits at ``at``; number -1 where there are none or too many."""
    number, begin = np.int64(0), at
    while at < text.size and _ZERO <= text[at] <= _NINE:
        number = 10 * number + (np.int64(text[at]) - _ZERO)
        at += 1
    if at == begin or at - begin > 18:
        return np.int64(-1), at
    return number, at


@kernel()
def _decimal(text: NDArray[np.uint8], at: int, end: int) -> tuple[float, bool]:
    """(Number, is it exact?) of the token [at, end); not exact means that a careful parser must look at it."""
    negative = text[at] == _MINUS
    if text[at] == _MINUS or text[at] == _PLUS:
        at += 1
    mantissa, power, digits, point = np.int64(0), np.int64(0), 0, False
    while at < end and (_ZERO <= text[at] <= _NINE or (text[at] == _POINT and not point)):
        if text[at] == _POINT:
            point = True
        else:
            if mantissa >= _EXACT // 10:
                return 0.0, False
            mantissa = 10 * mantissa + (np.int64(text[at]) - _ZERO)
            power -= point
            digits += 1
        at += 1
    if digits == 0:
        return 0.0, False
    if at < end:
        letter = text[at] | 32
        if letter not in (101, 100):  # e, or d as Fortran writes it
            return 0.0, False
        at += 1
        minus = at < end and text[at] == _MINUS
        if at < end and (text[at] == _MINUS or text[at] == _PLUS):
            at += 1
        exponent, behind = _whole(text, at)
        if exponent < 0 or behind != end or exponent > 1000:
            return 0.0, False
        power += -exponent if minus else exponent
    if not -_LARGEST_POWER <= power <= _LARGEST_POWER:
        return 0.0, False
    number = mantissa / _TENS[-power] if power < 0 else mantissa * _TENS[power]
    return (-number if negative else number), True


@kernel()
def _integer(text: NDArray[np.uint8], at: int, end: int) -> tuple[float, bool]:
    """As :func:`_decimal`, of a whole number."""
    negative = text[at] == _MINUS
    if text[at] == _MINUS or text[at] == _PLUS:
        at += 1
    number, behind = _whole(text, at)
    if number < 0 or number > _EXACT or behind != end:
        return 0.0, False
    return (-np.float64(number) if negative else np.float64(number)), True


@kernel()
def _number(text: NDArray[np.uint8], at: int, end: int, whole: bool) -> tuple[float, bool]:
    return _integer(text, at, end) if whole else _decimal(text, at, end)


@kernel()
def parse_entries(  # noqa: PLR0912 - a state machine
    text: NDArray[np.uint8],
    m: int,
    n: int,
    values_a_line: int,
    whole: bool,
    placed: bool,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    values: NDArray[np.float64],
    careful: NDArray[np.int64],
) -> tuple[int, int, int]:
    """Parse lines ``row column [value ...]`` of 1-based places, until ``text`` or the room in ``rows`` ends.

    Lines that are not ``placed`` hold values alone, and leave ``rows`` and ``columns`` as they are. ``whole`` leaves
    values with a point or an exponent to the caller.
    Fills ``rows`` and ``columns`` (0-based) and ``values`` (entries, ``values_a_line``). Returns how many entries there
    are, how many rows of ``careful`` are filled, and where the first line that is not of this form or outside m x n
    begins, or -1. ``careful`` holds (entry, which value, start, end) of tokens that are left to the caller.
    """
    at, entry, left = 0, 0, 0
    while at < text.size:
        line = at
        at = _skip_blanks(text, at)
        if at >= text.size:
            break
        if text[at] == _NEWLINE:
            at += 1
            continue
        if text[at] == _PERCENT:
            while at < text.size and text[at] != _NEWLINE:
                at += 1
            continue
        if entry == rows.size:
            return entry, left, line
        before = -1
        if placed:
            row, at = _whole(text, at)
            before = at
            at = _skip_blanks(text, at)
            column, behind = _whole(text, at)
            if at == before or not 1 <= row <= m or not 1 <= column <= n:
                return entry, left, line
            rows[entry], columns[entry] = row - 1, column - 1
            before = at = behind
        for value in range(values_a_line):
            at = _skip_blanks(text, at)
            end = at
            while end < text.size and text[end] > _SPACE:
                end += 1
            if at in (end, before):
                return entry, left, line
            number, exact = _number(text, at, end, whole)
            values[entry, value] = number
            if not exact:
                careful[left, 0], careful[left, 1], careful[left, 2], careful[left, 3] = entry, value, at, end
                left += 1
            before = at = end
        at = _skip_blanks(text, at)
        if at < text.size:
            if text[at] != _NEWLINE:
                return entry, left, line
            at += 1
        entry += 1
    return entry, left, -1
