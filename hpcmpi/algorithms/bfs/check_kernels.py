"""Kernels of the check of searches.

A *word* is what the check of an edge must know of a vertex: the id of its parent in the low ``bits``, its level above
them; all bits of both are set where the vertex was not reached. Words of several searches, one a *lane*, lie side by
side, a line of the cache a vertex, so that an edge is looked up once for all of them. Of a single search there are also
*marks*, of 8 bits: the level up to DEEP, and a fingerprint of the parent.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from hpcmpi.algorithms.bfs.cost import LANES
from hpcmpi.jit import kernel
from hpcmpi.simd import atomic_or, prefetch

ONE, GOLDEN = np.uint64(1), np.uint32(0x9E3779B1)
TREE, ROOT, SPAN, UNSEEN, TRAVERSED, RULE = 0, 1, 2, 3, 4, 5  # what can be wrong, and what is counted
COUNTS = 6
BLOCK = 512  # edges of one search that are looked up at once
AHEAD = 16  # edges whose words are fetched before their turn
STRETCH = 1 << 20  # edges whose counts fit into 32 bits
PRINT_BITS = 4  # of a mark
PRINT = (1 << PRINT_BITS) - 1
DEEP, NOTHING = 13, 15  # what marks say of levels from 13 on, and of what was not reached: 2 from any level


@kernel(inline="always")
def contradict(p, lev, n):
    """Whether parent and level cannot both be those of one vertex that is no source."""
    return ((p != -1) | (lev != -1)) if (p < 0) | (lev < 0) else ((p >= n) | (lev == 0))


@kernel(parallel=True)
def pack(parent, level, first, n, sources, bits, unreached, words, counts, threads):
    """Words of this rank's vertices, ids from ``first`` on, in one search; count what is no tree by itself.

    ``counts`` are (threads, COUNTS).
    """
    none = (np.int64(unreached) << bits) | ((np.int64(1) << bits) - 1)
    for t in prange(threads):
        begin, end = parent.size * t // threads, parent.size * (t + 1) // threads
        trees = np.int64(0)
        for i in range(np.uint64(begin), np.uint64(end)):  # by vector instructions
            p, lev = parent[i], np.int64(level[i])
            trees += contradict(p, lev, n)
            words[i] = none if (p < 0) | (lev < 0) | (p >= n) else (lev << bits) | p
        counts[t, TREE] = trees
    for source in sources:
        i = source - first
        if 0 <= i < parent.size:
            p, lev = parent[i], np.int64(level[i])
            counts[0, TREE] -= contradict(p, lev, n)
            counts[0, ROOT] += p != source or lev != 0


@kernel()
def lay_side_by_side(of_searches, rows):
    """``rows[i, s] = of_searches[s, i]``, by blocks that stay in the cache."""
    lanes, n = of_searches.shape
    for begin in range(0, n, BLOCK):
        for i in range(begin, min(begin + BLOCK, n)):
            for s in range(lanes):
                rows[i, s] = of_searches[s, i]


@kernel(inline="always")
def hashed(v):
    """32 bits that differ between most ids; the upper ones are the best."""
    return np.uint32(np.uint32(v) * GOLDEN)


@kernel(inline="always")
def better(a, p, degree):
    """Whether the rule prefers ``a`` to the parent ``p``."""
    return degree[a] > degree[p] or (degree[a] == degree[p] and a < p)


@kernel(inline="always")
def note(seen, place):
    """Set a bit that other threads set too."""
    bit = ONE << np.uint64(place & 63)
    if not seen[place >> 6] & bit:
        atomic_or(seen, place >> 6, bit)


@kernel(inline="always")
def fingerprint(parent):
    """The part of a mark that tells of the parent."""
    return np.int32(hashed(parent) >> np.uint32(32 - PRINT_BITS))


@kernel()
def mark(words, bits, unreached, marks):
    """Marks of the vertices of ``words``."""
    mask = (np.int64(1) << bits) - 1
    for i in range(words.size):
        level = np.int64(words[i]) >> bits
        code = NOTHING if level == unreached else min(level, np.int64(DEEP))
        marks[i] = code << PRINT_BITS | np.int64(fingerprint(np.int64(words[i]) & mask))


@kernel(parallel=True)
def check_edges(u, v, words, marks, bits, unreached, deepest, directed, degree, sample, seen, counts, threads):
    """Check each edge in one search: its ends are at most one level apart, or neither was reached.

    Note in ``seen`` the vertices that have met an edge from their parent, one level up. ``deepest`` is the level where
    the search stopped: from there edges may lead to vertices that were not reached. Vertices of which no bit of
    ``sample`` is in the hash must obey the rule: no neighbour one level up has a higher ``degree`` than the parent, or
    the same and a lower id. ``counts`` (threads, COUNTS, 1).

    What an edge costs is that its ends are anywhere in memory. So ``marks`` are looked up first, which are a quarter as
    long as the shortest words, for a block of edges at once, so that many loads are under way; then vector instructions
    tell the few edges that need a closer look, by their words.
    """
    m, mask, sampled = u.size, (np.int64(1) << bits) - 1, np.uint32(sample)
    for t in prange(threads):
        wrong, traversed, broken = np.int64(0), np.int64(0), np.int64(0)
        found = np.empty((2, BLOCK), np.int32)
        close, places = np.empty(BLOCK, np.uint8), np.empty(BLOCK, np.int64)
        last = m * (t + 1) // threads
        for begin in range(m * t // threads, last, BLOCK):
            size = min(BLOCK, last - begin)
            for j in range(size):
                found[0, j] = marks[np.uint64(u[begin + j])]
                found[1, j] = marks[np.uint64(v[begin + j])]
            for j in range(size):
                a, b, of_a, of_b = u[begin + j], v[begin + j], found[0, j], found[1, j]
                level_a, level_b = of_a >> PRINT_BITS, of_b >> PRINT_BITS
                down = level_b - level_a
                traversed += level_a != NOTHING
                below = (of_b & PRINT == fingerprint(a)) | (hashed(b) & sampled == 0)
                beyond = (of_a & PRINT == fingerprint(b)) | (hashed(a) & sampled == 0)
                far = (down > 1) | (down < -1) | (level_a == DEEP) | (level_b == DEEP)
                close[j] = far | ((down == 1) & below) | ((down == -1) & beyond)
            chosen = 0
            for j in range(size):
                places[chosen] = j
                chosen += close[j]
            for k in range(chosen):
                prefetch(words, u[begin + places[k]])
                prefetch(words, v[begin + places[k]])
            for k in range(chosen):
                a, b = np.uint64(u[begin + places[k]]), np.uint64(v[begin + places[k]])
                of_a, of_b = np.int64(words[a]), np.int64(words[b])
                turned = of_b >> bits < of_a >> bits  # which nobody can predict
                if turned and directed:
                    continue
                upper, lower = np.int64(b if turned else a), np.int64(a if turned else b)
                of_upper, of_lower = of_b if turned else of_a, of_a if turned else of_b
                level, p = of_lower >> bits, of_lower & mask
                down = level - (of_upper >> bits)
                if down > 1:
                    wrong += level != unreached or of_upper >> bits != deepest
                elif down == 1:
                    if p == upper:
                        note(seen, lower)
                    elif hashed(lower) & sampled == 0:
                        broken += better(upper, p, degree)
        counts[t, SPAN, 0], counts[t, TRAVERSED, 0], counts[t, RULE, 0] = wrong, traversed, broken


@kernel(parallel=True)
def check_edges_of_many(u, v, words, bits, unreached, deepest, directed, degree, sample, seen, counts, threads):
    """As :func:`check_edges`, of LANES searches at once: ``words[v * LANES + s]`` is that of v in search s.

    ``seen`` has as many bits, in this order; ``counts`` are (threads, COUNTS, LANES).
    """
    m, mask, shift, sampled = u.size, np.uint32((np.int64(1) << bits) - 1), np.uint32(bits), np.uint32(sample)
    nothing, bottom = np.int32(unreached), np.int32(deepest)
    for t in prange(threads):
        wrong, traversed = np.zeros(LANES, np.int32), np.zeros(LANES, np.int32)
        last = m * (t + 1) // threads
        for begin in range(m * t // threads, last, STRETCH):
            stop = min(begin + STRETCH, last)
            wrong[:], traversed[:] = 0, 0
            for i in range(begin, stop):
                ahead = min(i + AHEAD, last - 1)
                prefetch(words, np.int64(u[ahead]) * LANES)
                prefetch(words, np.int64(v[ahead]) * LANES)
                a, b = np.uint32(u[i]), np.uint32(v[i])
                row_a, row_b = np.uint64(a) * np.uint64(LANES), np.uint64(b) * np.uint64(LANES)
                below, beyond = np.uint32(0), np.uint32(0)  # lanes in which b's parent is a, and the other way round
                for s in range(LANES):  # by vector instructions
                    of_a, of_b = words[row_a + np.uint64(s)], words[row_b + np.uint64(s)]
                    level_a, level_b = np.int32(of_a >> shift), np.int32(of_b >> shift)
                    down = np.int32(level_b - level_a)
                    traversed[s] += np.int32(level_a != nothing)
                    far = (down > 1) & ((level_b != nothing) | (level_a != bottom))
                    back = (down < -1) & ((level_a != nothing) | (level_b != bottom)) & (not directed)
                    wrong[s] += np.int32(far | back)
                    below |= np.uint32((down == 1) & (of_b & mask == a)) << np.uint32(s)
                    beyond |= np.uint32((down == -1) & (of_a & mask == b)) << np.uint32(s)
                if below:
                    note_lanes(seen, row_b, below)
                if beyond and not directed:
                    note_lanes(seen, row_a, beyond)
                if hashed(b) & sampled == 0:
                    count_broken(words, row_a, row_b, a, shift, mask, degree, counts[t, RULE])
                if hashed(a) & sampled == 0 and not directed:
                    count_broken(words, row_b, row_a, b, shift, mask, degree, counts[t, RULE])
            for s in range(LANES):
                counts[t, SPAN, s] += wrong[s]
                counts[t, TRAVERSED, s] += traversed[s]


@kernel(inline="always")
def note_lanes(seen, row, lanes):
    """Set the bits of ``lanes`` from bit ``row`` on, which other threads set too."""
    place, bits = np.int64(row >> np.uint64(6)), np.uint64(lanes) << (row & np.uint64(63))
    if bits & ~seen[place]:
        atomic_or(seen, place, bits)


@kernel()
def count_broken(words, upper_row, lower_row, upper, shift, mask, degree, broken):
    """Count the lanes in which the vertex of ``lower_row`` is one level below ``upper``, a better parent than its."""
    for s in range(LANES):
        of_upper, of_lower = words[upper_row + np.uint64(s)], words[lower_row + np.uint64(s)]
        p = of_lower & mask
        if np.int64(of_lower >> shift) - np.int64(of_upper >> shift) == 1:
            broken[s] += better(np.int64(upper), np.int64(p), degree)


@kernel(parallel=True)
def count_between(u, v, chosen, threads):
    """Edges both ends of which are ``chosen``."""
    m, counts = u.size, np.zeros(threads, np.int64)
    for t in prange(threads):
        count = 0
        for i in range(m * t // threads, m * (t + 1) // threads):
            count += chosen[np.uint64(u[i])] & chosen[np.uint64(v[i])]
        counts[t] = count
    return counts.sum()


@kernel()
def count_unseen(words, first, bits, unreached, seen, counts):
    """Count, by lane, this rank's vertices below level 0 that no edge from their parents has met; ``words`` are its."""
    lanes = np.uint64(words.shape[1])
    own, nothing, shift = np.uint64(first) * lanes, np.int64(unreached), np.uint64(bits)
    missing = np.zeros(words.shape[1], np.int64)
    for i in range(np.uint64(len(words))):
        for s in range(lanes):
            level, place = np.int64(np.uint64(words[i, s]) >> shift), own + i * lanes + s
            met = (seen[place >> np.uint64(6)] >> (place & np.uint64(63))) & ONE
            missing[s] += (level > 0) & (level < nothing) & (met == 0)
    counts[UNSEEN] += missing
