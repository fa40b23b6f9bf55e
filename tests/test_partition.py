"""Who owns what: blocks tile, owner is block's inverse, grids cover, whatever the sizes."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hpcmpi.partition import Range, block, common_refinement, coordinates, grid_block, grids, owner, pieces

SIZES = st.one_of(st.integers(0, 50), st.integers(0, 2**70))
PARTS = st.integers(1, 200)


def assert_tiles(ranges, n):
    assert ranges[0].start == 0
    assert ranges[-1].stop == n
    assert all(a.stop == b.start for a, b in itertools.pairwise(ranges))


@given(SIZES, PARTS)
def test_blocks_tile_and_differ_in_size_by_at_most_one(n, parts):
    blocks = [block(n, parts, part) for part in range(parts)]
    assert_tiles(blocks, n)
    assert {b.size for b in blocks} <= {n // parts, -(-n // parts)}


@given(SIZES, PARTS, st.data())
def test_owner_is_the_inverse_of_block(n, parts, data):
    assume(n > 0)
    index = data.draw(st.integers(0, n - 1))
    part = owner(n, parts, index)
    assert 0 <= part < parts
    assert block(n, parts, part).start <= index < block(n, parts, part).stop


@pytest.mark.parametrize(("n", "parts"), [(1, 7), (7, 7), (8, 7), (6, 7), (100, 3), (5, 1)])
def test_every_index_has_the_owner_whose_block_holds_it(n, parts):
    held = [owner(n, parts, index) for index in range(n)]
    assert held == [part for part in range(parts) for _ in range(block(n, parts, part).size)]


def test_a_range_is_a_slice():
    assert list(range(10))[Range(3, 6).slice] == [3, 4, 5]
    assert Range(3, 6).size == 3
    assert Range(3, 3).size == 0


@given(st.integers(0, 300), st.lists(st.integers(1, 40), min_size=1, max_size=3))
def test_common_refinement_is_the_coarsest_that_fits_inside_every_partition(n, cuts):
    ranges = common_refinement(n, *cuts)
    if n == 0:
        assert ranges == []
        return
    assert_tiles(ranges, n)
    assert all(r.size > 0 for r in ranges)
    owners = [[tuple(owner(n, parts, i) for parts in cuts) for i in range(r.start, r.stop)] for r in ranges]
    assert all(len(set(inside)) == 1 for inside in owners)
    assert all(a[-1] != b[0] for a, b in itertools.pairwise(owners))


@given(st.lists(st.integers(1, 6), max_size=4).map(tuple))
def test_coordinates_number_a_grid_in_row_major_order(grid):
    places = [coordinates(grid, rank) for rank in range(math.prod(grid))]
    assert places == list(itertools.product(*(range(extent) for extent in grid)))


@given(st.integers(1, 500))
def test_grids_are_all_the_factorizations(ranks):
    found = list(grids(ranks))
    assert found == [(r, c) for r in range(1, ranks + 1) for c in range(1, ranks + 1) if r * c == ranks]
    assert (1, ranks) in found
    assert (ranks, 1) in found


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4)), min_size=1, max_size=3))
def test_the_blocks_of_a_grid_cover_every_element_once(dimensions):
    shape, grid = zip(*dimensions, strict=True)
    covered = [
        place
        for rank in range(math.prod(grid))
        for place in itertools.product(*(range(*r) for r in grid_block(shape, grid, rank)))
    ]
    assert sorted(covered) == list(itertools.product(*map(range, shape)))


def test_a_grid_of_other_dimensions_than_the_array_is_refused():
    with pytest.raises(ValueError, match="zip"):
        grid_block((3, 4), (2, 2, 2), 0)


@given(st.integers(0, 10**30), st.integers(0, 200), st.integers(1, 300))
def test_pieces_tile_and_are_full_but_for_the_last(start, size, longest):
    cut = list(pieces(Range(start, start + size), longest))
    assert [i for piece in cut for i in range(*piece)] == list(range(start, start + size))
    assert all(piece.size == longest for piece in cut[:-1])
    assert all(0 < piece.size <= longest for piece in cut)
