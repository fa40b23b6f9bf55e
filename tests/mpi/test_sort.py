"""sort and its kin on any number of ranks, against NumPy on the gathered keys."""

from __future__ import annotations

import math
import zlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

from hpcmpi import argsort, gensort, quantile, searchsorted, sort, sort_by, unique, valsort
from hpcmpi.algorithms.sort import DISTRIBUTIONS, DTYPES, METHODS, cost, records
from hpcmpi.algorithms.sort.distributions import fill, held
from hpcmpi.algorithms.sort.external import External
from hpcmpi.algorithms.sort.keys import codec
from hpcmpi.algorithms.sort.local import sort_local
from hpcmpi.algorithms.sort.order import order, order_room
from hpcmpi.algorithms.sort.rows import Rows, order_of
from hpcmpi.algorithms.sort.sample import capacity, sample
from hpcmpi.algorithms.sort.selection import cuts
from hpcmpi.algorithms.sort.verification import disorders, multiset, permutation_faults
from hpcmpi.comm import rebalance
from hpcmpi.errors import InputError
from hpcmpi.partition import Range, block

WORLD = MPI.COMM_WORLD


def part(comm, array):
    return array[block(len(array), comm.size, comm.rank).slice].copy()


def uneven(comm, array):
    """A part of this rank that is no balanced block: the last rank has half, some have none."""
    edges = [len(array) * rank * rank // (2 * comm.size**2) for rank in range(comm.size)] + [len(array)]
    return array[edges[comm.rank] : edges[comm.rank + 1]].copy()


def whole(comm, mine):
    return np.concatenate(comm.allgather(mine))


def expected_order(keys, *, descending=False):
    """The stable order by the values of the keys, in Python: -0.0 before 0.0, NaN last in either direction."""

    def value(i):
        key = keys[i].item()
        if isinstance(key, float) and math.isnan(key):
            return (1, 0, 0)
        zero = 0 if str(key).startswith("-0.0") else 1
        return (0, -key, -zero) if descending else (0, key, zero)

    return np.array(sorted(range(len(keys)), key=value), np.int64)


def awkward(dtype, n=301):
    """Keys that are all that a dtype has: extremes, zeros of both signs, infinities, NaN of both signs, repeats."""
    rng = np.random.default_rng(7)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        keys = (rng.standard_normal(n) * 50).astype(kind)
        for step, value in ((5, np.nan), (6, -np.nan), (7, -0.0), (8, 0.0), (11, np.inf), (13, -np.inf), (17, 3)):
            keys[step::20] = value
        return keys
    limits = np.iinfo(kind)
    keys = rng.integers(limits.min, limits.max, n, dtype=kind, endpoint=True)
    keys[::4], keys[1::5], keys[2::9] = limits.max, limits.min, 3
    return keys


def assert_same_bits(found, expected):
    if expected.dtype.kind == "f":  # any NaN comes out as the one quiet NaN
        expected = np.where(np.isnan(expected), np.array(np.nan, expected.dtype), expected)
    assert found.dtype == expected.dtype
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_sorted_to_the_bit(dtype, descending):
    keys = awkward(dtype)
    mine = uneven(WORLD, keys)
    kept = mine.copy()
    found = sort(WORLD, mine, descending=descending)
    assert mine.tobytes() == kept.tobytes(), "the keys were modified"
    assert len(found) == block(len(keys), WORLD.size, WORLD.rank).size
    assert_same_bits(whole(WORLD, found), keys[expected_order(keys, descending=descending)])


@pytest.mark.parametrize("keys", [[], [2.0], [3.0, 1.0, 2.0], [1.0] * 50], ids=["empty", "one", "three", "equal"])
def test_tiny_inputs_on_any_communicator(comm, keys):
    keys = np.array(keys)
    found = sort(comm, part(comm, keys))
    np.testing.assert_array_equal(whole(comm, found), np.sort(keys))
    np.testing.assert_array_equal(whole(comm, argsort(comm, part(comm, keys))), np.argsort(keys, kind="stable"))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_every_distribution_and_method_gives_the_same(distribution, method):
    n = 4001
    every = fill(distribution, 3, n, Range(0, n), "float64")
    mine = fill(distribution, 3, n, held(distribution, n, WORLD.size, WORLD.rank), "float64")
    assert whole(WORLD, mine).tobytes() == every.tobytes(), "generated keys depend on the rank"
    found = sort(WORLD, mine, method=method)
    assert len(found) == block(n, WORLD.size, WORLD.rank).size
    assert_same_bits(whole(WORLD, found), np.sort(every))


@pytest.mark.parametrize(
    "how",
    [
        {"portable": True},
        {"generations": 3},
        {"generations": 5, "portable": True},
        {"threads": 2, "generations": 4},
        {"little_room": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float64", "int32"])
def test_every_way_through_sample_sort(how, dtype):
    how = dict(how)
    little_room = how.pop("little_room", False)
    n = 60_000  # more than a block of keys
    code = codec(dtype)
    for keys in (fill("zipf", 1, n, Range(0, n), dtype), np.full(n, np.iinfo("i4").max).astype(dtype)):
        mine = uneven(WORLD, keys)
        wanted = 5 if little_room else capacity(n, WORLD.size, code.image.itemsize)
        found = sample(WORLD, code.raw(mine), code, np.empty(wanted, code.image), **how)
        assert_same_bits(whole(WORLD, code.decode(found)), np.sort(keys))


@pytest.mark.parametrize("keys", ["float64", "few"])
def test_threads_of_one_rank_share_the_work(keys):
    n = 300_000
    raw = np.random.default_rng(1).standard_normal(n) if keys == "float64" else np.arange(n) % 3 * 1.0
    code = codec("float64")
    for threads in (1, 2, 3):
        out = np.empty(n, np.int64)
        sort_local(code.raw(raw), code, out, threads)
        assert_same_bits(code.decode(out), np.sort(raw))


@settings(max_examples=12)
@given(
    keys=st.lists(st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1), max_size=60),
    share=st.lists(st.floats(0, 1), min_size=8, max_size=8),
    descending=st.booleans(),
)
def test_any_keys_dealt_in_any_way(keys, share, descending):
    keys = np.array(keys, np.int64)
    edges = [0, *sorted(int(f * len(keys)) for f in share[: WORLD.size - 1]), len(keys)]
    mine = keys[edges[WORLD.rank] : edges[WORLD.rank + 1]]
    order = expected_order(keys, descending=descending)
    np.testing.assert_array_equal(whole(WORLD, sort(WORLD, mine, descending=descending)), keys[order])
    np.testing.assert_array_equal(whole(WORLD, argsort(WORLD, mine, descending=descending)), order)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("descending", [False, True])
def test_orders_are_stable_and_columns_follow(method, descending):
    keys = awkward("float32")
    order = expected_order(keys, descending=descending)
    mine = uneven(WORLD, keys)
    np.testing.assert_array_equal(whole(WORLD, argsort(WORLD, mine, descending=descending, method=method)), order)
    wide, narrow = np.arange(3 * len(keys)).reshape(-1, 3), np.arange(len(keys)).astype("S4")
    found, (rows, texts) = sort_by(
        WORLD, mine, [uneven(WORLD, wide), uneven(WORLD, narrow)], descending=descending, method=method
    )
    assert_same_bits(whole(WORLD, found), keys[order])
    np.testing.assert_array_equal(whole(WORLD, rows), wide[order])
    np.testing.assert_array_equal(whole(WORLD, texts), narrow[order])


@pytest.mark.parametrize("dtype", ["float64", "int16"])
def test_orders_of_many_buckets_are_stable(dtype):
    rng = np.random.default_rng(2)
    n, code = 300_000, codec(dtype)
    most = 32767 if dtype == "int16" else 2.0**60
    for keys in (
        rng.standard_normal(n),
        1 + rng.integers(0, 40, n) * 2.0**-52,  # alike in all bits but the last, beside one far away
        rng.integers(0, 3, n),
        np.full(n, most),
    ):
        keys[7] = -most
        every = keys.astype(dtype)
        for mine in (uneven(WORLD, every), every if WORLD.rank == WORLD.size - 1 else every[:0]):
            memory = np.empty(order_room(n, mine.size, WORLD.size, every.itemsize) // 8 + 1, np.int64)
            for room in (memory.view(np.uint8), memory[:999].view(np.uint8)):
                found = order(WORLD, code.raw(mine), code, room)
                assert found.size == block(n, WORLD.size, WORLD.rank).size
                np.testing.assert_array_equal(whole(WORLD, found), np.argsort(every, kind="stable"))


def test_columns_of_any_width_follow_also_from_ranks_without_rows():
    n = 4000
    keys = np.random.default_rng(1).permutation(n)
    mine = uneven(WORLD, keys)
    found, (nothing, own) = sort_by(WORLD, mine, [np.empty((mine.size, 0)), mine])
    assert nothing.shape == (found.size, 0)
    np.testing.assert_array_equal(own, found)
    last = WORLD.rank == WORLD.size - 1
    found, column = sort_by(WORLD, keys if last else [], np.stack([keys, keys], axis=1) if last else [])
    np.testing.assert_array_equal(whole(WORLD, column), np.repeat(np.arange(n), 2).reshape(n, 2))
    assert sort_by(WORLD, mine, [])[1] == []


def test_results_do_not_keep_much_more_memory_alive():
    for found in (sort(WORLD, np.arange(40.0)), argsort(WORLD, np.arange(40.0))):
        assert found.base is None or found.base.nbytes <= 2 * found.nbytes


def test_large_orders_pass_through_buckets():
    rng = np.random.default_rng(2)
    n = 400_000
    for first in (
        rng.integers(-(2**63), 2**63 - 1, n),
        rng.integers(0, 5, n),
        np.concatenate([rng.integers(0, 1000, n - 1), [2**62]]) << 1,
        np.arange(n)[::-1].copy(),
    ):
        np.testing.assert_array_equal(order_of((first,)), np.argsort(first, kind="stable"))
    second = rng.permutation(n)
    first = rng.integers(0, 50, n)
    np.testing.assert_array_equal(order_of((first, second)), np.lexsort((second, first)))


@pytest.mark.parametrize("side", ["left", "right"])
def test_searchsorted_finds_where_numpy_does(comm, side):
    keys = np.sort(np.array([-np.inf, -1, -0.0, 0.0, 0.0, 1, 1, 1, 2, 5, np.inf, np.nan]))
    queries = np.array([-5, -1, 0, -0.0, 1, 1.5, 7, np.inf, np.nan, -np.inf])
    mine = uneven(comm, keys)
    np.testing.assert_array_equal(searchsorted(comm, mine, queries, side=side), np.searchsorted(keys, queries, side))
    nothing = searchsorted(comm, mine[:0], queries[: comm.rank], side=side)
    np.testing.assert_array_equal(nothing, np.zeros(min(comm.rank, 10)))
    square = searchsorted(comm, mine, queries.reshape(2, 5), side=side)
    np.testing.assert_array_equal(square, np.searchsorted(keys, queries.reshape(2, 5), side))


@pytest.mark.parametrize("dtype", ["uint8", "int64", "uint64", "float16", "float32", "float64"])
def test_searchsorted_compares_values_of_any_dtype_exactly(dtype):
    def limits(kind):
        return (np.finfo if np.dtype(kind).kind == "f" else np.iinfo)(kind)

    def some(kind):
        most = limits(kind)
        few = [most.min, most.max, 0, 1, 2, 100]
        if np.dtype(kind).kind == "f":
            few += [-np.inf, -1.5, -0.0, most.tiny, -most.tiny, 0.1, 1.5, 254.5, 255.5, np.inf, np.nan]
        elif np.dtype(kind).itemsize == 8:
            few += [2**53 - 1, 2**53, 2**53 + 1, 2**62 + 1]
        return np.array(few, kind)

    def value(x):  # as Python compares numbers of any kind, exactly
        x = x.item()
        return (1, 0) if math.isnan(x) else (0, x)

    keys = np.sort(some(dtype))
    for kind in ("int8", "uint8", "int64", "uint64", "float16", "float64"):
        queries = some(kind)
        for side in ("left", "right"):
            expected = [
                sum(value(key) < value(q) or (side == "right" and value(key) == value(q)) for key in keys)
                for q in queries
            ]
            found = searchsorted(WORLD, uneven(WORLD, keys), queries, side=side)
            np.testing.assert_array_equal(found, expected, err_msg=f"{kind}, {side}")


def test_an_empty_list_is_of_the_dtype_of_the_others():
    mine = [] if WORLD.rank else np.array([3, 1, 2], np.int32)
    found = whole(WORLD, sort(WORLD, mine))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, [1, 2, 3])
    assert sort(WORLD, []).dtype == np.float64


def test_a_rank_whose_arguments_cannot_be_converted_stops_all():
    last = WORLD.rank == WORLD.size - 1
    for call in (
        lambda: sort(WORLD, [[1], [2, 3]] if last else [1]),
        lambda: sort(WORLD, [2**70] if last else [1]),
        lambda: sort_by(WORLD, [1], [[[1], [2, 3]][:1] if not last else [[1], [2, 3]]]),
        lambda: searchsorted(WORLD, [1] if WORLD.rank == 0 else [], ["x"] if last else [1]),
        lambda: quantile(WORLD, [1.0], "middle" if last else 0.5),
    ):
        with pytest.raises(InputError, match=f"rank {WORLD.size - 1}: "):
            call()


def test_quantiles_are_those_of_numpy(comm):
    keys = np.random.default_rng(4).standard_normal(201)
    for q in (0.5, [0, 0.123, 0.25, 1]):
        np.testing.assert_allclose(quantile(comm, uneven(comm, keys), q), np.quantile(keys, q), rtol=1e-15)
    assert np.isnan(quantile(comm, part(comm, np.array([1.0, np.nan, 2.0])), 0.5))
    found = quantile(comm, part(comm, np.array([-np.inf, 1, np.inf])), [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_array_equal(found, [-np.inf, -np.inf, 1, np.inf, np.inf])
    with np.errstate(all="raise"):
        assert quantile(comm, part(comm, np.array([-1.7e308, 1.7e308])), 0.5) == 0
    assert quantile(comm, part(comm, np.arange(10)), 0.5) == 4.5
    with pytest.raises(InputError, match="expected"):
        quantile(comm, np.empty(0), 0.5)


def test_unique_keys_and_their_counts(comm):
    for keys in (np.arange(200) % 7, np.full(40, 3), np.array([0.0, -0.0, np.nan, 1, -np.nan, 1]), np.empty(0)):
        values, counts = unique(comm, uneven(comm, keys))
        expected, how_often = np.unique(keys, return_counts=True)
        np.testing.assert_array_equal(whole(comm, values), expected)
        np.testing.assert_array_equal(whole(comm, counts), how_often)
        assert len(values) == block(len(expected), comm.size, comm.rank).size


@settings(max_examples=10)
@given(st.lists(st.integers(0, 4), max_size=40), st.integers(1, 3))
def test_cuts_leave_exactly_the_targets_below(keys, runs):
    mine = np.array(keys[WORLD.rank :: 2], np.int64) * 2**61 - 2**62
    words = [(np.sort(mine[run::runs]), np.arange(len(mine[run::runs]))) for run in range(runs)]
    n = sum(WORLD.allgather(len(mine)))
    targets = [n * j // 5 for j in range(6)]
    places = cuts(WORLD, [word[:1] for word in words], targets)
    below = [word[0][: place[j]] for word, place in zip(words, places, strict=True) for j in [2]]
    above = [word[0][place[j] :] for word, place in zip(words, places, strict=True) for j in [2]]
    np.testing.assert_array_equal(np.sum(WORLD.allgather(places.sum(axis=0)), axis=0), targets)
    lower, upper = whole(WORLD, np.concatenate(below)), whole(WORLD, np.concatenate(above))
    assert not lower.size or not upper.size or lower.max() <= upper.min()


def test_rows_are_dealt_anew_with_or_without_room(comm):
    rows = np.arange(60).reshape(30, 2)
    mine = uneven(comm, rows)
    expected = part(comm, rows)
    np.testing.assert_array_equal(rebalance(comm, mine), expected)
    room = np.full((100, 2), -1)
    room[35 : 35 + len(mine)] = mine
    found = rebalance(comm, room[35 : 35 + len(mine)], room, 35)
    np.testing.assert_array_equal(found, expected)
    assert found.size == 0 or found.base is room


def test_rows_that_one_rank_holds_arrive_in_any_number_of_steps():
    """The first rank holds all that is small, and so on: in each step one rank sends to all."""
    n, memory = 4000, 2000
    keys = np.concatenate([np.sort(fill("uniform", 2, n, Range(0, n), "int64"))[part::4] for part in range(4)])
    code = codec("int64")
    for every in (keys, np.sort(keys), np.sort(keys).reshape(-1, 8).T.reshape(-1), np.zeros(n, np.int64)):
        by_runs = External(
            WORLD,
            lambda where, every=every: Rows((code.encode(every[where.slice].copy()),)),
            n,
            memory=memory,
            folder=None,
            keep=lambda rows: (code.decode(rows.words[0]),),
        )
        (found,) = by_runs.run(WORLD, lambda _fraction: None, lambda: None)
        by_runs.close()
        np.testing.assert_array_equal(whole(WORLD, np.array(found)), np.sort(every))


def test_sorting_threads_give_way_but_never_push_forward():
    import os
    import threading
    from concurrent.futures import ThreadPoolExecutor

    from hpcmpi.algorithms.sort.sample import _give_way

    def niceness(before):
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, before)
        _give_way()
        return os.getpriority(os.PRIO_PROCESS, thread)

    now = os.getpriority(os.PRIO_PROCESS, 0)
    for before in (now, max(now, 15)):
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(niceness, before).result() == max(before, 10)


def test_memory_that_is_too_little_is_known_before():
    for n, ranks, row in ((10**6, 1, 8), (10**6, 7, 116), (10**11, 64, 8), (3, 2, 4)):
        least = cost.least_memory(n, ranks, row, 1)
        assert least >= 1 << 16
        assert cost.least_memory(n, ranks, row, least) == least
        assert cost.table_bytes(n, ranks, row, least) <= max(least, 16 << 20)
        assert cost.step_rows(least, row) >= 64
    assert cost.least_memory(10**11, 64, 8, 1 << 16) > 1 << 16


@pytest.mark.parametrize("memory", [2000, 10**6])
def test_what_does_not_fit_in_memory_is_sorted_by_runs(memory):
    n = 2500
    code = codec("float64")
    keys = np.round(fill("normal", 2, n, Range(0, n), "float64"), 2)
    sort_by_runs = External(
        WORLD,
        lambda where: Rows((code.encode(keys[where.slice].copy()),)),
        n,
        memory=memory,
        folder=None,
        keep=lambda rows: (code.decode(rows.words[0]),),
    )
    (found,) = sort_by_runs.run(WORLD, lambda _fraction: None, lambda: None)
    sort_by_runs.close()
    assert_same_bits(whole(WORLD, np.array(found)), keys[expected_order(keys)])


# Records


def test_the_generator_is_that_of_the_sort_benchmark():
    first, other = records.gensort(Range(0, 1))[0], records.gensort(Range(12_345_678_901, 12_345_678_903))
    assert bytes(first[:12]) == b"JimGrayRIP\x00\x11"
    assert bytes(first[12:44]) == b"0" * 32
    assert bytes(other[1][12:44]).decode() == f"{12_345_678_902:032X}"
    if WORLD.rank == 0:  # a million records have the checksum that valsort's documentation shows
        assert records.checksum(MPI.COMM_SELF, records.gensort(Range(0, 10**6))) == 0x7A27E2D0D55DE
    few = records.gensort(Range(3, 40))
    assert records.checksum(MPI.COMM_SELF, few) == sum(zlib.crc32(bytes(record)) for record in few)


def test_words_take_what_is_counted_for_them_and_hold_the_position():
    every = np.random.default_rng(3).integers(0, 256, (9, 40)).astype(np.uint8)
    for key_bytes in range(1, 41):
        for descending in (False, True):
            words = records.key_words(every, key_bytes, 2**33, descending=descending)
            assert sum(word.itemsize for word in words) == cost.word_bytes(key_bytes)
            np.testing.assert_array_equal(records.positions(words[-1], key_bytes), 2**33 + np.arange(9))


def test_generator_and_validator_deal_with_blocks_of_all_ranks(comm):
    mine = gensort(comm, 50)
    every = records.gensort(Range(0, 50))
    np.testing.assert_array_equal(whole(comm, mine), every)
    unordered = sum(bytes(a[:10]) > bytes(b[:10]) for a, b in pairwise(every))
    told = valsort(comm, mine)
    assert (told.records, told.duplicates, told.unordered) == (50, 0, unordered)
    assert told.checksum == sum(zlib.crc32(bytes(record)) for record in every)
    assert told.lines()[-1] == f"there are {unordered} unordered records"
    with pytest.raises(InputError, match="uint8 are expected"):
        valsort(comm, mine, key_bytes=101)


@pytest.mark.parametrize("key_bytes", [1, 3, 8, 10, 16, 20])
def test_records_are_ordered_by_the_bytes_of_their_keys(key_bytes):
    n = 200
    every = np.random.default_rng(3).integers(0, 256, (n, 20)).astype(np.uint8)
    every[:, 1 : key_bytes - 1] = 9  # ties that the last byte of the key decides
    every[::7] = every[0]
    every[:, 19] = np.arange(n) if key_bytes < 20 else every[:, 19]
    mine = part(WORLD, every)
    start = block(n, WORLD.size, WORLD.rank).start
    for method in METHODS:
        words = records.key_words(mine, key_bytes, start, descending=False)
        from hpcmpi.algorithms.sort.library import sort_rows

        found = sort_rows(WORLD, Rows(tuple(words), (mine,)), method).columns[0]
        expected = sorted(map(bytes, every), key=lambda record: record[:key_bytes])
        assert [bytes(record) for record in whole(WORLD, found)] == expected
        validation = records.valsort(WORLD, found, key_bytes)
        assert validation.unordered == 0
        assert validation.duplicates == n - len({record[:key_bytes] for record in expected})
    backwards = whole(WORLD, found)[::-1].copy()
    told = records.valsort(WORLD, backwards if WORLD.rank == 0 else found[:0], key_bytes)
    assert told.unordered > 0
    assert "unordered" in told.lines(n, told.checksum)[-1]
    assert "SUCCESS" in validation.lines(n, validation.checksum)[-1]
    assert "ERROR" in validation.lines(n, validation.checksum + 1)[-1]
    assert "ERROR" in validation.lines(n + 1, validation.checksum)[-1]


# What is wrong is found


def test_faults_in_keys_are_found(comm):
    keys = np.sort(np.random.default_rng(5).standard_normal(100))
    mine = part(comm, keys)
    assert disorders(comm, mine, descending=False) == 0
    assert disorders(comm, part(comm, keys[::-1]), descending=True) == 0
    assert disorders(comm, part(comm, np.append(keys[1:], keys[0])), descending=False) == 1
    assert disorders(comm, part(comm, np.array([0.0, -0.0, 1, np.nan, 2])), descending=False) == 2
    right = multiset(comm, [mine])
    assert right == multiset(comm, [part(comm, keys[::-1])])
    assert right != multiset(comm, [part(comm, np.append(keys[:-1], keys[-2]))])
    assert right != multiset(comm, [part(comm, keys[:-1])])
    assert multiset(comm, [np.zeros(5)]) != multiset(comm, [np.zeros(3)])
    assert multiset(comm, [np.zeros(3)]).checksum != multiset(comm, [np.zeros(5)]).checksum


def test_faults_in_orders_and_columns_are_found(comm):
    keys = np.arange(100) % 5
    column = np.arange(100)
    order = np.argsort(keys, kind="stable")

    def fault(order, after=None):
        before = [part(comm, keys), part(comm, column)]
        after = None if after is None else [part(comm, array) for array in after]
        return permutation_faults(comm, before, after, part(comm, order), descending=False)

    assert fault(order) is None
    assert fault(order, [keys[order], column[order]]) is None
    swapped = order.copy()
    swapped[[3, 4]] = swapped[[4, 3]]  # equal keys
    assert "out of order" in fault(swapped)
    assert "no permutation" in fault(np.append(order[:-1], order[0]))
    assert "no permutation" in fault(np.append(order[:-1], 100))
    wrong = column[order].copy()
    wrong[50] += 1
    assert "differ" in fault(order, [keys[order], wrong])


@pytest.mark.parametrize(
    "column",
    [
        np.array([complex(np.nan, 1), complex(1, np.nan), 2, 3]),
        np.array([(np.nan, 1), (2.0, 2), (-0.0, 3), (0.0, 4)], np.dtype([("a", "f8"), ("b", "i2")], align=True)),
        np.array([np.nan, -np.nan, 1, -0.0]),
    ],
    ids=["complex", "structure", "float"],
)
def test_columns_are_compared_by_their_bits(comm, column):
    keys = np.array([3.0, 2.0, np.nan, 1.0])
    order = np.array([3, 1, 0, 2])

    def fault(values):
        before, after = [part(comm, keys), part(comm, column)], [part(comm, keys[order]), part(comm, values)]
        return permutation_faults(comm, before, after, part(comm, order), descending=False)

    assert fault(column[order]) is None
    assert "differ" in fault(column[order[::-1]])


def test_faults_in_orders_of_records_are_found(comm):
    keys = np.random.default_rng(3).integers(0, 2, (60, 3)).astype(np.uint8)
    order = np.array(sorted(range(60), key=lambda i: (bytes(keys[i]), i)))

    def fault(order, **how):
        return permutation_faults(comm, [part(comm, keys)], None, part(comm, order), **how)

    assert fault(order, descending=False) is None
    assert "out of order" in fault(order[::-1], descending=True)  # equal keys, the wrong way round
    backwards = np.array(sorted(range(60), key=lambda i: (tuple(255 - keys[i]), i)))
    assert fault(backwards, descending=True) is None
    assert "out of order" in fault(backwards, descending=False)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda comm: sort(comm, np.ones((2, 2))), "one dimension is expected"),
        (lambda comm: sort(comm, np.ones(2, complex)), "cannot be sorted"),
        (lambda comm: sort(comm, np.ones(2), method="bogo"), "is none of"),
        (lambda comm: sort_by(comm, np.ones(2), np.ones(3)), "as many as keys"),
        (lambda comm: searchsorted(comm, np.array([2.0, 1.0]), np.ones(1)), "ascending"),
        (lambda comm: searchsorted(comm, np.ones(1), np.ones(1), side="up"), "left or right"),
        (lambda comm: quantile(comm, np.ones(3), 1.5), "from 0 to 1"),
        (lambda comm: quantile(comm, np.ones(3), np.nan), "from 0 to 1"),
        (lambda comm: sort_by(comm, np.ones(1), np.array(1.0)), "as many as keys"),
        (lambda comm: searchsorted(comm, np.ones(1), np.ones(1, complex)), "integers or floats are expected"),
        (lambda comm: sort(comm, np.ma.array([1.0, 2.0], mask=[True, False])), "masked"),
    ],
    ids=range(11),
)
def test_bad_arguments_raise_the_same_error_on_all_ranks(comm, call, told):
    with pytest.raises(InputError, match=told) as error:
        call(comm)
    assert len(set(comm.allgather(str(error.value)))) == 1


def test_ranks_that_disagree_are_refused():
    if WORLD.size > 1:
        with pytest.raises(InputError, match="on rank 0"):
            sort(WORLD, np.ones(2, np.float32 if WORLD.rank else np.float64))
        with pytest.raises(InputError, match="1 arrays in a list on rank 0"):
            sort_by(WORLD, np.ones(1), np.ones(1) if WORLD.rank else [np.ones(1)])


def test_messages_of_the_caller_are_left_alone(comm):
    mine = np.zeros(1)
    pending = comm.Irecv(mine, MPI.ANY_SOURCE, MPI.ANY_TAG)
    found = sort(comm, np.arange(5000.0)[:: -1 if comm.rank % 2 else 1])
    assert (np.diff(found) >= 0).all()
    comm.Isend(np.array([7.0]), (comm.rank + 1) % comm.size).Wait()
    pending.Wait()
    assert mine[0] == 7.0
