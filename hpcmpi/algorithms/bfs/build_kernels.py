"""Kernels that turn edges into rows of neighbours: counting, dealing to buckets, sorting each bucket in the cache.

A *key* is ``row within the bucket << bits | order of the neighbour``, so that a bucket that is sorted is its rows one
after the other, the neighbours of each in their order. A bucket holds some 64 Ki keys, so that it is sorted by radix in
the second-level cache; its rows are then written over its keys.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from hpcmpi.jit import kernel
from hpcmpi.simd import atomic_add

SINGLES = 8192  # the first rows, which are the longest, have their own entry in the table of buckets
TOGETHER = 64  # rows that share an entry behind them
LOOKED_UP = 512  # edges whose ends are looked up at once
LINE = 16  # keys that are written to a bucket at once
RADIX = 11  # bits that a pass of the sort takes


@kernel(parallel=True)
def count_ends(ends, others, first, counts, threads):
    """Add to ``counts[t]`` how often thread t's share of ``ends`` holds each id from ``first`` on; no loops."""
    m, width = ends.size, counts.shape[1]
    for t in prange(threads):
        mine = counts[t]
        for i in range(m * t // threads, m * (t + 1) // threads):
            if ends[i] != others[i]:
                x = np.int64(ends[i]) - first
                if 0 <= x < width:
                    mine[x] += 1


@kernel()
def largest_end(ends):
    """Largest id in ``ends``, or -1."""
    largest = np.int64(-1)
    for i in range(ends.size):
        largest = max(largest, np.int64(ends[i]))
    return largest


@kernel()
def order_by_degree(degree, limit, place, old, new):
    """Sort the vertices of degree 1 to ``limit`` by descending degree, then id, behind ``place`` in ``old``."""
    start = np.zeros(limit + 2, np.int64)
    for i in range(degree.size):
        if 0 < degree[i] <= limit:
            start[limit - degree[i] + 1] += 1
    start[0] = place
    for d in range(limit + 1):
        start[d + 1] += start[d]
    for i in range(degree.size):
        if 0 < degree[i] <= limit:
            at = start[limit - degree[i]]
            start[limit - degree[i]] = at + 1
            old[at] = i
            new[i] = at


@kernel()
def fill_table(old, order, start, stop, table, by_order):
    """Note order and code of the vertices with codes ``start`` to ``stop`` at their ids, and codes at their orders."""
    for code in range(start, stop):
        table[old[code], 0] = order[code]
        table[old[code], 1] = code
        by_order[order[code]] = code


@kernel(inline="always")
def slot(row):
    """Entry of ``row`` in the table of buckets."""
    return row if row < SINGLES else SINGLES - SINGLES // TOGETHER + row // TOGETHER


@kernel()
def slots(rows):
    """Entries of the table of buckets."""
    return slot(rows) + 1


@kernel()
def cut_buckets(lengths, most_keys, most_rows, table, first_row, offset):
    """Cut the rows into buckets; ``table`` holds (bucket, its first row) by slot. Returns the number of buckets."""
    rows = lengths.size
    bucket, keys, row = 0, 0, 0
    first_row[0] = 0
    offset[0] = 0
    while row < rows:
        stop = row + 1 if row < SINGLES else min(row + TOGETHER, rows)
        more = 0
        for r in range(row, stop):
            more += lengths[r]
        if row > first_row[bucket] and (keys + more > most_keys or stop - first_row[bucket] > most_rows):
            offset[bucket + 1] = offset[bucket] + keys
            bucket += 1
            first_row[bucket] = row
            keys = 0
        keys += more
        table[slot(row), 0] = bucket
        table[slot(row), 1] = first_row[bucket]
        row = stop
    if rows == 0:
        return 0
    first_row[bucket + 1] = rows
    offset[bucket + 1] = offset[bucket] + keys
    return bucket + 1


@kernel(inline="always")
def put(row, order, bits, table, line, fill, position, keys):
    """Add a key to the bucket of ``row``, by way of a line of the cache that is written to memory when it is full."""
    entry = slot(row)
    bucket = table[entry, 0]
    at = fill[bucket]
    line[bucket, at] = ((row - table[entry, 1]) << bits) | order
    at += 1
    if at == LINE:
        place = atomic_add(position, bucket, LINE)
        for j in range(LINE):
            keys[place + j] = line[bucket, j]
        at = 0
    fill[bucket] = at


@kernel(inline="always")
def flush(line, fill, position, keys):
    """Write what is left in the lines."""
    for bucket in range(fill.size):
        place = atomic_add(position, bucket, fill[bucket])
        for j in range(fill[bucket]):
            keys[place + j] = line[bucket, j]
        fill[bucket] = 0


@kernel(parallel=True)
def count_owners(rows, columns, both, cells, shift, cuts, counts, threads):
    """Count in ``counts[t]`` the entries of thread t's edges for each rank: ``cells`` and ``cuts`` tell whose."""
    m = rows.size
    for t in prange(threads):
        mine = counts[t]
        for i in range(m * t // threads, m * (t + 1) // threads):
            a, b = np.int64(rows[i]), np.int64(columns[i])
            if a != b:
                rank = cells[a >> shift]
                while a >= cuts[rank + 1]:
                    rank += 1
                mine[rank] += 1
                if both:
                    rank = cells[b >> shift]
                    while b >= cuts[rank + 1]:
                        rank += 1
                    mine[rank] += 1


@kernel(parallel=True)
def deal(rows, columns, both, ids, base, cells, shift, cuts, place, box, threads):
    """Deal the entries (row, order of the neighbour) of edges to the ranks that own the rows, in ``box``.

    ``ids`` (n, 2) holds order and code of each id; ``base`` (P,) the first code of each rank; ``place[t, r]`` is where
    thread t writes its next entry for rank r. Looks up a block of edges at once, so that many loads are under way, and
    has no branch that cannot be predicted.
    """
    m = rows.size
    for t in prange(threads):
        where = place[t]
        found = np.empty((LOOKED_UP, 4), np.int64)
        last = m * (t + 1) // threads
        for begin in range(m * t // threads, last, LOOKED_UP):
            size = min(LOOKED_UP, last - begin)
            for j in range(size):
                a, b = np.uint64(rows[begin + j]), np.uint64(columns[begin + j])
                found[j, 0] = ids[a, 0]
                found[j, 1] = ids[a, 1]
                found[j, 2] = ids[b, 0]
                found[j, 3] = ids[b, 1]
            for j in range(size):
                a, b = np.int64(rows[begin + j]), np.int64(columns[begin + j])
                if a != b:
                    rank = cells[a >> shift]
                    while a >= cuts[rank + 1]:
                        rank += 1
                    at = where[rank]
                    where[rank] = at + 1
                    box[at, 0] = found[j, 1] - base[rank]
                    box[at, 1] = found[j, 2]
                    if both:
                        rank = cells[b >> shift]
                        while b >= cuts[rank + 1]:
                            rank += 1
                        at = where[rank]
                        where[rank] = at + 1
                        box[at, 0] = found[j, 3] - base[rank]
                        box[at, 1] = found[j, 0]


@kernel(parallel=True)
def scatter(entries, bits, table, line, fill, position, keys, threads):
    """Put entries (row, order) that other ranks have sent into this rank's buckets."""
    m = len(entries)
    for t in prange(threads):
        own_line, own_fill = line[t], fill[t]
        for i in range(m * t // threads, m * (t + 1) // threads):
            put(np.int64(entries[i, 0]), np.int64(entries[i, 1]), bits, table, own_line, own_fill, position, keys)
        flush(own_line, own_fill, position, keys)


@kernel()
def radix_sort(source, spare, bits, counts):
    """Sort the unsigned ``source`` of ``bits`` bits by way of ``spare``; tell whether the result is in ``spare``."""
    n = source.size
    passes = max(1, (bits + RADIX - 1) // RADIX)
    width = (bits + passes - 1) // passes
    mask = (1 << width) - 1
    counts[:passes] = 0
    if passes == 3:
        for i in range(n):
            x = source[i]
            counts[0, x & mask] += 1
            counts[1, (x >> width) & mask] += 1
            counts[2, x >> (2 * width)] += 1
    else:
        for p in range(passes):
            for i in range(n):
                counts[p, (source[i] >> (p * width)) & mask] += 1
    for p in range(passes):
        total = 0
        mine = counts[p]
        for j in range(mask + 1):
            total, mine[j] = total + mine[j], total
        shift = p * width
        for i in range(n):
            x = spare[i] if p & 1 else source[i]
            j = (x >> shift) & mask
            at = mine[j]
            mine[j] = at + 1
            if p & 1:
                source[at] = x
            else:
                spare[at] = x
    return passes & 1 == 1


@kernel(parallel=True)
def finish(keys, offset, first_row, bits, by_order, old, neighbours, start, length, first, fold, turn, spare, counts):
    """Sort each bucket, drop duplicates, and write its rows: ``neighbours`` may be the memory of ``keys``.

    ``start`` and ``length`` of each row, its ``first`` neighbour and that one's id, ``fold``. ``turn[0]`` is 0.
    """
    mask = (np.int64(1) << bits) - 1
    for t in prange(len(spare)):
        while True:
            bucket = atomic_add(turn, 0, 1)
            if bucket >= offset.size - 1:
                break
            low, n = offset[bucket], offset[bucket + 1] - offset[bucket]
            rows = first_row[bucket + 1] - first_row[bucket]
            more = 0
            while (1 << more) < rows:
                more += 1
            mine, other = keys[low : low + n], spare[t, :n]
            if not radix_sort(mine, other, bits + more, counts[t]):
                other[:] = mine
            out, row, begin = low, np.int64(-1), low
            for i in range(n):
                if i > 0 and other[i] == other[i - 1]:
                    continue
                key = np.int64(other[i])
                code = by_order[key & mask]
                now = first_row[bucket] + (key >> bits)
                if now != row:
                    if row >= 0:
                        length[row] = out - begin
                    row, begin = now, out
                    start[row] = out
                    first[row] = code
                    fold[row] = old[code]
                neighbours[out] = code
                out += 1
            if row >= 0:
                length[row] = out - begin


@kernel()
def rows_by_id(new, used, start, length, neighbours, old, out):
    """Write the rows of all ids one after the other, neighbours by their ids, which ascend."""
    at = 0
    for row in new:
        if row < used:
            begin = start[row]
            count = length[row]
            for j in range(count):
                out[at + j] = old[neighbours[begin + j]]
            out[at : at + count].sort()
            at += count
