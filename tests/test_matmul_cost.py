"""What ``hpcmpi matmul`` plans before it runs: layouts that tile, words against the lower bound, grids, refusals."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcmpi.algorithms.matmul import Resolved, grid_text
from hpcmpi.algorithms.matmul.cost import lower_bound, plans, price
from hpcmpi.algorithms.matmul.layout import BlockLayout
from hpcmpi.errors import UsageError
from hpcmpi.machine import Machine
from hpcmpi.partition import grid_block, grids, grids_3d, three_dimensional
from hpcmpi.record import Cost

SLOW_NETWORK = Machine(bandwidth=1.0, latency=0.0)
SHAPES = [(1, 1, 1), (16, 1, 1), (1, 1, 16), (4, 4, 1)]
UNIT = 2**7 * 3**2 * 5 * 7 * 11


def sized(m: int, n: int, k: int, **more: object) -> Resolved:
    return Resolved(m=m, n=n, k=k, dtype="float64", **more)


@given(st.tuples(*[st.integers(0, 12)] * 3), st.tuples(*[st.integers(1, 4)] * 3), st.integers(0, 2))
def test_blocks_of_every_layout_tile_the_matrices_and_idle_ranks_have_none(sizes, grid, idle):
    m, n, k = sizes
    layout = BlockLayout(m, n, k, grid)
    for part, shape in ((layout.a, (m, k)), (layout.b, (k, n)), (layout.c, (m, n))):
        owned = [
            place
            for rank in range(layout.ranks + idle)
            for place in itertools.product(*(range(*r) for r in part(rank)))
        ]
        assert sorted(owned) == list(itertools.product(*map(range, shape)))


@pytest.mark.parametrize("grid", [(1, 1), (3, 2), (1, 4)])
def test_one_layer_is_a_2_d_grid(grid):
    layout = BlockLayout(17, 11, 13, three_dimensional(grid))
    for rank in range(layout.ranks):
        assert layout.a(rank) == grid_block((17, 13), grid, rank)
        assert layout.b(rank) == grid_block((13, 11), grid, rank)
        assert layout.c(rank) == grid_block((17, 11), grid, rank)


def words(shape: tuple[int, int, int], grid: tuple[int, int, int]) -> float:
    """Words received by every rank of ``grid``: the closed form of Al Daas et al. 2022."""
    (m, n, k), (pm, pn, pk) = shape, grid
    return m * k / (pm * pk) * (1 - 1 / pn) + k * n / (pk * pn) * (1 - 1 / pm) + m * n / (pm * pn) * (1 - 1 / pk)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ranks", range(4, 129))
def test_on_a_slow_network_auto_takes_the_grid_that_moves_fewest_words(shape, ranks):
    """No more than 1.4x the lower bound, or the fewest of any grid that leaves at most one rank or 10% idle."""
    m, n, k = (UNIT * extent for extent in shape)
    chosen = plans(sized(m, n, k), ranks, SLOW_NETWORK)[0]
    assert min(ranks - 1, 0.9 * ranks) <= math.prod(chosen.grid) <= ranks
    assert chosen.lower_bound == lower_bound(m, n, k, ranks)
    assert chosen.words == pytest.approx(words((m, n, k), three_dimensional(chosen.grid)), rel=1e-3)
    fewest = min(
        words((m, n, k), grid)
        for used in range(math.ceil(min(ranks - 1, 0.9 * ranks)), ranks + 1)
        for grid in grids_3d(used)
    )
    assert chosen.words <= max(1.4 * chosen.lower_bound, 1.001 * fewest)


@pytest.mark.parametrize(
    ("shape", "ranks", "over"),
    [((1, 1, 1), 8, 1.0), ((1, 1, 16), 8, 0.98), ((1, 1, 1), 13, 1.07), ((1, 1, 1), 61, 1.04), ((1, 1, 1), 64, 1.0)],
)
def test_words_over_the_bound_are_those_of_the_literature(shape, ranks, over):
    m, n, k = (UNIT * extent for extent in shape)
    chosen = plans(sized(m, n, k), ranks, SLOW_NETWORK)[0]
    assert chosen.words / (chosen.lower_bound or math.nan) == pytest.approx(over, abs=0.006)


def test_auto_lets_no_rank_idle_where_arithmetic_is_what_takes_time():
    fast = Machine(bandwidth=1e15, latency=0.0)
    assert math.prod(plans(sized(4096, 4096, 4096), 7, fast)[0].grid) == 7
    assert math.prod(plans(sized(4096, 4096, 4096), 7, SLOW_NETWORK)[0].grid) == 6


def test_every_method_and_grid_is_priced_and_a_grid_can_be_asked_for():
    ways = {(plan.method, plan.grid) for plan in plans(sized(64, 64, 64), 8, Machine())}
    assert {("summa", grid) for grid in [*grids(8), *grids(7)]} <= ways
    assert {("3d", grid) for grid in [*grids_3d(8), *grids_3d(7)] if grid[2] > 1} <= ways
    assert {("ring", (8, 1)), ("ring", (1, 8))} <= ways
    assert not any(method == "cannon" for method, _ in ways)
    (only,) = plans(sized(64, 64, 64, grid="2x1x3"), 8, Machine())
    assert (only.method, only.grid) == ("3d", (2, 1, 3))
    assert only == price(sized(64, 64, 64), "3d", (2, 1, 3), Machine(), 8)
    (square,) = plans(sized(64, 64, 64, method="cannon"), 9, Machine())
    assert square.grid == (3, 3)


@pytest.mark.parametrize(
    ("asked", "ranks", "told"),
    [
        ({"method": "cannon"}, 7, "a square number of ranks, and there are 7: use 4 or 9 ranks"),
        ({"grid": "4x2"}, 7, "--grid 4x2 has 8 ranks, and there are 7"),
        ({"grid": "2x1x3", "method": "summa"}, 6, "--grid 2x1x3 and 6 ranks; it needs two dimensions, PMxPN"),
        (
            {"grid": "2x2", "method": "ring"},
            4,
            "--method ring cannot multiply on --grid 2x2 and 4 ranks; it needs 4x1 or 1x4",
        ),
        ({"grid": "4x1", "method": "cannon"}, 4, "--grid 4x1 and 4 ranks; it needs 2x2"),
    ],
)
def test_what_no_grid_can_do_is_refused_by_name(asked, ranks, told):
    with pytest.raises(UsageError) as error:
        plans(sized(9, 9, 9, **asked), ranks, Machine())
    assert told in str(error.value)


def test_memory_counts_the_partial_sums_of_more_layers_than_one():
    n = 4096
    (flat,) = plans(sized(n, n, n, grid="4x2"), 8, Machine())
    (cube,) = plans(sized(n, n, n, grid="2x2x2"), 8, Machine())
    assert cube.memory > flat.memory + 8 * (n // 2) ** 2 / 2


@pytest.mark.parametrize("text", ["", "4", "4x", "0x4", "2x2x2x2", "axb", "-1x2", "2.0x2"])
def test_texts_that_are_no_grid(text):
    with pytest.raises(ValueError, match="is not a grid such as 4x2 or 4x2x2"):
        grid_text(text)
    assert grid_text("4X02") == "4x2"


def test_empty_products_have_plans_and_any_number_of_ranks_is_planned_quickly():
    for m, n, k in ((0, 0, 0), (0, 3, 4), (3, 0, 4), (3, 4, 0)):
        chosen = plans(sized(m, n, k), 7, Machine())[0]
        assert (chosen.output, chosen.flops) == (8 * m * n, 0)
        assert math.isfinite(chosen.seconds)
    chosen = plans(sized(10**6, 10**6, 10**6), 4096, SLOW_NETWORK)[0]
    assert chosen.grid == (16, 16, 16)
    assert chosen.words == pytest.approx(lower_bound(10**6, 10**6, 10**6, 4096), rel=0.01)


def test_explained_plans_have_the_fields_of_a_cost(hpcmpi):
    run = hpcmpi(0, "matmul", "--n", 64, "--explain", "--json")
    assert run.returncode == 0, run.stderr
    names = {field.name for field in dataclasses.fields(Cost)}
    assert all(set(plan) == names | {"fits", "profile"} for plan in json.loads(run.stdout))
