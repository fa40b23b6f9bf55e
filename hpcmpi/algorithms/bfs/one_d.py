"""Search by levels over a 1-D partition: each rank holds the rows of its own vertices.

Beamer, Asanovic, Patterson 2012 ("Direction-optimizing breadth-first search"), distributed:

*Bottom-up*, while the frontier is large: each rank looks for the first neighbour in the frontier of each of its open
vertices. The frontier is a bitmap over all codes that the ranks of a node share; between nodes the leaders exchange the
words, or the gaps between the bits where these are few.

*Top-down*, while it is small: each rank expands its own part of the frontier. Vertices of other ranks are sent, once
each, as candidates (:mod:`.candidates`); the owner takes the least order.
The frontier's hubs (:mod:`.layout`) are expanded by all ranks, each its own part of their rows, so that nothing is sent
for them; bottom-up the ranks find the parents of hubs together.
Where no candidate is sent and no hub is found, levels need not be told of one by one: each rank goes ahead by a number
of levels that doubles as long as all goes well, up to the first level in which it finds a vertex of another rank. The
ranks agree on the first such level of any rank, and take back what they found beyond it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.bfs import bit_kernels
from hpcmpi.algorithms.bfs import search_kernels as kernels
from hpcmpi.algorithms.bfs.build import Rows
from hpcmpi.algorithms.bfs.candidates import Candidates
from hpcmpi.algorithms.bfs.layout import WORD, Layout

ALPHA = 45  # bottom-up begins where the frontier has more than one in so many of the edges that are left
BETA = 24  # and ends where it has shrunk below one in so many of the vertices
_FARTHEST_AHEAD = 1 << 16  # levels
_SMALL_FRONTIER = 1 << 14  # edges: larger ones end a stretch of levels, for the direction to be chosen anew
_EDGES_FOR_THREADS = 1 << 15
_THREADS_TOP_DOWN = 4  # two, which mark what they find by atomic steps, take longer than one
_MANY_LEVELS = 16  # from which a level is too small to ask how many candidates are new
_MOST_BITMAPS = 16  # of what has been found, before the levels are written
NO_LIMIT = 2**31 - 2
_GAPS = collective.Gaps(bit_kernels.LONG_GAP, bit_kernels.write_gaps, bit_kernels.read_gaps)


class Search:
    """Memory for searches of one graph; nothing is kept from one search to the next."""

    def __init__(
        self, layout: Layout, incoming: Rows, outgoing: Rows, entries: int, threads: int, *, alone: bool
    ) -> None:
        self.layout, self.incoming, self.outgoing = layout, incoming, outgoing
        self.entries, self.threads = entries, threads
        number, used = layout.number, layout.used
        self.fold = layout.old.take(incoming.first[:used], mode="clip")  # ids of first neighbours
        self.words = -(-used // WORD)
        self.edges = layout.bases // WORD
        self.first_word = layout.base // WORD
        total = int(self.edges[-1])
        shared = layout.nodes.array((2, total + 1), np.uint64)  # the last word for the code that nobody has
        shared[:, total] = 0
        shared[:, self.first_word : self.first_word + self.words] = 0
        self.frontiers = [shared[0], shared[1]]
        node = self.edges[layout.nodes.edges[layout.nodes.index :][:2]]
        self.node_words = slice(int(node[0]), int(node[1]))
        self.seen = np.zeros(total + 1, np.uint64)
        self.visited = self.seen[self.first_word : self.first_word + self.words]
        self.parent, self.level = np.full(used + 1, -1, number), np.full(used + 1, -1, np.int32)
        self.best = np.zeros(used + 1, number)
        self.best64 = np.full(used * (threads >= _THREADS_TOP_DOWN and number is np.int32), kernels.NEVER, np.uint64)
        self.queue, self.spare = np.zeros(used + 1, number), np.zeros(used, number)
        self.claimed = np.zeros((threads, used if self.best64.size else 0), number)
        self.ends, self.state = np.zeros(_FARTHEST_AHEAD + 1, np.int64), np.zeros(6, np.int64)
        self.remote = np.zeros((1, 3), number)
        self.candidates = Candidates(layout, alone=alone)
        self.bits = max(1, int(used).bit_length())
        self.counts, self.found = np.zeros((8, kernels.DIGIT + 1), np.int64), np.zeros((threads, 8), np.int64)
        self.found_at: list[tuple[int, NDArray[np.uint64]]] = []  # own words of what is found bottom-up, by level
        self.depth = 0
        self.alone = alone
        self.alpha, self.edges_for_threads = ALPHA, _EDGES_FOR_THREADS
        self.sums = np.zeros(2 + layout.hubs, np.int64)
        self._prepare_hubs()

    def _prepare_hubs(self) -> None:
        """What is known of hubs: ids and orders of their rows, and how many edges they have in all. Collective."""
        layout, row, number = self.layout, self.layout.hub_row, self.layout.number
        self.own_hubs = int(np.searchsorted(layout.order, layout.hubs))
        self.ids, self.order, self.weight = layout.ids, layout.order, self.outgoing.length
        self.unseen_hubs = np.zeros(layout.hubs, bool)
        self.frontier_hubs = np.zeros(0, number)  # their rows
        if layout.hubs:
            ids = np.full(layout.hubs, -1, np.int64)
            ids[layout.order[: self.own_hubs]] = layout.ids[: self.own_hubs]
            ids = collective.allreduce(layout.comm, ids, MPI.MAX)
            gap = np.full(row - layout.used, -1)
            self.ids = np.concatenate([layout.ids, gap, ids]).astype(number)
            self.order = np.concatenate([layout.order, gap, np.arange(layout.hubs)]).astype(number)
            parts = self.outgoing.length[row : row + layout.hubs].astype(np.int64)
            edges = collective.allreduce(layout.comm, parts)[layout.order[: self.own_hubs]]
            self.weight = self.outgoing.length.copy()
            self.weight[: self.own_hubs] = np.minimum(edges, 2**31 - 1)

    def neighbours(self, code: int) -> NDArray[np.signedinteger]:
        """Ids that edges from the vertex with this code lead to, those that this rank holds. Local."""
        layout, rows = self.layout, self.outgoing
        held = [code - layout.base] if 0 <= code - layout.base < layout.used else []
        held += (np.flatnonzero(self.ids[layout.hub_row :] == layout.old[code]) + layout.hub_row).tolist()
        codes = [rows.neighbours[rows.start[row] : rows.start[row] + rows.length[row]] for row in held]
        return np.concatenate([layout.old[:0], *(layout.old[part] for part in codes)])

    def run(self, sources: NDArray[np.int64], max_depth: int = NO_LIMIT) -> int:
        """Search from ``sources``, ids that ascend; returns the last level. Collective.

        Then ``parent`` and :meth:`levels` hold the result by own number, for those that are ``visited``.
        """
        layout, state = self.layout, self.state
        self.seen[:] = 0
        if layout.used % WORD:
            self.visited[-1] = ~np.uint64((1 << layout.used % WORD) - 1)
        own = layout.new[sources[(sources >= layout.first) & (sources < layout.first + layout.n_local)] - layout.first]
        own = np.sort(own[own < layout.used])
        self.queue[: len(own)] = own
        self.parent[: layout.used] = self.fold  # which most vertices' parents are
        self.level[:] = -1  # of what is found bottom-up until :meth:`levels`
        self.parent[own], self.level[own] = layout.ids[own], 0
        self.found_at.clear()
        bit_kernels.set_bits(own, self.visited)
        state[:] = 0
        state[1], state[4] = len(own), kernels.edges_of(self.queue[: len(own)], self.weight)
        self.unseen_hubs[:] = True
        self.depth, self.left, self.ahead = 0, self.entries, 1
        size, edges = self._sum(int(state[1]), int(state[4]))
        self.last = 0
        while size and self.depth < max_depth:
            if edges * self.alpha > self.left:
                size, edges = self._bottom_up(size, max_depth)
            else:
                size, edges = self._top_down(edges, max_depth)
        return self._max(self.last)

    def levels(self) -> NDArray[np.int32]:
        """Levels that the last search has found."""
        for depth, words in self.found_at:
            bit_kernels.set_levels(words, depth, self.level)
        self.found_at.clear()
        return self.level

    def rehearse(self) -> None:
        """Call the kernels that a search over several ranks or threads may call, on one rank; for a small graph."""
        self.alone, self.alpha = False, 0
        for edges in (-1, self.entries):
            self.edges_for_threads = edges
            self.run(self.layout.ids[:1].astype(np.int64))
        self._receive([self.remote[:0]])
        self._take_back(self.state[1])
        bit_kernels.write_gaps(self.seen[:0], told := np.empty(0, np.uint8))
        bit_kernels.read_gaps(told, self.seen[:0])

    def _sum(self, size: int, edges: int) -> tuple[int, int]:
        """Sums over all ranks, which also learn of the hubs that are in the frontier since. Nobody is far behind."""
        if self.alone:
            return size, edges
        self.sums[0], self.sums[1] = size, edges
        if self.layout.hubs:
            orders = self.layout.order[: self.own_hubs]
            self.sums[2:] = 0
            self.sums[2 + orders] = self._visited_hubs() & self.unseen_hubs[orders]
        self.layout.comm.Allreduce(MPI.IN_PLACE, self.sums)
        if self.layout.hubs:
            found = self.sums[2:] > 0
            self.unseen_hubs &= ~found
            self.frontier_hubs = (self.layout.hub_row + np.flatnonzero(found)).astype(self.layout.number)
        return int(self.sums[0]), int(self.sums[1])

    def _visited_hubs(self) -> NDArray[np.bool_]:
        """Which of this rank's hubs have been visited."""
        words = self.visited[: -(-self.own_hubs // WORD)]
        return np.unpackbits(words.view(np.uint8), count=self.own_hubs, bitorder="little").view(bool)

    def _max(self, value: int) -> int:
        """Largest ``value`` of any rank."""
        self.sums[:] = value
        if not self.alone:
            self.layout.comm.Allreduce(MPI.IN_PLACE, self.sums, MPI.MAX)
        return int(self.sums[0])

    # Bottom-up

    def _bottom_up(self, size: int, max_depth: int) -> tuple[int, int]:
        """Levels bottom-up until the frontier is small; its size and edges then."""
        layout, rows = self.layout, self.incoming
        own = slice(self.first_word, self.first_word + self.words)
        current, following = self.frontiers
        current[own] = 0
        bit_kernels.set_bits(self.queue[self.state[0] : self.state[1]], current[own])
        self._share(current, self._tell(int(self.state[1] - self.state[0])))
        hubs = np.zeros(layout.hubs, bool)
        while True:
            self.depth += 1
            self.unseen_hubs &= ~hubs  # of the level before; those of the last one are left for the sum to tell
            kernels.bottom_up(
                rows.start, rows.length, rows.neighbours, rows.first, layout.old, current, following[own], self.visited,
                self.parent, self.found, self.threads,
            )  # fmt: skip
            hubs = self._find_hubs(current, following[own])
            if len(self.found_at) == _MOST_BITMAPS:
                self.levels()
            self.found_at.append((self.depth, following[own].copy()))
            counts = self._tell(int(self.found[:, 0].sum()) + int(hubs[layout.order[: self.own_hubs]].sum()))
            found = int(counts.sum())
            self.last = self.depth if found else self.last
            current, following = following, current
            shrunk = found <= size and found <= layout.connected // BETA
            size = found
            if size == 0 or shrunk or self.depth == max_depth:
                np.bitwise_or(self.seen[self.node_words], current[self.node_words], out=self.seen[self.node_words])
                break  # what has been found is of little use to other nodes, whose words are older
            self._share(current, counts)
        count = bit_kernels.to_queue(current[own], self.queue)
        edges = kernels.edges_of(self.queue[:count], self.weight)
        self.state[0], self.state[1], self.state[4] = 0, count, edges
        self.left = self.entries  # of which nobody has kept count
        return (size, self._sum(0, int(edges))[1]) if size else (0, 0)

    def _find_hubs(self, frontier: NDArray[np.uint64], found: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Find the parents of unseen hubs, of which each rank has a part of the row; tells whose has been found."""
        layout, rows = self.layout, self.incoming
        hubs = np.zeros(layout.hubs, bool)
        unseen = np.flatnonzero(self.unseen_hubs)
        if unseen.size == 0:
            return hubs
        parents = np.zeros(unseen.size, layout.number)
        kernels.find_parents(
            (layout.hub_row + unseen).astype(layout.number), rows.start, rows.length, rows.neighbours, frontier,
            layout.base, parents,
        )  # fmt: skip
        nobody = np.iinfo(np.int64).max
        orders, ids = np.full(unseen.size, nobody), np.full(unseen.size, -1, np.int64)
        has = parents >= 0
        orders[has] = layout.order[parents[has]]
        least = orders.copy()
        layout.comm.Allreduce(MPI.IN_PLACE, least, MPI.MIN)
        best = has & (orders == least)
        ids[best] = layout.ids[parents[best]]
        layout.comm.Allreduce(MPI.IN_PLACE, ids, MPI.MAX)
        hubs[unseen[least < nobody]] = True
        own = np.flatnonzero(hubs[layout.order[: self.own_hubs]])
        self.parent[own] = ids[np.searchsorted(unseen, layout.order[own])]
        bit_kernels.set_bits(own, found)
        bit_kernels.set_bits(own, self.visited)
        return hubs

    def _tell(self, count: int) -> NDArray[np.int64]:
        """How many bits each rank has set in a bitmap; with it all ranks of a node have written theirs."""
        counts = np.array([count], np.int64)
        if self.layout.comm.size > 1:
            counts = np.empty(self.layout.comm.size, np.int64)
            self.layout.comm.Allgather(np.array([count], np.int64), counts)
        return counts

    def _share(self, words: NDArray[np.uint64], counts: NDArray[np.int64]) -> None:
        """Bring the bitmap up to date on all nodes, of which the ranks have set so many bits."""
        if self.layout.comm.size > 1:
            self.layout.nodes.complete_bits(words, self.edges, counts, _GAPS)
            np.bitwise_or(self.seen, words, out=self.seen)

    # Top-down

    def _top_down(self, edges: int, max_depth: int) -> tuple[int, int]:
        """Some levels top-down; size and edges of the frontier then."""
        state = self.state
        steps = min(self.ahead, max_depth - self.depth, _FARTHEST_AHEAD)
        if self.alone:
            steps = min(_FARTHEST_AHEAD, max_depth - self.depth)
        self.left -= edges
        self._expand(steps)
        if self.alone:
            self._advance(int(state[2]))
            return int(state[1] - state[0]), int(state[4])
        size, found = int(state[1] - state[0]), self.remote[: state[3]]
        report = self.candidates.tell(found, int(state[2]), hub=bool(state[5]), size=size, edges=int(state[4]))
        agreed, together = min(report.steps), min(report.steps) == max(report.steps)
        self._advance(agreed)
        if state[2] > agreed:
            self._take_back(self.ends[agreed])
            state[0], state[1], state[3] = self.ends[agreed - 1], self.ends[agreed], 0
            state[4] = kernels.edges_of(self.queue[state[0] : state[1]], self.weight)
        sending = any(found and steps == agreed for steps, found in zip(report.steps, report.found, strict=True))
        self.ahead = 1 if sending else min(2 * agreed, _FARTHEST_AHEAD)
        if together and not sending:
            return sum(report.sizes), sum(report.edges)
        if together and self.depth > _MANY_LEVELS and self.candidates.are_told(report):
            self._receive(self.candidates.told_at_once())
            more = sum(report.found)  # at most: nobody asks how many are new
            return sum(report.sizes) + more, sum(report.edges) + more
        if sending:
            self._receive(self.candidates.received(report, agreed))
        return self._sum(int(state[1] - state[0]), int(state[4]))

    def _take_back(self, stop: int) -> None:
        """Undo what the last call of the kernel has found beyond the place ``stop`` of the queue."""
        kernels.take_back(
            self.queue, stop, self.state[1], self.visited, self.parent, self.level, self.fold, self.remote,
            self.state[3], self.seen,
        )  # fmt: skip

    def _advance(self, steps: int) -> None:
        """Go on by ``steps`` levels, the last of which may have found nothing."""
        grown = int(np.searchsorted(self.ends[: steps + 1], self.ends[steps]))
        self.last = self.depth + grown if grown else self.last
        self.depth += steps

    def _expand(self, steps: int) -> None:
        """Expand this rank's frontier by up to ``steps`` levels."""
        layout, rows, state = self.layout, self.outgoing, self.state
        room = 1 if self.alone else 1 + min(max(int(state[4]), _SMALL_FRONTIER), int(layout.bases[-1]))
        if self.best64.size and state[4] > self.edges_for_threads:
            self._expand_with_threads()
            return
        if len(self.remote) < room:
            self.remote = np.empty((room, 3), layout.number)
        hubs, self.frontier_hubs = self.frontier_hubs, self.frontier_hubs[:0]
        kernels.top_down(
            self.queue, hubs, self.ends, steps, _SMALL_FRONTIER, rows.start, rows.length, rows.neighbours, layout.base,
            layout.used, self.own_hubs, self.ids, self.order, self.weight, self.parent, self.level, self.best,
            self.depth, self.seen, self.remote, self.spare, self.counts, self.bits, state,
        )  # fmt: skip

    def _expand_with_threads(self) -> None:
        """Expand by one level, the frontier's edges dealt evenly to the threads."""
        layout, rows, state = self.layout, self.outgoing, self.state
        queue = np.concatenate([self.frontier_hubs, np.sort(self.queue[state[0] : state[1]])])
        self.frontier_hubs = self.frontier_hubs[:0]
        before = np.cumsum(rows.length[queue], dtype=np.int64)
        goals = before[-1] * np.arange(self.threads + 1) // self.threads
        bounds = np.searchsorted(before, goals)
        bounds[-1] = len(queue)
        shares = np.diff(before[np.minimum(bounds, len(queue) - 1)]) + rows.length[queue].max(initial=0)
        room = 0 if self.alone else int(shares.max())
        remote, sent = np.empty((self.threads, room, 3), layout.number), np.zeros((self.threads, 3), np.int64)
        kernels.top_down_mark(
            queue, rows.start, rows.length, rows.neighbours, layout.base, layout.used, self.ids, self.order,
            self.best64, self.seen, self.claimed, remote, sent, bounds, self.threads,
        )  # fmt: skip
        place = np.cumsum(sent[:, 1]) - sent[:, 1]
        kernels.top_down_settle(
            self.best64, self.visited, self.parent, self.level, self.best, self.depth + 1, self.weight, self.claimed,
            sent, place, self.queue, self.threads,
        )  # fmt: skip
        stop = int(sent[:, 1].sum())
        self.remote = remote.reshape(-1, 3)
        kept = kernels.drop_repeats(remote, sent, self.seen, self.remote)
        state[:5] = 0, stop, 1, kept, int(sent[:, 2].sum())
        state[5] = bool((self.queue[:stop] < self.own_hubs).any())
        self.ends[0], self.ends[1] = 0, stop

    def _receive(self, pieces: Iterable[NDArray[np.signedinteger]]) -> None:
        """Take the candidates (vertex, order of the parent, its id) that other ranks have for this one."""
        before = self.state[1]
        for candidates in pieces:
            kernels.receive(
                candidates, self.queue, self.state, self.visited, self.parent, self.level, self.best, self.depth,
                self.weight,
            )  # fmt: skip
        self.last = self.depth if self.state[1] > before else self.last
