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

ONE, SIX, SIXTY_THREE = np.uint64(1), np.uint64(6), np.uint64(63)
SIXTY_FOUR_ONES = np.uint64(0xFFFFFFFFFFFFFFFF)
SINGLES = np.uint64(8192)  # the first rows, which are the longest, have their own entry in the table of buckets
TOGETHER = np.uint64(64)  # rows that share an entry behind them
ROUND = 1 << 17  # edges that are dealt at once: what they become stays in the cache until it is in its buckets
ROW_BITS = np.uint64(40)
FIRST_ROW = (ONE << ROW_BITS) - ONE
LINE = np.uint64(16)  # keys that are written to a bucket at once
RADIX = 11  # bits that a pass of the sort takes


@kernel(parallel=True)
def count_ends(ends, others, both, first, counts, threads):
    """Add to ``counts[t]`` how often thread t's share of ``ends`` holds each id from ``first`` on; no loops.

    With ``both`` the ``others`` count too.
    """
    m, width = ends.size, np.uint64(counts.shape[1])
    for t in prange(threads):
        mine = counts[t]
        for i in range(m * t // threads, m * (t + 1) // threads):
            if ends[i] != others[i]:
                x = np.uint64(np.int64(ends[i]) - first)  # ids below ``first`` become large
                if x < width:
                    mine[x] += 1
                if both:
                    x = np.uint64(np.int64(others[i]) - first)
                    if x < width:
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
def fill_codes(old, order, start, stop, by_order):
    """Note the codes ``start`` to ``stop`` at the orders of their vertices; ``order`` is by id."""
    for code in range(start, stop):
        if old[code] >= 0:
            by_order[order[old[code]]] = code


@kernel(inline="always")
def slot(row):
    """Entry of the uint64 ``row`` in the table of buckets, as uint64."""
    return row if row < SINGLES else SINGLES - SINGLES // TOGETHER + row // TOGETHER


@kernel()
def slots(rows):
    """Entries of the table of buckets."""
    return np.int64(slot(np.uint64(rows))) + 1


@kernel()
def cut_buckets(lengths, most_keys, most_rows, table, first_row, offset):
    """Cut the rows into buckets; ``table`` holds bucket << ROW_BITS | its first row by slot. Returns how many."""
    rows = lengths.size
    bucket, keys, row = 0, 0, 0
    first_row[0] = 0
    offset[0] = 0
    while row < rows:
        stop = row + 1 if row < np.int64(SINGLES) else min(row + np.int64(TOGETHER), rows)
        more = 0
        for r in range(row, stop):
            more += lengths[r]
        if row > first_row[bucket] and (keys + more > most_keys or stop - first_row[bucket] > most_rows):
            offset[bucket + 1] = offset[bucket] + keys
            bucket += 1
            first_row[bucket] = row
            keys = 0
        keys += more
        table[slot(np.uint64(row))] = np.uint64(bucket) << ROW_BITS | np.uint64(first_row[bucket])
        row = stop
    if rows == 0:
        return 0
    first_row[bucket + 1] = rows
    offset[bucket + 1] = offset[bucket] + keys
    return bucket + 1


@kernel(inline="always")
def owner_of(x, cells, shift, cuts):
    """Part of ``cuts`` that the uint64 ``x`` lies in, as uint64: Numba takes no negative index for granted then."""
    part = np.uint64(cells[x >> np.uint64(shift)])
    while x >= np.uint64(cuts[part + ONE]):
        part += ONE
    return part


@kernel(inline="always")
def share_of(edges, r, t, threads):
    """First and last edge of thread t in round r."""
    first = r * ROUND
    size = max(0, min(edges, first + ROUND) - first)
    return first + size * t // threads, first + size * (t + 1) // threads


@kernel(inline="always")
def is_hub(x, hub_bits):
    """Whether the id ``x`` is in the bitmap of hubs, which is empty where there are none."""
    return hub_bits.size > 0 and (hub_bits[x >> SIX] >> (x & SIXTY_THREE)) & ONE


@kernel(inline="always")
def owner_of_entry(a, b, hub_bits, cells, shift, cuts):
    """Rank that the entry (row a, neighbour b) goes to; of a hub's row each has what leads to its own vertices."""
    return owner_of(b if is_hub(a, hub_bits) else a, cells, shift, cuts)


@kernel(parallel=True)
def count_owners(rows, columns, both, hub_bits, cells, shift, cuts, counts, threads):
    """Count in ``counts[r, t]`` the entries for each rank of thread t's edges in round r."""
    for t in prange(threads):
        for r in range(len(counts)):
            mine = counts[r, t]
            first, last = share_of(rows.size, r, t, threads)
            for i in range(first, last):
                a, b = np.uint64(rows[i]), np.uint64(columns[i])
                if a != b:
                    mine[owner_of_entry(a, b, hub_bits, cells, shift, cuts)] += 1
                    if both:
                        mine[owner_of_entry(b, a, hub_bits, cells, shift, cuts)] += 1


@kernel()
def count_hubs(rows, columns, both, hub_bits, order, cells, shift, cuts, counts):
    """Count in ``counts[p, h]`` the entries of hub h that go to rank p."""
    for i in range(rows.size):
        a, b = np.uint64(rows[i]), np.uint64(columns[i])
        if a != b:
            if is_hub(a, hub_bits):
                counts[owner_of(b, cells, shift, cuts), order[a]] += 1
            if both and is_hub(b, hub_bits):
                counts[owner_of(a, cells, shift, cuts), order[b]] += 1


@kernel(parallel=True)
def deal(rows, columns, both, r, hub_bits, order, cells, shift, cuts, place, box, threads):
    """Deal the entries (row, neighbour) of round r, both by their orders.

    ``place[t, p]`` is where in ``box`` thread t writes its next entry for rank p. Where an entry goes does not depend
    on the orders, so that nothing waits for these to come from memory.
    """
    for t in prange(threads):
        where = place[t]
        first, last = share_of(rows.size, r, t, threads)
        for i in range(first, last):
            a, b = np.uint64(rows[i]), np.uint64(columns[i])
            if a != b:
                rank = owner_of_entry(a, b, hub_bits, cells, shift, cuts)
                at = np.uint64(where[rank])
                where[rank] += 1
                box[at, 0] = order[a]
                box[at, 1] = order[b]
                if both:
                    rank = owner_of_entry(b, a, hub_bits, cells, shift, cuts)
                    at = np.uint64(where[rank])
                    where[rank] += 1
                    box[at, 0] = order[b]
                    box[at, 1] = order[a]


@kernel(parallel=True)
def count_shares(shares, ids, first_row, sizes, threads):
    """Keys ``sizes[t, bucket]`` of each thread, from those ``shares[t, id]`` of each id; ``ids`` are those of rows."""
    for t in prange(threads):
        for bucket in range(np.uint64(first_row.size - 1)):
            size = np.int64(0)
            for row in range(np.uint64(first_row[bucket]), np.uint64(first_row[bucket + ONE])):
                size += shares[t, np.uint64(ids[row])]
            sizes[t, bucket] = size


@kernel(inline="always")
def put(row, order, bits, table, line, fill, position, keys):
    """Add a key to the bucket of ``row``; threads that share positions have lines of the cache, written when full.

    ``line`` holds those of all buckets, ``fill`` counts the keys of each bucket so far; a thread that has places of its
    own needs neither.
    """
    entry = table[slot(row)]
    bucket = entry >> ROW_BITS
    key = ((row - (entry & FIRST_ROW)) << np.uint64(bits)) | order
    if line.size == 0:
        place = np.uint64(position[bucket])
        position[bucket] += 1
        keys[place] = key
        return
    count = fill[bucket]
    line[bucket * LINE + count % LINE] = key
    count += ONE
    fill[bucket] = count
    if count % LINE == 0:
        place = np.uint64(atomic_add(position, np.int64(bucket), np.int64(LINE)))
        for j in range(LINE):
            keys[place + np.uint64(j)] = line[bucket * LINE + np.uint64(j)]


@kernel(parallel=True)
def scatter(entries, numbers, bits, table, line, fill, position, keys, threads):
    """Put ``entries`` (row, neighbour), by their orders, into the buckets; ``numbers`` are those of rows by order."""
    m = len(entries)
    for t in prange(threads):
        own_line, own_fill, places = line[t], fill[t], position[np.int64(t) % len(position)]
        for i in range(m * t // threads, m * (t + 1) // threads):
            row = np.uint64(numbers[np.uint64(entries[i, 0])])
            put(row, np.uint64(entries[i, 1]), bits, table, own_line, own_fill, places, keys)


@kernel(parallel=True)
def scatter_edges(rows, columns, both, order, bits, table, line, fill, position, keys, threads):
    """As :func:`scatter`, of edges that are all of one rank, where a row's number is its order."""
    m = rows.size
    for t in prange(threads):
        own_line, own_fill, places = line[t], fill[t], position[np.int64(t) % len(position)]
        for i in range(m * t // threads, m * (t + 1) // threads):
            if rows[i] != columns[i]:
                a, b = np.uint64(order[np.uint64(rows[i])]), np.uint64(order[np.uint64(columns[i])])
                put(a, b, bits, table, own_line, own_fill, places, keys)
                if both:
                    put(b, a, bits, table, own_line, own_fill, places, keys)


@kernel()
def flush(line, fill, position, keys):
    """Write what is left in the lines."""
    for t in range(len(fill)):
        for bucket in range(fill.shape[1]):
            for j in range(np.int64(fill[t, bucket] % LINE)):
                keys[position[0, bucket]] = line[t, bucket * np.int64(LINE) + j]
                position[0, bucket] += 1


@kernel()
def radix_sort(source, spare, bits, counts):
    """Sort the unsigned ``source`` of ``bits`` bits by way of ``spare``; tell whether the result is in ``spare``."""
    n = np.uint64(source.size)
    passes = max(1, (bits + RADIX - 1) // RADIX)
    width = np.uint64((bits + passes - 1) // passes)
    mask = (ONE << width) - ONE
    counts[:passes] = 0
    if passes == 3:
        for i in range(n):
            x = np.uint64(source[i])
            counts[0, x & mask] += 1
            counts[1, (x >> width) & mask] += 1
            counts[2, x >> (width + width)] += 1
    else:
        for p in range(passes):
            shift = np.uint64(p) * width
            for i in range(n):
                counts[p, (np.uint64(source[i]) >> shift) & mask] += 1
    for p in range(passes):
        total = np.uint32(0)
        mine = counts[p]
        for j in range(mask + ONE):
            total, mine[j] = total + mine[j], total
        shift = np.uint64(p) * width
        for i in range(n):
            x = spare[i] if p & 1 else source[i]
            j = (np.uint64(x) >> shift) & mask
            at = np.uint64(mine[j])
            mine[j] += 1
            if p & 1:
                source[at] = x
            else:
                spare[at] = x
    return passes & 1 == 1


@kernel(parallel=True)
def finish(keys, offset, first_row, bits, codes, neighbours, start, length, first, turn, spare, counts):
    """Sort each bucket, drop duplicates, and write its rows: ``neighbours`` may be the memory of ``keys``.

    ``start`` and ``length`` of each row, and its ``first`` neighbour; ``codes`` are those of orders. ``turn[0]`` is 0.
    """
    shift, mask = np.uint64(bits), (ONE << np.uint64(bits)) - ONE
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
            out, begin, top = np.uint64(low), np.uint64(low), np.uint64(first_row[bucket])
            row, before = SIXTY_FOUR_ONES, SIXTY_FOUR_ONES
            for i in range(np.uint64(n)):
                key = np.uint64(other[i])
                code = codes[key & mask]
                now = top + (key >> shift)
                if now != row:
                    if row != SIXTY_FOUR_ONES:
                        length[row] = out - begin
                    row, begin = now, out
                    start[row] = out
                    first[row] = code
                neighbours[out] = code  # overwritten by the next one if the same has been written before it
                out += np.uint64(key != before)
                before = key
            if row != SIXTY_FOUR_ONES:
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
