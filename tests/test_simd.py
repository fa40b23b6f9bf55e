"""Every instruction of hpcmpi.simd against Python's integers."""

from __future__ import annotations

import numpy as np
import pytest
from numba.core.errors import TypingError

from hpcmpi import simd
from hpcmpi.jit import kernel


@kernel()
def bits_of(words, out):
    for i in range(words.size):
        out[i, 0] = simd.count_trailing_zeros(words[i])
        out[i, 1] = simd.count_ones(words[i])


@kernel()
def set_and_add(bits, numbers):
    return simd.atomic_or(bits, 1, np.uint64(12)), simd.atomic_add(numbers, 0, 5)


def test_bits_are_counted():
    words = [0, 1, 2**63, 2**64 - 1, 0b101000]
    out = np.zeros((len(words), 2), np.int64)
    bits_of(np.array(words, np.uint64), out)
    assert out.tolist() == [[64 if not w else (w & -w).bit_length() - 1, w.bit_count()] for w in words]


def test_atomic_steps_return_what_was_there():
    bits, numbers = np.array([1, 6], np.uint64), np.array([37])
    assert set_and_add(bits, numbers) == (6, 37)
    assert bits.tolist() == [1, 14]
    assert numbers.tolist() == [42]


@pytest.mark.parametrize("function", [bits_of, set_and_add])
def test_kernels_are_kept(function):
    assert function.stats.cache_path


@kernel()
def lower(words):
    return simd.atomic_min(words, 0, np.uint64(5)), simd.atomic_min(words, 1, np.uint64(2**63))


def test_the_least_stays():
    words = np.array([7, 6], np.uint64)
    assert lower(words) == (7, 6)
    assert words.tolist() == [5, 6]


@pytest.mark.parametrize("array", [np.zeros(8, np.uint64)[::2], np.zeros((2, 2), np.uint64), np.zeros(4, np.int32)])
def test_atomic_steps_refuse_arrays_that_they_would_corrupt(array):
    with pytest.raises(TypingError):
        set_and_add(array, np.zeros(1, np.int64))
