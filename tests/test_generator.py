"""Random matrices whose elements are functions of the seed and their place alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcmpi import generator
from hpcmpi.generator import uniform, words
from hpcmpi.partition import Range

DTYPES = ("float32", "float64", "complex64", "complex128")
SEEDS = st.one_of(st.sampled_from([0, 1, 2**63, 2**64 - 1]), st.integers(0, 2**64 - 1))
ALL = 2**64


def splitmix(state):
    """Output function of SplitMix64 as its authors give it, on Python's integers."""
    z = state % ALL
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % ALL
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % ALL
    return z ^ (z >> 31)


def element(seed, stream, row, column, bits):
    gamma = 0x9E3779B97F4A7C15
    key = splitmix(seed) + stream * gamma
    start = splitmix(splitmix(key) + row * gamma)
    return (splitmix(start + (column + 1) * gamma) >> (64 - bits)) / 2**bits - 0.5


def expected(seed, stream, rows, columns, dtype):
    bits = 24 if np.dtype(dtype) in (np.float32, np.complex64) else 53
    index = [[(i, j) for j in range(*columns)] for i in range(*rows)]
    if np.dtype(dtype).kind == "f":
        values = [[element(seed, 2 * stream, *place, bits) for place in row] for row in index]
    else:
        values = [
            [
                complex(element(seed, 2 * stream, *place, bits), element(seed, 2 * stream + 1, *place, bits))
                for place in row
            ]
            for row in index
        ]
    return np.array(values, dtype).reshape(rows.size, columns.size)


def test_a_row_is_the_published_sequence_of_splitmix64():
    first = np.array([1234567 + (j + 1) * 0x9E3779B97F4A7C15 % ALL for j in range(5)], np.uint64)
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert generator._mixed(first).tolist() == published
    assert [splitmix(1234567 + (j + 1) * 0x9E3779B97F4A7C15) for j in range(5)] == published


@given(
    SEEDS,
    st.integers(0, 5),
    st.integers(0, 2**40),
    st.integers(0, 2**40),
    st.tuples(st.integers(0, 4), st.integers(0, 4)),
    st.sampled_from(DTYPES),
)
def test_every_element_is_what_the_definition_says_wherever_it_lies(seed, stream, row, column, shape, dtype):
    rows, columns = Range(row, row + shape[0]), Range(column, column + shape[1])
    block = uniform(seed, rows, columns, dtype, stream=stream)
    assert block.dtype == dtype
    assert np.array_equal(block, expected(seed, stream, rows, columns, dtype))


KNOWN = {
    ("float64", 0, 0): [0.3833108082136426, -0.06847200295149003, 0.1524484863740322, 0.20121210952152524],
    ("float64", 1, 0): [-0.39779033879659, -0.23629940227380386, 0.23594863859727844, 0.29830767545926085],
    ("float32", 2**64 - 1, 1): [0.014262259006500244, -0.38498997688293457, -0.3311197757720947, 0.4543954133987427],
    ("complex128", 7, 1): [
        -0.24875304930154452 - 0.1192929365749017j,
        -0.24221565676537282 - 0.2779143132585721j,
        -0.3487010609594684 + 0.040738562220623886j,
        0.1325207810039042 + 0.3913535489941029j,
    ],
}


@pytest.mark.parametrize(("dtype", "seed", "stream"), KNOWN)
def test_known_answers(dtype, seed, stream):
    block = uniform(seed, Range(0, 2), Range(0, 2), dtype, stream=stream)
    assert block.ravel().tolist() == KNOWN[dtype, seed, stream]


WHOLE = {dtype: uniform(3, Range(0, 40), Range(0, 60), dtype, stream=1) for dtype in DTYPES}


@given(st.data(), st.sampled_from(DTYPES))
def test_any_block_is_the_slice_of_the_whole(data, dtype):
    rows, columns = (Range(*sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2)))) for n in (40, 60))
    assert np.array_equal(uniform(3, rows, columns, dtype, stream=1), WHOLE[dtype][rows.slice, columns.slice])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strip", [1, 7, 59, 60, 61, 1000])
def test_the_strips_of_the_work_do_not_show(monkeypatch, dtype, strip):
    monkeypatch.setattr(generator, "_STRIP_ELEMENTS", strip)
    assert np.array_equal(uniform(3, Range(0, 40), Range(0, 60), dtype, stream=1), WHOLE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_block_wider_than_a_strip(dtype):
    wide = uniform(5, Range(2, 4), Range(0, 70_000), dtype)
    for column in (0, 65_535, 65_536, 69_999):
        assert np.array_equal(wide[:, column : column + 1], uniform(5, Range(2, 4), Range(column, column + 1), dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_out_is_filled_whatever_its_strides(dtype):
    for out in (
        np.empty((40, 60), dtype),
        np.empty((60, 40), dtype).T,
        np.empty((80, 180), dtype)[::2, ::3],
        np.empty((40, 60), dtype)[::-1],
    ):
        assert uniform(3, Range(0, 40), Range(0, 60), "float64", stream=1, out=out) is out
        assert np.array_equal(out, WHOLE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
def test_empty_blocks(dtype, shape):
    assert uniform(1, Range(9, 9 + shape[0]), Range(4, 4 + shape[1]), dtype).shape == shape


@pytest.mark.parametrize("seed", [0, 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_elements_look_uniform_and_independent(dtype, seed):
    n = 400
    x = uniform(seed, Range(0, n), Range(0, n), dtype)
    parts = (x.real.astype(float), x.imag.astype(float)) if x.dtype.kind == "c" else (x.astype(float),)
    for part in parts:
        assert part.min() >= -0.5
        assert part.max() < 0.5
        assert abs(part.mean()) < 5 * np.sqrt(1 / 12) / n
        assert abs(part.var() - 1 / 12) < 5 * np.sqrt(1 / 180) / n
        cells = np.histogram(part, bins=64, range=(-0.5, 0.5))[0]
        assert ((cells - n * n / 64) ** 2).sum() / (n * n / 64) < 63 + 5 * np.sqrt(2 * 63)
        pairs = [(part[1:], part[:-1]), (part[:, 1:], part[:, :-1]), (part[1:, 1:], part[:-1, :-1])]
        pairs += [(part[np.triu_indices(n, 1)], part.T[np.triu_indices(n, 1)]), (part[::2], part[1::2])]
        for one, other in pairs:
            assert abs((one * other).mean()) < 5 / 12 / np.sqrt(one.size)
    if len(parts) == 2:
        assert abs((parts[0] * parts[1]).mean()) < 5 / 12 / n


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_columns_and_elements_do_not_repeat(dtype):
    x = uniform(0, Range(0, 500), Range(0, 500), dtype)
    assert len(np.unique(x, axis=0)) == 500
    assert len(np.unique(x, axis=1)) == 500
    if dtype in ("float64", "complex64", "complex128"):
        assert len(np.unique(x)) == x.size


@given(SEEDS, SEEDS, st.integers(0, 3), st.integers(0, 3), st.sampled_from(DTYPES))
def test_other_seeds_and_streams_give_other_matrices(seed, other, stream, other_stream, dtype):
    a = uniform(seed, Range(0, 20), Range(0, 20), dtype, stream=stream)
    b = uniform(other, Range(0, 20), Range(0, 20), dtype, stream=other_stream)
    if (seed, stream) == (other, other_stream):
        assert np.array_equal(a, b)
    else:
        assert np.count_nonzero(a == b) < 3
        assert abs(np.corrcoef(a.real.ravel(), b.real.ravel())[0, 1]) < 0.35


def test_seeds_count_modulo_the_words_length():
    a = uniform(2**64 - 1, Range(0, 3), Range(0, 3), "float64")
    assert np.array_equal(a, uniform(-1, Range(0, 3), Range(0, 3), "float64"))


def test_words_are_all_64_bits():
    out, work = np.empty((2, 100, 100), np.uint64)
    words(1, 0, Range(0, 100), Range(0, 100), out, work)
    ones = [np.count_nonzero(out >> np.uint64(bit) & np.uint64(1)) for bit in range(64)]
    assert all(abs(n - 5000) < 6 * 50 for n in ones)
