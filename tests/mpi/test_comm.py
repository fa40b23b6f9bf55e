"""Collectives on blocks of any size, what they count as received, and agreement on errors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

from hpcmpi import errors
from hpcmpi.comm import (
    Courier,
    Fold,
    Stream,
    agreement,
    allreduce,
    barrier,
    collectives,
    exchange,
    gather_blocks,
    messages,
    on_root,
    progress,
    scatter_sum,
    split_node,
    start_neighbours,
    start_shift,
    traffic,
    wait,
)
from hpcmpi.errors import HpcmpiError, InputError, OutputError, ResourceError, Status

DTYPES = ("int8", "uint16", "int32", "uint64", "float32", "float64", "complex64", "complex128")
SHAPES = ((), (1,), (5,), (0,), (3, 0), (4, 3), (2, 3, 4))
CASES = [*((shape, "float64") for shape in SHAPES), *(((3, 5), dtype) for dtype in DTYPES)]


def fail_on(comm, ranks, error):
    """What ``error`` on ``ranks`` of ``comm`` becomes on this rank."""
    try:
        with agreement(comm):
            if comm.rank in ranks:
                raise error
    except BaseException as caught:
        return caught
    return None


class Received:
    """What this rank receives from its construction on."""

    def __init__(self):
        self._bytes, self._messages = traffic.bytes_received, traffic.messages

    @property
    def so_far(self):
        return traffic.bytes_received - self._bytes, traffic.messages - self._messages


def uneven(comm):
    """Functions of the rank that give a number of rows: the same, more and more, all on one rank, none."""
    return (lambda _rank: 4, lambda rank: rank, lambda rank: 5 * (rank == comm.size - 1), lambda _rank: 0)


def ramp(shape, dtype, start):
    return (np.arange(int(np.prod(shape))).reshape(shape) % 50 + start).astype(dtype)


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("shared", [True, False])
def test_blocks_of_every_root_reach_all_ranks_through_few_buffers(comm, slots, shared):
    roots = [t % comm.size for t in range(2 * comm.size + 1)]
    shapes = [(t % 3, 4) for t in range(len(roots))]
    whole = [ramp(shape, "float32", t) for t, shape in enumerate(shapes)]
    received = Received()
    stream = Stream(comm, roots, shapes, whole.__getitem__, "float32", slots=slots, shared=shared)
    with Courier(stream) as courier:
        for t, expected in enumerate(whole):
            courier.until(lambda t=t: stream.ready(t))
            assert np.array_equal(stream.block(t), expected)
            stream.finish(t)
    stream.close()
    others = [block.nbytes for root, block in zip(roots, whole, strict=True) if root != comm.rank]
    assert received.so_far == (sum(others), 0 if shared else len(others))


@pytest.mark.parametrize(("rows", "buffers"), [(1, 3), (3, 1), (100, 2)])
def test_parts_are_added_up_as_they_are_given(comm, rows, buffers):
    height = [3 * (rank % 3) for rank in range(comm.size)]
    parts = [[ramp((height[to], 5), "float64", rank + to) for to in range(comm.size)] for rank in range(comm.size)]
    out = np.full((height[comm.rank], 5), np.nan)
    fold = Fold(comm, out, rows, buffers)
    with Courier(fold):
        for d in range(1, comm.size):
            to = (comm.rank + d) % comm.size
            fold.give(to, parts[comm.rank][to])
    if comm.size > 1:
        assert np.array_equal(out, sum(parts[r][comm.rank] for r in range(comm.size) if r != comm.rank))


@pytest.mark.parametrize("distance", [-1, 0, 1, 3])
def test_shift_of_uneven_and_empty_blocks(comm, distance):
    to, source = (comm.rank + distance) % comm.size, (comm.rank - distance) % comm.size
    for dtype, rows in itertools.product(DTYPES, uneven(comm)):
        outgoing, incoming = ramp((rows(comm.rank), 3), dtype, comm.rank), np.zeros((rows(source), 3), dtype)
        received = Received()
        wait(start_shift(comm, outgoing, incoming, to=to, source=source))
        assert np.array_equal(incoming, ramp((rows(source), 3), dtype, source))
        assert received.so_far == (incoming.nbytes, int(incoming.size > 0))


def test_progress_tells_when_all_is_done(comm):
    assert progress([])
    requests = start_shift(comm, np.ones(4), np.zeros(4), to=comm.rank, source=comm.rank)
    while not progress(requests):
        pass
    wait(requests)


def test_allreduce_is_numpys_reduction_over_the_ranks(comm):
    for shape, dtype in CASES:
        mine = ramp(shape, dtype, comm.rank)
        kept, all_ranks = mine.copy(), np.stack([ramp(shape, dtype, rank) for rank in range(comm.size)])
        received = Received()
        total = allreduce(comm, mine)
        assert np.array_equal(total, all_ranks.sum(axis=0, dtype=dtype))
        assert (total.shape, total.dtype) == (shape, np.dtype(dtype))
        assert received.so_far[0] == round(2 * mine.nbytes * (comm.size - 1) / comm.size)
        assert not np.shares_memory(total, mine)
        assert np.array_equal(mine, kept)
        if np.dtype(dtype).kind != "c":
            assert np.array_equal(allreduce(comm, mine, MPI.MAX), all_ranks.max(axis=0))
            assert np.array_equal(allreduce(comm, mine, MPI.MIN), all_ranks.min(axis=0))


def test_allreduce_of_any_strides_and_in_pieces(comm, monkeypatch):
    whole = np.stack([ramp((8, 9), "float64", rank) for rank in range(comm.size)]).sum(axis=0)
    for count in (5, 72, 2**31 - 1):
        monkeypatch.setattr(collectives, "LARGEST_COUNT", count)
        mine = ramp((8, 9), "float64", comm.rank)
        for view in (np.s_[:, :], np.s_[::2, ::3], np.s_[::-1], np.s_[:, 4]):
            assert np.array_equal(allreduce(comm, mine[view]), whole[view])
            assert np.array_equal(allreduce(comm, mine[view].T), whole[view].T)


def test_gather_of_uneven_and_empty_blocks(comm):
    trailing_and_dtype = [
        *(((3,), dtype) for dtype in (*DTYPES, "bool")),
        ((), "int64"),
        ((2, 3), "int64"),
        ((0,), "int64"),
    ]
    for (trailing, dtype), rows in itertools.product(trailing_and_dtype, uneven(comm)):
        blocks = [ramp((rows(rank), *trailing), dtype, rank) for rank in range(comm.size)]
        mine = blocks[comm.rank]
        received = Received()
        whole = gather_blocks(comm, mine)
        assert np.array_equal(whole, np.concatenate(blocks))
        assert (whole.shape[1:], whole.dtype) == (trailing, np.dtype(dtype))
        assert received.so_far == ((whole.nbytes - mine.nbytes, comm.size - 1) if comm.size > 1 else (0, 0))
        assert not np.shares_memory(whole, mine)


def test_gather_of_blocks_of_any_strides(comm):
    whole = np.concatenate([ramp((4, 6), "float64", rank) for rank in range(comm.size)])
    mine = ramp((4, 6), "float64", comm.rank)
    assert np.array_equal(gather_blocks(comm, np.asfortranarray(mine)), whole)
    assert np.array_equal(gather_blocks(comm, mine[:, ::2]), whole[:, ::2])
    assert np.array_equal(gather_blocks(comm, np.asfortranarray(mine)[:, 1:5]), whole[:, 1:5])


@settings(max_examples=30)
@given(st.data())
def test_any_rows_on_any_rank_are_gathered_in_order(data):
    comm = MPI.COMM_WORLD
    rows = data.draw(st.lists(st.integers(0, 6), min_size=comm.size, max_size=comm.size))
    blocks = [np.arange(n) + 100 * rank for rank, n in enumerate(rows)]
    assert np.array_equal(gather_blocks(comm, blocks[comm.rank]), np.concatenate(blocks))


def test_messages_beyond_mpi_3_are_refused_by_name(comm, monkeypatch):
    monkeypatch.setattr(messages, "LARGEST_COUNT", 10)
    if MPI.VERSION >= 4:
        messages.check_count(11)
    monkeypatch.setattr(messages.MPI, "VERSION", 3)
    messages.check_count(10)
    with pytest.raises(ResourceError, match="a message of 11 items needs MPI 4"):
        messages.check_count(11)
    if comm.size > 1:
        with pytest.raises(ResourceError, match="use MPICH 4 or later, or more ranks"):
            start_shift(comm, np.zeros(11), np.zeros(11), to=0, source=0)


def test_a_barrier_ends_and_a_node_holds_all_ranks_of_this_machine(comm):
    barrier(comm)
    node = split_node(comm)
    assert (node.size, node.rank) == (comm.size, comm.rank)
    node.Free()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("m: 3 found, 4 expected"), Status.INPUT),
        (OutputError("C.h5: the disk is full"), Status.OUTPUT),
        (ResourceError(""), Status.RESOURCES),
        (HpcmpiError("plain"), Status.INTERNAL),
    ],
)
def test_an_error_of_one_rank_is_raised_on_all_as_the_same(comm, error, status):
    for culprit in range(comm.size):
        caught = fail_on(comm, [culprit], error)
        assert type(caught) is type(error)
        assert str(caught) == str(error)
        assert caught.agreed
        assert errors.status_of(caught) == status
        assert caught.__cause__ is (error if comm.rank == culprit else None)


def test_of_many_errors_the_lowest_ranks_is_raised(comm):
    lowest = comm.size // 2
    kind = InputError if comm.rank % 2 else OutputError
    caught = fail_on(comm, range(lowest, comm.size), kind(f"of rank {comm.rank}"))
    assert str(caught) == f"of rank {lowest}"
    assert type(caught) is (InputError if lowest % 2 else OutputError)


def test_a_lack_of_memory_is_agreed_on_with_its_rank(comm):
    culprit = comm.size - 1
    for text in ("cannot allocate 7 GiB", ""):
        caught = fail_on(comm, [culprit], MemoryError(text))
        assert type(caught) is ResourceError
        assert f"rank {culprit} (" in str(caught)
        assert str(caught).endswith(f"is out of memory: {text}" if text else "is out of memory")
        assert caught.agreed
        assert errors.status_of(caught) == Status.RESOURCES


def test_a_defect_stays_alone_and_is_not_agreed_on():
    for defect in (ZeroDivisionError("x"), OSError(2, "x"), SystemExit(3), KeyboardInterrupt()):
        assert fail_on(MPI.COMM_SELF, [0], defect) is defect


def test_without_errors_all_go_on(comm):
    with agreement(comm):
        done = comm.rank
    assert comm.allgather(done) == list(range(comm.size))


def test_the_root_alone_works_and_all_have_the_result(comm):
    worked = []
    result = on_root(comm, lambda: worked.append(comm.rank) or {"answer": [42], "rank": comm.rank})
    assert result == {"answer": [42], "rank": 0}
    assert worked == [0] * (comm.rank == 0)
    assert on_root(comm, lambda: None) is None


def test_an_error_of_the_root_is_raised_on_all(comm):
    def refuse():
        raise InputError("no such file")

    with pytest.raises(InputError, match="no such file") as caught:
        on_root(comm, refuse)
    assert caught.value.agreed
    assert on_root(comm, lambda: 1) == 1


@pytest.mark.parametrize("dtype", [*DTYPES, "S7", "V100"])
@pytest.mark.parametrize("shape", [(), (3,), (0,)])
def test_exchange_delivers_every_row_in_the_order_of_its_sender(comm, dtype, shape):
    def rows_for(source, target):
        number = (3 * source + 5 * target) % 4
        content = np.full((number, *shape, np.dtype(dtype).itemsize), 1 + source * comm.size + target, np.uint8)
        return content.view(dtype)[..., 0]

    mine = [rows_for(comm.rank, target) for target in range(comm.size)]
    expected = [rows_for(source, comm.rank) for source in range(comm.size)]
    counts = np.array([len(rows) for rows in mine])
    kept, received = counts.copy(), Received()
    for out in (None, np.empty((4 * comm.size, *shape), dtype)):
        got, came = exchange(comm, np.concatenate(mine), counts, out)
        assert got.tobytes() == np.concatenate(expected).tobytes()
        assert came.tolist() == [len(rows) for rows in expected]
        assert out is None or not got.size or np.shares_memory(got, out)
    assert np.array_equal(counts, kept)
    from_others = sum(rows.nbytes for source, rows in enumerate(expected) if source != comm.rank)
    assert received.so_far[0] == 2 * from_others


@pytest.mark.parametrize("n", [0, 1, 5, 16, 1001])
@pytest.mark.parametrize("dtype", ["float32", "complex128", "int64"])
def test_scatter_sum_gives_each_rank_its_block_of_the_sum(comm, n, dtype):
    mine = (np.arange(n) * (comm.rank + 1)).astype(dtype)
    before = traffic.bytes_received
    found = scatter_sum(comm, mine)
    own = slice(n * comm.rank // comm.size, n * (comm.rank + 1) // comm.size)
    np.testing.assert_array_equal(found, (np.arange(n) * (comm.size * (comm.size + 1) // 2)).astype(dtype)[own])
    assert found.dtype == mine.dtype
    assert traffic.bytes_received - before == round(mine.nbytes * (comm.size - 1) / comm.size)


def test_neighbours_exchange_what_they_have_for_each_other(comm):
    left, right = (comm.rank - 1) % comm.size, (comm.rank + 1) % comm.size
    others = sorted({left, right} - {comm.rank})
    incoming = {rank: np.empty(rank + 1) for rank in others}
    outgoing = {rank: np.full(comm.rank + 1, 100.0 * comm.rank + rank) for rank in others}
    before = traffic.bytes_received
    wait(start_neighbours(comm, outgoing, incoming))
    for rank, array in incoming.items():
        np.testing.assert_array_equal(array, 100.0 * rank + comm.rank)
    assert traffic.bytes_received - before == sum(8 * (rank + 1) for rank in others)


def test_gather_blocks_of_known_sizes_fills_what_it_is_given(comm):
    rows = [2 * rank % 3 for rank in range(comm.size)]
    block = np.full((rows[comm.rank], 2), comm.rank)
    out = np.empty((sum(rows), 2), int)
    assert gather_blocks(comm, block, rows=rows, out=out) is out
    np.testing.assert_array_equal(out[:, 0], np.repeat(np.arange(comm.size), rows))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize(("op", "numpys"), [(MPI.MAX, np.maximum), (MPI.MIN, np.minimum)])
def test_extremes_of_floats_are_nan_on_all_ranks_wherever_a_rank_has_it(comm, dtype, op, numpys):
    numbers = [0.0, -1.5, 3.0, np.inf, -np.inf, 5e-8, -5e-8, 7.0]
    for holder in range(comm.size):
        for sign in (1.0, -1.0):
            parts = [np.roll(np.array(numbers, dtype), rank) for rank in range(comm.size)]
            parts[holder][:3] = np.copysign(np.nan, sign)
            found = allreduce(comm, parts[comm.rank], op)
            assert np.array_equal(found, numpys.reduce(parts), equal_nan=True)
            assert len(set(comm.allgather(found.tobytes()))) == 1
    assert allreduce(comm, np.array([-0.0, 0.0], dtype), op).tolist() == [0, 0]
