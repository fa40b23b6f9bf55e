"""Kernels of the Kronecker generator."""

from __future__ import annotations

import numpy as np
from numba import prange

from hpcmpi.jit import kernel

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1, MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
S27, S30, S31, S32 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(32)
LOW = np.uint64(0xFFFF)
S16, ODD = np.uint64(16), np.uint64(1)


@kernel(inline="always")
def mix(z):
    """SplitMix64's output function."""
    z = (z ^ (z >> S30)) * MIX_1
    z = (z ^ (z >> S27)) * MIX_2
    return z ^ (z >> S31)


@kernel(inline="always")
def scramble(x, mask, half, key_1, key_2):
    """Bijection of the numbers up to ``mask``: three odd multiplications, each followed by a shift and xor."""
    x = (x * (key_1 | ODD) + key_2) & mask
    x ^= x >> half
    x = (x * (key_2 | ODD) + key_1) & mask
    x ^= x >> half
    x = (x * GOLDEN) & mask
    return x ^ (x >> half)


@kernel(parallel=True)
def make_edges(scale, first, key_1, key_2, accept, pairs, levels, accept_rest, pairs_rest, rest, u, v, threads):
    """Edges ``first`` and on, into ``u`` and ``v``. A draw decides ``levels`` bits of both ends, by an alias table.

    Entry c of a table stands for the pair ``pairs[c, 0]`` with probability ``accept[c]`` / 2^32, else ``pairs[c, 1]``.
    """
    m, draws = u.size, scale // levels
    mask, half = (ODD << np.uint64(scale)) - ODD, np.uint64((scale + 1) // 2)
    cell, cell_rest = np.uint64(accept.size - 1), np.uint64(accept_rest.size - 1)
    shift, shift_rest = np.uint64(levels), np.uint64(rest)
    for t in prange(threads):
        for i in range(m * t // threads, m * (t + 1) // threads):
            counter = mix(np.uint64(first + i) * GOLDEN + key_1)
            a, b = np.uint64(0), np.uint64(0)
            for _ in range(draws):
                counter += GOLDEN
                r = mix(counter)
                c = r & cell
                pair = np.uint64(pairs[c, 0] if (r >> S32) < accept[c] else pairs[c, 1])
                a = (a << shift) | (pair >> S16)
                b = (b << shift) | (pair & LOW)
            if rest:
                counter += GOLDEN
                r = mix(counter)
                c = r & cell_rest
                pair = np.uint64(pairs_rest[c, 0] if (r >> S32) < accept_rest[c] else pairs_rest[c, 1])
                a = (a << shift_rest) | (pair >> S16)
                b = (b << shift_rest) | (pair & LOW)
            u[i] = scramble(a, mask, half, key_1, key_2)
            v[i] = scramble(b, mask, half, key_1, key_2)
