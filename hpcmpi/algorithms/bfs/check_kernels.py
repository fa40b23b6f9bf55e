"""Kernels of the check of a search.

A *mark* is what an edge's check must know of a vertex: its level in the low bits, all ones where it was not reached,
and above them a few bits of a hash of its parent, so that parents are looked up for tree edges and little else.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from hpcmpi.jit import kernel
from hpcmpi.simd import atomic_or

ONE, GOLDEN = np.uint64(1), np.uint32(0x9E3779B1)
TREE, ROOT, PARENT_LEVEL, SPAN, UNSEEN = 0, 1, 2, 3, 4  # what can be wrong
TRAVERSED, RULE = 5, 6
COUNTS = 7
BLOCK = 512  # edges that are looked up at once


@kernel(inline="always")
def hashed(v):
    """32 bits that differ between most ids; the upper ones are the best."""
    return np.uint32(np.uint32(v) * GOLDEN)


@kernel()
def mark(parent, level, bits, marks, parents):
    """Marks of this rank's vertices, ``bits`` of them for the level; their parents, narrow and in range."""
    unreached, shift = (np.int64(1) << bits) - 1, np.uint32(32 - (8 * marks.itemsize - bits))
    most = np.int64(np.iinfo(parents.dtype).max)
    for i in range(parent.size):
        parents[i] = min(max(parent[i], np.int64(-1)), most)
        if level[i] < 0:
            marks[i] = unreached
        else:
            marks[i] = np.int64(level[i]) | np.int64(hashed(parent[i]) >> shift) << bits


@kernel()
def check_tree(first, parent, level, marks, bits, sources, counts):
    """Count what is wrong with this rank's vertices, ids from ``first`` on."""
    unreached = (np.int64(1) << bits) - 1
    at = np.searchsorted(sources, first)
    for i in range(parent.size):
        p, lev = parent[i], np.int64(level[i])
        if at < sources.size and sources[at] == first + i:
            at += 1
            if p != first + i or lev != 0:
                counts[ROOT] += 1
        elif p < 0 or lev < 0:
            if p != -1 or lev != -1:
                counts[TREE] += 1
        elif p >= marks.size or lev == 0:
            counts[TREE] += 1
        elif (np.int64(marks[p]) & unreached) != lev - 1:
            counts[PARENT_LEVEL] += 1


@kernel(parallel=True)
def check_edges(u, v, marks, parents, degree, sample, bits, deepest, directed, seen, counts, threads):
    """Check each edge: its ends are at most one level apart, or neither was reached; note tree edges in ``seen``.

    ``deepest`` is the level where the search stopped: from there edges may lead to vertices that were not reached.
    Vertices of which no bit of ``sample`` is in the hash must obey the rule: no neighbour one level up has a higher
    ``degree`` than the parent, or the same and a lower id.
    Marks are looked up for a block of edges at once, so that many loads are under way; then vector instructions tell
    the few edges that need a closer look. Levels of vertices that were reached are at least two below the level that
    stands for all others.
    """
    unreached, shift = np.uint32((np.int64(1) << bits) - 1), np.uint32(32 - (8 * marks.itemsize - bits))
    m, sample_mask, level_bits = u.size, np.uint32(sample), np.uint32(bits)
    for t in prange(threads):
        wrong, traversed, broken = np.int64(0), np.int64(0), np.int64(0)
        marks_u, marks_v = np.empty(BLOCK, marks.dtype), np.empty(BLOCK, marks.dtype)
        close, places = np.empty(BLOCK, np.uint8), np.empty(BLOCK, np.int64)
        uppers, lowers, above = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.int64), np.empty(BLOCK, np.int64)
        levels_upper, levels_lower = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.int64)
        last = m * (t + 1) // threads
        for begin in range(m * t // threads, last, BLOCK):
            size = min(BLOCK, last - begin)
            for j in range(size):
                marks_u[j] = marks[np.uint64(u[begin + j])]
                marks_v[j] = marks[np.uint64(v[begin + j])]
            reached = np.int32(0)
            for j in range(size):  # in 32 bits throughout
                mark_a, mark_b = np.uint32(marks_u[j]), np.uint32(marks_v[j])
                level_a, level_b = np.int32(mark_a & unreached), np.int32(mark_b & unreached)
                reached = np.int32(reached + (level_a != np.int32(unreached)))
                hash_a, hash_b = hashed(u[begin + j]), hashed(v[begin + j])
                down = np.int32(level_b - level_a)
                below = (np.uint32(mark_b >> level_bits) == np.uint32(hash_a >> shift)) | (
                    np.uint32(hash_b & sample_mask) == 0
                )
                beyond = (np.uint32(mark_a >> level_bits) == np.uint32(hash_b >> shift)) | (
                    np.uint32(hash_a & sample_mask) == 0
                )
                close[j] = (down > 1) | ((down == 1) & below) | ((down == -1) & beyond) | (down < -1)
            traversed += reached
            chosen = 0
            for j in range(size):
                places[chosen] = j
                chosen += close[j]
            for k in range(chosen):
                j = places[k]
                a, b = np.int64(u[begin + j]), np.int64(v[begin + j])
                of_a, of_b = np.int64(marks_u[j] & unreached), np.int64(marks_v[j] & unreached)
                upward = not directed and of_b < of_a
                uppers[k], lowers[k] = (b, a) if upward else (a, b)
                levels_upper[k], levels_lower[k] = (of_b, of_a) if upward else (of_a, of_b)
                above[k] = parents[lowers[k]]
            for k in range(chosen):
                upper, lower, p = uppers[k], lowers[k], above[k]
                level_upper, level_lower = levels_upper[k], levels_lower[k]
                if level_lower - level_upper > 1:
                    wrong += level_lower != np.int64(unreached) or level_upper != deepest
                elif level_lower - level_upper == 1:
                    if p == upper:
                        bit = ONE << np.uint64(lower & 63)
                        if not seen[lower >> 6] & bit:
                            atomic_or(seen, lower >> 6, bit)
                    elif hashed(lower) & sample_mask == 0 and 0 <= p < degree.size:
                        broken += degree[upper] > degree[p] or (degree[upper] == degree[p] and upper < p)
        counts[t, 0] = wrong
        counts[t, 1] = traversed
        counts[t, 2] = broken


@kernel()
def count_unseen(first, level, seen):
    """How many of this rank's vertices below level 0 have no tree edge in ``seen``."""
    count = 0
    for i in range(level.size):
        v = first + i
        if level[i] > 0 and not (seen[v >> 6] >> np.uint64(v & 63)) & ONE:
            count += 1
    return count
