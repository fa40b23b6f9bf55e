"""Kernels of the search by levels. Vertices of a rank are numbered by descending degree; bitmaps are 64-bit words."""

from __future__ import annotations

import numpy as np
from numba import prange

from hpcmpi.algorithms.bfs.build_kernels import owner_of
from hpcmpi.jit import kernel
from hpcmpi.simd import atomic_min, atomic_or, count_ones, count_trailing_zeros, prefetch

ONE, SIX, SIXTY_THREE = np.uint64(1), np.uint64(6), np.uint64(63)
CHUNK = 64  # words that a thread takes at once
MANY = 20  # open vertices of a word from which all 64 are looked at
AHEAD, FAR_AHEAD = 4, 16  # rows that are fetched before their turn, and what is known of them, top-down
AHEAD_LATE = np.uint64(32)  # and bottom-up
SHORT = 40  # lists up to this length are sorted by insertion
RADIX, DIGIT = 11, 2047
NEVER, LOW = np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(0xFFFFFFFF)


@kernel(inline="always")
def test(bits, i):
    """Whether bit ``i``, uint64, is set. Numba takes no index for negative if it has no sign."""
    return (bits[i >> SIX] >> (i & SIXTY_THREE)) & ONE


@kernel(inline="always")
def first_hits(frontier, first, row, open_):
    """Those of the ``open_`` ones of 64 vertices from ``row`` on whose first neighbour is in the frontier."""
    hits = np.uint64(0)
    if count_ones(open_) > MANY:
        for j in range(np.uint64(64)):
            hits |= test(frontier, np.uint64(first[row + j])) << j
        return hits & open_
    while open_:
        bit = count_trailing_zeros(open_)
        open_ &= open_ - ONE
        hits |= test(frontier, np.uint64(first[row + bit])) << bit
    return hits


@kernel(parallel=True)
def bottom_up(start, length, neighbours, first, old, frontier, found, visited, parent, counts, threads):
    """Each vertex that is not visited takes its first neighbour in the frontier, which is its parent by the rule.

    ``found`` and ``visited`` are this rank's words, ``frontier`` all; ``counts[t, 0]`` is what thread t found. The
    ``parent`` of a vertex must be its first neighbour already: most are found by these, without a branch. Those that
    must look further do so a chunk later, while the rows of others come from memory.
    """
    chunks = (visited.size + CHUNK - 1) // CHUNK
    for t in prange(threads):
        total = 0
        late = np.empty(CHUNK * 64, np.uint64)
        for chunk in range(t, chunks, threads):
            waiting = np.uint64(0)
            begin, stop = np.uint64(chunk * CHUNK), np.uint64(min(visited.size, (chunk + 1) * CHUNK))
            for word in range(begin, stop):
                open_, row = ~visited[word], word << SIX
                hits = first_hits(frontier, first, row, open_)
                found[word] = hits
                rest = open_ & ~hits
                while rest:
                    v = row + count_trailing_zeros(rest)
                    rest &= rest - ONE
                    late[waiting] = v
                    waiting += np.uint64(length[v] > 1)
            for i in range(min(AHEAD_LATE, waiting)):
                prefetch(neighbours, start[late[i]] + 1)
            for i in range(waiting):
                if i + AHEAD_LATE < waiting:
                    prefetch(neighbours, start[late[i + AHEAD_LATE]] + 1)
                v = late[i]
                at = np.uint64(start[v])
                for e in range(at + ONE, at + np.uint64(length[v])):
                    u = np.uint64(neighbours[e])
                    if test(frontier, u):
                        parent[v] = old[u]
                        found[v >> SIX] |= ONE << (v & SIXTY_THREE)
                        break
            for word in range(begin, stop):
                visited[word] |= found[word]
                total += np.int64(count_ones(found[word]))
        counts[t, 0] = total


@kernel()
def sort_codes(codes, low, high, spare, counts, bits):
    """Sort ``codes[low:high]``, numbers of so many bits.

    Not to be called for nothing: Numba counts the references to arrays, which takes longer than a small level.
    """
    if high - low <= SHORT:
        for i in range(low + 1, high):
            x = codes[i]
            j = i
            while j > low and codes[j - 1] > x:
                codes[j] = codes[j - 1]
                j -= 1
            codes[j] = x
        return
    passes = (bits + RADIX - 1) // RADIX
    counts[:passes] = 0
    for i in range(low, high):
        for p in range(passes):
            counts[p, (codes[i] >> p * RADIX) & DIGIT] += 1
    for p in range(passes):
        total, mine = 0, counts[p]
        for j in range(DIGIT + 1):
            total, mine[j] = total + mine[j], total
        for i in range(high - low):
            x = spare[i] if p & 1 else codes[low + i]
            j = (x >> p * RADIX) & DIGIT
            at = mine[j]
            mine[j] = at + 1
            if p & 1:
                codes[low + at] = x
            else:
                spare[at] = x
    if passes & 1:
        for i in range(high - low):
            codes[low + i] = spare[i]


@kernel()
def top_down(
    queue, hubs, ends, steps, most_edges, start, length, neighbours, base, span, own_hubs, ids, order, weight, parent,
    level, best, depth, seen, remote, spare, counts, bits, state,
):  # fmt: skip
    """Expand the frontier ``queue[state[0]:state[1]]`` by up to ``steps`` levels of this rank's vertices.

    ``hubs`` are rows of hubs in the frontier; none has a higher degree. Own vertices below ``own_hubs`` are hubs.
    Stops behind the first level that finds vertices of other ranks, whose candidates (code, order, id of the parent)
    go to ``remote``; or a hub; that is empty; or that has more than ``most_edges`` by ``weight``. Frontiers are sorted
    before they are expanded, so that the first to find a vertex is its parent. ``ends[s]`` is the end of the queue
    after s steps.
    Whose a vertex is cannot be predicted, so what is found is written as both; ``parent``, ``level``, ``best``,
    ``queue`` and ``remote`` have one place more for what does not count.

    On return ``state`` holds the new frontier, the steps done, the candidates, the edges of the new frontier, and
    whether there is a hub in it.
    """
    head, tail, step, sent, edges = state[0], state[1], 0, 0, np.int64(0)
    waiting, hub = hubs.size, False
    first, there = np.uint64(base), np.uint64(span)
    ends[0] = tail
    while step < steps and (head < tail or waiting):
        i = head + 1
        while i < tail and queue[i - 1] < queue[i]:
            i += 1
        if i < tail:
            sort_codes(queue, head, tail, spare, counts, bits)
        stop = tail
        edges = np.int64(0)
        for i in range(head - waiting, tail):
            u = np.uint64(queue[np.uint64(i)]) if i >= head else np.uint64(hubs[i - head + waiting])
            if head <= i + AHEAD and i + FAR_AHEAD < tail:
                far = np.uint64(queue[np.uint64(i + FAR_AHEAD)])
                prefetch(start, far)
                prefetch(ids, far)
                prefetch(order, far)
                prefetch(length, far)
                prefetch(neighbours, start[np.uint64(queue[np.uint64(i + AHEAD)])])
            begin = np.uint64(start[u])
            for e in range(begin, begin + np.uint64(length[u])):
                code = np.uint64(neighbours[e])
                bit, before = ONE << (code & SIXTY_THREE), seen[code >> SIX]
                if not before & bit:
                    seen[code >> SIX] = before | bit
                    v = code - first
                    own = v < there
                    v = v if own else there
                    parent[v], best[v], level[v] = ids[u], order[u], depth + 1
                    queue[np.uint64(stop)] = v
                    stop += own
                    edges += np.int64(weight[v]) if own else 0
                    hub |= np.int64(v) < own_hubs
                    at = np.uint64(sent)
                    remote[at, 0], remote[at, 1], remote[at, 2] = code, order[u], ids[u]
                    sent += not own
        head, tail, waiting = tail, stop, 0
        depth += 1
        step += 1
        ends[step] = tail
        if sent or hub or edges > most_edges:
            break
    if head == tail and sent == 0:
        while step < steps:  # nothing more will come of this rank by itself
            step += 1
            ends[step] = tail
    state[0], state[1], state[2], state[3], state[4], state[5] = head, tail, step, sent, edges, hub


@kernel()
def find_parents(rows, start, length, neighbours, frontier, base, found):
    """First neighbour in the frontier of each of some hubs' ``rows``, by own number; -1 if there is none."""
    for i in range(rows.size):
        found[i] = -1
        begin = start[rows[i]]
        for e in range(begin, begin + length[rows[i]]):
            if test(frontier, np.uint64(neighbours[e])):
                found[i] = neighbours[e] - base
                break


@kernel()
def take_back(queue, low, high, visited, parent, level, fold, remote, sent, seen):
    """Undo the discoveries ``queue[low:high]`` and candidates that were made too early."""
    for i in range(low, high):
        v = np.uint64(queue[i])
        visited[v >> SIX] &= ~(ONE << (v & SIXTY_THREE))
        parent[v], level[v] = fold[v], -1
    for i in range(sent):
        code = np.uint64(remote[i, 0])
        seen[code >> SIX] &= ~(ONE << (code & SIXTY_THREE))


@kernel()
def edges_of(queue, length):
    """Edges of the vertices in ``queue``."""
    edges = np.int64(0)
    for i in range(queue.size):
        edges += length[np.uint64(queue[i])]
    return edges


@kernel()
def by_owner(remote, bases, ranks, cells, shift, counts, out):
    """Sort candidates by the rank that owns their vertex, whose own number replaces the code."""
    place = np.zeros(counts.size + 1, np.int64)
    for i in range(len(remote)):
        counts[ranks[owner_of(np.uint64(remote[i, 0]), cells, shift, bases)]] += 1
    for rank in range(counts.size):
        place[rank + 1] = place[rank] + counts[rank]
    for i in range(len(remote)):
        position = owner_of(np.uint64(remote[i, 0]), cells, shift, bases)
        at = place[ranks[position]]
        place[ranks[position]] = at + 1
        out[at, 0] = remote[i, 0] - bases[position]
        out[at, 1] = remote[i, 1]
        out[at, 2] = remote[i, 2]


@kernel()
def receive(candidates, queue, state, visited, parent, level, best, depth, length):
    """Take the candidates (vertex, order, id of the parent) for ``depth``: the least order wins, whoever sends it."""
    stop, edges = state[1], state[4]
    for i in range(len(candidates)):
        v, order = np.uint64(candidates[i, 0]), candidates[i, 1]
        if not test(visited, v):
            visited[v >> SIX] |= ONE << (v & SIXTY_THREE)
            queue[stop] = v
            stop += 1
            edges += length[v]
        elif level[v] != depth or best[v] < order:
            continue
        parent[v] = candidates[i, 2]
        level[v] = depth
        best[v] = order
    state[1], state[4] = stop, edges


@kernel(parallel=True)
def top_down_mark(
    queue, start, length, neighbours, base, span, ids, order, best64, seen, claimed, remote, sent, bounds, threads
):
    """As one step of :func:`top_down` by several threads: the least order wins by an atomic minimum in ``best64``.

    The ``queue`` ascends by order, so that the first thread's first candidate of a code is the best.

    Thread t expands ``queue[bounds[t]:bounds[t + 1]]``, lists what it is the first to find in ``claimed[t]``, and
    writes its candidates of other ranks to ``remote[t]``; ``sent[t, 0]`` counts these, ``sent[t, 1]`` those.
    """
    first, there = np.uint64(base), np.uint64(span)
    for t in prange(threads):
        count, mine = 0, 0
        for i in range(bounds[t], bounds[t + 1]):
            u = np.uint64(queue[i])
            key = np.uint64(order[u]) << np.uint64(32) | np.uint64(ids[u])
            begin = np.uint64(start[u])
            for e in range(begin, begin + np.uint64(length[u])):
                code = np.uint64(neighbours[e])
                if not test(seen, code):
                    v = code - first
                    if v >= there:
                        remote[t, count, 0] = code
                        remote[t, count, 1] = order[u]
                        remote[t, count, 2] = ids[u]
                        count += 1
                    elif key < best64[v] and atomic_min(best64, np.int64(v), key) == NEVER:
                        claimed[t, mine] = v
                        mine += 1
        sent[t, 0], sent[t, 1] = count, mine


@kernel(parallel=True)
def top_down_settle(best64, visited, parent, level, best, depth, length, claimed, sent, place, queue, threads):
    """Make the marks of :func:`top_down_mark` discoveries; those of thread t begin at ``queue[place[t]]``.

    ``sent[t, 2]`` is how many edges they have.
    """
    for t in prange(threads):
        edges, begin = np.int64(0), np.uint64(place[t])
        for i in range(np.uint64(sent[t, 1])):
            v = np.uint64(claimed[t, i])
            key = best64[v]
            best64[v] = NEVER
            parent[v] = key & LOW
            best[v] = key >> np.uint64(32)
            level[v] = depth
            atomic_or(visited, np.int64(v >> SIX), ONE << (v & SIXTY_THREE))
            queue[begin + i] = v
            edges += length[v]
        sent[t, 2] = edges


@kernel()
def drop_repeats(remote, sent, seen, out):
    """Candidates of all threads, each code once, the first; ``out`` may be the memory of ``remote``. Tells how many."""
    kept = 0
    for t in range(len(sent)):
        for i in range(sent[t, 0]):
            code = np.uint64(remote[t, i, 0])
            if not test(seen, code):
                seen[code >> SIX] |= ONE << (code & SIXTY_THREE)
                out[kept] = remote[t, i]
                kept += 1
    return kept


@kernel()
def take(values, places, out):
    """``out[i] = values[places[i]]``."""
    for i in range(out.size):
        out[i] = values[np.uint32(places[i])]


@kernel(parallel=True)
def by_id(visited, values, new, isolated, out, threads):
    """Copy ``values`` of this rank's vertices to the order of their ids, -1 for those that were not reached."""
    for t in prange(threads):
        for word in range(visited.size * t // threads, visited.size * (t + 1) // threads):
            open_ = ~visited[word]
            while open_:
                bit = count_trailing_zeros(open_)
                open_ &= open_ - ONE
                values[(word << 6) + np.int64(bit)] = -1
    values[isolated] = -1
    for t in prange(threads):
        first, last = out.size * t // threads, out.size * (t + 1) // threads
        take(values, new[first:last], out[first:last])
