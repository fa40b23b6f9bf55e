"""Kernels of bitmaps, whose words are 64-bit: from and to lists, and the gaps between bits."""

from __future__ import annotations

import numpy as np

from hpcmpi.jit import kernel
from hpcmpi.simd import count_trailing_zeros

ONE, SIX, SIXTY_THREE = np.uint64(1), np.uint64(6), np.uint64(63)
LONG_GAP = 255


@kernel()
def set_bits(places, words):
    """Set the bits at ``places``."""
    for i in range(places.size):
        words[places[i] >> 6] |= ONE << np.uint64(places[i] & 63)


@kernel()
def to_queue(words, queue):
    """List the bits that are set, ascending; returns how many."""
    count = 0
    for word in range(words.size):
        rest = words[word]
        while rest:
            bit = count_trailing_zeros(rest)
            rest &= rest - ONE
            queue[count] = (word << 6) + np.int64(bit)
            count += 1
    return count


@kernel()
def set_levels(found, depth, level):
    """Write ``depth`` to the ``level`` of the vertices whose bits are set."""
    for word in range(np.uint64(found.size)):
        rest = found[word]
        while rest:
            level[(word << SIX) + count_trailing_zeros(rest)] = depth
            rest &= rest - ONE


@kernel()
def write_gaps(words, gaps):
    """Write how many bits that are not set lie before each that is, a byte each, and fill ``gaps`` up with LONG_GAP.

    LONG_GAP stands for as many bits that are not set and go on.
    """
    at, next_ = np.uint64(0), np.uint64(0)
    for word in range(np.uint64(words.size)):
        rest = words[word]
        while rest:
            place = (word << SIX) + count_trailing_zeros(rest)
            rest &= rest - ONE
            gap = place - next_
            while gap >= LONG_GAP:
                gaps[at] = LONG_GAP
                at += ONE
                gap -= np.uint64(LONG_GAP)
            gaps[at] = gap
            at += ONE
            next_ = place + ONE
    gaps[at:] = LONG_GAP


@kernel()
def read_gaps(gaps, words):
    """Set the bits in ``words`` that :func:`write_gaps` has written, and no others."""
    words[:] = 0
    place = np.uint64(0)
    for i in range(np.uint64(gaps.size)):
        gap = np.uint64(gaps[i])
        place += gap
        if gap != LONG_GAP:
            words[place >> SIX] |= ONE << (place & SIXTY_THREE)
            place += ONE
