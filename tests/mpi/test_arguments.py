"""What all public functions do with arguments that are not plain arrays."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import hpcmpi
from hpcmpi import Graph
from hpcmpi.arrays import plain_array
from hpcmpi.errors import InputError
from hpcmpi.partition import block

ONES = np.ones(3)
MASKED = np.ma.array([1.0, 2.0, 3.0], mask=[False, True, False])


class Variable:
    """As of netCDF4: becomes a masked array when it is read."""

    def __array__(self, dtype=None, copy=None):
        return MASKED


def square(comm):
    """This rank's rows of a matrix."""
    return np.ones((block(3, comm.size, comm.rank).size, 3))


def hidden(array):
    """``array`` with all elements masked, or a number where it has none."""
    return np.ma.array(array if array.size else np.ones((1, *array.shape[1:])), mask=True)


def compressed(comm, name):
    rows = square(comm)
    parts = {
        "indptr": np.arange(len(rows) + 1) * 3,
        "indices": np.tile(np.arange(3), len(rows)),
        "data": rows.reshape(-1),
    }
    return SimpleNamespace(shape=rows.shape, **parts | {name: hidden(parts[name])})


def graph(comm, call):
    with Graph.from_edges(comm, np.array([0, 1]), np.array([1, 2])) as found:
        return call(found)


def rows_of_graph(comm, name):
    """Rows of a graph of three vertices without an edge."""
    n = block(3, comm.size, comm.rank).size
    cuts = np.array([block(3, comm.size, rank).start for rank in range(comm.size)] + [3])
    parts = {"lengths": np.zeros(n, int), "neighbours": np.zeros(0, int), "degree": np.zeros(n, int)}
    return Graph.from_rows(comm, **parts | {name: hidden(parts[name])}, cuts=cuts)


EDGES = np.array([0, 1])
CALLS = {
    "reduce": [lambda comm, m: hpcmpi.reduce(comm, m, "sum")],
    "sum": [hpcmpi.sum],
    "norm": [hpcmpi.norm],
    "dot": [lambda comm, m: hpcmpi.dot(comm, m, ONES), lambda comm, m: hpcmpi.dot(comm, ONES, m)],
    "sort": [hpcmpi.sort],
    "argsort": [hpcmpi.argsort],
    "sort_by": [
        lambda comm, m: hpcmpi.sort_by(comm, m, ONES),
        lambda comm, m: hpcmpi.sort_by(comm, ONES, m),
        lambda comm, m: hpcmpi.sort_by(comm, ONES, [ONES, m]),
    ],
    "searchsorted": [
        lambda comm, m: hpcmpi.searchsorted(comm, m, ONES),
        lambda comm, m: hpcmpi.searchsorted(comm, ONES, m),
    ],
    "quantile": [lambda comm, m: hpcmpi.quantile(comm, m, 0.5), lambda comm, m: hpcmpi.quantile(comm, ONES, m)],
    "unique": [hpcmpi.unique],
    "valsort": [lambda comm, _m: hpcmpi.valsort(comm, np.ma.array(np.ones((3, 100), np.uint8), mask=True))],
    "matmul": [
        lambda comm, _m: hpcmpi.matmul(comm, hidden(square(comm)), square(comm)),
        lambda comm, _m: hpcmpi.matmul(comm, square(comm), hidden(square(comm))),
        lambda comm, _m: hpcmpi.matmul(comm, square(comm), square(comm), out=hidden(square(comm))),
    ],
    "matvec": [
        lambda comm, _m: hpcmpi.matvec(comm, hidden(square(comm)), square(comm)[:, 0]),
        lambda comm, _m: hpcmpi.matvec(comm, square(comm), hidden(square(comm)[:, 0])),
        lambda comm, _m: hpcmpi.matvec(comm, square(comm), square(comm)[:, 0], out=hidden(square(comm)[:, 0])),
    ],
    "matvec_plan": [
        lambda comm, _m, name=name: hpcmpi.matvec_plan(comm, compressed(comm, name))
        for name in ("indptr", "indices", "data")
    ],
    "Graph": [
        lambda comm, _m: Graph.from_edges(comm, np.ma.array(EDGES, mask=True), EDGES),
        lambda comm, _m: Graph.from_edges(comm, EDGES, np.ma.array(EDGES, mask=True)),
        lambda comm, _m: Graph.from_edges(comm, EDGES, EDGES, degree=np.ma.array(EDGES, mask=True)),
        *(lambda comm, _m, name=name: rows_of_graph(comm, name) for name in ("lengths", "neighbours", "degree")),
    ],
    "bfs": [lambda comm, _m: graph(comm, lambda found: hpcmpi.bfs(found, np.ma.array([0, 1], mask=[False, True])))],
}
WITHOUT_ARRAYS = {"gensort", "matmul_layout"}


def test_every_public_function_is_here():
    assert set(hpcmpi.__all__) == CALLS.keys() | WITHOUT_ARRAYS


@pytest.mark.parametrize("name", CALLS)
def test_masked_elements_are_refused_by_every_public_function(comm, name):
    for call in CALLS[name]:
        with pytest.raises(InputError, match=r"masked|MaskedArray") as error:
            call(comm, MASKED)
        assert len(set(comm.allgather(str(error.value)))) == 1


@pytest.mark.parametrize("name", ["sum", "reduce", "sort", "dot"])
def test_masked_elements_of_one_rank_are_refused_by_all(comm, name):
    call = CALLS[name][0]
    with pytest.raises(InputError, match="masked"):
        call(comm, MASKED if comm.rank == comm.size - 1 else ONES)


def test_what_holds_masked_elements_is_refused():
    for values in (MASKED, [MASKED], [1.0, np.ma.masked], ([[MASKED]],), Variable()):
        with pytest.raises(InputError, match="x has masked elements"):
            plain_array(values, "x")
    with pytest.raises(InputError, match="x is no array"):
        plain_array([[1.0], [1.0, 2.0]], "x")


def test_what_only_looks_unlike_an_array_is_taken(comm, tmp_path):
    np.save(tmp_path / "x.npy", ONES)
    memmap = np.load(tmp_path / "x.npy", mmap_mode="r")
    masked_nowhere = np.ma.array(ONES), np.ma.array(ONES, mask=False)
    for values in (ONES, [1, 1, 1], (1.0, 1, 1), ONES.view(np.matrix), memmap, *masked_nowhere):
        assert type(plain_array(values, "x")) is np.ndarray
        assert hpcmpi.sum(comm, values) == 3 * comm.size
        assert hpcmpi.reduce(comm, values, "max") == 1
    for values in (np.array([1, None]), np.array([(1, 2.0)], "i4, f8"), np.array(["a"]), np.array(["2026"], "M8[Y]")):
        with pytest.raises(InputError, match="cannot reduce"):
            hpcmpi.sum(comm, values)
        with pytest.raises(InputError, match="cannot be sorted"):
            hpcmpi.sort(comm, values)


BOOLS = np.random.default_rng(3).random(101) < 0.3


@pytest.mark.parametrize("method", ["sample", "odd-even", "quicksort"])
@pytest.mark.parametrize("descending", [False, True])
def test_booleans_are_sorted(comm, method, descending):
    where = block(len(BOOLS), comm.size, comm.rank).slice
    expected = np.sort(BOOLS)[::-1] if descending else np.sort(BOOLS)
    order = np.argsort(~BOOLS if descending else BOOLS, kind="stable")
    options = {"descending": descending, "method": method}
    found = hpcmpi.sort(comm, BOOLS[where], **options)
    assert found.dtype == bool
    assert np.array_equal(found, expected[where])
    assert np.array_equal(hpcmpi.argsort(comm, BOOLS[where], **options), order[where])
    keys, values = hpcmpi.sort_by(comm, BOOLS[where], np.arange(len(BOOLS))[where], **options)
    assert np.array_equal(keys, expected[where])
    assert np.array_equal(values, order[where])


def test_booleans_are_counted_and_searched_as_numpy_does(comm):
    where = block(len(BOOLS), comm.size, comm.rank).slice
    distinct, counts = hpcmpi.unique(comm, BOOLS[where])
    everything = [np.concatenate(comm.allgather(part)) for part in (distinct, counts)]
    assert all(map(np.array_equal, everything, np.unique(BOOLS, return_counts=True)))
    assert distinct.dtype == bool
    for side in ("left", "right"):
        for values in ([-1, 0, 1, 2, 200, 300], [False, True], [-0.5, 0.0, 0.5, 1.0, 1.5, np.nan, np.inf, -np.inf]):
            found = hpcmpi.searchsorted(comm, np.sort(BOOLS)[where], values, side=side)
            assert np.array_equal(found, np.searchsorted(np.sort(BOOLS), values, side))
        found = hpcmpi.searchsorted(comm, np.arange(5)[block(5, comm.size, comm.rank).slice], BOOLS, side=side)
        assert np.array_equal(found, np.searchsorted(np.arange(5), BOOLS, side))
    with pytest.raises(InputError, match="quantiles of booleans"):
        hpcmpi.quantile(comm, BOOLS[where], 0.5)
