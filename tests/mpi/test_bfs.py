"""Searches on any number of ranks, against a search over sets of neighbours."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

from hpcmpi import Graph, bfs
from hpcmpi.algorithms.bfs import Params, driver, layout, one_d
from hpcmpi.algorithms.bfs.bit_kernels import LONG_GAP, read_gaps, write_gaps
from hpcmpi.algorithms.bfs.cost import LANES, plans
from hpcmpi.algorithms.bfs.kronecker import kronecker
from hpcmpi.algorithms.bfs.naming import name
from hpcmpi.algorithms.bfs.validation import Validator
from hpcmpi.comm import nodes
from hpcmpi.errors import InputError
from hpcmpi.machine import Machine
from hpcmpi.partition import Range, block


def naive(n, u, v, sources, *, directed=False, max_depth=None):
    """Parents by the rule, and levels."""
    heads, tails, degree = [set() for _ in range(n)], [set() for _ in range(n)], [0] * n
    for a, b in zip(u.tolist(), v.tolist(), strict=True):
        if a != b:
            degree[a] += 1
            degree[b] += 1
            heads[a].add(b)
            tails[b].add(a)
            if not directed:
                heads[b].add(a)
                tails[a].add(b)
    level, frontier = dict.fromkeys(sources, 0), set(sources)
    for depth in itertools.count(1):
        frontier = {b for a in frontier for b in heads[a]} - level.keys()
        if not frontier or (max_depth is not None and depth > max_depth):
            break
        level |= dict.fromkeys(frontier, depth)
    parent = np.full(n, -1)
    for v_, lev in level.items():
        above = [(-degree[a], a) for a in tails[v_] if level.get(a) == lev - 1]
        parent[v_] = min(above)[1] if lev else v_
    return parent, np.array([level.get(a, -1) for a in range(n)], np.int32)


def part(comm, array):
    return array[block(len(array), comm.size, comm.rank).slice].copy()


def assert_searches(comm, n, u, v, *searches, depths=(None,), directed=False, **how):
    """Each search, from one source or several, to each depth, of one graph."""
    mine = part(comm, u), part(comm, v)
    kept = [x.copy() for x in mine]
    with Graph.from_edges(comm, *mine, n=n, directed=directed, **how) as graph:
        own = slice(graph.first, graph.first + graph.n_local)
        for sources, depth in itertools.product(searches, depths):
            expected = naive(n, u, v, np.atleast_1d(sources).tolist(), directed=directed, max_depth=depth)
            parent, level = bfs(graph, sources, max_depth=depth)
            assert (parent.dtype, level.dtype) == (np.int64, np.int32)
            np.testing.assert_array_equal(parent, expected[0][own])
            np.testing.assert_array_equal(level, expected[1][own])
        assert comm.allreduce(graph.n_local) == n
    assert all(np.array_equal(x, y) for x, y in zip(mine, kept, strict=True)), "edges were modified"


def random_edges(n, m, seed, skewed=False):
    rng = np.random.default_rng(seed)
    u, v = rng.integers(0, n, (2, m))
    return (np.minimum(u, rng.integers(0, n, m)), v) if skewed else (u, v)


def grid(rows, columns):
    ids = np.arange(rows * columns).reshape(rows, columns)
    return tuple(
        np.concatenate([ends[0].ravel(), ends[1].ravel()]) for ends in ((ids[:, :-1], ids[:-1]), (ids[:, 1:], ids[1:]))
    )


def path(n):
    return np.arange(n - 1), np.arange(1, n)


def star(n):
    return np.full(n - 1, n // 2), np.delete(np.arange(n), n // 2)


# Each level waits for all ranks, which takes its time where they outnumber the cores.
CROWDED = MPI.COMM_WORLD.size > 3
FEW = ["one vertex", "no edges", "path", "star", "skewed", "loops and repeats", "kronecker"]

GRAPHS = {
    "one vertex": (1, *random_edges(1, 3, 0)),
    "two vertices": (2, np.array([1]), np.array([0])),
    "no edges": (5, np.empty(0, np.int64), np.empty(0, np.int64)),
    "path": (90, *path(90)),
    "ring": (64, np.arange(64), (np.arange(64) + 1) % 64),
    "star": (200, *star(200)),
    "grid": (20 * 17, *grid(20, 17)),
    "complete": (30, *np.triu_indices(30, 1)),
    "sparse": (300, *random_edges(300, 250, 1)),
    "dense": (150, *random_edges(150, 3000, 2)),
    "skewed": (500, *random_edges(500, 2500, 3, skewed=True)),
    "loops and repeats": (40, *(np.tile(x, 3) for x in random_edges(12, 60, 4))),
    "kronecker": (256, *(x.astype(np.int64) for x in kronecker(8, Range(0, 2048), 5))),
}


@pytest.mark.parametrize("partition", ["1d", "2d"])
@pytest.mark.parametrize("graph", FEW if CROWDED else GRAPHS)
def test_parents_and_levels_are_those_of_the_rule(comm, graph, partition):
    n, u, v = GRAPHS[graph]
    assert_searches(comm, n, u, v, 0, n // 2, n - 1, partition=partition)


@pytest.mark.parametrize("partition", ["1d", "2d"])
@pytest.mark.parametrize("graph", ["path", "sparse", "skewed", "loops and repeats"])
def test_edges_that_lead_one_way(comm, graph, partition):
    n, u, v = GRAPHS[graph]
    assert_searches(comm, n, u, v, n // 3, directed=True, partition=partition)


@pytest.mark.parametrize("share", [40, 10**6])  # some vertices are hubs, or all
@pytest.mark.parametrize("directed", [False, True])
def test_hubs_whose_rows_are_dealt_to_all_ranks(comm, monkeypatch, share, directed):
    monkeypatch.setattr(layout, "HUB_SHARE", share)
    for graph in ("star", "skewed", "loops and repeats", "grid")[: 2 if CROWDED else 4]:
        n, u, v = GRAPHS[graph]
        assert_searches(comm, n, u, v, 0, [1, n // 2, n - 1], depths=(None, 2), directed=directed)


def test_no_rank_holds_the_whole_row_of_a_hub(comm):
    n = 1000
    u, v = star(n)
    with Graph.from_edges(comm, part(comm, u), part(comm, v), n=n) as graph:
        rows = graph._search.outgoing
        assert comm.allreduce(rows.entries) == 2 * (n - 1)
        assert rows.entries <= 2 * (n // comm.size + 1)


def test_several_threads_expand_a_level(comm, monkeypatch):
    monkeypatch.setattr(one_d, "_EDGES_FOR_THREADS", 0)
    monkeypatch.setattr(one_d, "_THREADS_TOP_DOWN", 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # what threads.available() goes by
    for graph, share in (("skewed", 8), ("kronecker", 40)):
        monkeypatch.setattr(layout, "HUB_SHARE", share)
        n, u, v = GRAPHS[graph]
        assert_searches(comm, n, u, v, 0, [1, n // 2])
    n = 2000  # a tree, where one thread sends more than its share, and layers, where vertices have many parents
    scramble = np.random.default_rng(3).permutation(n)
    child = np.arange(1, n)
    assert_searches(comm, n, scramble[child], scramble[child * 2 // 5], int(scramble[0]), scramble[:20].tolist())
    layered = scramble[child[200:]], scramble[child[200:] - np.random.default_rng(4).integers(150, 250, n - 201)]
    assert_searches(comm, n, *(np.tile(x, 3) for x in layered), scramble[:150].tolist(), int(scramble[700]))


def tailed(n, seed):
    """Skewed edges, and paths that hang on them."""
    u, v = random_edges(n, 3 * n, seed, skewed=True)
    tail = np.arange(n, 2 * n)
    back = np.where(tail % 40 == 0, np.random.default_rng(seed).integers(0, n, n), tail - 1)
    scramble = np.random.default_rng(seed + 1).permutation(2 * n)
    return 2 * n, scramble[np.concatenate([u, tail])], scramble[np.concatenate([v, back])]


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("node", [lambda rank: rank // 100, lambda rank: rank % 2, lambda rank: rank])
def test_directions_that_change_all_the_time(comm, monkeypatch, node, directed):
    monkeypatch.setattr(nodes, "split_node", lambda comm: comm.Split(node(comm.rank), comm.rank))
    for seed, alpha, beta in ((1, 2, 1), (2, 45, 100), (3, 10, 24), (4, 1000, 2))[: 2 if CROWDED else 4]:
        monkeypatch.setattr(one_d, "ALPHA", alpha)
        monkeypatch.setattr(one_d, "BETA", beta)
        n, u, v = tailed(150, seed)
        assert_searches(comm, n, u, v, 3, 200, 3, n - 1, 70, 3, directed=directed)


def test_a_path_behind_a_large_frontier_keeps_no_bitmap_a_level(comm):
    middle, tail = 2000, 300
    first, last = np.zeros(middle, np.int64), np.full(middle, middle + 1)
    inner, path_ = np.arange(1, middle + 1), np.arange(middle + 1, middle + 1 + tail)
    u, v = np.concatenate([first, inner, path_]), np.concatenate([inner, last, path_ + 1])
    with Graph.from_edges(comm, part(comm, u), part(comm, v)) as graph:
        parent, level = bfs(graph, 0)
        assert comm.allreduce(int(level.max(initial=-1)), MPI.MAX) == tail + 2
        graph.parents_into(parent, np.array([0]))  # whose levels nobody asks for
        assert len(graph._search.found_at) <= one_d._MOST_BITMAPS


@pytest.mark.parametrize("how", [{"wide": True}, {"balance": True}, {"wide": True, "partition": "2d"}])
def test_wide_numbers_and_balanced_ranges(comm, how):
    for graph in ("skewed", "star", "no edges"):
        n, u, v = GRAPHS[graph]
        assert_searches(comm, n, u, v, 1, **how)


@pytest.mark.parametrize("partition", ["1d", "2d"])
def test_several_sources_and_a_last_level(comm, partition):
    n, u, v = GRAPHS["grid"]
    assert_searches(comm, n, u, v, [5, 300, 5, 17], depths=(0, 1, 3, 1000), partition=partition)


@pytest.mark.parametrize("node", [lambda rank: rank // 2, lambda rank: rank % 2, lambda rank: rank])
def test_ranks_on_several_nodes_whatever_their_order(comm, monkeypatch, node):
    monkeypatch.setattr(nodes, "split_node", lambda comm: comm.Split(node(comm.rank), comm.rank))
    monkeypatch.setattr(nodes, "_OWN_BYTES", 0)  # so that tables are shared
    for graph, partition in itertools.product(("kronecker", "no edges"), ("1d", "2d")):
        n, u, v = GRAPHS[graph]
        assert_searches(comm, n, u, v, n // 2, partition=partition)
    n, u, v = GRAPHS["kronecker"]
    mine = part(comm, u), part(comm, v)
    with Graph.from_edges(comm, *mine, n=n) as made:
        validator = Validator(comm, *mine, made.layout.cuts, made.degrees(), directed=False, threads=1)
        [found] = findings(validator, (*bfs(made, 3), [3]))
        assert found.right, found.reason
        validator.close()


@pytest.mark.parametrize("density", [0, 0.001, 0.02, 0.5, 1])
def test_bitmaps_as_gaps(density):
    for words in (0, 1, 100):
        bits = np.random.default_rng(words).random(64 * words) < density
        bitmap = np.packbits(bits, bitorder="little").view(np.uint64)
        gaps = np.empty(np.count_nonzero(bits) + bits.size // LONG_GAP, np.uint8)  # enough, and often too many
        write_gaps(bitmap, gaps)
        back = np.full(words, 7, np.uint64)
        read_gaps(gaps, back)
        np.testing.assert_array_equal(back, bitmap)


def test_edges_all_on_one_rank_and_of_other_dtypes(comm):
    n, u, v = GRAPHS["dense"]
    expected = naive(n, u, v, [7])
    for dtype in ("uint8", ">i4", "uint64", "int64"):
        share = (u, v) if comm.rank == comm.size - 1 else (u[:0], v[:0])
        with Graph.from_edges(comm, *(x.astype(dtype) for x in share)) as graph:
            parent, _ = bfs(graph, 7)
            np.testing.assert_array_equal(parent, expected[0][graph.first : graph.first + graph.n_local])
    share = (u, v) if comm.rank == 0 else (np.array([]), np.array([]))  # float64, as NumPy has it
    with Graph.from_edges(comm, *share) as graph:
        np.testing.assert_array_equal(bfs(graph, 7)[0], expected[0][graph.first : graph.first + graph.n_local])


@settings(max_examples=8 if MPI.COMM_WORLD.size > 3 else 25)
@given(
    n=st.integers(1, 60), m=st.integers(0, 150), seed=st.integers(0, 10**6), directed=st.booleans(),
    partition=st.sampled_from(["1d", "2d"]), roots=st.integers(1, 3),
)  # fmt: skip
def test_any_small_graph(n, m, seed, directed, partition, roots):
    u, v = random_edges(n, m, seed, skewed=seed % 2)
    sources = np.random.default_rng(seed).integers(0, n, roots)
    assert_searches(MPI.COMM_WORLD, n, u, v, sources, directed=directed, partition=partition)


def test_a_deep_graph_and_one_that_goes_back_and_forth_between_ranks(comm):
    length, mixed = (2_000, 60) if CROWDED else (5_000, 200)
    assert_searches(comm, length, *path(length), length // 2)
    order = np.random.default_rng(1).permutation(mixed)
    assert_searches(comm, mixed, order[:-1], order[1:], int(order[0]))


@pytest.mark.parametrize(
    ("edges", "root", "said"),
    [
        (([0, -1], [1, 2]), 0, "holds the id -1"),
        (([0.0, 1.5], [1.0, 2.0]), 0, "whole numbers"),
        (([0, 1], [1, 2, 3]), 0, "alike"),
        (([0, 1], [1, 2]), 3, "root 3 is not a vertex: there are 3"),
        (([0, 1], [1, 2]), -1, "root -1 is not a vertex"),
        (([0, 1], [1, 2]), [], "at least one"),
        (([], []), 0, "root 0 is not a vertex: there are 0"),
        (([0, 5], [5, 2**47]), 0, "tables of all vertices"),
    ],
)
def test_bad_input_raises_the_same_error_on_all_ranks(comm, edges, root, said):
    u, v = (np.array(ends, np.float64 if any(x != int(x) for x in ends) else np.int64) for ends in edges)
    with pytest.raises(InputError, match=said) as error:
        bfs(Graph.from_edges(comm, u, v), root)
    assert len(set(comm.allgather(str(error.value)))) == 1


def test_ranks_that_disagree_and_graphs_that_are_gone_are_refused(comm):
    graph = Graph.from_edges(comm, np.array([0, 1]), np.array([1, 2]))
    bfs(graph, 1)
    if comm.size > 1:
        with pytest.raises(InputError, match="the same is expected"):
            bfs(graph, min(comm.rank, 2))
    graph.free()
    graph.free()
    with pytest.raises(InputError, match="has been freed"):
        bfs(graph, 1)
    lengths = np.array([1, 1]) if comm.rank == 0 else np.empty(0, np.int64)
    cuts = np.array([0] + [2] * comm.size)
    with pytest.raises(InputError, match="vertex 1 has 1 neighbours, but the degree 0"):
        Graph.from_rows(comm, lengths, lengths[::-1] - 1, lengths * np.array([1, 0][: lengths.size]), cuts=cuts)


def test_the_generator_makes_the_same_edges_on_any_number_of_ranks(comm):
    whole = kronecker(10, Range(0, 5000), 3)
    for mine, all_ in zip(kronecker(10, block(5000, comm.size, comm.rank), 3), whole, strict=True):
        np.testing.assert_array_equal(mine, part(comm, all_))
        assert all_.max() < 1024
    u, v = kronecker(13, Range(0, 1 << 17), 1)  # A, B, C, D: bits of both ends agree as often as the corners say
    degrees = np.sort(np.bincount(np.concatenate([u, v]), minlength=1 << 13))[::-1]
    assert degrees[0] > 50 * degrees.mean()
    assert kronecker(40, Range(0, 10), 1)[0].max() < 2**40
    assert not np.array_equal(kronecker(10, Range(0, 5000), 4)[0], whole[0])


def test_ids_with_gaps_are_named_in_their_order(comm):
    rng = np.random.default_rng(comm.rank)
    u, v = rng.integers(0, 2**48, (2, 30 * (comm.rank != 1)))
    every = np.unique(np.concatenate(comm.allgather(np.concatenate([u, v]))))
    names = name(comm, u, v)
    assert names.n == every.size
    np.testing.assert_array_equal(every[names.numbers(comm, u)], u)
    np.testing.assert_array_equal(names.numbers(comm, np.array([every[-1] + 1, 3 + comm.rank])), [-1, -1])
    some = rng.integers(-1, every.size, (2, 9))
    np.testing.assert_array_equal(names.ids_of(comm, some), np.where(some < 0, -1, every[some]))


def spoiled(parent, level, kind):
    """A search with one thing wrong on the rank that holds it."""
    deep = np.flatnonzero(level == level.max(initial=0))
    if not deep.size or level.max() < 2:
        return False
    at = deep[0]
    match kind:
        case "parent":
            parent[at] = parent[np.flatnonzero(level == 0)[0]] if (level == 0).any() else 0
        case "level":
            level[at] += 1
        case "unreached":
            parent[at] = level[at] = -1
        case "no parent":
            parent[at] = -1
        case "root":
            parent[at], level[at] = -2, 0
    return True


def findings(validator, *trees):
    for parent, level, sources in trees:
        validator.take(parent, level, np.array(sources))
    return validator.findings()


@pytest.mark.parametrize("graph", ["kronecker", "path"])
def test_a_wrong_search_is_found(comm, graph):
    n, u, v = GRAPHS[graph]
    mine = part(comm, u), part(comm, v)
    with Graph.from_edges(comm, *mine, n=n) as made:
        root = int(comm.bcast(u[0]))
        tree = bfs(made, root)
        trees, right = [(*tree, [root])], [True]
        for kind in ("parent", "level", "unreached", "no parent", "root"):
            parent, level = (x.copy() for x in tree)
            right.append(not comm.allreduce(spoiled(parent, level, kind)))
            trees.append((parent, level, [root]))
        assert not all(right)
        for searches, deepest in ((1, None), (LANES, None), (LANES, 0)):
            validator = Validator(
                comm, *mine, made.layout.cuts, made.degrees(), directed=False, threads=1, searches=searches
            )
            if deepest is not None:
                validator._words_for(0).deepest = deepest  # levels that words have no room for are checked in others
            found = findings(validator, *trees * 3)  # more than are checked together, but not twice as many
            assert [finding.right for finding in found] == right * 3
            ends = np.isin(mine[0], reached(comm, tree[1]))
            assert found[0].traversed == found[-6].traversed == comm.allreduce(np.count_nonzero(ends))
            validator.close()


def reached(comm, level):
    return np.flatnonzero(np.concatenate(comm.allgather(level)) >= 0)


def test_a_tree_that_skips_an_edge_or_invents_one_is_found(comm):
    u, v = np.array([0, 1, 2, 0]), np.array([1, 2, 3, 2])  # level of 2 is 1
    mine = part(comm, u), part(comm, v)
    cuts = np.array([block(4, comm.size, rank).start for rank in range(comm.size)] + [4])
    own = block(4, comm.size, comm.rank).slice
    validator = Validator(comm, *mine, cuts, np.array([2, 2, 3, 1])[own], directed=False, threads=1)
    for parent, level, right in (
        ([0, 0, 0, 2], [0, 1, 1, 2], True),
        ([0, 0, 1, 2], [0, 1, 2, 3], False),  # the edge from 0 to 2 leads two levels down
        ([0, 0, 0, 1], [0, 1, 1, 2], False),  # there is no edge from 1 to 3
        ([0, 0, 0, -1], [0, 1, 1, -1], False),  # 3 was left out
    ):
        [found] = findings(validator, (np.array(parent)[own], np.array(level, np.int32)[own], [0]))
        assert found.right == right, (parent, found.reason)
    validator.close()


@pytest.mark.parametrize("searches", [1, LANES])
def test_a_parent_against_the_rule_is_found(comm, searches):
    u, v, degree = np.array([0, 0, 1, 2, 2]), np.array([1, 2, 3, 3, 4]), np.array([2, 2, 3, 2, 1])
    cuts = np.array([block(5, comm.size, rank).start for rank in range(comm.size)] + [5])
    own = block(5, comm.size, comm.rank).slice
    ends = part(comm, u), part(comm, v)
    validator = Validator(comm, *ends, cuts, degree[own], directed=False, threads=1, searches=searches)
    level = np.array([0, 1, 1, 2, 2], np.int32)[own]
    trees = [(np.array(parent)[own], level, [0]) for parent in ([0, 0, 0, 2, 2], [0, 0, 0, 1, 2])]
    assert [finding.right for finding in findings(validator, *trees)] == [True, False]
    validator.close()


@pytest.mark.parametrize("searches", [1, LANES])
def test_what_a_directed_edge_and_a_last_level_allow(comm, searches):
    u, v = np.array([0, 1, 2, 3, 3]), np.array([1, 2, 3, 0, 4])  # a ring, and a way out of it
    cuts = np.array([block(5, comm.size, rank).start for rank in range(comm.size)] + [5])
    own = block(5, comm.size, comm.rank).slice
    degree = np.array([2, 2, 2, 3, 1])[own]
    whole = np.array([0, 0, 1, 2, 3])[own], np.array([0, 1, 2, 3, 4], np.int32)[own], [0]
    short = np.array([0, 0, 1, -1, -1])[own], np.array([0, 1, 2, -1, -1], np.int32)[own], [0]
    for directed, max_depth, right in ((True, 9, [True, False]), (True, 2, [True, True]), (False, 9, [False, False])):
        validator = Validator(
            comm, part(comm, u), part(comm, v), cuts, degree, directed=directed, threads=1, max_depth=max_depth,
            searches=searches,
        )  # fmt: skip
        assert [finding.right for finding in findings(validator, whole, short)] == right
        validator.close()


@pytest.mark.parametrize("partition", ["1d", "2d"])
def test_driver_runs_the_benchmark_and_checks_each_search(partition):
    comm = MPI.COMM_WORLD
    params = driver.resolve(comm, Params(scale=8, graph500=True, partition=partition, roots=9))
    driver.warm_up(params)
    [plan] = plans(params, comm.size, Machine())
    problem = driver.prepare(comm, params, plan)
    result = driver.run(comm, problem, lambda _fraction: None)
    assert result.verdict is not None
    assert result.verdict.right, result.verdict.reason
    assert any(line.startswith("bfs  harmonic_mean_TEPS:") for line in result.lines)
    roots = comm.bcast(result.arrays["root"].local)
    assert len(set(roots.tolist())) == 9
    problem.close()
